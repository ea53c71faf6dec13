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
from contextlib import ExitStack
from itertools import islice
from typing import Any, Literal

from msgspec import Struct

from validator.compare.key_meaning import AS_TEXT
from validator.compare.looking import PRESENCE, Reason, Rows, doubt, look
from validator.compare.narrowing import Narrowing
from validator.compare.page_size import PageSize
from validator.compare.row_equality import SIDES, Equality, Side
from validator.compare.seats import (
    Seat,
    bounds_pages,
    common_columns,
    finds_what_it_shows,
    keyless_rows,
    kinds_of,
    meaning_of,
    narrowing_of,
    read_both,
)
from validator.compare.settling import Candidate, Verdict
from validator.compare.spill import HashJoin, Pair
from validator.stores.port import ForeignStore, Key, Row

Kind = Literal["missing", "extra", "changed", "undecided"]
Progress = Callable[[str, int, int], None]
"""Called with what is done, how far, and of how much (0: not known)."""
PAGE_ROWS = 5_000
KEYS_PER_READ = 1_000
WAVE_KEYS = 50_000
"""So many keys at most are followed through the settle window at once."""
LOOKS_PER_WINDOW = 25
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 1.0


class Difference(Struct, frozen=True):
    """A key on which the stores do not agree.

    ``kind``: missing (only the left has it), extra (only the right), changed, or undecided.
    ``columns``: those that differ. ``left``, ``right``: the rows as read. ``reason``: why it is
    undecided.
    """

    key: Key
    kind: Kind
    columns: Sequence[str]
    left: Row | None
    right: Row | None
    reason: Reason | None = None


