"""The event store in PostgreSQL: distributed mode's source of truth.

Commit order is position order. An append is one call of the function ``append`` (see
``migrations/``): it locks the row that counts positions before it looks at anything, so appends of
all processes stand in line from there to their commit, and a reader that goes on after the highest
position it saw misses nothing. (With a sequence, a later number may be visible before an earlier
one.) Everything is prepared before, sent at once, and the transaction ends with the call: nobody
waits for a client, not even for one that is paused or dies.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from pipeline.event_store import (
    AggregateState,
    Append,
    DeadLetter,
    StoredDeadLetter,
    StoredEvent,
    hash_range,
)
from pipeline.event_store_memory import expiries, fold_as_of
from pipeline.postgresql_database import PostgresqlDatabase, columns, escaped, unescaped
from synchroscope.digest import aggregate_hash
from synchroscope.errors import ConflictError, StorageError
from synchroscope.event import ContextEvent, encode_event
from synchroscope.ports import AggregateKey
from synchroscope.tally import StoredRow

_KEYS_PER_QUERY = 1_000
_EVENTS, _NEWEST = "events", "newest timestamp in microseconds"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode_event = msgspec.json.Decoder(ContextEvent).decode
_decode_state = msgspec.msgpack.Decoder(AggregateState).decode
_encode_state = msgspec.msgpack.Encoder().encode
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_APPEND = "SELECT * FROM append({})".format(
    ", ".join(
        f"%b::{kind}"
        for kind in (
            *("bytea[]", "text[]", "text[]", "bigint[]"),  # What is expected.
            *("text[]", "text[]", "bigint[]", "uuid[]", "double precision[]", "text[]", "bytea[]"),
            *("boolean", "bigint"),
            *("bytea[]", "text[]", "text[]", "bigint[]", "double precision[]", "bytea[]"),
            *("text[]", "text[]", "text[]", "bytea[]"),  # Dead letters.
            *("text[]", "text[]"),
            *("text[]", "bigint[]"),
            "double precision",
        )
    )
)


class PostgresqlEventStore:
    """The `EventStore` port on PostgreSQL.

    Parameters
    ----------
    database: The connection; its schema may be used by many processes at once.
    """

    def __init__(self, database: PostgresqlDatabase) -> None:
        self._database = database
        self._query = database.query

    def append(self, write: Append, now: float) -> None:
        """Write all of it in one transaction, or raise and write nothing."""
        for event in write.events:
            if event.sequence is None:
                raise StorageError(
                    f"event {event.event_id} has no sequence: fill it in before appending"
                )
        parameters = (
            *columns([(*_hashed(key), number) for key, number in write.expected.items()], 4),
            *columns([_event_row(event) for event in write.events], 7),
            _has_repeats(write.events),
            _newest_microsecond(write.events),
            *columns([_state_row(key, state) for key, state in write.states.items()], 6),
            *columns([_letter_row(letter) for letter in write.dead_letters], 4),
            *columns([(escaped(a), escaped(b)) for a, b in write.tracking.items()], 2),
            *columns([(escaped(name), number) for name, number in write.counters.items()], 2),
            now,
        )
        try:
            conflict, actual, state, repeated = self._query(_APPEND, parameters)[0]
        except StorageError as error:
            if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                raise self._repeated(str(error.__cause__.diag.message_detail)) from error
            raise
        if conflict is not None:
            key, expected = list(write.expected.items())[conflict - 1]
            values = {} if state is None else self._state(key, state).values()
            raise ConflictError(*key, expected=expected, actual=actual, state=values)
        if repeated is not None:
            raise self._repeated(unescaped(repeated))

    def _repeated(self, what: str) -> StorageError:
        return StorageError(
            f"{self._database.server}: an event of this append is stored already ({what}): "
            "ask `contains` first and state what is `expected`"
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
        rows = self._query("SELECT event_id FROM events WHERE event_id = ANY(%b::uuid[])", (ids,))
        return {str(row[0]) for row in rows}

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events in total order."""
        return self._events(
            "WHERE position > %s ORDER BY position LIMIT %s", (after, max(limit, 0))
        )

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return events in total order, as bytes."""
        rows = self._query(
            "SELECT position, recorded, data FROM events "
            "WHERE position > %s ORDER BY position LIMIT %s",
            (after, max(limit, 0)),
        )
        return [StoredRow(position, recorded, bytes(data)) for position, recorded, data in rows]

    def history(self, key: AggregateKey, until: int | None = None) -> list[StoredEvent]:
        """Return one aggregate's events in order."""
        bound = "" if until is None else "AND position <= %s "
        return self._events(
            f"WHERE context_type = %s AND subject = %s {bound}ORDER BY sequence",
            (*map(escaped, key), *(() if until is None else (until,))),
        )

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> dict[AggregateKey, list[StoredEvent]]:
        """Return several aggregates' events in order."""
        found: dict[AggregateKey, list[StoredEvent]] = {key: [] for key in keys}
        wanted = list(found)
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            names = wanted[start : start + _KEYS_PER_QUERY]
            pairs = [tuple(map(escaped, key)) for key in names]
            bound = "" if until is None else "WHERE position <= %b "
            rows = self._query(
                "SELECT position, data, recorded, place FROM events "
                "JOIN unnest(%b::text[], %b::text[]) WITH ORDINALITY AS wanted(kind, name, place) "
                f"ON context_type = kind AND subject = name {bound}ORDER BY sequence",
                (*columns(pairs, 2), *(() if until is None else (until,))),
            )
            for stored, row in zip(self._decoded(rows), rows, strict=True):
                found[names[row[3] - 1]].append(stored)
        return found

    def _events(self, condition: str, parameters: Sequence[Any]) -> list[StoredEvent]:
        return self._decoded(
            self._query(f"SELECT position, data, recorded FROM events {condition}", parameters)
        )

    def _decoded(self, rows: Sequence[Sequence[Any]]) -> list[StoredEvent]:
        position = 0
        try:
            events = []
            for position, data, recorded, *_ in rows:
                events.append(StoredEvent(position, _decode_event(data), recorded))
        except _DAMAGE as error:
            raise self._damaged(f"event {position}", error) from error
        return events

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates of one bucket, in order of their hash."""
        rows = self._query(
            "SELECT context_type, subject FROM aggregates WHERE hash BETWEEN %s AND %s "
            "ORDER BY hash, context_type, subject",
            hash_range(bucket, bits),
        )
        return [(unescaped(kind), unescaped(subject)) for kind, subject in rows]

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return the aggregates of several buckets."""
        wanted = sorted(set(buckets))
        found: list[AggregateKey] = []
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            ends = [hash_range(bucket, bits) for bucket in wanted[start : start + _KEYS_PER_QUERY]]
            rows = self._query(
                "SELECT context_type, subject FROM aggregates "
                "JOIN unnest(%b::bytea[], %b::bytea[]) AS wanted(low, high) "
                "ON hash BETWEEN low AND high",
                columns(ends, 2),
            )
            found += [(unescaped(kind), unescaped(subject)) for kind, subject in rows]
        return found

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


