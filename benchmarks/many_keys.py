"""A replica of very many keys, whose log and truth are made up while they are read.

Key ``n`` lives in partition ``n % 4``; its first event stands at offset ``n // 4`` and sets
``spend`` to ``n / 4``. Everything that judges is the product's own: replica, projector, validator.
Up to some millions of keys the truth is the SQLite event store and the facts are in
`MemoryStorage`; for more both are made up as well. The replica begins as if it had been restored
from a snapshot.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from pipeline.event_store import StoredEvent
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_memory import MemoryLog
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.digest import aggregate_hash
from synchroscope.event import ContextEvent, decode_event
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    EVENTS,
    AggregateKey,
    AggregateRecord,
    Batch,
    NewRecord,
    Record,
    TopicPartition,
)
from synchroscope.view import View

KIND = "financial"
VIEW = View("scorer", {KIND: frozenset({"spend"})})
PARTITIONS = 4
AT = 1_700_000_000.0
_WHEN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_ROWS_AT_ONCE = 20_000
_hash = aggregate_hash.__wrapped__
"""Past the cache, which so many keys would only wash out."""


def key_of(number: int) -> AggregateKey:
    """Return the key of a number."""
    return (KIND, f"user:{number}")


def number_of_key(subject: str) -> int:
    """Return the number of a key's subject."""
    return int(subject[5:])


def partition_of(kind: str, subject: str) -> int:
    """Return where a subject's events stand."""
    return number_of_key(subject) % PARTITIONS


def event_bytes(number: int, sequence: int = 1) -> bytes:
    """Return the `sequence`-th event of a key, as the log holds it."""
    previous = "" if sequence == 1 else f'"previous":{number / 4 + sequence - 2},'
    update = f'{previous}"current":{number / 4 + sequence - 1}'
    return (
        f'{{"eventId":"{UUID(int=(sequence << 64) + number)}","timestamp":"2026-01-01T00:00:00Z",'
        '"eventType":"context.updated","source":{"modelId":"benchmark","instanceId":"1"},'
        f'"contextDelta":{{"updates":{{"spend":{{{update}}}}},'
        f'"userId":"{number}"}},"contextType":"financial","sequence":{sequence}}}'
    ).encode()


def made_up_record(number: int) -> Record:
    """Return the record of a key's first event."""
    place = str(number + 1).encode()
    headers = (("recorded", b"1700000000.0"), ("store-position", place))
    return Record(number // PARTITIONS, b"", event_bytes(number), headers, AT)


class ManyKeysLog:
    """The events of so many keys, made up; then those that were added. Other topics in memory.

    ``sent`` counts the bytes of keys and values of what was appended to each topic.
    """

    def __init__(self, keys: int) -> None:
        if keys % PARTITIONS:
            raise ValueError(f"the number of keys must be a multiple of {PARTITIONS}")
        self._first = keys // PARTITIONS
        self._added: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        self._others = MemoryLog({EVENTS: PARTITIONS})
        self.sent: dict[str, int] = {}

    def add(self, number: int, sequence: int, store_position: int) -> None:
        """Add a later event of a key."""
        added = self._added[number % PARTITIONS]
        headers = (("recorded", b"1700000000.0"), ("store-position", str(store_position).encode()))
        offset = self._first + len(added)
        added.append(Record(offset, b"", event_bytes(number, sequence), headers, AT))

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return self._others.partitions(topic)

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Keep and count what is no event."""
        for record in records:
            size = len(record.key) + len(record.value)
            self.sent[record.topic] = self.sent.get(record.topic, 0) + size
        self._others.append(records, now, consumer=consumer, positions=positions)

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return records."""
        if topic != EVENTS:
            return self._others.read(topic, partition, position, limit)
        end = min(position + limit, self.head(topic, partition))
        records = [
            made_up_record(offset * PARTITIONS + partition)
            for offset in range(position, min(end, self._first))
        ]
        low, high = max(position - self._first, 0), max(end - self._first, 0)
        records += self._added[partition][low:high]
        return Batch(records, max(end, position))

    def head(self, topic: str, partition: int) -> int:
        """Return the next offset."""
        if topic != EVENTS:
            return self._others.head(topic, partition)
        return self._first + len(self._added[partition])

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return where a consumer stands."""
        return self._others.positions(consumer)

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key."""
        return self._others.latest(topic, key)


class SqliteTruth(SqliteEventStore):
    """The event store, filled with the first event of every key past the command side."""

    def __init__(self, keys: int) -> None:
        self.database = SqliteDatabase(":memory:")
        super().__init__(self.database)
        for start in range(0, keys, _ROWS_AT_ONCE):
            numbers = range(start, min(start + _ROWS_AT_ONCE, keys))
            with self.database.transaction():
                self._insert((n + 1, n, 1) for n in numbers)
                self.database.execute_many(
                    "INSERT INTO aggregates VALUES(?, ?, ?, ?, ?, ?)",
                    [
                        (_hash(*key).to_bytes(8, "big"), *key, 1, None, b"")
                        for key in map(key_of, numbers)
                    ],
                )

    def _insert(self, events: Iterator[tuple[int, int, int]]) -> None:
        self.database.execute_many(
            "INSERT INTO events VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    position,
                    *key_of(number),
                    sequence,
                    str(UUID(int=(sequence << 64) + number)),
                    _WHEN.timestamp(),
                    AT,
                    None,
                    event_bytes(number, sequence),
                )
                for position, number, sequence in events
            ],
        )

    def add(self, number: int, sequence: int, store_position: int) -> None:
        """Add a later event of a key."""
        self._insert(iter([(store_position, number, sequence)]))


