"""The event store in a SQLite file: embedded mode's source of truth.

``BEGIN IMMEDIATE`` lets in one writer at a time, so commit order is position order; positions are
counted by hand (the highest plus one), so that a rolled-back append leaves no gap.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from pipeline.event_store import (
    AggregateState,
    Append,
    DeadLetter,
    StoredDeadLetter,
    StoredEvent,
    hash_range,
)
from pipeline.event_store_memory import expiries, fold_as_of
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.digest import aggregate_hash
from synchroscope.errors import ConflictError, StorageError
from synchroscope.event import ContextEvent, encode_event
from synchroscope.ports import AggregateKey
from synchroscope.tally import StoredRow

SCHEMA_VERSION = 1
_PARAMETERS_PER_QUERY = 500
_PAIRS_PER_QUERY = 250
_NEWEST = "newest timestamp in microseconds"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS events(
        position INTEGER PRIMARY KEY AUTOINCREMENT, context_type TEXT NOT NULL,
        subject TEXT NOT NULL, sequence INTEGER NOT NULL, event_id TEXT NOT NULL UNIQUE,
        timestamp REAL NOT NULL, recorded REAL NOT NULL, correlation_id TEXT, data BLOB NOT NULL,
        UNIQUE(context_type, subject, sequence))""",
    """CREATE TABLE IF NOT EXISTS aggregates(
        hash BLOB NOT NULL, context_type TEXT NOT NULL, subject TEXT NOT NULL,
        sequence INTEGER NOT NULL, next_due REAL, state BLOB NOT NULL,
        UNIQUE(hash, context_type, subject))""",
    """CREATE INDEX IF NOT EXISTS aggregates_next_due ON aggregates(next_due)
        WHERE next_due IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS dead_letters(
        position INTEGER PRIMARY KEY AUTOINCREMENT, reason TEXT NOT NULL, detail TEXT NOT NULL,
        source TEXT NOT NULL, data BLOB NOT NULL, recorded REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS dead_letters_reason ON dead_letters(reason)",
    """CREATE TABLE IF NOT EXISTS tracking(
        source TEXT PRIMARY KEY, progress TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS counters(
        name TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS marks(
        name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID""",
)
_AT_KEY = "hash = ? AND context_type = ? AND subject = ?"

_decode_event = msgspec.json.Decoder(ContextEvent).decode
_decode_state = msgspec.msgpack.Decoder(AggregateState).decode
_encode_state = msgspec.msgpack.Encoder().encode
_DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class SqliteEventStore:
    """The `EventStore` port on a SQLite file.

    Parameters
    ----------
    database: The file, shared with the log.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._query = database.execute
        database.ensure_schema("event store", SCHEMA_VERSION, _SCHEMA)

    def append(self, write: Append, now: float) -> None:
        """Write all of it in one transaction, or raise and write nothing."""
        for event in write.events:
            if event.sequence is None:
                raise StorageError(
                    f"event {event.event_id} has no sequence: fill it in before appending"
                )
        encoded = [encode_event(event) for event in write.events]
        states = [_state_row(key, state) for key, state in write.states.items()]
        with self._database.transaction():
            self._check_expected(write)
            self._insert_events(write.events, encoded, now)
            self._database.execute_many(
                "INSERT INTO aggregates VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET sequence = excluded.sequence, next_due = excluded.next_due, "
                "state = excluded.state",
                states,
            )
            self._insert_dead_letters(write.dead_letters, now)
            self._database.execute_many(
                "INSERT INTO tracking VALUES(?, ?) "
                "ON CONFLICT DO UPDATE SET progress = excluded.progress",
                write.tracking.items(),
            )
            self._database.execute_many(
                "INSERT INTO counters VALUES(?, ?) "
                "ON CONFLICT DO UPDATE SET total = total + excluded.total",
                write.counters.items(),
            )

    def _check_expected(self, write: Append) -> None:
        for key, expected in write.expected.items():
            rows = self._query(f"SELECT sequence FROM aggregates WHERE {_AT_KEY}", _hashed(key))
            actual = rows[0][0] if rows else 0
            if actual != expected:
                state = self.state(key).values()
                raise ConflictError(*key, expected=expected, actual=actual, state=state)

    def _insert_events(
        self, events: Sequence[ContextEvent], encoded: Sequence[bytes], now: float
    ) -> None:
        if not events:
            return
        rows = [
            (
                position,
                event.context_type,
                event.subject,
                event.sequence,
                str(event.event_id),
                event.timestamp.timestamp(),
                now,
                event.correlation_id,
                data,
            )
            for position, event, data in zip(
                range(self.count() + 1, self.count() + len(events) + 1),
                events,
                encoded,
                strict=True,
            )
        ]
        try:
            self._database.execute_many(
                "INSERT INTO events VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
        except StorageError as error:
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                raise StorageError(
                    f"{self._database.path}: an event of this append is stored already "
                    f"({error.__cause__}): ask `contains` first and state what is `expected`"
                ) from error
            raise
        newest = (max(event.timestamp for event in events) - _EPOCH) // _MICROSECOND
        self._query(
            "INSERT INTO marks VALUES(?, ?) "
            "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (_NEWEST, newest),
        )

    def _insert_dead_letters(self, letters: Sequence[DeadLetter], now: float) -> None:
        if not letters:
            return
        first = self._query("SELECT coalesce(max(position), 0) FROM dead_letters")[0][0] + 1
        self._database.execute_many(
            "INSERT INTO dead_letters VALUES(?, ?, ?, ?, ?, ?)",
            [
                (position, *map(_storable, (x.reason, x.detail, x.source)), x.data, now)
                for position, x in enumerate(letters, first)
            ],
        )

    def state(self, key: AggregateKey) -> AggregateState:
        """Return an aggregate's present state."""
        rows = self._query(f"SELECT state FROM aggregates WHERE {_AT_KEY}", _hashed(key))
        return self._state(key, rows[0][0]) if rows else AggregateState()

    def _state(self, key: AggregateKey, data: bytes) -> AggregateState:
        try:
            return _decode_state(data)
        except _DAMAGE as error:
            raise self._damaged(f"the state of {key}", error) from error

    def _damaged(self, what: str, error: Exception) -> StorageError:
        return StorageError(
            f"{self._database.path}: {what} is damaged ({error}): restore the file from a backup"
        )

    def state_as_of(
        self, key: AggregateKey, *, sequence: int | None = None, time: dt.datetime | None = None
    ) -> AggregateState:
        """Return the state after that sequence, or after all events up to that time."""
        return fold_as_of([stored.event for stored in self.history(key)], sequence, time)

    def contains(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of the event IDs that the store has."""
        found: set[str] = set()
        for start in range(0, len(event_ids), _PARAMETERS_PER_QUERY):
            chunk = event_ids[start : start + _PARAMETERS_PER_QUERY]
            marks = ", ".join("?" * len(chunk))
            rows = self._query(f"SELECT event_id FROM events WHERE event_id IN ({marks})", chunk)
            found.update(row[0] for row in rows)
        return found

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events in total order."""
        return self._events("WHERE position > ? ORDER BY position LIMIT ?", (after, max(limit, 0)))

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return events in total order, as bytes."""
        rows = self._query(
            "SELECT position, recorded, data FROM events "
            "WHERE position > ? ORDER BY position LIMIT ?",
            (after, max(limit, 0)),
        )
        return [StoredRow(*row) for row in rows]

    def history(self, key: AggregateKey, until: int | None = None) -> list[StoredEvent]:
        """Return one aggregate's events in order."""
        last = self.count() if until is None else until
        return self._events(
            "WHERE context_type = ? AND subject = ? AND position <= ? ORDER BY sequence",
            (*key, last),
        )

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> dict[AggregateKey, list[StoredEvent]]:
        """Return several aggregates' events in order."""
        last = self.count() if until is None else until
        found: dict[AggregateKey, list[StoredEvent]] = {key: [] for key in keys}
        wanted = list(found)
        for start in range(0, len(wanted), _PAIRS_PER_QUERY):
            pairs = wanted[start : start + _PAIRS_PER_QUERY]
            # The CROSS JOIN has SQLite look up each pair in the index of `events`.
            rows = self._query(
                f"WITH wanted(kind, name) AS (VALUES {', '.join(['(?, ?)'] * len(pairs))}) "
                "SELECT position, data, recorded, kind, name FROM wanted CROSS JOIN events "
                "WHERE context_type = kind AND subject = name AND position <= ? "
                "ORDER BY sequence",
                (*chain.from_iterable(pairs), last),
            )
            for stored, row in zip(self._decoded(rows), rows, strict=True):
                found[row[3], row[4]].append(stored)
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
        return self._query(
            "SELECT context_type, subject FROM aggregates WHERE hash BETWEEN ? AND ? "
            "ORDER BY hash, context_type, subject",
            hash_range(bucket, bits),
        )

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return the aggregates of several buckets."""
        wanted, found = sorted(set(buckets)), []
        for start in range(0, len(wanted), _PAIRS_PER_QUERY):
            ends = [hash_range(bucket, bits) for bucket in wanted[start : start + _PAIRS_PER_QUERY]]
            found += self._query(
                f"WITH wanted(low, high) AS (VALUES {', '.join(['(?, ?)'] * len(ends))}) "
                "SELECT context_type, subject FROM wanted CROSS JOIN aggregates "
                "WHERE hash BETWEEN low AND high",
                tuple(chain.from_iterable(ends)),
            )
        return found

    def due(self, until: float, limit: int) -> list[tuple[float, AggregateKey, str]]:
        """Return values due at or before `until`."""
        # Each aggregate found has at least one such value, so `limit` aggregates are enough.
        rows = self._query(
            "SELECT context_type, subject, state FROM aggregates WHERE next_due <= ? "
            "ORDER BY next_due, context_type, subject LIMIT ?",
            (until, max(limit, 0)),
        )
        states = {(kind, subject): self._state((kind, subject), d) for kind, subject, d in rows}
        return expiries(states, until)[: max(limit, 0)]

    def read_dead_letters(self, after: int, limit: int) -> list[StoredDeadLetter]:
        """Return dead letters in order."""
        rows = self._query(
            "SELECT position, reason, detail, source, data, recorded FROM dead_letters "
            "WHERE position > ? ORDER BY position LIMIT ?",
            (after, max(limit, 0)),
        )
        return [StoredDeadLetter(row[0], DeadLetter(*row[1:5]), row[5]) for row in rows]

    def dead_letter_counts(self) -> dict[str, int]:
        """Return reason -> how many."""
        return dict(self._query("SELECT reason, count(*) FROM dead_letters GROUP BY reason"))

    def tracking(self, source: str) -> str | None:
        """Return how far a source has been read."""
        rows = self._query("SELECT progress FROM tracking WHERE source = ?", (source,))
        return rows[0][0] if rows else None

    def counter(self, name: str) -> int:
        """Return a counter's total."""
        rows = self._query("SELECT total FROM counters WHERE name = ?", (name,))
        return rows[0][0] if rows else 0

    def count(self) -> int:
        """Return how many events there are: without gaps, that is the highest position."""
        count: int = self._query("SELECT coalesce(max(position), 0) FROM events")[0][0]
        return count

    def newest_timestamp(self) -> dt.datetime | None:
        """Return the latest event timestamp, in UTC."""
        rows = self._query("SELECT value FROM marks WHERE name = ?", (_NEWEST,))
        return _EPOCH + rows[0][0] * _MICROSECOND if rows else None


def _hashed(key: AggregateKey) -> tuple[bytes, str, str]:
    return aggregate_hash(*key).to_bytes(8, "big"), key[0], key[1]


def _state_row(key: AggregateKey, state: AggregateState) -> tuple[Any, ...]:
    due = [field.due for field in state.fields.values() if field.due is not None]
    return (*_hashed(key), state.sequence, min(due, default=None), _encode_state(state))


def _storable(text: str) -> str:
    # Refused input may hold lone surrogates; a dead letter must be kept all the same.
    return text.encode("utf-8", "backslashreplace").decode()
