"""Compares two stores: names the keys on which they differ, and stays silent about mere lag.

1. *First look*: which keys may differ? Stores that sum up buckets where their rows are tell which
   buckets differ, and only those are read (`narrowing`); of all others every row is read once. What
   is read goes as (key, digest) into a join of bounded memory (`spill`).
2. *Second look*: the rows of these keys are read from both sides and compared value by value, again
   and again until each is cleared, differs or is undecided (`settling`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any, Literal, TypeVar, cast

from msgspec import Struct

from synchroscope.errors import ConfigurationError
from validator.compare.narrowing import Narrowing
from validator.compare.row_equality import SIDES, TEXT, TYPED, Equality, Kinds, Side
from validator.compare.settling import Candidate, Verdict
from validator.compare.spill import HashJoin, Pair
from validator.stores.digesting import BucketDigests, Digesting, Interruptible, Keyless
from validator.stores.port import ForeignStore, Key, Row
from validator.stores.text_values import Declaring, Knowing

Kind = Literal["missing", "extra", "changed", "undecided"]
Progress = Callable[[str, int, int], None]
"""Called with what is done, how far, and of how much (0: not known)."""
PAGE_ROWS = 5_000
KEYS_PER_READ = 1_000
WAVE_KEYS = 50_000
"""So many keys at most are followed through the settle window at once."""
LOOKS_PER_WINDOW = 25
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 1.0
PRESENCE = ""
_THERE, _ABSENT = b"there", b"absent"
_Answer = TypeVar("_Answer")


class Difference(Struct, frozen=True):
    """A key on which the stores do not agree.

    ``kind``: missing (only the left has it), extra (only the right), changed, or undecided (both
    sides went on changing). ``columns``: those that differ. ``left``, ``right``: the rows as read.
    """

    key: Key
    kind: Kind
    columns: Sequence[str]
    left: Row | None
    right: Row | None


class Summary(Struct):
    """How a comparison went.

    ``method``: "bucket digests" or "all rows". ``rows``: read by the first look, left and right.
    ``keyless``: rows that no key tells, and that were not compared. ``cleared``: keys that only
    seemed to differ.
    """

    method: str = ""
    rows: Sequence[int] = (0, 0)
    candidates: int = 0
    differing: int = 0
    undecided: int = 0
    cleared: int = 0
    keyless: Sequence[int] = (0, 0)
    buckets: int = 0
    buckets_differing: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 no difference, 1 differences, 3 something is undecided."""
        if self.differing:
            return 1
        return 3 if self.undecided or any(self.keyless) else 0


class _Seat:
    """One store and the thread in which everything of it is done."""

    def __init__(self, open_it: Callable[[], ForeignStore]) -> None:
        self.worker = ThreadPoolExecutor(1)
        self._opening = self.worker.submit(open_it)

    @property
    def store(self) -> ForeignStore:
        """The store, once it is open."""
        return self._opening.result()

    def do(self, act: Callable[[ForeignStore], _Answer]) -> _Answer:
        return self.worker.submit(act, self.store).result()

    def interrupt(self) -> None:
        """Have a long answer end, where the store can; from any thread."""
        if not self._opening.done() or self._opening.exception() is not None:
            return
        if isinstance(store := self.store, Interruptible):
            store.interrupt()

    def close(self) -> None:
        if self._opening.exception() is None:
            self.worker.submit(self.store.close)
        self.worker.shutdown()


