"""When changed keys are looked at: once per horizon, each in a bounded queue of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

DEFAULT_HORIZONS_SECONDS = (1.0, 10.0, 60.0, 300.0)
QUEUED_KEYS = 50_000
"""Most keys that wait at a horizon; the rate of admission keeps it from filling at once."""


class Due(Struct, frozen=True, gc=False):
    """A key to look at for the sake of a write: the look must show its offset or a later one."""

    due_at: float
    key: bytes
    offset: int
    horizon: int


class HorizonCounts(Struct):
    """What came of the writes at one horizon; ``skipped`` were never looked at."""

    seconds: float
    looked: int = 0
    consistent: int = 0
    merged: int = 0
    skipped: int = 0


class Schedule:
    """The queues.

    Parameters
    ----------
    horizons: Seconds after a write at which its key is looked at.
    capacity: Most keys a queue holds; what comes faster than capacity / horizon is skipped.
    """

    def __init__(self, horizons: Sequence[float], capacity: int = QUEUED_KEYS) -> None:
        self.counts = [HorizonCounts(seconds) for seconds in horizons]
        self._capacity = capacity
        self._queues: list[deque[Due]] = [deque() for _ in horizons]
        self._waiting: list[set[bytes]] = [set() for _ in horizons]
        self._allowed = [float(min(capacity, 1_000))] * len(horizons)
        self._allowed_at = [0.0] * len(horizons)

    def changed(self, key: bytes, offset: int, now: float) -> None:
        """Note a write; a key that waits at a horizon already is not queued again."""
        for number, count in enumerate(self.counts):
            if key in self._waiting[number]:
                count.merged += 1
            elif not self._admit(number, now):
                count.skipped += 1
            else:
                self._waiting[number].add(key)
                self._queues[number].append(Due(now + count.seconds, key, offset, number))

    def _admit(self, number: int, now: float) -> bool:
        rate = self._capacity / max(self.counts[number].seconds, 1.0)
        elapsed = max(now - self._allowed_at[number], 0.0) if self._allowed_at[number] else 0.0
        self._allowed_at[number] = now
        burst = max(rate, 1.0)
        self._allowed[number] = min(self._allowed[number] + elapsed * rate, burst)
        if self._allowed[number] < 1 or len(self._queues[number]) >= self._capacity:
            return False
        self._allowed[number] -= 1
        return True

    def take(self, now: float, limit: int) -> list[Due]:
        """Return what is due, at most `limit`; each horizon gets its turn."""
        taken: list[Due] = []
        for number, queue in enumerate(self._queues):
            share = max((limit - len(taken)) // (len(self._queues) - number), 1)
            while queue and queue[0].due_at <= now and share > 0 and len(taken) < limit:
                due = queue.popleft()
                self._waiting[number].discard(due.key)
                taken.append(due)
                share -= 1
        return taken

    def drop(self, due: Sequence[Due]) -> None:
        """Count what was taken and could not be looked at."""
        for one in due:
            self.counts[one.horizon].skipped += 1

    def judged(self, due: Due, *, is_consistent: bool) -> None:
        """Count a look."""
        self.counts[due.horizon].looked += 1
        self.counts[due.horizon].consistent += is_consistent

    @property
    def waiting(self) -> int:
        """How many keys wait."""
        return sum(len(queue) for queue in self._queues)
