"""What the roles ask of the outside world, in as few methods as they need.

Each port has an in-memory adapter, which is its executable specification, and one contract suite
that is run on every adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

EVENTS = "context.events"
REPORTS = "sync.reports"
REQUESTS = "sync.requests"
FINDINGS = "sync.findings"
STATE = "sync.state"
DEAD_LETTERS = "context.dead-letters"
CONTROL_TOPICS = (REPORTS, REQUESTS, FINDINGS, STATE, DEAD_LETTERS)

Headers = tuple[tuple[str, bytes], ...]
TopicPartition = tuple[str, int]


class NewRecord(Struct, frozen=True):
    """What is appended to a log."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers = ()


class Record(Struct, frozen=True, gc=False):
    """What a log hands out. ``timestamp`` is the append's, in seconds since 1970."""

    offset: int
    key: bytes
    value: bytes
    headers: Headers
    timestamp: float

    def header(self, name: str) -> bytes | None:
        """Return the first header of that name, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Batch(Struct, frozen=True):
    """Records in order, and the position after them: the next offset to read."""

    records: Sequence[Record]
    position: int


class Log(Protocol):
    """The partitioned, ordered, replayable stream of records: the only transport there is."""

    def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has; it never changes during a log's life."""
        ...

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append all records and move the consumer to `positions`, in one step or not at all.

        Must not return before both would survive the death of this process. Offsets grow in each
        partition; a log may leave some of them to records of its own. A log may be opened for
        appends that are no single step: when one raises, a first part of each partition's records
        may be stored. A consumer's positions may name places that are no topic
        of the log; those not named stay. Raises `ConfigurationError` for an unknown topic or
        partition.
        """
        ...

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return up to `limit` records from `position` on. Must not move any position.

        Records that retention or compaction has dropped are passed over; where none is left before
        the head, the batch is empty and its position is the head. A position at or beyond the head,
        or a limit of 0, gives an empty batch with the position unchanged.
        """
        ...

    def head(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will get."""
        ...

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return where the consumer stands; absent where it never stored a position."""
        ...

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key in a compacted topic, `sync.state` or `sync.findings`.

        A record without a value takes its key off: None, as where there is no record.

        Of `sync.state` a log may keep only the newest record of a key; of `sync.findings` it keeps
        all. Raises `ConfigurationError` for any other topic.
        """
        ...


AggregateKey = tuple[str, str]


class AggregateRecord(Struct, array_like=True):
    """One aggregate as a replica stores it.

    ``fields`` holds (value, sequence that wrote it); value None means there is no fact, and is kept
    so that an event that comes late cannot overwrite a newer one. ``missing`` are the sequences
    that were passed over and may still come.
    """

    context_type: str
    subject: str
    partition: int
    sequence: int
    fields: dict[str, tuple[Any, int]]
    missing: list[int]

    def copy(self) -> AggregateRecord:
        """Return a copy whose fields can be changed apart."""
        return AggregateRecord(
            self.context_type,
            self.subject,
            self.partition,
            self.sequence,
            self.fields.copy(),
            self.missing[:],
        )


class JournalChunk(Struct, frozen=True, array_like=True):
    """What a replica applied in one step, from position `start` up to position `end`."""

    start: int
    end: int
    data: bytes


class Swept(Struct, frozen=True):
    """What a sweep did: the place to go on from, and how many aggregates it looked at and mended.

    An empty place: the end was reached.
    """

    place: bytes
    keys: int
    mended: int


class ReplicaStorage(Protocol):
    """Where a replica keeps its facts. Everything of one commit is stored, or nothing of it.

    Where several processes may use a storage, each with partitions of its own, a commit is stored
    only if the partition is still as this object last read or wrote it, and `begin` begins only
    while the life is still the one that `incarnation` last returned. Else `commit` raises
    `FencedError`, and `partition_state` is to be read anew; `begin` does nothing.
    """

    def incarnation(self) -> str | None:
        """Return the name of this storage's life, or None when it is new and empty."""
        ...

    def begin(self, incarnation: str) -> None:
        """Empty the storage and start a new life under that name."""
        ...

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit of that partition stored, or None."""
        ...

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored; None when absent or unreadable. Must not be changed."""
        ...

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Be told which aggregates the next `get`s ask for; a remote storage reads them at once.

        What was read so is dropped at the next commit: a `get` returns what is really stored.
        """
        ...

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the partition's aggregates whose hash begins with `bucket`, read from storage.

        What cannot be read is passed over. Must not be advanced across a `commit`.
        """
        ...

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Look at about `limit` aggregates wherever they stand, and mend what scans find them by.

        From the empty place to the next one, everything that `get` can return was looked at; then a
        scan of its key's bucket yields it, in the partition that it bears, or in `partition` where
        the storage knows no such one. Facts stay as they are. May be used by who goes on with none
        of the partitions that are concerned, and beside commits.
        """
        ...

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`, in the order they were committed."""
        ...

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Store records, the partition's state and a journal chunk in one transaction.

        `state` None leaves the partition's state alone. The partition's chunks that end at or
        before `journal_floor` are dropped. The caller does not change the records afterwards.
        """
        ...

    def close(self) -> None:
        """Release what is held; the storage is not used afterwards."""
        ...


class Progress(Struct, frozen=True):
    """What a step did: how many inputs it consumed; 0 means that it found nothing to do."""

    consumed: int = 0


class Role(Protocol):
    """A part of the pipeline that production, tests and the simulator drive alike."""

    def step(self, now: float) -> Progress:
        """Read a bounded batch, decide, write outputs and position together."""
        ...
