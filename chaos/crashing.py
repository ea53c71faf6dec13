"""Ports that may kill the process at any call: before the write took effect, or right after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from synchroscope.ports import (
    AggregateKey,
    AggregateRecord,
    Batch,
    JournalChunk,
    Log,
    NewRecord,
    Record,
    ReplicaStorage,
    Swept,
    TopicPartition,
)


class SimulatedCrash(BaseException):
    """The process dies here. Nothing may catch this but the simulator."""


CrashPoint = Callable[[], None]
"""Called before and after each write and before each read; raises `SimulatedCrash` or returns."""


class CrashingLog:
    """A log whose user may die at any call."""

    def __init__(self, log: Log, crash: CrashPoint) -> None:
        self._log = log
        self._crash = crash

    def partitions(self, topic: str) -> int:
        """Return the partition count."""
        return self._log.partitions(topic)

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append, and perhaps die before or after."""
        self._crash()
        self._log.append(records, now, consumer=consumer, positions=positions)
        self._crash()

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Read, and perhaps die before."""
        self._crash()
        return self._log.read(topic, partition, position, limit)

    def head(self, topic: str, partition: int) -> int:
        """Return the head."""
        return self._log.head(topic, partition)

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return the consumer's positions."""
        return self._log.positions(consumer)

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key."""
        return self._log.latest(topic, key)


class CrashingStorage:
    """A replica storage whose user may die before or after a commit."""

    def __init__(self, storage: ReplicaStorage, crash: CrashPoint) -> None:
        self._storage = storage
        self._crash = crash

    def incarnation(self) -> str | None:
        """Return the storage's life."""
        return self._storage.incarnation()

    def begin(self, incarnation: str) -> None:
        """Start a new life."""
        self._storage.begin(incarnation)

    def partition_state(self, partition: int) -> bytes | None:
        """Return the partition's state."""
        return self._storage.partition_state(partition)

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate."""
        return self._storage.get(key)

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Tell the storage."""
        self._storage.prefetch(keys)

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield a bucket's aggregates."""
        return self._storage.scan(partition, bucket, bits)

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Sweep, and perhaps die before."""
        self._crash()
        return self._storage.sweep(partition, place, limit)

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return journal chunks."""
        return self._storage.journal(partition, position)

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Commit, and perhaps die before or after."""
        self._crash()
        self._storage.commit(records, partition, state, chunk, journal_floor)
        self._crash()

    def close(self) -> None:
        """Close the storage."""
        self._storage.close()