class Comparison:
    """A comparison of two stores; `run` does it once.

    Parameters
    ----------
    open_left, open_right: Open the stores; each is called, and used, in a thread of its own.
    columns: The columns that were asked for; None: all.
    settle_seconds: How far one store may lag behind the other: a key differs only when it did for
        so long. 0: what one look shows counts.
    clock, sleep: Seconds that only grow, and how to let some pass.
    """

    def __init__(
        self,
        open_left: Callable[[], ForeignStore],
        open_right: Callable[[], ForeignStore],
        *,
        columns: Sequence[str] | None = None,
        settle_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._opens = (open_left, open_right)
        self._wanted = columns
        self._settle_seconds = settle_seconds
        self._progress: Progress = lambda what, done, total: None
        self._is_stopped = False
        self._clock = clock
        self._sleep = sleep
        self.summary = Summary()

    def follow(self, progress: Progress) -> None:
        """Have somebody told how far it is, from any thread."""
        self._progress = progress

    def run(self) -> Generator[Difference, None, None]:
        """Return the differences as they become certain; `summary` is complete at the end.

        `KeyboardInterrupt` ends it within an answer of the stores, which are released.
        """
        began = self._clock()
        seats: list[_Seat] = []
        with ExitStack() as kept:  # Given up after the seats, whose threads write into it.
            try:
                seats += [_Seat(open_it) for open_it in self._opens]
                yield from self._compare(seats, kept)
            except KeyboardInterrupt:
                self._interrupt(seats)
                raise
            finally:
                for seat in seats:
                    seat.close()
                self.summary.seconds = self._clock() - began

    def _interrupt(self, seats: Sequence[_Seat]) -> None:
        self._is_stopped = True
        for seat in seats:
            seat.interrupt()

    def _compare(self, seats: Sequence[_Seat], kept: ExitStack) -> Iterator[Difference]:
        left, right = (seat.store for seat in seats)
        columns = _columns(left, right, self._wanted, seats)
        equality = Equality(columns, *map(_kinds, seats))
        self.summary.keyless = [_keyless(seat) for seat in seats]
        narrowing = _narrowing(seats)
        is_narrow = narrowing is not None
        unique = [is_narrow or getattr(s, "shows_rows_once", False) for s in (left, right)]
        join = kept.enter_context(HashJoin(left.name, right.name, unique=unique))
        if narrowing is None:
            self._read_all(seats, equality, join)
        else:
            self._read_differing(seats, narrowing, join)
        candidates = join.differing()
        while wave := list(islice(candidates, WAVE_KEYS)):
            self.summary.candidates += len(wave)
            wave.sort(key=lambda pair: _order(pair.key))
            yield from self._settle(seats, equality, wave, is_known=not is_narrow)

    # -- the first look --------------------------------------------------------------------------

    def _read_all(self, seats: Sequence[_Seat], equality: Equality, join: HashJoin) -> None:
        self.summary.method = "all rows"
        sides = (join.left, join.right)

        def walk(number: Side) -> None:
            cursor: str | None = None
            store, side = seats[number].store, sides[number]
            while True:
                page = store.scan(cursor, PAGE_ROWS)
                for key, row in page.rows:
                    side.add(key, equality.digest(row, number))
                self._progress("reading", join.left.count + join.right.count, 0)
                cursor = page.cursor
                if cursor is None or self._is_stopped:
                    return

        for walking in [seats[number].worker.submit(walk, number) for number in SIDES]:
            walking.result()
        self.summary.rows = [side.count for side in sides]

    def _read_differing(self, seats: Sequence[_Seat], narrowing: Narrowing, join: HashJoin) -> None:
        summary = self.summary
        summary.method = "bucket digests"
        try:
            self._progress("summing up both tables", 0, 0)
            buckets = narrowing.differing_buckets()
            summary.rows = narrowing.rows_read
            summary.buckets = narrowing.buckets_total
            summary.buckets_differing = narrowing.buckets_differing

            def read(number: int) -> None:
                side = (join.left, join.right)[number]
                for key, digest in narrowing.rows(number, buckets):
                    side.add(key, digest)
                    if self._is_stopped:
                        return

            if buckets.numbers:
                self._progress("reading the buckets that differ", 0, 0)
                for reading in [seat.worker.submit(read, n) for n, seat in enumerate(seats)]:
                    reading.result()
        except KeyboardInterrupt:
            self._interrupt(seats)  # Before the snapshots are released, which waits for answers.
            raise
        finally:
            narrowing.close()

    # -- the second look -------------------------------------------------------------------------

    def _settle(
        self, seats: Sequence[_Seat], equality: Equality, wave: Sequence[Pair], *, is_known: bool
    ) -> Iterator[Difference]:
        followed = {pair.key: Candidate(self._settle_seconds) for pair in wave}
        if is_known:
            for pair in wave:
                followed[pair.key].remember(pair.left, pair.right)
        total = len(followed)
        while followed:
            began = self._clock()
            keys = list(followed)
            for start in range(0, len(keys), KEYS_PER_READ):
                chunk = keys[start : start + KEYS_PER_READ]
                left, right = _read_both(seats, chunk)
                now = self._clock()
                for key in chunk:
                    rows = left.get(key), right.get(key)
                    look = _look(rows, equality, followed[key], now, self._settle_seconds)
                    if look[0] == "waiting":
                        continue
                    del followed[key]
                    if (found := self._told(key, rows, *look)) is not None:
                        yield found
                self._progress("looking again", total - len(followed), total)
            if followed:
                spent = self._clock() - began
                pause = min(self._settle_seconds / LOOKS_PER_WINDOW, LONGEST_PAUSE_SECONDS)
                self._sleep(max(pause, spent, SHORTEST_PAUSE_SECONDS))

    def _told(
        self,
        key: Key,
        rows: tuple[Row | None, Row | None],
        verdict: Verdict,
        columns: Sequence[str],
    ) -> Difference | None:
        """Count a verdict; return what is to be said of it."""
        if verdict == "cleared":
            self.summary.cleared += 1
            return None
        names = [name for name in columns if name != PRESENCE]
        if verdict == "undecided":
            self.summary.undecided += 1
            return Difference(key, "undecided", names, *rows)
        self.summary.differing += 1
        kind: Kind = "changed"
        if PRESENCE in columns:
            kind = "missing" if rows[1] is None else "extra"
        return Difference(key, kind, names, *rows)


def _look(
    rows: tuple[Row | None, Row | None],
    equality: Equality,
    candidate: Candidate,
    now: float,
    settle_seconds: float,
) -> tuple[Verdict, Sequence[str]]:
    """Hold two rows against each other; return the verdict, and the columns it is about."""
    left, right = rows
    odd: Sequence[str] = []
    if left is not None and right is not None:
        odd = equality.differing(left, right)
    elif left is not None or right is not None:
        odd = [PRESENCE]
    if not odd:
        return "cleared", []
    if not settle_seconds:
        return "differs", odd
    values = {PRESENCE: (_presence(left), _presence(right))}
    if left is not None and right is not None:
        names = equality.columns or sorted({*left, *right})
        for name in names:
            mark = other = equality.value_digest(name, left.get(name), 0)
            if name in odd:
                other = equality.value_digest(name, right.get(name), 1)
            values[name] = (mark, other)
    digests = (
        _ABSENT if left is None else equality.digest(left, 0),
        _ABSENT if right is None else equality.digest(right, 1),
    )
    candidate.look(values, digests, now)
    verdict = candidate.verdict(now)
    return verdict, candidate.columns(now, verdict)


def _presence(row: Row | None) -> bytes:
    return _ABSENT if row is None else _THERE


def _read_both(
    seats: Sequence[_Seat], keys: Sequence[Key]
) -> tuple[dict[Key, Row], dict[Key, Row]]:
    asked = [seat.worker.submit(seat.store.fetch, keys) for seat in seats]
    left, right = (one.result() for one in asked)
    return left, right


def _columns(
    left: ForeignStore,
    right: ForeignStore,
    wanted: Sequence[str] | None,
    seats: Sequence[_Seat],
) -> Sequence[str] | None:
    """Return the columns that count; None: whatever a row has. Raises where that is not clear."""
    if wanted is not None:
        return list(wanted)
    asked = [seat.worker.submit(seat.store.columns) for seat in seats]
    names = [one.result() for one in asked]
    if names[0] is None or names[1] is None:
        return names[0] if names[1] is None else names[1]
    if set(names[0]) != set(names[1]):
        only = [
            f"only {store.name} has {', '.join(sorted(rest))}"
            for store, rest in (
                (left, set(names[0]) - set(names[1])),
                (right, set(names[1]) - set(names[0])),
            )
            if rest
        ]
        raise ConfigurationError(
            f"the stores have other columns: {'; '.join(only)}; name those to compare (--columns)"
        )
    return names[0]


def _kinds(seat: _Seat) -> Kinds:
    """Return what a store can tell apart."""
    store = seat.store
    knows = (TYPED if store.is_typed else TEXT).knows
    if hasattr(store, "knows"):
        knows = cast(Knowing, store).knows
    if not hasattr(store, "kinds"):
        return Kinds(knows)
    return Kinds(knows, seat.do(lambda one: cast(Declaring, one).kinds()))


def _keyless(seat: _Seat) -> int:
    if not hasattr(seat.store, "keyless"):
        return 0
    return seat.do(lambda store: cast(Keyless, store).keyless())


def _narrowing(seats: Sequence[_Seat]) -> Narrowing | None:
    """Return how to find the buckets that differ; None where the stores cannot tell."""
    if not all(hasattr(seat.store, "digests") for seat in seats):
        return None
    sides: list[BucketDigests] = []
    try:
        for seat in seats:
            sides.append(seat.do(lambda store: cast(Digesting, store).digests()))
        dialects = [
            seat.worker.submit(side.dialect).result()
            for seat, side in zip(seats, sides, strict=True)
        ]
    except BaseException:
        for side in sides:
            side.close()
        raise
    if dialects[0] == dialects[1]:
        return Narrowing(sides[0], sides[1], [seat.worker for seat in seats])
    for side in sides:
        side.close()
    return None


def _order(key: Key) -> Any:
    """Return what sorts keys as people do: numbers by their size."""
    return [(0, len(part), part) if part.isdigit() else (1, 0, part) for part in key]
