"""The event store's port: where accepted events live, in one total order, for ever.

The store is also the outbox of the command side: dead letters and the source's position are written
in the same transaction as the events, and the relay publishes from here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from synchroscope.event import ContextEvent
from synchroscope.ports import AggregateKey
from synchroscope.tally import StoredRow


class FieldState(Struct, frozen=True, array_like=True):
    """One field as the command side knows it.

    ``targets`` are the models that were to see the value (None: every model), ``due`` the time in
    seconds since 1970 at which it expires (None: never), ``sequence`` and ``event_id`` the event
    that wrote it, ``correlation_id`` that event's.
    """

    value: Any
    targets: tuple[str, ...] | None
    due: float | None
    sequence: int
    event_id: str
    correlation_id: str | None


class AggregateState(Struct, frozen=True):
    """One aggregate: its version and its present fields (a removed field is absent)."""

    sequence: int = 0
    fields: Mapping[str, FieldState] = {}

    def values(self) -> dict[str, Any]:
        """Return field -> value."""
        return {name: field.value for name, field in self.fields.items()}


class StoredEvent(Struct, frozen=True):
    """An event in the store's total order. ``recorded`` is wall time in seconds since 1970."""

    position: int
    event: ContextEvent
    recorded: float


class DeadLetter(Struct, frozen=True):
    """Input that could not become an event: why, and its bytes."""

    reason: str
    detail: str
    source: str
    data: bytes


class StoredDeadLetter(Struct, frozen=True):
    """A dead letter in the store's outbox."""

    position: int
    letter: DeadLetter
    recorded: float


class Append(Struct, frozen=True):
    """What one transaction writes.

    Parameters
    ----------
    events: New events in order, with sequence and previous filled in.
    states: The aggregates' states after those events.
    expected: The sequence at which each aggregate must stand before them.
    dead_letters: Refused input.
    tracking: Source name -> how far it has been read with this transaction.
    counters: Named numbers to add up over the store's life (``"rows_read"``).
    """

    events: Sequence[ContextEvent] = ()
    states: Mapping[AggregateKey, AggregateState] = {}
    expected: Mapping[AggregateKey, int] = {}
    dead_letters: Sequence[DeadLetter] = ()
    tracking: Mapping[str, str] = {}
    counters: Mapping[str, int] = {}


class EventStore(Protocol):
    """Append-only, gap-free total order; optimistic concurrency per aggregate."""

    def append(self, write: Append, now: float) -> None:
        """Write all of it in one transaction, or raise and write nothing.

        Raises `ConflictError` with the current state when an aggregate is not at its expected
        sequence; that is looked at first. Raises `StorageError` when an event has no sequence, or
        its ID or its aggregate's sequence is stored already. Positions are given in commit order,
        from 1, without gaps, to events and to dead letters apart.
        """
        ...

    def state(self, key: AggregateKey) -> AggregateState:
        """Return an aggregate's present state; sequence 0 when it does not exist."""
        ...

    def state_as_of(
        self, key: AggregateKey, *, sequence: int | None = None, time: dt.datetime | None = None
    ) -> AggregateState:
        """Return the state after the event of that sequence, or after all events up to that time.

        An event stamped later than `time` does not count, even where one after it is stamped
        earlier. Given both, both bounds hold; given none, it is the present state.
        """
        ...

    def contains(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of the event IDs (lower case, with hyphens) that the store has."""
        ...

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events in total order, from the one after position `after` on."""
        ...

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return events in total order as `read` does, but as the bytes that are stored."""
        ...

    def history(self, key: AggregateKey, until: int | None = None) -> list[StoredEvent]:
        """Return one aggregate's events in order, up to and including position `until`."""
        ...

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> dict[AggregateKey, list[StoredEvent]]:
        """Return what `history` does of several aggregates, in few queries; none twice."""
        ...

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates whose `aggregate_hash` begins with `bucket`, ordered by it."""
        ...

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return what `aggregates` does of several buckets, in few queries and any order."""
        ...

    def due(self, until: float, limit: int) -> list[tuple[float, AggregateKey, str]]:
        """Return the first (due, aggregate, field) of values due at or before `until`, sorted."""
        ...

    def read_dead_letters(self, after: int, limit: int) -> list[StoredDeadLetter]:
        """Return dead letters in order, from the one after position `after` on."""
        ...

    def dead_letter_counts(self) -> dict[str, int]:
        """Return reason -> how many."""
        ...

    def tracking(self, source: str) -> str | None:
        """Return how far a source has been read, or None."""
        ...

    def counter(self, name: str) -> int:
        """Return a counter's total; 0 where it was never added to."""
        ...

    def count(self) -> int:
        """Return how many events there are."""
        ...

    def newest_timestamp(self) -> dt.datetime | None:
        """Return the latest event timestamp: where the stream's own clock stands."""
        ...


def fold(state: AggregateState, event: ContextEvent) -> AggregateState:
    """Return the aggregate's state after one more event."""
    fields = dict(state.fields)
    rules = event.propagation_rules
    due = None if rules.ttl is None else event.timestamp.timestamp() + rules.ttl
    identity = str(event.event_id)
    for name, update in event.context_delta.updates.items():
        if update.current is None:
            fields.pop(name, None)
            continue
        fields[name] = FieldState(
            update.current,
            rules.target_models,
            due,
            event.sequence or state.sequence + 1,
            identity,
            event.correlation_id,
        )
    return AggregateState(event.sequence or state.sequence + 1, fields)


def hash_range(bucket: int, bits: int) -> tuple[bytes, bytes]:
    """Return the first and the last hash of a bucket, as stores keep hashes."""
    shift = 64 - bits
    first, last = bucket << shift, ((bucket + 1) << shift) - 1
    return first.to_bytes(8, "big"), last.to_bytes(8, "big")
