"""The event store in PostgreSQL: distributed mode's source of truth.

Commit order is position order. Every append locks the row that counts positions before it looks at
anything, so appends of all processes stand in line from there to their commit; a reader that goes
on after the highest position it saw misses nothing. (With a sequence, a later number may be visible
before an earlier one.) What can be prepared is prepared before the lock, and rows go in with COPY.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from pipeline.event_store import AggregateState, Append, DeadLetter, StoredDeadLetter, StoredEvent
from pipeline.event_store_memory import expiries, fold_as_of
from pipeline.postgresql_database import PostgresqlDatabase, escaped, unescaped
from synchroscope.digest import aggregate_hash
from synchroscope.errors import ConflictError, StorageError
from synchroscope.event import ContextEvent, encode_event
from synchroscope.ports import AggregateKey

POSITIONS_PER_PARTITION = 10_000_000

_EVENTS, _LETTERS, _NEWEST = "events", "dead letters", "newest timestamp in microseconds"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode_event = msgspec.json.Decoder(ContextEvent).decode
_decode_state = msgspec.msgpack.Decoder(AggregateState).decode
_encode_state = msgspec.msgpack.Encoder().encode
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_Cursor = psycopg.Cursor[Any]


class PostgresqlEventStore:
    """The `EventStore` port on PostgreSQL.

    Parameters
    ----------
    database: The connection; its schema may be used by many processes at once.
    """

    def __init__(self, database: PostgresqlDatabase) -> None:
        self._database = database
        self._query = database.query
        self._partitions: set[str] = set()

    def append(self, write: Append, now: float) -> None:
        """Write all of it in one transaction, or raise and write nothing."""
        for event in write.events:
            if event.sequence is None:
                raise StorageError(
                    f"event {event.event_id} has no sequence: fill it in before appending"
                )
        rows = [_event_row(event, now) for event in write.events]
        states = [_state_row(key, state) for key, state in write.states.items()]
        letters = [_letter_row(letter, now) for letter in write.dead_letters]
        try:
            with self._database.transaction() as cursor:
                cursor.execute("SELECT value FROM marks WHERE name = %s FOR UPDATE", (_EVENTS,))
                head: int = cursor.fetchall()[0][0]
                self._check_expected(cursor, write.expected)
                if rows:
                    self._insert_events(cursor, write.events, rows, head)
                self._store_states(cursor, states)
                if letters:
                    self._insert_letters(cursor, letters)
                self._note(cursor, write.tracking, write.counters)
        except BaseException:
            self._partitions.clear()  # What was made in this transaction is gone.
            raise

    def _check_expected(self, cursor: _Cursor, expected: Mapping[AggregateKey, int]) -> None:
        if not expected:
            return
        keys = [_hashed(key) for key in expected]
        cursor.execute(
            "SELECT context_type, subject, sequence FROM aggregates WHERE (hash, context_type, "
            "subject) IN (SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[]))",
            [list(column) for column in zip(*keys, strict=True)],
        )
        actual = {(kind, subject): sequence for kind, subject, sequence in cursor.fetchall()}
        for (key, wanted), (_, kind, subject) in zip(expected.items(), keys, strict=True):
            found = actual.get((kind, subject), 0)
            if found != wanted:
                cursor.execute(
                    "SELECT state FROM aggregates WHERE hash = %s AND context_type = %s "
                    "AND subject = %s",
                    _hashed(key),
                )
                row = cursor.fetchone()
                state = self._state(key, row[0]).values() if row else {}
                raise ConflictError(*key, expected=wanted, actual=found, state=state)

    def _insert_events(
        self,
        cursor: _Cursor,
        events: Sequence[ContextEvent],
        rows: Sequence[tuple[Any, ...]],
        head: int,
    ) -> None:
        self._refuse_repeated(cursor, rows)
        self._make_partitions(cursor, head, head + len(rows))
        with cursor.copy("COPY events FROM STDIN") as copy:
            for position, row in enumerate(rows, head + 1):
                copy.write_row((position, *row))
        newest = (max(event.timestamp for event in events) - _EPOCH) // _MICROSECOND
        cursor.execute(
            "INSERT INTO marks VALUES(%s, %s), (%s, %s) ON CONFLICT(name) DO UPDATE "
            "SET value = greatest(marks.value, excluded.value)",
            (_EVENTS, head + len(rows), _NEWEST, newest),
        )

    def _refuse_repeated(self, cursor: _Cursor, rows: Sequence[tuple[Any, ...]]) -> None:
        # Unique over all partitions, which no index can be; nobody else appends meanwhile.
        ids = [row[3] for row in rows]
        places = [row[:3] for row in rows]
        cursor.execute("SELECT event_id FROM events WHERE event_id = ANY(%s) LIMIT 1", (ids,))
        known = cursor.fetchone()
        if known is None and len(set(ids)) < len(ids):
            known = (next(one for one, count in Counter(ids).items() if count > 1),)
        if known is not None:
            raise self._repeated(f"event_id {known[0]}")
        cursor.execute(
            "SELECT context_type, subject, sequence FROM events WHERE (context_type, subject, "
            "sequence) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[])) LIMIT 1",
            [list(column) for column in zip(*places, strict=True)],
        )
        taken = cursor.fetchone()
        if taken is None and len(set(places)) < len(places):
            taken = next(one for one, count in Counter(places).items() if count > 1)
        if taken is not None:
            raise self._repeated(f"sequence {taken[2]} of {taken[0]} of {taken[1]}")

    def _repeated(self, what: str) -> StorageError:
        return StorageError(
            f"{self._database.server}: an event of this append is stored already ({what}): "
            "ask `contains` first and state what is `expected`"
        )

    def _make_partitions(self, cursor: _Cursor, head: int, last: int) -> None:
        size = POSITIONS_PER_PARTITION
        for number in range((head + 1) // size, last // size + 1):
            name = f"events_{number:06d}"
            if name in self._partitions:
                continue
            cursor.execute("SELECT to_regclass(%s)", (name,))
            if cursor.fetchall() == [(None,)]:
                first, end = number * size, (number + 1) * size
                for statement in (
                    f"CREATE TABLE {name} PARTITION OF events FOR VALUES FROM ({first}) TO ({end})",
                    f"CREATE UNIQUE INDEX ON {name}(event_id)",
                    f"CREATE UNIQUE INDEX ON {name}(context_type, subject, sequence)",
                ):
                    cursor.execute(statement.encode())
            self._partitions.add(name)

    @staticmethod
    def _store_states(cursor: _Cursor, states: Sequence[tuple[Any, ...]]) -> None:
        if states:
            cursor.execute(
                "INSERT INTO aggregates SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[], "
                "%s::bigint[], %s::double precision[], %s::bytea[]) "
                "ON CONFLICT(hash, context_type, subject) DO UPDATE SET "
                "sequence = excluded.sequence, next_due = excluded.next_due, "
                "state = excluded.state",
                [list(column) for column in zip(*states, strict=True)],
            )

    @staticmethod
    def _insert_letters(cursor: _Cursor, letters: Sequence[tuple[Any, ...]]) -> None:
        cursor.execute("SELECT value FROM marks WHERE name = %s", (_LETTERS,))
        head = cursor.fetchall()[0][0]
        with cursor.copy("COPY dead_letters FROM STDIN") as copy:
            for position, row in enumerate(letters, head + 1):
                copy.write_row((position, *row))
        cursor.execute(
            "UPDATE marks SET value = %s WHERE name = %s", (head + len(letters), _LETTERS)
        )
        counts = Counter(row[0] for row in letters)
        cursor.execute(
            "INSERT INTO dead_letter_counts SELECT * FROM unnest(%s::text[], %s::bigint[]) "
            "ON CONFLICT(reason) DO UPDATE SET total = dead_letter_counts.total + excluded.total",
            (list(counts), list(counts.values())),
        )

    @staticmethod
    def _note(cursor: _Cursor, tracking: Mapping[str, str], counters: Mapping[str, int]) -> None:
        if tracking:
            cursor.execute(
                "INSERT INTO tracking SELECT * FROM unnest(%s::text[], %s::text[]) "
                "ON CONFLICT(source) DO UPDATE SET progress = excluded.progress",
                (list(map(escaped, tracking)), list(map(escaped, tracking.values()))),
            )
        if counters:
            cursor.execute(
                "INSERT INTO counters SELECT * FROM unnest(%s::text[], %s::bigint[]) "
                "ON CONFLICT(name) DO UPDATE SET total = counters.total + excluded.total",
                (list(map(escaped, counters)), list(counters.values())),
            )

    # -- reading -----------------------------------------------------------------------------

    def state(self, key: AggregateKey) -> AggregateState:
        """Return an aggregate's present state."""
        rows = self._query(
            "SELECT state FROM aggregates WHERE hash = %s AND context_type = %s AND subject = %s",
            _hashed(key),
        )
        return self._state(key, rows[0][0]) if rows else AggregateState()

    def _state(self, key: AggregateKey, data: bytes) -> AggregateState:
        try:
            return _decode_state(data)
        except _DAMAGE as error:
            raise self._damaged(f"the state of {key}", error) from error

    def _damaged(self, what: str, error: Exception) -> StorageError:
        return StorageError(
            f"{self._database.server}: {what} is damaged ({error}): restore it from a backup"
        )

    def state_as_of(
        self, key: AggregateKey, *, sequence: int | None = None, time: dt.datetime | None = None
    ) -> AggregateState:
        """Return the state after that sequence, or after all events up to that time."""
        return fold_as_of([stored.event for stored in self.history(key)], sequence, time)

    def contains(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of the event IDs that the store has."""
        ids = [UUID(one) for one in event_ids if _UUID.fullmatch(one)]
        if not ids:
            return set()
        rows = self._query("SELECT event_id FROM events WHERE event_id = ANY(%s)", (ids,))
        return {str(row[0]) for row in rows}

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events in total order."""
        return self._events(
            "WHERE position > %s ORDER BY position LIMIT %s", (after, max(limit, 0))
        )

    def history(self, key: AggregateKey, until: int | None = None) -> list[StoredEvent]:
        """Return one aggregate's events in order."""
        bound = "" if until is None else "AND position <= %s "
        return self._events(
            f"WHERE context_type = %s AND subject = %s {bound}ORDER BY sequence",
            (*map(escaped, key), *(() if until is None else (until,))),
        )

    def _events(self, condition: str, parameters: Sequence[Any]) -> list[StoredEvent]:
        position = 0
        rows = self._query(f"SELECT position, data, recorded FROM events {condition}", parameters)
        try:
            events = []
            for position, data, recorded in rows:
                events.append(StoredEvent(position, _decode_event(data), recorded))
        except _DAMAGE as error:
            raise self._damaged(f"event {position}", error) from error
        return events

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates of one bucket, in order of their hash."""
        shift = 64 - bits
        first, last = bucket << shift, ((bucket + 1) << shift) - 1
        rows = self._query(
            "SELECT context_type, subject FROM aggregates WHERE hash BETWEEN %s AND %s "
            "ORDER BY hash, context_type, subject",
            (first.to_bytes(8, "big"), last.to_bytes(8, "big")),
        )
        return [(unescaped(kind), unescaped(subject)) for kind, subject in rows]

    def due(self, until: float, limit: int) -> list[tuple[float, AggregateKey, str]]:
        """Return values due at or before `until`."""
        # Each aggregate found has at least one such value, so `limit` aggregates are enough.
        rows = self._query(
            "SELECT context_type, subject, state FROM aggregates WHERE next_due <= %s "
            "ORDER BY next_due, context_type, subject LIMIT %s",
            (until, max(limit, 0)),
        )
        keys = [(unescaped(kind), unescaped(subject)) for kind, subject, _ in rows]
        states = {key: self._state(key, row[2]) for key, row in zip(keys, rows, strict=True)}
        return expiries(states, until)[: max(limit, 0)]

    def read_dead_letters(self, after: int, limit: int) -> list[StoredDeadLetter]:
        """Return dead letters in order."""
        rows = self._query(
            "SELECT position, reason, detail, source, data, recorded FROM dead_letters "
            "WHERE position > %s ORDER BY position LIMIT %s",
            (after, max(limit, 0)),
        )
        return [
            StoredDeadLetter(
                position,
                DeadLetter(unescaped(reason), unescaped(detail), unescaped(source), data),
                recorded,
            )
            for position, reason, detail, source, data, recorded in rows
        ]

    def dead_letter_counts(self) -> dict[str, int]:
        """Return reason -> how many."""
        rows = self._query("SELECT reason, total FROM dead_letter_counts")
        return {unescaped(reason): total for reason, total in rows}

    def tracking(self, source: str) -> str | None:
        """Return how far a source has been read."""
        rows = self._query("SELECT progress FROM tracking WHERE source = %s", (escaped(source),))
        return unescaped(rows[0][0]) if rows else None

    def counter(self, name: str) -> int:
        """Return a counter's total."""
        rows = self._query("SELECT total FROM counters WHERE name = %s", (escaped(name),))
        return rows[0][0] if rows else 0

    def count(self) -> int:
        """Return how many events there are: without gaps, that is the highest position."""
        count: int = self._query("SELECT value FROM marks WHERE name = %s", (_EVENTS,))[0][0]
        return count

    def newest_timestamp(self) -> dt.datetime | None:
        """Return the latest event timestamp, in UTC."""
        rows = self._query("SELECT value FROM marks WHERE name = %s", (_NEWEST,))
        return _EPOCH + rows[0][0] * _MICROSECOND if rows else None


def _hashed(key: AggregateKey) -> tuple[bytes, str, str]:
    return aggregate_hash(*key).to_bytes(8, "big"), escaped(key[0]), escaped(key[1])


def _event_row(event: ContextEvent, now: float) -> tuple[Any, ...]:
    correlation_id = event.correlation_id
    return (
        escaped(event.context_type),
        escaped(event.subject),
        event.sequence,
        event.event_id,
        event.timestamp.timestamp(),
        now,
        None if correlation_id is None else escaped(correlation_id),
        encode_event(event),
    )


def _state_row(key: AggregateKey, state: AggregateState) -> tuple[Any, ...]:
    due = [field.due for field in state.fields.values() if field.due is not None]
    return (*_hashed(key), state.sequence, min(due, default=None), _encode_state(state))


def _letter_row(letter: DeadLetter, now: float) -> tuple[Any, ...]:
    texts = (letter.reason, letter.detail, letter.source)
    return (*(escaped(_storable(text)) for text in texts), letter.data, now)


def _storable(text: str) -> str:
    # Refused input may hold lone surrogates; a dead letter must be kept all the same.
    return text.encode("utf-8", "backslashreplace").decode()