class HashIndex:
    """All keys' numbers in order of their hashes: 12 bytes a key."""

    def __init__(self, keys: int) -> None:
        hashes = np.fromiter((_hash(*key_of(n)) for n in range(keys)), np.uint64, keys)
        order = np.argsort(hashes)
        self._hashes = hashes[order]
        self._numbers: NDArray[np.uint32] = order.astype(np.uint32)

    def numbers(self, bucket: int, bits: int) -> NDArray[np.uint32]:
        """Return the numbers whose hashes begin with `bucket`."""
        shift = 64 - bits
        ends = np.array([bucket << shift, (bucket + 1 << shift) - 1], np.uint64)
        low = np.searchsorted(self._hashes, ends[0], "left")
        high = np.searchsorted(self._hashes, ends[1], "right")
        return self._numbers[low:high]


class MadeUpTruth:
    """The event store's answers about aggregates, made up; decoded as the store does."""

    def __init__(self, index: HashIndex) -> None:
        self._index = index
        self._added: dict[int, list[tuple[int, int]]] = {}

    def add(self, number: int, sequence: int, store_position: int) -> None:
        """Add a later event of a key."""
        self._added.setdefault(number, []).append((store_position, sequence))

    def history(self, key: AggregateKey, until: int | None = None) -> list[StoredEvent]:
        """Return an aggregate's events."""
        number = number_of_key(key[1])
        return [
            StoredEvent(position, _event(number, sequence), AT)
            for position, sequence in [(number + 1, 1), *self._added.get(number, [])]
            if until is None or position <= until
        ]

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> dict[AggregateKey, list[StoredEvent]]:
        """Return several aggregates' events."""
        return {key: self.history(key, until) for key in keys}

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates of one bucket."""
        return [key_of(number) for number in self._index.numbers(bucket, bits).tolist()]

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return the aggregates of several buckets."""
        return [key for bucket in buckets for key in self.aggregates(bucket, bits)]


def _event(number: int, sequence: int) -> ContextEvent:
    return decode_event(event_bytes(number, sequence))


class MemoryOfAll(MemoryStorage):
    """A replica's storage in memory, filled with the first event of every key."""

    def __init__(self, keys: int, states: Mapping[int, bytes], incarnation: str) -> None:
        super().__init__()
        self.begin(incarnation)
        for start in range(0, keys, _ROWS_AT_ONCE):
            records = map(_stored, range(start, min(start + _ROWS_AT_ONCE, keys)))
            self.commit({(r.context_type, r.subject): r for r in records}, 0, None)
        for partition, state in states.items():
            self.commit({}, partition, state)


class MadeUpStorage(MemoryStorage):
    """A replica's storage after the first event of every key; keeps what is changed later."""

    def __init__(self, index: HashIndex, states: Mapping[int, bytes], incarnation: str) -> None:
        super().__init__()
        self.begin(incarnation)
        for partition, state in states.items():
            self.commit({}, partition, state)
        self._index = index

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        return super().get(key) or _stored(number_of_key(key[1]))

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket."""
        changed = {(r.context_type, r.subject): r for r in super().scan(partition, bucket, bits)}
        numbers = self._index.numbers(bucket, bits)
        for number in numbers[numbers % PARTITIONS == partition].tolist():
            yield changed.get(key_of(number)) or _stored(number)


def _stored(number: int) -> AggregateRecord:
    fields = {"spend": (number / 4, 1)}
    return AggregateRecord(KIND, f"user:{number}", number % PARTITIONS, 1, fields, [])