def _event_row(event: ContextEvent) -> tuple[Any, ...]:
    correlation_id = event.correlation_id
    return (
        escaped(event.context_type),
        escaped(event.subject),
        event.sequence,
        event.event_id,
        event.timestamp.timestamp(),
        None if correlation_id is None else escaped(correlation_id),
        encode_event(event),
    )


def _has_repeats(events: Sequence[ContextEvent]) -> bool:
    ids = {event.event_id for event in events}
    places = {(event.context_type, event.subject, event.sequence) for event in events}
    return min(len(ids), len(places)) < len(events)


def _newest_microsecond(events: Sequence[ContextEvent]) -> int | None:
    newest = max((event.timestamp for event in events), default=None)
    return None if newest is None else (newest - _EPOCH) // _MICROSECOND


def _state_row(key: AggregateKey, state: AggregateState) -> tuple[Any, ...]:
    due = [field.due for field in state.fields.values() if field.due is not None]
    return (*_hashed(key), state.sequence, min(due, default=None), _encode_state(state))


def _letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    texts = (letter.reason, letter.detail, letter.source)
    return (*(escaped(_storable(text)) for text in texts), letter.data)


def _storable(text: str) -> str:
    # Refused input may hold lone surrogates; a dead letter must be kept all the same.
    return text.encode("utf-8", "backslashreplace").decode()
