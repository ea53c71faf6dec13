"""Which value expires next, and the event that says so.

A value is due at its event's ``timestamp + ttl`` and expires by the stream's own clock, never by a
wall clock: the same stream expires alike, however fast it is replayed.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Callable, Mapping
from uuid import UUID, uuid5

from pipeline.event_store import AggregateState, EventStore
from synchroscope.errors import ConfigurationError
from synchroscope.event import (
    EXPIRED,
    MAXIMUM_UPDATES,
    ContextDelta,
    ContextEvent,
    Source,
    Update,
)
from synchroscope.ports import AggregateKey

DEFAULT_WINDOW_AGGREGATES = 10_000
NAMESPACE = UUID("6f1c2f4e-9d0b-5c3a-8e57-2b7a4d1c9e30")
SOURCE = Source("synchroscope", "command-side")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LAST_MOMENT = dt.datetime.max.replace(tzinfo=dt.UTC).timestamp() - 1
"""No event can be stamped later, so nothing due after it ever expires."""

Entry = tuple[float, AggregateKey]
"""(due, aggregate): no field of the aggregate is due before that."""


def next_due(state: AggregateState) -> float | None:
    """Return when the aggregate's first value is due, or None when none ever is."""
    dues = [field.due for field in state.fields.values() if field.due is not None]
    return min(dues) if dues else None


class ExpirySchedule:
    """The aggregates that have a value due next, soonest first.

    It holds one entry for each of the aggregates that are due first and reads the next ones from
    the store when these are used up, so memory stays bounded whatever the number of values.

    Parameters
    ----------
    store: Where the values are that this schedule does not hold.
    window: How many aggregates are read at once; at most twice as many entries are held.
    """

    def __init__(self, store: EventStore, window: int = DEFAULT_WINDOW_AGGREGATES) -> None:
        if window < 1:
            raise ConfigurationError(f"the expiry window is {window}; it must be at least 1")
        self._store = store
        self._window = window
        self._heap: list[Entry] = []
        self._soonest: dict[AggregateKey, float] = {}
        self._horizon: Entry | None = None
        self._is_loaded = False

    def __len__(self) -> int:
        return len(self._heap)

    def forget(self) -> None:
        """Drop everything; the next question reads the store anew."""
        self._heap.clear()
        self._soonest.clear()
        self._is_loaded = False

    def note(self, key: AggregateKey, state: AggregateState) -> None:
        """Take up an aggregate's new state."""
        due = next_due(state)
        if due is None or not self._is_loaded:
            return
        # An entry that is too early costs one look; so a field written often keeps one entry.
        if self._soonest.get(key, LAST_MOMENT) > due:
            self._push((due, key))

    def first(self, uncommitted: Mapping[AggregateKey, AggregateState]) -> Entry | None:
        """Return the earliest entry, or None when nothing is ever due.

        `uncommitted` are states that the store does not have yet.
        """
        while True:
            while self._heap:
                due, key = self._heap[0]
                if self._soonest.get(key) == due:
                    return due, key
                heapq.heappop(self._heap)
            if self._is_loaded and self._horizon is None:
                return None
            self._load(uncommitted)

    def pop(self) -> None:
        """Take off the entry that `first` returned."""
        _, key = heapq.heappop(self._heap)
        del self._soonest[key]

    def _push(self, entry: Entry) -> None:
        if self._horizon is not None and entry > self._horizon:
            return
        self._soonest[entry[1]] = entry[0]
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * self._window:
            self._heap = heapq.nsmallest(
                self._window, ((due, key) for key, due in self._soonest.items())
            )
            self._horizon = self._heap[-1]
            self._soonest = {key: due for due, key in self._heap}

    def _load(self, uncommitted: Mapping[AggregateKey, AggregateState]) -> None:
        limit = self._window
        while True:
            found = self._store.due(LAST_MOMENT, limit)
            fresh = [(due, key) for due, key, _ in found if key not in uncommitted]
            if fresh or len(found) < limit:
                break
            limit *= 2
        self._heap.clear()
        self._soonest.clear()
        self._horizon = found[-1][:2] if len(found) == limit else None
        self._is_loaded = True
        for due, key in fresh:
            if key not in self._soonest:
                self._push((due, key))
        for key, state in uncommitted.items():
            self.note(key, state)


def expiry_event(
    key: AggregateKey, state: AggregateState, due: float, is_known: Callable[[str], bool]
) -> ContextEvent:
    """Return the event that removes every field of the aggregate that is due at that time.

    The event names no target models: every model may learn that a value is gone, and must, since
    whoever had it would otherwise keep it. It is caused by the newest of the events that wrote the
    removed values, and carries that event's correlation ID.
    """
    context_type, subject = key
    sequence = state.sequence + 1
    expired = sorted(name for name, field in state.fields.items() if field.due == due)
    # What exceeds the largest event stays due, and goes with the next one.
    removed = {name: state.fields[name] for name in expired[:MAXIMUM_UPDATES]}
    cause = max(removed.values(), key=lambda field: field.sequence)
    name = f"expired/{context_type}/{subject}/{sequence}"
    event_id = uuid5(NAMESPACE, name)
    while is_known(str(event_id)):  # a producer took the ID; it must not stop the stream
        event_id = uuid5(NAMESPACE, f"{name}/{event_id}")
    kind, _, identity = subject.partition(":")
    return ContextEvent(
        event_id=event_id,
        timestamp=EPOCH + dt.timedelta(seconds=due),
        event_type=EXPIRED,
        source=SOURCE,
        context_delta=ContextDelta(
            updates={
                name: Update(current=None, previous=field.value, previous_targets=field.targets)
                for name, field in removed.items()
            },
            user_id=identity if kind == "user" else None,
            session_id=identity if kind == "session" else None,
        ),
        context_type=context_type,
        sequence=sequence,
        correlation_id=cause.correlation_id or cause.event_id,
        causation_id=cause.event_id,
    )
