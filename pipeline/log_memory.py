"""A log in the memory of its process: the executable specification of the `Log` port."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from pipeline.log_topics import COMPACTED, NEWEST_ONLY, Topics
from synchroscope.ports import Batch, NewRecord, Record, TopicPartition


class _Stream:
    """One partition: its kept records in order of their offsets, and the next offset."""

    __slots__ = ("first", "head", "records")

    def __init__(self) -> None:
        self.first = 0
        self.head = 0
        self.records: list[Record] = []

    def find(self, offset: int) -> int:
        if self.records and self.records[0].offset == offset:
            return 0
        return bisect_left(self.records, offset, key=lambda record: record.offset)


class MemoryLog:
    """Keeps everything in lists; whoever holds this object can outlive the roles that use it.

    Parameters
    ----------
    partitions: Topic -> number of partitions; the control topics are always there and have one.
    retention_records: Topic -> how many of its newest records are kept at least; default: all.
    """

    def __init__(
        self,
        partitions: Mapping[str, int],
        *,
        retention_records: Mapping[str, int] | None = None,
    ) -> None:
        self._topics = Topics(partitions, retention_records or {})
        self._streams = {
            (topic, partition): _Stream()
            for topic, count in self._topics.counts.items()
            for partition in range(count)
        }
        self._newest: dict[tuple[str, bytes], Record] = {}
        self._positions: dict[str, dict[TopicPartition, int]] = {}

    def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        return self._topics.count(topic)

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append all records and move the consumer, or raise and do nothing."""
        self._topics.check_append(records, consumer, positions or {})
        for new in records:
            self._append(new, now)
        for topic, partition in {(new.topic, new.partition) for new in records}:
            self._trim(topic, partition)
        if positions:
            self._positions.setdefault(consumer, {}).update(positions)

    def _append(self, new: NewRecord, now: float) -> None:
        stream = self._streams[new.topic, new.partition]
        record = Record(stream.head, new.key, new.value, new.headers, now)
        stream.records.append(record)
        stream.head += 1
        if new.topic in COMPACTED:
            old = self._newest.get((new.topic, new.key))
            self._newest[new.topic, new.key] = record
            if old is not None and new.topic in NEWEST_ONLY:
                del stream.records[stream.find(old.offset)]

    def _trim(self, topic: str, partition: int) -> None:
        stream = self._streams[topic, partition]
        first = self._topics.first_to_keep(topic, stream.first, stream.head)
        if first > stream.first:
            del stream.records[: stream.find(first)]
            stream.first = first

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return up to `limit` records from `position` on."""
        self._topics.check(topic, partition)
        if limit < 1:
            return Batch([], position)
        stream = self._streams[topic, partition]
        start = stream.find(position)
        records = stream.records[start : start + limit]
        return Batch(records, records[-1].offset + 1 if records else max(position, stream.head))

    def head(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will get."""
        self._topics.check(topic, partition)
        return self._streams[topic, partition].head

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return where the consumer stands."""
        return dict(self._positions.get(consumer, {}))

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key in a compacted topic."""
        self._topics.check_compacted(topic)
        record = self._newest.get((topic, key))
        return record if record is not None and record.value else None
