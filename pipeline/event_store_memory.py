"""An event store in the memory of its process: the executable specification of the port."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.event_store import (
    AggregateState,
    Append,
    StoredDeadLetter,
    StoredEvent,
    fold,
)
from synchroscope.digest import aggregate_hash
from synchroscope.errors import ConflictError, StorageError
from synchroscope.event import ContextEvent, encode_event
from synchroscope.ports import AggregateKey
from synchroscope.tally import StoredRow


def expiries(
    states: Mapping[AggregateKey, AggregateState], until: float
) -> list[tuple[float, AggregateKey, str]]:
    """Return (due, aggregate, field) of the states' values due at or before `until`, in order."""
    return sorted(
        (field.due, key, name)
        for key, state in states.items()
        for name, field in state.fields.items()
        if field.due is not None and field.due <= until
    )


def fold_as_of(
    events: Sequence[ContextEvent], sequence: int | None, time: dt.datetime | None
) -> AggregateState:
    """Return the fold of the events up to the sequence, without those stamped after the time."""
    state = AggregateState()
    for event in events:
        if sequence is not None and (event.sequence or 0) > sequence:
            break
        if time is None or event.timestamp <= time:
            state = fold(state, event)
    return state


def key_of(event: ContextEvent) -> AggregateKey:
    """Return the aggregate that the event changes."""
    return event.context_type, event.subject


class MemoryEventStore:
    """Keeps everything in lists and dictionaries, and is gone with its process."""

    def __init__(self) -> None:
        self._events: list[StoredEvent] = []
        self._ids: set[str] = set()
        self._histories: dict[AggregateKey, list[StoredEvent]] = {}
        self._sequences: set[tuple[AggregateKey, int]] = set()
        self._states: dict[AggregateKey, AggregateState] = {}
        self._dead_letters: list[StoredDeadLetter] = []
        self._tracking: dict[str, str] = {}
        self._counters: Counter[str] = Counter()
        self._newest: dt.datetime | None = None

    def append(self, write: Append, now: float) -> None:
        """Write all of it, or raise and write nothing."""
        for key, expected in write.expected.items():
            state = self.state(key)
            if state.sequence != expected:
                raise ConflictError(
                    *key, expected=expected, actual=state.sequence, state=state.values()
                )
        self._check(write.events)
        for event in write.events:
            stored = StoredEvent(len(self._events) + 1, event, now)
            self._events.append(stored)
            self._ids.add(str(event.event_id))
            self._sequences.add((key_of(event), event.sequence or 0))
            self._histories.setdefault(key_of(event), []).append(stored)
            if self._newest is None or event.timestamp > self._newest:
                self._newest = event.timestamp
        self._states.update(write.states)
        for letter in write.dead_letters:
            position = len(self._dead_letters) + 1
            self._dead_letters.append(StoredDeadLetter(position, letter, now))
        self._tracking.update(write.tracking)
        self._counters.update(write.counters)

    def _check(self, events: Sequence[ContextEvent]) -> None:
        ids: set[str] = set()
        sequences: set[tuple[AggregateKey, int]] = set()
        for event in events:
            event_id, place = str(event.event_id), (key_of(event), event.sequence or 0)
            if event.sequence is None:
                raise StorageError(f"event {event_id} has no sequence: fill it in before appending")
            if event_id in ids or event_id in self._ids:
                raise StorageError(f"event {event_id} is stored already: ask `contains` first")
            if place in sequences or place in self._sequences:
                raise StorageError(f"{place} is stored already: state what is `expected`")
            ids.add(event_id)
            sequences.add(place)

    def state(self, key: AggregateKey) -> AggregateState:
        """Return an aggregate's present state."""
        return self._states.get(key, AggregateState())

    def state_as_of(
        self, key: AggregateKey, *, sequence: int | None = None, time: dt.datetime | None = None
    ) -> AggregateState:
        """Return the state after that sequence, or after all events up to that time."""
        return fold_as_of([stored.event for stored in self.history(key)], sequence, time)

    def contains(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of the event IDs that the store has."""
        return self._ids.intersection(event_ids)

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """Return events in total order."""
        after = max(after, 0)
        return self._events[after : after + max(limit, 0)]

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return events in total order, as bytes."""
        return [
            StoredRow(stored.position, stored.recorded, encode_event(stored.event))
            for stored in self.read(after, limit)
        ]

    def history(self, key: AggregateKey, until: int | None = None) -> list[StoredEvent]:
        """Return one aggregate's events in order."""
        return [
            stored
            for stored in self._histories.get(key, ())
            if until is None or stored.position <= until
        ]

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> dict[AggregateKey, list[StoredEvent]]:
        """Return several aggregates' events in order."""
        return {key: self.history(key, until) for key in keys}

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates of one bucket, in order of their hash."""
        return self.aggregates_in([bucket], bits)

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return the aggregates of several buckets, in order of their hash."""
        wanted, shift = set(buckets), 64 - bits
        hashed = ((aggregate_hash(*key), key) for key in self._states)
        return [key for _, key in sorted(pair for pair in hashed if pair[0] >> shift in wanted)]

    def due(self, until: float, limit: int) -> list[tuple[float, AggregateKey, str]]:
        """Return values due at or before `until`."""
        return expiries(self._states, until)[: max(limit, 0)]

    def read_dead_letters(self, after: int, limit: int) -> list[StoredDeadLetter]:
        """Return dead letters in order."""
        after = max(after, 0)
        return self._dead_letters[after : after + max(limit, 0)]

    def dead_letter_counts(self) -> dict[str, int]:
        """Return reason -> how many."""
        return dict(Counter(stored.letter.reason for stored in self._dead_letters))

    def tracking(self, source: str) -> str | None:
        """Return how far a source has been read."""
        return self._tracking.get(source)

    def counter(self, name: str) -> int:
        """Return a counter's total."""
        return self._counters[name]

    def count(self) -> int:
        """Return how many events there are."""
        return len(self._events)

    def newest_timestamp(self) -> dt.datetime | None:
        """Return the latest event timestamp."""
        return self._newest
