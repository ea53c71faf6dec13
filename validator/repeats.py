"""Which records of a partition came before: known by their event ID, or by the store position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from synchroscope.ports import Record

STORE_POSITION = "store-position"
MAXIMUM_POSITION_DIGITS = 18

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


def store_position(record: Record) -> int | None:
    """Return the store position that the relay gave a record; None where it has none."""
    for name, stored in record.headers:
        if name == STORE_POSITION:
            if stored.isdigit() and len(stored) <= MAXIMUM_POSITION_DIGITS:
                return int(stored)
            return None
    return None
