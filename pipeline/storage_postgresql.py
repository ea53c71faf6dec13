"""A replica's facts in PostgreSQL: one row an aggregate, for models that read by SQL.

Several processes may use one replica's storage, each with partitions of its own. Every commit gives
its partition a version that no other commit ever had; a commit of a process that did not see the
newest one is refused. So one that was paused and comes back changes nothing, and a database that
was put back to an older copy is noticed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from pipeline.postgresql_database import PostgresqlDatabase, columns, escaped, unescaped
from synchroscope.digest import aggregate_hash
from synchroscope.errors import FencedError, InvalidEventError
from synchroscope.event import check_value
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, Swept

SCAN_SLICE_RECORDS = 2_000

_VERSION_BITS = 62
"""Versions are drawn by lot: more than 0, and within PostgreSQL's bigint."""
_COLUMNS = "context_type, subject, partition, sequence, fields::text, missing"
_COMMIT = (
    "SELECT replica_commit(%b, %b, %b::integer, %b::bigint, %b::bigint, %b::bytea, %b::text[], "
    "%b::text[], %b::integer[], %b::bytea[], %b::bigint[], %b::text[], %b::text[], %b::bigint, "
    "%b::bigint, %b::bytea, %b::bigint)"
)
_MEND = (
    # Only what is still as it was seen: a commit may have come between.
    "UPDATE replica_aggregates AS held SET partition = new.partition, hash = new.hash "
    "FROM unnest(%b::text[], %b::text[], %b::integer[], %b::bytea[], %b::integer[], %b::bytea[]) "
    "AS new(context_type, subject, seen_partition, seen_hash, partition, hash) "
    "WHERE held.replica = %b AND held.context_type = new.context_type "
    "AND held.subject = new.subject AND held.partition = new.seen_partition "
    "AND held.hash = new.seen_hash RETURNING 1"
)
_encode_fields = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, tuple[Any, int]]).decode
_decode_place = msgspec.json.Decoder(tuple[str, str]).decode
_numbers = partial(msgspec.convert, type=list[int])


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
        self._seen: dict[int, tuple[str | None, int]] = {}
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
        life = None if self._life is None else escaped(self._life)
        with self._database.transaction() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")  # There may be much to empty.
            cursor.execute(
                "SELECT replica_begin(%s, %s, %s)", (self._replica, life, escaped(incarnation))
            )
            has_begun = cursor.fetchall() == [(True,)]
        if has_begun:
            self._life = incarnation
            self._seen.clear()

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit stored."""
        self._prefetched.clear()
        [(life, version, state)] = self._database.query(
            "SELECT (SELECT incarnation FROM replica_lives WHERE replica = %s), version, state "
            "FROM (VALUES(1)) AS one LEFT JOIN replica_partitions "
            "ON replica = %s AND partition = %s",
            (self._replica, self._replica, partition),
        )
        self._seen[partition] = (life, version or 0)
        found: bytes | None = state
        return found

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        if key in self._prefetched:
            return self._prefetched[key]
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM replica_aggregates WHERE replica = %s "
            "AND context_type = %s AND subject = %s",
            (self._replica, *map(escaped, key)),
        )
        return _record(rows[0]) if rows else None

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Read these aggregates in one round trip."""
        self._prefetched.clear()
        if not keys:
            return
        distinct = dict.fromkeys(keys)
        rows = self._database.query(
            # One by one by the index, whatever size the table had when the plan was made.
            "SELECT found.* FROM unnest(%b::text[], %b::text[]) AS asked(context_type, subject), "
            f"LATERAL (SELECT {_COLUMNS} FROM replica_aggregates WHERE replica = %b "
            "AND context_type = asked.context_type AND subject = asked.subject OFFSET 0) AS found",
            (*columns([(escaped(kind), escaped(one)) for kind, one in distinct], 2), self._replica),
        )
        self._prefetched.update(distinct)
        for row in rows:
            self._prefetched[unescaped(row[0]), unescaped(row[1])] = _record(row)

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket, in order of their hash.

        Read in slices of `SCAN_SLICE_RECORDS`: a bucket of up to that many is seen in one snapshot.
        """
        shift = 64 - bits
        last = (((bucket + 1) << shift) - 1).to_bytes(8, "big")
        place: tuple[bytes, str, str] = ((bucket << shift).to_bytes(8, "big"), "", "")
        more = True
        while more:
            rows = self._database.query(
                f"SELECT {_COLUMNS}, hash FROM replica_aggregates WHERE replica = %s "
                "AND partition = %s AND hash >= %s AND hash <= %s "
                "AND (hash, context_type, subject) > (%s, %s, %s) "
                "ORDER BY hash, context_type, subject LIMIT %s",
                (self._replica, partition, place[0], last, *place, SCAN_SLICE_RECORDS),
            )
            more = len(rows) == SCAN_SLICE_RECORDS
            for row in rows:
                record = _record(row)
                if record is not None and _hash(record.context_type, record.subject) == row[6]:
                    yield record
            if rows:
                place = (rows[-1][6], rows[-1][0], rows[-1][1])

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Put right hashes that are not their keys', and partitions that there are not."""
        limit = min(limit, SCAN_SLICE_RECORDS)
        kind, subject = _decode_place(place) if place else ("", "")
        rows = self._database.query(
            "SELECT context_type, subject, partition, hash, partition IN "
            "(SELECT partition FROM replica_partitions WHERE replica = %s) FROM replica_aggregates "
            f"WHERE replica = %s AND (context_type, subject) {'>' if place else '>='} (%s, %s) "
            "ORDER BY context_type, subject LIMIT %s",
            (self._replica, self._replica, kind, subject, limit),
        )
        strays = [
            (kind, subject, number, hashed, number if is_known else partition, right)
            for kind, subject, number, hashed, is_known in rows
            if (right := _hash(unescaped(kind), unescaped(subject))) != hashed or not is_known
        ]
        if strays:
            self._database.query(_MEND, (*columns(strays, 6), self._replica))
        is_end = len(rows) < limit
        return Swept(b"" if is_end else _encode_fields(rows[-1][:2]), len(rows), len(strays))

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`."""
        rows = self._database.query(
            "SELECT start_position, end_position, data FROM replica_journal WHERE replica = %s "
            "AND partition = %s AND end_position > %s ORDER BY number",
            (self._replica, partition, position),
        )
        return [JournalChunk(*row) for row in rows]

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
        if partition not in self._seen:
            self.partition_state(partition)
        life, version = self._seen[partition]
        new_version = 1 + secrets.randbits(_VERSION_BITS)
        rows = [_row(key, record) for key, record in records.items()]
        chunk_columns = (
            (None, None, None) if chunk is None else (chunk.start, chunk.end, chunk.data)
        )
        [(is_stored,)] = self._database.query(
            _COMMIT,
            (
                *(self._replica, life, partition, version, new_version, state),
                *columns(rows, 7),
                *chunk_columns,
                journal_floor,
            ),
        )
        if not is_stored:
            raise FencedError(
                f"{self._database.server}: another process went on with partition {partition} of "
                f"{self._replica}, or began it anew; nothing was written: read it again"
            )
        self._seen[partition] = (life, new_version)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


def _hash(context_type: str, subject: str) -> bytes:
    return aggregate_hash(context_type, subject).to_bytes(8, "big")


def _row(key: AggregateKey, record: AggregateRecord) -> tuple[Any, ...]:
    return (
        *map(escaped, key),
        record.partition,
        _hash(*key),
        record.sequence,
        _encode_fields(record.fields).decode(),
        "{" + ",".join(map(str, record.missing)) + "}",
    )


def _record(row: Sequence[Any]) -> AggregateRecord | None:
    """Return the aggregate, or None where what is stored is nothing that an event can write."""
    kind, subject, partition, sequence, fields, missing = row[:6]
    try:
        decoded = _decode_fields(fields)
        for value, _ in decoded.values():
            if type(value) is not str:
                check_value(value, "$")
        whole = _numbers(missing)
    except (msgspec.ValidationError, msgspec.DecodeError, InvalidEventError, RecursionError):
        return None
    return AggregateRecord(unescaped(kind), unescaped(subject), partition, sequence, decoded, whole)
