"""How a benchmark is timed, and what one row of the table holds.

A side is a context manager that prepares its work untimed and yields it as a callable. Two sides
are run in turn, repeat by repeat, and the ratio is the median of the repeats' ratios: what else
the machine does meanwhile then falls on both alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from msgspec import Struct

from pipeline import storage_lmdb
from synchroscope import digest

Work = Callable[[], object]
Side = Callable[[], AbstractContextManager[Work]]


class Settings(Struct, frozen=True):
    """How much is measured.

    Parameters
    ----------
    quick: A tenth of the sizes and fewer repeats.
    rows: How many invoice lines of the retail days are used; None: all.
    """

    quick: bool = False
    rows: int | None = None

    @property
    def repeats(self) -> int:
        """How often each side is run."""
        return 3 if self.quick else 5

    @property
    def few_repeats(self) -> int:
        """The same for what takes seconds."""
        return 1 if self.quick else 3

    def size(self, full: int) -> int:
        """Return a number of keys, scaled."""
        return full // 10 if self.quick else full


class Spread(Struct, frozen=True):
    """Median, least and greatest of the repeats."""

    median: float
    least: float
    greatest: float


class Row(Struct, frozen=True):
    """One line of the table.

    ``ratio`` is ours divided by the limit's, by CPU time where time is measured; ``wall_ratio`` the
    same by wall time. With ``better`` "higher" 1.0 is the limit reached, with "lower" 1.0 is no
    more than the limit takes.
    """

    name: str
    unit: str
    better: str
    ours: Spread
    limit: str
    theirs: Spread | None
    ratio: float | None
    wall_ours: Spread | None = None
    wall_theirs: Spread | None = None
    wall_ratio: float | None = None
    notes: dict[str, float] = {}


class Seconds(Struct, frozen=True):
    """What one repeat took."""

    cpu: float
    wall: float


def spread(values: Iterable[float]) -> Spread:
    """Return the values' median, least and greatest."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1])


def timed(side: Side) -> Seconds:
    """Run a side once, from cold caches."""
    with side() as work:
        forget()
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def forget() -> None:
    """Empty the caches that outlive a role, so that every repeat meets its keys anew."""
    digest.aggregate_hash.cache_clear()
    digest._fact_head.cache_clear()
    storage_lmdb._record_key.cache_clear()


def in_turn(sides: Sequence[Side], repeats: int) -> list[list[Seconds]]:
    """Run the sides in turn; return each one's repeats."""
    rounds = [[timed(side) for side in sides] for _ in range(repeats)]
    return [[taken[place] for taken in rounds] for place in range(len(sides))]


def rates(
    name: str,
    count: int,
    ours: Side,
    limit: str,
    theirs: Side,
    repeats: int,
    unit: str = "events/s",
) -> Row:
    """Measure how many things a second both sides do, `count` in each repeat."""
    mine, other = in_turn((ours, theirs), repeats)
    return rates_row(name, count, mine, limit, other, unit)


def rates_row(
    name: str,
    count: int,
    mine: Sequence[Seconds],
    limit: str,
    other: Sequence[Seconds],
    unit: str = "events/s",
) -> Row:
    """Return the row of repeats that were measured already, as rates."""
    return Row(
        name=name,
        unit=unit,
        better="higher",
        ours=spread(count / one.cpu for one in mine),
        limit=limit,
        theirs=spread(count / one.cpu for one in other),
        ratio=statistics.median(b.cpu / a.cpu for a, b in zip(mine, other, strict=True)),
        wall_ours=spread(count / one.wall for one in mine),
        wall_theirs=spread(count / one.wall for one in other),
        wall_ratio=statistics.median(b.wall / a.wall for a, b in zip(mine, other, strict=True)),
    )


def durations(name: str, ours: Side, limit: str, theirs: Side, repeats: int) -> Row:
    """Measure how many seconds both sides take."""
    mine, other = in_turn((ours, theirs), repeats)
    return Row(
        name=name,
        unit="s",
        better="lower",
        ours=spread(one.cpu for one in mine),
        limit=limit,
        theirs=spread(one.cpu for one in other),
        ratio=statistics.median(a.cpu / b.cpu for a, b in zip(mine, other, strict=True)),
        wall_ours=spread(one.wall for one in mine),
        wall_theirs=spread(one.wall for one in other),
        wall_ratio=statistics.median(a.wall / b.wall for a, b in zip(mine, other, strict=True)),
    )


def amount(
    name: str,
    unit: str,
    ours: float,
    limit: str,
    theirs: float | None,
    notes: dict[str, float] | None = None,
) -> Row:
    """Return the row of a size, or of a time that was measured elsewhere: less is better."""
    return Row(
        name=name,
        unit=unit,
        better="lower",
        ours=spread([ours]),
        limit=limit,
        theirs=None if theirs is None else spread([theirs]),
        ratio=ours / theirs if theirs else None,
        notes=notes or {},
    )
