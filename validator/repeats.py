"""Which records of a partition came before: known by their event ID, or by the store position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from synchroscope.errors import SynchroscopeError
from synchroscope.event import ContextEvent
from synchroscope.ports import Headers

STORE_POSITION = "store-position"
MAXIMUM_POSITION_DIGITS = 18
USUAL_LEAP = 1_000
"""Store positions between two records of a partition up to which the store is not asked."""

REPEAT_RUNS = 256
"""How many of the newest runs of records that were published again are remembered."""

Marks = NDArray[np.uint64]


class RecentMarks:
    """The marks (hashes of event IDs) of the newest events, up to a number of them.

    >>> recent = RecentMarks(2, [1, 2])
    >>> recent.add(3); (1 in recent, list(recent))
    (False, [2, 3])
    """

    # Two forms of the same, each made of the other when it is asked for: a batch is told from what
    # came before by sorting both together, which costs a tenth of looking up mark by mark.
    def __init__(self, maximum: int, marks: Iterable[int] = ()) -> None:
        self._maximum = maximum
        self._order = deque(deque(marks, maxlen=maximum))
        self._known = set(self._order)
        self._column: Marks | None = None

    def __contains__(self, mark: int) -> bool:
        self._look_up()
        return mark in self._known

    def __iter__(self) -> Iterator[int]:
        return iter(self._order if self._column is None else self._column.tolist())

    def add(self, mark: int) -> None:
        """Take the mark of the next event; it must be a new one."""
        self._look_up()
        self._order.append(mark)
        self._known.add(mark)
        if len(self._order) > self._maximum:
            self._known.discard(self._order.popleft())

    def are_new(self, marks: Marks) -> bool:
        """Say whether none of the marks is known, and none comes twice."""
        both = np.concatenate((self._in_column(), marks))
        both.sort()
        return not bool((both[1:] == both[:-1]).any())

    def add_all(self, marks: Marks) -> None:
        """Take the marks of the next events; all must be new, as `are_new` says it."""
        both = np.concatenate((self._in_column(), marks))
        self._column = both[max(len(both) - self._maximum, 0) :].copy()

    def _in_column(self) -> Marks:
        if self._column is None:
            self._column = np.array(self._order, np.uint64)
        return self._column

    def _look_up(self) -> None:
        if self._column is not None:
            self._order = deque(self._column.tolist())
            self._known = set(self._order)
            self._column = None


def store_position(headers: Headers) -> int | None:
    """Return the store position that the relay gave a record; None where it has none."""
    for name, stored in headers:
        if name == STORE_POSITION:
            if stored.isdigit() and len(stored) <= MAXIMUM_POSITION_DIGITS:
                return int(stored)
            return None
    return None


class _Stored(Protocol):
    @property
    def position(self) -> int: ...

    @property
    def event(self) -> ContextEvent: ...


class Store(Protocol):
    """The event store, as far as it tells which store positions are its own."""

    def count(self) -> int:
        """Return the highest position."""
        ...

    def read(self, after: int, limit: int) -> Sequence[_Stored]:
        """Return events in total order, from the one after position `after` on."""
        ...


class StoreClaims:
    """Tells store positions that the relay gave from those that others made up, or took along.

    A record that was copied here from another log has the position of an event in another store:
    believed, it would make all that follows look as if it came again, or itself. Where the store
    does not answer, what a record claims is believed.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._end = 0

    def is_beyond(self, position: int, highest: int) -> bool:
        """Say whether the store has not come so far; asked only where `highest` is far from it."""
        if self._store is None or position - highest <= USUAL_LEAP or position <= self._end:
            return False
        try:
            self._end = self._store.count()
        except SynchroscopeError:
            return False
        return position > self._end

    def is_foreign(self, position: int, event_id: str) -> bool:
        """Say whether the store has another event at that position, or none."""
        if self._store is None:
            return False
        try:
            found = self._store.read(position - 1, 1)
        except SynchroscopeError:
            return False
        if found and found[0].position != position:
            return False  # It is not kept any more.
        return not found or str(found[0].event.event_id) != event_id


class Runs:
    """Where a partition holds records that were published before: [first offset, end) each.

    Up to ``since`` they are forgotten: there were more than `REPEAT_RUNS` later ones.
    """

    __slots__ = ("known", "leads_on", "since")

    def __init__(self, known: Iterable[tuple[int, int]] = (), since: int = 0) -> None:
        self.known = deque(known, maxlen=REPEAT_RUNS)
        self.since = since
        #: The last record was none that was published before.
        self.leads_on = True

    def add(self, offset: int, is_repeat: bool) -> None:
        """Take the next record."""
        if is_repeat and not self.leads_on:
            self.known[-1] = (self.known[-1][0], offset + 1)
        elif is_repeat:
            if len(self.known) == REPEAT_RUNS:
                self.since = self.known[0][1]
            self.known.append((offset, offset + 1))
        self.leads_on = not is_repeat

    def end_at(self, offset: int) -> int | None:
        """Return the end of the run that an offset lies in; None where it lies in none."""
        return next((end for first, end in self.known if first <= offset < end), None)
