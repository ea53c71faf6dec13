"""A log in a SQLite file: embedded mode's only transport.

A record's row number is ``stream * 2**40 + offset``, where a stream is one partition of one topic;
so a partition is one range of the table, in order, and needs no index beside it. 2^40 records fit
into a partition (35 years at 1000 a second).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import msgspec

from pipeline.log_topics import COMPACTED, DEFAULT_RETENTION_RECORDS, NEWEST_ONLY, Topics
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.errors import ConfigurationError, StorageError
from synchroscope.ports import Batch, Headers, NewRecord, Record, TopicPartition
from synchroscope.records import Columns, Records

SCHEMA_VERSION = 1
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS log_streams(
        stream INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
        first INTEGER NOT NULL DEFAULT 0, head INTEGER NOT NULL DEFAULT 0,
        UNIQUE(topic, partition))""",
    """CREATE TABLE IF NOT EXISTS log_records(
        id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL, headers BLOB NOT NULL,
        timestamp REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS log_newest(
        topic TEXT NOT NULL, key BLOB NOT NULL, id INTEGER NOT NULL,
        PRIMARY KEY(topic, key)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS log_positions(
        consumer TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
        position INTEGER NOT NULL, PRIMARY KEY(consumer, topic, partition)) WITHOUT ROWID""",
)

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(Headers).decode


class SqliteLog:
    """The `Log` port on a SQLite file.

    Parameters
    ----------
    database: The file, shared with the event store.
    partitions: Topic -> number of partitions, fixed when the topic is created. The control topics
        are always there and have one; a topic that is not named keeps what it was created with.
    retention_records: Topic -> how many of its newest records are kept at least (an eighth more at
        most). Raise it where a reader may fall back further than that.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        partitions: Mapping[str, int],
        *,
        retention_records: Mapping[str, int] = DEFAULT_RETENTION_RECORDS,
    ) -> None:
        self._database = database
        database.ensure_schema("log", SCHEMA_VERSION, _SCHEMA)
        stored: dict[str, int] = dict(
            database.execute("SELECT topic, count(*) FROM log_streams GROUP BY topic")
        )
        for topic, count in partitions.items():
            if stored.get(topic, count) != count:
                raise ConfigurationError(
                    f"topic {topic} in {database.path} has {stored[topic]} partitions for life, "
                    f"not {count}: set it back, or start with another data folder"
                )
        self._topics = Topics({**stored, **partitions}, retention_records)
        new = [
            (topic, partition)
            for topic, count in self._topics.counts.items()
            if topic not in stored
            for partition in range(count)
        ]
        if new:
            with database.transaction():
                database.execute_many("INSERT INTO log_streams(topic, partition) VALUES(?, ?)", new)
        self._streams: dict[TopicPartition, int] = {
            (topic, partition): stream
            for stream, topic, partition in database.execute(
                "SELECT stream, topic, partition FROM log_streams"
            )
        }

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
        """Append all records and move the consumer, in one transaction."""
        positions = positions or {}
        if not records and not positions:
            return
        self._topics.check_append(records, consumer, positions)
        with self._database.transaction():
            if records:
                self._insert(records, now)
            if positions:
                self._database.execute_many(
                    "INSERT INTO log_positions VALUES(?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET position = excluded.position",
                    [(consumer, *place, position) for place, position in positions.items()],
                )

    def _insert(self, records: Sequence[NewRecord], now: float) -> None:
        streams = {(record.topic, record.partition) for record in records}
        next_ids = {place: self._first_and_head(place)[1] for place in streams}
        next_ids = {p: (self._streams[p] << _OFFSET_BITS) + head for p, head in next_ids.items()}
        rows, newest = [], []
        for new in records:
            place = new.topic, new.partition
            number = next_ids[place]
            next_ids[place] = number + 1
            rows.append((number, new.key, new.value, _encode_headers(new.headers), now))
            if new.topic in COMPACTED:
                newest.append((new.topic, new.key, number))
        self._database.execute_many("INSERT INTO log_records VALUES(?, ?, ?, ?, ?)", rows)
        if newest:
            self._compact(newest)
        for place, number in next_ids.items():
            self._advance(place, number & _OFFSET_MASK)

    def _compact(self, newest: Sequence[tuple[str, bytes, int]]) -> None:
        for topic, key, number in newest:
            if topic in NEWEST_ONLY:
                self._database.execute(
                    "DELETE FROM log_records WHERE id = "
                    "(SELECT id FROM log_newest WHERE topic = ? AND key = ?)",
                    (topic, key),
                )
            self._database.execute(
                "INSERT INTO log_newest VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET id = excluded.id",
                (topic, key, number),
            )

    def _advance(self, place: TopicPartition, head: int) -> None:
        first, _ = self._first_and_head(place)
        kept = self._topics.first_to_keep(place[0], first, head)
        stream = self._streams[place]
        if kept > first:
            base = stream << _OFFSET_BITS
            self._database.execute(
                "DELETE FROM log_records WHERE id >= ? AND id < ?", (base, base + kept)
            )
        self._database.execute(
            "UPDATE log_streams SET first = ?, head = ? WHERE stream = ?", (kept, head, stream)
        )

    def _first_and_head(self, place: TopicPartition) -> tuple[int, int]:
        rows = self._database.execute(
            "SELECT first, head FROM log_streams WHERE stream = ?", (self._streams[place],)
        )
        return rows[0][0], rows[0][1]

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return up to `limit` records from `position` on."""
        self._topics.check(topic, partition)
        if limit < 1:
            return Batch([], position)
        base = self._streams[topic, partition] << _OFFSET_BITS
        # Asked before the records: what a writer appends in between must not be jumped over.
        head = self.head(topic, partition)
        rows = self._database.execute(
            "SELECT id, key, value, headers, timestamp FROM log_records "
            "WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (base + min(max(position, 0), _OFFSET_MASK), base + _OFFSET_MASK, limit),
        )
        if not rows:
            return Batch([], max(position, head))
        records = self._records(rows)
        return Batch(records, records.last_offset + 1)

    def _records(self, rows: Sequence[tuple[int, bytes, bytes, bytes, float]]) -> Records:
        numbers, keys, values, headers, times = map(list, zip(*rows, strict=True))
        offsets = [number & _OFFSET_MASK for number in numbers]
        decoded: list[Headers] = []
        try:
            for packed in headers:
                decoded.append(_decode_headers(packed))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{self._database.path}: the headers of log record {offsets[len(decoded)]} are "
                f"damaged ({error}): restore the file from a backup"
            ) from error
        return Records(Columns(array("q", offsets), keys, values, decoded, array("d", times)))

    def head(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will get."""
        self._topics.check(topic, partition)
        return self._first_and_head((topic, partition))[1]

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return where the consumer stands."""
        rows = self._database.execute(
            "SELECT topic, partition, position FROM log_positions WHERE consumer = ?", (consumer,)
        )
        return {(topic, partition): position for topic, partition, position in rows}

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key in a compacted topic."""
        self._topics.check_compacted(topic)
        rows = self._database.execute(
            "SELECT id, log_records.key, value, headers, timestamp "
            "FROM log_newest JOIN log_records USING(id) "
            "WHERE topic = ? AND log_newest.key = ? AND length(value) > 0",
            (topic, key),
        )
        return self._records(rows)[0] if rows else None
