"""A replica's facts in PostgreSQL: one row an aggregate, for models that read by SQL.

Several processes may use one replica's storage, each with partitions of its own. Every partition
has a version that each commit raises; a commit of a process that did not see the newest version is
refused, so one that was paused and comes back changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import psycopg

from pipeline.postgresql_database import PostgresqlDatabase, escaped, unescaped
from synchroscope.digest import aggregate_hash
from synchroscope.errors import FencedError, InvalidEventError
from synchroscope.event import check_value
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk

SCAN_SLICE_RECORDS = 2_000

_COLUMNS = "context_type, subject, partition, sequence, fields::text, missing"
_encode_fields = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, tuple[Any, int]]).decode


class PostgresqlStorage:
    """The `ReplicaStorage` port on PostgreSQL.

    Parameters
    ----------
    database: The connection; closed with this object.
    replica: Whose facts these are.
    """

    def __init__(self, database: PostgresqlDatabase, replica: str) -> None:
        self._database = database
        self._replica = replica
        self._life: str | None = None
        self._versions: dict[int, int] = {}
        self._prefetched: dict[AggregateKey, AggregateRecord | None] = {}

    def incarnation(self) -> str | None:
        """Return the name of this storage's life."""
        rows = self._database.query(
            "SELECT incarnation FROM replica_lives WHERE replica = %s", (self._replica,)
        )
        self._life = unescaped(rows[0][0]) if rows else None
        return self._life

    def begin(self, incarnation: str) -> None:
        """Empty the storage and start a new life, unless another process was faster."""
        self._prefetched.clear()
        self._versions.clear()
        with self._database.transaction() as cursor:
            if self._life is None:
                cursor.execute(
                    "INSERT INTO replica_lives VALUES(%s, %s) ON CONFLICT DO NOTHING",
                    (self._replica, escaped(incarnation)),
                )
            else:
                cursor.execute(
                    "UPDATE replica_lives SET incarnation = %s "
                    "WHERE replica = %s AND incarnation = %s",
                    (escaped(incarnation), self._replica, escaped(self._life)),
                )
            if cursor.rowcount != 1:
                return
            for table in ("replica_aggregates", "replica_partitions", "replica_journal"):
                cursor.execute(f"DELETE FROM {table} WHERE replica = %s".encode(), (self._replica,))
        self._life = incarnation

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit stored."""
        self._prefetched.clear()
        rows = self._database.query(
            "SELECT version, state FROM replica_partitions WHERE replica = %s AND partition = %s",
            (self._replica, partition),
        )
        version, state = rows[0] if rows else (0, None)
        self._versions[partition] = version
        return None if state is None else bytes(state)

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        if key in self._prefetched:
            return self._prefetched[key]
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM replica_aggregates WHERE replica = %s AND hash = %s "
            "AND context_type = %s AND subject = %s",
            (self._replica, *_hashed(key)),
        )
        return _record(rows[0]) if rows else None

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Read these aggregates in one round trip."""
        self._prefetched.clear()
        if not keys:
            return
        distinct = list(dict.fromkeys(keys))
        columns = [list(column) for column in zip(*map(_hashed, distinct), strict=True)]
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM replica_aggregates WHERE replica = %s AND (hash, "
            "context_type, subject) IN (SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[]))",
            (self._replica, *columns),
        )
        self._prefetched = dict.fromkeys(distinct)
        for row in rows:
            self._prefetched[unescaped(row[0]), unescaped(row[1])] = _record(row)

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket, in order of their hash."""
        shift = 64 - bits
        last = (((bucket + 1) << shift) - 1).to_bytes(8, "big")
        place: tuple[bytes, str, str] = ((bucket << shift).to_bytes(8, "big"), "", "")
        while True:
            rows = self._database.query(
                f"SELECT {_COLUMNS}, hash FROM replica_aggregates WHERE replica = %s "
                "AND (hash, context_type, subject) > (%s, %s, %s) AND hash <= %s "
                "AND partition = %s ORDER BY hash, context_type, subject LIMIT %s",
                (self._replica, *place, last, partition, SCAN_SLICE_RECORDS),
            )
            for row in rows:
                record = _record(row)
                if record is not None:
                    yield record
            if len(rows) < SCAN_SLICE_RECORDS:
                return
            place = (bytes(rows[-1][6]), rows[-1][0], rows[-1][1])

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`."""
        rows = self._database.query(
            "SELECT start_position, end_position, data FROM replica_journal WHERE replica = %s "
            "AND partition = %s AND end_position > %s ORDER BY number",
            (self._replica, partition, position),
        )
        return [JournalChunk(start, end, bytes(data)) for start, end, data in rows]

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Store all of it in one transaction, if nobody else went on with the partition."""
        self._prefetched.clear()
        if self._life is None:
            self.incarnation()
        if partition not in self._versions:
            self.partition_state(partition)
        rows = [_row(self._replica, key, record) for key, record in records.items()]
        with self._database.transaction() as cursor:
            self._raise_version(cursor, partition, state)
            if rows:
                cursor.execute(
                    "INSERT INTO replica_aggregates SELECT replica, hash, context_type, subject, "
                    "partition, sequence, fields::json, missing::bigint[] FROM unnest(%s::text[], "
                    "%s::bytea[], %s::text[], %s::text[], %s::integer[], %s::bigint[], %s::text[], "
                    "%s::text[]) AS new(replica, hash, context_type, subject, partition, sequence, "
                    "fields, missing) ON CONFLICT(replica, hash, context_type, subject) DO UPDATE "
                    "SET partition = excluded.partition, sequence = excluded.sequence, "
                    "fields = excluded.fields, missing = excluded.missing",
                    [list(column) for column in zip(*rows, strict=True)],
                )
            if chunk is not None:
                cursor.execute(
                    "INSERT INTO replica_journal SELECT %s, %s, coalesce(max(number), 0) + 1, "
                    "%s, %s, %s FROM replica_journal WHERE replica = %s AND partition = %s",
                    (
                        self._replica,
                        partition,
                        chunk.start,
                        chunk.end,
                        chunk.data,
                        self._replica,
                        partition,
                    ),
                )
            if journal_floor > 0:
                cursor.execute(
                    "DELETE FROM replica_journal WHERE replica = %s AND partition = %s "
                    "AND end_position <= %s",
                    (self._replica, partition, journal_floor),
                )
        self._versions[partition] += 1

    def _raise_version(
        self, cursor: psycopg.Cursor[Any], partition: int, state: bytes | None
    ) -> None:
        """Lock the partition, and refuse a life or a version that is not the one that was seen."""
        cursor.execute(
            "SELECT incarnation FROM replica_lives WHERE replica = %s FOR SHARE", (self._replica,)
        )
        lives = [unescaped(row[0]) for row in cursor.fetchall()]
        seen = self._versions[partition]
        is_same_life = lives == ([] if self._life is None else [self._life])
        if is_same_life and seen == 0:
            cursor.execute(
                "INSERT INTO replica_partitions VALUES(%s, %s, 1, %s) ON CONFLICT DO NOTHING",
                (self._replica, partition, state),
            )
        elif is_same_life:
            cursor.execute(
                "UPDATE replica_partitions SET version = version + 1, "
                "state = coalesce(%s, state) "
                "WHERE replica = %s AND partition = %s AND version = %s",
                (state, self._replica, partition, seen),
            )
        if not is_same_life or cursor.rowcount != 1:
            raise FencedError(
                f"{self._database.server}: another process went on with partition {partition} of "
                f"{self._replica}"
            )

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


def _hashed(key: AggregateKey) -> tuple[bytes, str, str]:
    return aggregate_hash(*key).to_bytes(8, "big"), escaped(key[0]), escaped(key[1])


def _row(replica: str, key: AggregateKey, record: AggregateRecord) -> tuple[Any, ...]:
    missing = "{" + ",".join(map(str, record.missing)) + "}"
    fields = _encode_fields(record.fields).decode()
    return (replica, *_hashed(key), record.partition, record.sequence, fields, missing)


def _record(row: Sequence[Any]) -> AggregateRecord | None:
    """Return the aggregate, or None where what is stored is nothing that an event can write."""
    kind, subject, partition, sequence, fields, missing = row[:6]
    try:
        decoded = _decode_fields(fields)
        for value, _ in decoded.values():
            check_value(value, "$")
    except (msgspec.DecodeError, InvalidEventError, RecursionError):
        return None
    return AggregateRecord(
        unescaped(kind), unescaped(subject), partition, sequence, decoded, list(missing)
    )
