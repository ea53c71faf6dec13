"""Items whose row was not what it must be: they are read again before anything is said of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from msgspec import Struct

from validator.attached.confirmed import Arrival

MAXIMUM_SUSPECTS = 20_000
LONGEST_PAUSE_SECONDS = 30.0


class Suspect(Struct):
    """One item under suspicion.

    ``wrong_since``: when a look first showed the wrong values that ``mark`` stands for; None: the
    last look showed lag or nothing sure. ``by_offset``: the log's end at that look. ``arrival``:
    of a row that the log does not have, between what it came.
    """

    key: bytes
    partition: int
    first_at: float
    due_at: float
    pause_seconds: float
    wrong_since: float | None = None
    by_offset: int = 0
    arrival: Arrival | None = None
    mark: int = 0
    waits_for: int | None = None
    recorded_at: float = 0.0
    is_lagging: bool = False


class Suspects:
    """A bounded set of suspects, ordered by when they are read again."""

    def __init__(self, capacity: int = MAXIMUM_SUSPECTS) -> None:
        self._capacity = capacity
        self._all: dict[bytes, Suspect] = {}
        self._heap: list[tuple[float, bytes]] = []
        self.refused = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Suspect]:
        return iter(self._all.values())

    def get(self, key: bytes) -> Suspect | None:
        """Return the suspect, if it is one."""
        return self._all.get(key)

    def add(self, key: bytes, partition: int, now: float, pause_seconds: float) -> Suspect | None:
        """Return the suspect, new or not; None where there is no place for another."""
        suspect = self._all.get(key)
        if suspect is None:
            if len(self._all) >= self._capacity:
                self.refused += 1
                return None
            suspect = Suspect(key, partition, now, now + pause_seconds, pause_seconds)
            self._all[key] = suspect
            heapq.heappush(self._heap, (suspect.due_at, key))
        return suspect

    def again(self, suspect: Suspect, now: float, *, pause_seconds: float | None = None) -> None:
        """Read it again after a pause; without a given one, each is twice the last."""
        if pause_seconds is None:
            suspect.pause_seconds = min(2 * suspect.pause_seconds, LONGEST_PAUSE_SECONDS)
        else:
            suspect.pause_seconds = pause_seconds
        suspect.due_at = now + suspect.pause_seconds
        heapq.heappush(self._heap, (suspect.due_at, suspect.key))

    def clear(self, key: bytes) -> None:
        """Drop the suspicion."""
        self._all.pop(key, None)

    def take(self, now: float, limit: int) -> list[bytes]:
        """Return those that are due; they come again only after `again`."""
        taken: list[bytes] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < limit:
            due_at, key = heapq.heappop(self._heap)
            suspect = self._all.get(key)
            if suspect is not None and suspect.due_at == due_at:
                taken.append(key)
        return taken
