"""What is asked of a log that is not ours; it is only ever read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from synchroscope.ports import Batch, Record


class Topic(Protocol):
    """One topic of a log that somebody else writes.

    Raises `UnavailableError` where the server does not answer and asking again may help, and
    `ConfigurationError` for what somebody has to change.
    """

    name: str

    def identity(self) -> str:
        """Return what tells the topic from others of its name; empty where the server does not.

        Raises `UnavailableError` while there is none of that name.
        """
        ...

    def partitions(self) -> int:
        """Return how many partitions the topic has by now; it may grow."""
        ...

    def range(self, partition: int) -> tuple[int, int]:
        """Return the first kept offset, and the offset that the next record will get."""
        ...

    def read(self, partition: int, position: int, limit: int) -> Batch:
        """Return up to `limit` records from `position` on, without waiting for new ones.

        Records that are gone are passed over. At the end the batch is empty.
        """
        ...

    def position_at(self, partition: int, timestamp: float) -> int:
        """Return the first position whose record is not older than a moment, or the end."""
        ...

    def is_compacted(self) -> bool | None:
        """Say whether older records of a key are removed; None where the server does not tell."""
        ...

    def records_at(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """Return what stands at an offset of each partition; what is gone is left out."""
        ...

    def group_positions(self, group: str) -> dict[int, int]:
        """Return what a consumer group has committed; partitions without a commit are left out."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class MemoryTopic:
    """The `Topic` port in memory: what it must do, and what tests write to.

    >>> topic = MemoryTopic(1)
    >>> topic.append(0, b"k", b"v", 5.0)
    0
    >>> topic.read(0, 0, 10).position, topic.range(0)
    (1, (0, 1))
    """

    def __init__(self, partitions: int = 1, name: str = "memory") -> None:
        self.name = name
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        self._firsts, self._ends = [0] * partitions, [0] * partitions
        self.called = "first"
        self.groups: dict[str, dict[int, int]] = {}
        self.compacted: bool | None = False

    def grow(self, partitions: int) -> None:
        """Add empty partitions."""
        while len(self._records) < partitions:
            self._records.append([])
            self._firsts.append(0)
            self._ends.append(0)

    def append(self, partition: int, key: bytes, value: bytes, timestamp: float) -> int:
        """Append a record and return its offset."""
        offset = self._ends[partition]
        self._records[partition].append(Record(offset, key, value, (), timestamp))
        self._ends[partition] = offset + 1
        return offset

    def drop_before(self, partition: int, offset: int) -> None:
        """Forget the oldest records, as retention does."""
        kept = [record for record in self._records[partition] if record.offset >= offset]
        self._records[partition] = kept
        self._firsts[partition] = max(self._firsts[partition], offset)

    def compact(self, partition: int) -> None:
        """Forget all but the newest record of each key."""
        newest = {record.key: record.offset for record in self._records[partition]}
        kept = [r for r in self._records[partition] if newest[r.key] == r.offset]
        self._records[partition] = kept

    def make_anew(self) -> None:
        """Delete the topic and make it again."""
        count = len(self._records)
        self._records, self.called = [[] for _ in range(count)], f"after {self.called}"
        self._firsts, self._ends = [0] * count, [0] * count

    def identity(self) -> str:
        """Return which one it is."""
        return self.called

    def partitions(self) -> int:
        """Return how many partitions there are."""
        return len(self._records)

    def range(self, partition: int) -> tuple[int, int]:
        """Return the first kept offset and the end."""
        return self._firsts[partition], self._ends[partition]

    def read(self, partition: int, position: int, limit: int) -> Batch:
        """Return records from a position on."""
        found: Sequence[Record] = [r for r in self._records[partition] if r.offset >= position]
        found = found[:limit]
        end = found[-1].offset + 1 if found else max(position, self._ends[partition])
        return Batch(found, end)

    def position_at(self, partition: int, timestamp: float) -> int:
        """Return the first position not older than a moment."""
        later = (r.offset for r in self._records[partition] if r.timestamp >= timestamp)
        return next(later, self._ends[partition])

    def is_compacted(self) -> bool | None:
        """Return what was set."""
        return self.compacted

    def records_at(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """Return what stands at these offsets."""
        return {
            partition: record
            for partition, offset in offsets.items()
            for record in self._records[partition]
            if record.offset == offset
        }

    def group_positions(self, group: str) -> dict[int, int]:
        """Return what the group committed."""
        return dict(self.groups.get(group, {}))

    def close(self) -> None:
        """Nothing is held."""
