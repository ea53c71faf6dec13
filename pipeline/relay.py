"""From the event store to the log, each event once, in the store's order.

The relay's position is stored in the log, in the same transaction as the records.
"""

from __future__ import annotations

from pipeline.event_store import EventStore, StoredDeadLetter, StoredEvent
from pipeline.partitioner import Partitioner, by_subject
from synchroscope.event import encode_event
from synchroscope.ports import (
    DEAD_LETTERS,
    EVENTS,
    Log,
    NewRecord,
    Progress,
    TopicPartition,
)

STORE_EVENTS: TopicPartition = ("store.events", 0)
STORE_DEAD_LETTERS: TopicPartition = ("store.dead-letters", 0)


class Relay:
    """Publishes what the command side has accepted, and the dead letters beside it.

    Parameters
    ----------
    store, log: Where from and where to.
    partitioner: Which partition an aggregate belongs to; never change it during a log's life.
    batch_records: Most events moved in one step.
    """

    def __init__(
        self,
        store: EventStore,
        log: Log,
        *,
        partitioner: Partitioner = by_subject,
        batch_records: int = 1_000,
        name: str = "relay",
    ) -> None:
        self._store = store
        self._log = log
        self._partitioner = partitioner
        self._batch_records = batch_records
        self._name = name
        self._partitions = log.partitions(EVENTS)
        positions = log.positions(name)
        self._events = positions.get(STORE_EVENTS, 0)
        self._letters = positions.get(STORE_DEAD_LETTERS, 0)

    @property
    def position(self) -> int:
        """The store position up to which everything is published."""
        return self._events

    def step(self, now: float) -> Progress:
        """Move one batch of events and dead letters, with the position, in one transaction."""
        events = self._store.read(self._events, self._batch_records)
        letters = self._store.read_dead_letters(self._letters, self._batch_records)
        if not events and not letters:
            return Progress(0)
        records = [self._event_record(stored) for stored in events]
        records += [_letter_record(stored) for stored in letters]
        positions: dict[TopicPartition, int] = {}
        if events:
            positions[STORE_EVENTS] = events[-1].position
        if letters:
            positions[STORE_DEAD_LETTERS] = letters[-1].position
        self._log.append(records, now, consumer=self._name, positions=positions)
        self._events = positions.get(STORE_EVENTS, self._events)
        self._letters = positions.get(STORE_DEAD_LETTERS, self._letters)
        return Progress(len(records))

    def _event_record(self, stored: StoredEvent) -> NewRecord:
        event = stored.event
        subject = event.subject
        headers = [
            ("ce_id", str(event.event_id).encode()),
            ("ce_type", event.event_type.encode()),
            ("ce_correlationid", (event.correlation_id or "").encode()),
            ("recorded", repr(stored.recorded).encode()),
            ("store-position", str(stored.position).encode()),
        ]
        if event.traceparent is not None:
            headers.append(("traceparent", event.traceparent.encode()))
        return NewRecord(
            EVENTS,
            self._partitioner(event.context_type, subject, self._partitions),
            subject.encode(),
            encode_event(event),
            tuple(headers),
        )


def _letter_record(stored: StoredDeadLetter) -> NewRecord:
    letter = stored.letter
    return NewRecord(
        DEAD_LETTERS,
        0,
        letter.source.encode(),
        letter.data,
        (
            ("reason", letter.reason.encode()),
            ("detail", letter.detail.encode()),
            ("source", letter.source.encode()),
        ),
    )
