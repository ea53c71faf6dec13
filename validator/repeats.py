"""Which records of a partition came before: known by their event ID, or by the store position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from synchroscope.ports import Record

STORE_POSITION = "store-position"
MAXIMUM_POSITION_DIGITS = 18


class RecentMarks:
    """The marks (hashes of event IDs) of the newest events, up to a number of them.

    >>> recent = RecentMarks(2, [1, 2])
    >>> recent.add(3); (1 in recent, list(recent))
    (False, [2, 3])
    """

    def __init__(self, maximum: int, marks: Iterable[int] = ()) -> None:
        self._maximum = maximum
        self._order = deque(deque(marks, maxlen=maximum))
        self._known = set(self._order)

    def __contains__(self, mark: int) -> bool:
        return mark in self._known

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def add(self, mark: int) -> None:
        """Take the mark of the next event; it must be a new one."""
        self._order.append(mark)
        self._known.add(mark)
        if len(self._order) > self._maximum:
            self._known.discard(self._order.popleft())

    def are_new(self, marks: Sequence[int]) -> bool:
        """Say whether none of the marks is known, and none comes twice."""
        return len(set(marks)) == len(marks) and self._known.isdisjoint(marks)

    def add_all(self, marks: Sequence[int]) -> None:
        """Take the marks of the next events; all must be new, as `are_new` says it."""
        self._order.extend(marks)
        self._known.update(marks)
        excess = max(len(self._order) - self._maximum, 0)
        self._known.difference_update([self._order.popleft() for _ in range(excess)])


def store_position(record: Record) -> int | None:
    """Return the store position that the relay gave a record; None where it has none."""
    for name, stored in record.headers:
        if name == STORE_POSITION:
            if stored.isdigit() and len(stored) <= MAXIMUM_POSITION_DIGITS:
                return int(stored)
            return None
    return None
