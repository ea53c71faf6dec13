"""What the fold knew at which moment: so a store is asked only for what it had time to apply."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

Positions = Mapping[int, int]
Clock = Callable[[], float]
"""Seconds since 1970, asked for after what may have taken long."""
KEPT_MOMENTS = 10_000
ANY_PARTITION = -1
"""Stands for the partition of a record without a key, whose subject may be in any other one."""
_EVERY_OFFSET = 2**63 - 1


class LogView:
    """The fold's positions, now and a while ago, by the validator's own clock alone.

    Parameters
    ----------
    ask_heads: Asks the server for the end of each partition.
    ask_group: Asks the server for what a consumer group committed.
    keep_seconds: How long positions are remembered: the longest settle window, or more.
    """

    def __init__(
        self,
        ask_heads: Callable[[], Positions],
        ask_group: Callable[[str], Positions],
        keep_seconds: float,
    ) -> None:
        self._ask_heads = ask_heads
        self.ask_group = ask_group
        self._keep_seconds = keep_seconds
        self._moments: deque[tuple[float, Positions]] = deque(maxlen=KEPT_MOMENTS)
        self.positions: Positions = {}
        self.is_complete = False
        self.known_from: Positions = {}
        """Partitions of which records were deleted before they were read, and up to where."""
        self.is_compacted = False
        self.lost_deletes: dict[int, int] = {}
        """Of each partition the last record that deletes a subject which cannot be read."""
        self.unread: dict[int, int] = {}
        """Of each partition the last record that says nobody knows what of nobody knows whom."""
        self.is_fieldless = False
        """Whether there were records, and the mapping found no field in any of them."""
        self.accepts_unreadable = False
        self.heads: Positions = {}
        """As far as they were asked for."""

    def folded(
        self,
        now: float,
        positions: Positions,
        *,
        is_complete: bool,
        known_from: Positions | None = None,
    ) -> None:
        """Note how far the fold is, and what it knows."""
        self.positions, self.is_complete = dict(positions), is_complete
        self.known_from = dict(known_from or {})
        interval = self._keep_seconds * 2 / KEPT_MOMENTS
        if not self._moments or now >= self._moments[-1][0] + interval:
            self._moments.append((now, self.positions))
        while len(self._moments) > 1 and self._moments[1][0] < now - self._keep_seconds:
            self._moments.popleft()

    def at(self, moment: float) -> Positions | None:
        """Return the newest positions that were known at a moment; None: that is too long ago."""
        found = None
        for noted, positions in reversed(self._moments):
            if noted <= moment:
                found = positions
                break
        return found

    def unread_in(self, partition: int | None) -> int:
        """Return up to which offset any record of a partition may have been about any subject.

        -1: none was. None stands for the partition of a subject that the log does not have.
        """
        if self.accepts_unreadable or not self.unread:
            return -1
        if partition is None or ANY_PARTITION in self.unread:
            return _EVERY_OFFSET
        return self.unread.get(partition, -1)

    def ask_heads(self) -> Positions:
        """Return the end of every partition as of now."""
        self.heads = self._ask_heads()
        return self.heads

    def covers(self, heads: Positions) -> bool:
        """Say whether the fold has come as far as that."""
        return all(self.positions.get(partition, 0) >= head for partition, head in heads.items())