class Summary(Struct):
    """How a comparison went.

    ``method``: "bucket digests" or "all rows". ``rows``: read by the first look, left and right.
    ``keyless``: rows that no key tells, and that were not compared. ``cleared``: keys that only
    seemed to differ. ``reasons``: how many keys are undecided, and why.
    """

    method: str = ""
    rows: Sequence[int] = (0, 0)
    candidates: int = 0
    differing: int = 0
    undecided: int = 0
    reasons: dict[Reason, int] = {}
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
        self._proves = (True, True)
        self._meaning = AS_TEXT
        self._read_size = PageSize(KEYS_PER_READ)
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
        seats: list[Seat] = []
        with ExitStack() as kept:  # Given up after the seats, whose threads write into it.
            try:
                seats += [Seat(open_it) for open_it in self._opens]
                yield from self._compare(seats, kept)
            except KeyboardInterrupt:
                self._interrupt(seats)
                raise
            finally:
                for seat in seats:
                    seat.close()
                self.summary.seconds = self._clock() - began

    def _interrupt(self, seats: Sequence[Seat]) -> None:
        self._is_stopped = True
        for seat in seats:
            seat.interrupt()

    def _compare(self, seats: Sequence[Seat], kept: ExitStack) -> Iterator[Difference]:
        left, right = (seat.store for seat in seats)
        columns = common_columns(left, right, self._wanted, seats)
        equality = Equality(columns, *map(kinds_of, seats))
        narrowing = narrowing_of(seats)
        is_narrow = narrowing is not None
        self._proves = (finds_what_it_shows(left), finds_what_it_shows(right))
        unique = [is_narrow or getattr(s, "shows_rows_once", False) for s in (left, right)]
        join = kept.enter_context(HashJoin(left.name, right.name, unique=unique))
        if narrowing is None:
            self._meaning = meaning_of(seats)
            self._read_all(seats, equality, join)
        else:
            self._read_differing(seats, narrowing, join)
        self.summary.keyless = [keyless_rows(seat) for seat in seats]
        candidates = join.differing()
        while wave := list(islice(candidates, WAVE_KEYS)):
            self.summary.candidates += len(wave)
            wave.sort(key=lambda pair: _order(pair.key))
            yield from self._settle(seats, equality, wave, is_known=not is_narrow)

    # -- the first look --------------------------------------------------------------------------

    def _read_all(self, seats: Sequence[Seat], equality: Equality, join: HashJoin) -> None:
        self.summary.method = "all rows"
        sides = (join.left, join.right)

        def walk(number: Side) -> None:
            cursor: str | None = None
            store, side = seats[number].store, sides[number]
            size = PageSize(PAGE_ROWS)
            while True:
                page = store.scan(cursor, PAGE_ROWS if bounds_pages(store) else size.rows)
                before = equality.encoded_bytes[number]
                for key, row in page.rows:
                    form = self._meaning.form(key, number)
                    written = None if form == key else key
                    side.add(form, equality.digest(row, number), written)
                size.saw(len(page.rows), equality.encoded_bytes[number] - before)
                self._progress("reading", join.left.count + join.right.count, 0)
                cursor = page.cursor
                if cursor is None or self._is_stopped:
                    return

        for walking in [seats[number].worker.submit(walk, number) for number in SIDES]:
            walking.result()
        self.summary.rows = [side.count for side in sides]

    def _read_differing(self, seats: Sequence[Seat], narrowing: Narrowing, join: HashJoin) -> None:
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
        self, seats: Sequence[Seat], equality: Equality, wave: Sequence[Pair], *, is_known: bool
    ) -> Iterator[Difference]:
        followed = {pair.key: Candidate(self._settle_seconds) for pair in wave}
        shown = {pair.key: pair for pair in wave}
        if is_known:
            for pair in wave:
                followed[pair.key].remember(pair.left, pair.right)
        total = len(followed)
        started = self._clock()
        while followed:
            began = self._clock()
            keys = list(followed)
            place = 0
            while place < len(keys):
                chunk = keys[place : place + self._read_size.rows]
                place += len(chunk)
                before = sum(equality.encoded_bytes)
                left, right = read_both(seats, self._meaning, [shown[key] for key in chunk])
                now = self._clock()
                for key in chunk:
                    rows = left.get(key), right.get(key)
                    verdict = look(rows, equality, followed[key], now, self._settle_seconds)
                    reason = doubt(rows, shown[key], self._proves, verdict[0], self._settle_seconds)
                    if verdict[0] == "waiting" or (
                        reason == "unreadable" and now < started + self._settle_seconds
                    ):
                        continue
                    del followed[key]
                    name = shown[key].shown_key
                    if (found := self._told(name, rows, *verdict, reason)) is not None:
                        yield found
                self._read_size.saw(len(chunk), sum(equality.encoded_bytes) - before)
                self._progress("looking again", total - len(followed), total)
            if followed:
                spent = self._clock() - began
                pause = min(self._settle_seconds / LOOKS_PER_WINDOW, LONGEST_PAUSE_SECONDS)
                self._sleep(max(pause, spent, SHORTEST_PAUSE_SECONDS))

    def _told(
        self,
        key: Key,
        rows: Rows,
        verdict: Verdict,
        columns: Sequence[str],
        reason: Reason | None,
    ) -> Difference | None:
        """Count a verdict; return what is to be said of it."""
        if verdict == "undecided" or reason is not None:
            reason = reason or "changing"
            self.summary.undecided += 1
            self.summary.reasons[reason] = self.summary.reasons.get(reason, 0) + 1
            names = [name for name in columns if name != PRESENCE]
            return Difference(key, "undecided", names, *rows, reason)
        if verdict == "cleared":
            self.summary.cleared += 1
            return None
        names = [name for name in columns if name != PRESENCE]
        self.summary.differing += 1
        kind: Kind = "changed"
        if PRESENCE in columns:
            kind = "missing" if rows[1] is None else "extra"
        return Difference(key, kind, names, *rows)


def _order(key: Key) -> Any:
    """Return what sorts keys as people do: numbers by their size."""
    return [(0, len(part), part) if part.isdigit() else (1, 0, part) for part in key]
