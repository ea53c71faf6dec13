"""From the event store to the log, each event once, in the store's order.

Where the relay stands is stored in the log. With the records of a batch it stores only up to where
the batches before it came, which are certainly published: so the log may store records and position
in one step, or the records first, or a first part of each partition's records only. A relay that
takes over looks at the end of each partition what is there already, and goes on after that. So the
position may also be an old one, which only has more read from the store again: it is not stored
with every batch, since with small ones it would be as much work for the log as the events. What the
log lacks of what was certainly published is published again (`pipeline.relay_loss`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from uuid import UUID

from pipeline.cloudevents import binary_headers
from pipeline.event_store import EventStore, StoredDeadLetter, StoredEvent
from pipeline.partitioner import Partitioner, by_subject
from pipeline.relay_loss import (
    HEADS,
    PUBLISHED,
    check_heads,
    rows,
    start_after_loss,
    store_is_older,
)
from pipeline.relay_tally import Handed, RelayTally
from synchroscope.event import ContextEvent, encode_event
from synchroscope.ports import (
    DEAD_LETTERS,
    EVENTS,
    STATE,
    Headers,
    Log,
    NewRecord,
    Progress,
    Record,
    TopicPartition,
)
from synchroscope.tally import DEFAULT_WINDOW_SECONDS

logger = logging.getLogger("synchroscope.relay")

STORE_EVENTS: TopicPartition = ("store.events", 0)
STORE_DEAD_LETTERS: TopicPartition = ("store.dead-letters", 0)
STORE_POSITION = "store-position"
MAXIMUM_POSITION_DIGITS = 18
MAXIMUM_POSITION = 10**MAXIMUM_POSITION_DIGITS
POSITION_SECONDS = 0.1
"""Time between two batches with which the position is stored."""
TAIL_RECORDS = 256
"""How many records are looked at together at the end of a partition."""


class Relay:
    """Publishes what the command side has accepted, and the dead letters beside it.

    Parameters
    ----------
    store, log: Where from and where to.
    partitioner: Which partition an aggregate belongs to; never change it during a log's life.
    batch_records: Most events moved in one step.
    cloudevents: Write each record with all attributes of a CloudEvent in binary mode, for readers
        that know no other form; it makes reading slower.
    tally_life: A new unique name of this process: count what is handed to the log, for the audit of
        the hops, and publish it; None counts nothing.
    """

    def __init__(
        self,
        store: EventStore,
        log: Log,
        *,
        partitioner: Partitioner = by_subject,
        batch_records: int = 1_000,
        name: str = "relay",
        cloudevents: bool = False,
        tally_life: str | None = None,
        tally_window_seconds: float = DEFAULT_WINDOW_SECONDS,
    ) -> None:
        self._store = store
        self._log = log
        self._partitioner = partitioner
        self._batch_records = batch_records
        self._name = name
        self._cloudevents = cloudevents
        self._partitions = log.partitions(EVENTS)
        positions = log.positions(name)
        self._events = positions.get(STORE_EVENTS, 0)
        self._letters = positions.get(STORE_DEAD_LETTERS, 0)
        self._certain: dict[TopicPartition, int] = {}
        self._noted_at: float | None = None
        self._is_unnoted = False
        self._certainly = {
            number: positions.get((PUBLISHED, number), 0) for number in range(self._partitions)
        }
        self._published = [self._last_event(number) for number in range(self._partitions)]
        self._last_published_letter = self._last_letter()
        self._heads: dict[int, int] = {}
        #: The newest event that was read from the store, and at which position.
        self._newest: tuple[int, UUID] | None = None
        self._corrections: dict[TopicPartition, int] = {}
        self._counted_before_loss = 0
        self._republish_what_is_lost(positions)
        self._check_position()
        # What all partitions have is skipped at once, not read from the store again.
        self._events = max(self._events, min(self._published))
        self._tally: RelayTally | None = None
        if tally_life is not None:
            self._tally = RelayTally(name, tally_life, self._events, tally_window_seconds)
            self._tally.restore(log.latest(STATE, self._tally.key))
            # What was handed over and not told any more is looked at again, to be counted.
            self._events = min(self._events, self._tally.end - 1)
            if self._corrections:
                self._counted_before_loss = self._tally.end - 1

    @property
    def position(self) -> int:
        """The store position up to which everything is published."""
        return self._events

    def _republish_what_is_lost(self, stored: Mapping[TopicPartition, int]) -> None:
        """Go back to what the log lacks.

        That is stored before anything is published, lest a crash meanwhile leaves a gap.
        """
        heads = [self._log.head(EVENTS, number) for number in range(self._partitions)]
        corrected = self._corrections
        start = start_after_loss(stored, self._published, heads)
        if start is not None:
            self._events = corrected[STORE_EVENTS] = start
            corrected |= rows(PUBLISHED, dict(enumerate(self._published)))
        has_room = self._last_published_letter > 0 or self._log.head(DEAD_LETTERS, 0) == 0
        if self._last_published_letter < self._letters and has_room:
            self._letters = corrected[STORE_DEAD_LETTERS] = self._last_published_letter
        if corrected:
            corrected |= rows(HEADS, dict(enumerate(heads)))
            logger.warning(
                "the log lacks what was published: publishing again from event %d, dead letter %d "
                "of the event store",
                self._events + 1,
                self._letters + 1,
            )
        self._heads = dict(enumerate(heads))

    def _check_position(self) -> None:
        """Go on no further than the log proves, whatever is noted.

        Raises `ConfigurationError` where the store does not come so far.
        """
        count = self._store.count()
        if self._events > count:
            raise store_is_older(self._events, f"at position {self._events}")
        heads = self._heads
        if any(heads[number] and not last for number, last in enumerate(self._published)):
            return  # Retention took records, or nobody's own are there: what is noted is all.
        proven = max(self._published)
        if self._events > proven:
            logger.warning(
                "the log has events up to position %d of the event store, not %d as is noted: "
                "publishing what follows",
                proven,
                self._events,
            )
            self._events = proven

    def note(self, now: float) -> None:
        """Store the position, if something was published since it was stored last."""
        if self._is_unnoted:
            self._log.append([], now, consumer=self._name, positions=self._certain)
            self._is_unnoted = False

    def look_at_heads(self) -> None:
        """Raise `ConfigurationError` where log or store was lost while both were being used.

        To be called about once a second: a take-over sees a loss only before events are published
        behind it, and the store may be put back to an older copy between two steps.
        """
        if self._newest is not None:
            position, event_id = self._newest
            found = self._store.read(position - 1, 1)
            if not found or (found[0].position, found[0].event.event_id) != self._newest:
                raise store_is_older(position, str(event_id))
        heads = {number: self._log.head(EVENTS, number) for number in range(self._partitions)}
        check_heads(self._heads, heads)
        self._heads = heads
        self._certain |= rows(HEADS, heads)

    def step(self, now: float) -> Progress:
        """Move one batch of events and dead letters."""
        if self._corrections:
            self._log.append([], now, consumer=self._name, positions=self._corrections)
            self._corrections = {}
        events = self._store.read(self._events, self._batch_records)
        letters = self._store.read_dead_letters(self._letters, self._batch_records)
        # It speaks of the batches before: those are certainly published.
        notes = [] if self._tally is None else self._tally.notes(now)
        if not events and not letters:
            if notes:
                self._log.append(notes, now)
            return Progress(0)
        records: list[NewRecord] = []
        handed: list[Handed] = []
        counted = MAXIMUM_POSITION if self._tally is None else self._tally.end - 1
        for stored in events:
            event = stored.event
            place = self._partitioner(event.context_type, event.subject, self._partitions)
            if stored.position > self._published[place]:
                record = _event_record(stored, place, cloudevents=self._cloudevents)
                records.append(record)
                self._published[place] = stored.position
                if stored.position > self._counted_before_loss:
                    handed.append((stored.recorded, place, record.value))
            elif stored.position > counted:
                handed.append((stored.recorded, place, encode_event(event)))
            counted = max(counted, stored.position)
        for letter in letters:
            if letter.position > self._last_published_letter:
                records.append(_letter_record(letter))
                self._last_published_letter = letter.position
        if records or notes:
            places = self._certain if self._is_position_due(now) else {}
            self._log.append([*records, *notes], now, consumer=self._name, positions=places)
        if events or letters:
            self._is_unnoted = True
        if events:
            self._newest = events[-1].position, events[-1].event.event_id
            self._events = self._certain[STORE_EVENTS] = events[-1].position
            for record in records:
                if record.topic == EVENTS:
                    number = record.partition
                    self._certain[PUBLISHED, number] = self._published[number]
            if self._tally is not None:
                self._tally.hand_over(handed, self._events)
        if letters:
            self._letters = self._certain[STORE_DEAD_LETTERS] = letters[-1].position
        return Progress(len(events) + len(letters))

    def _is_position_due(self, now: float) -> bool:
        age = None if self._noted_at is None else now - self._noted_at
        if age is not None and 0 <= age < POSITION_SECONDS:  # Negative: a clock was set back since.
            return False
        if self._certain:
            self._noted_at = now
        return True

    # -- what is published already -----------------------------------------------------------

    def _last_event(self, partition: int) -> int:
        """Return the store position of the partition's newest event that is the store's own.

        Raises `ConfigurationError` where the log holds in its place, up to the one that certainly
        was published, what the store does not have.
        """
        denied: Record | None = None
        found, certain = 0, self._certainly[partition]
        for record, position in self._ends(EVENTS, partition):
            stored = self._store.read(position - 1, 1)
            # A position that somebody made up would make the relay pass over what is not there.
            if stored and encode_event(stored[0].event) == record.value:
                found = position
                break
            event_id = str(stored[0].event.event_id).encode() if stored else b""
            if denied is None and position <= certain and record.header("ce_id") != event_id:
                denied = record
        if denied is not None and found < certain:
            raise store_is_older(certain, (denied.header("ce_id") or b"?").decode(errors="replace"))
        return found

    def _last_letter(self) -> int:
        for record, position in self._ends(DEAD_LETTERS, 0):
            stored = self._store.read_dead_letters(position - 1, 1)
            if stored and stored[0].letter.data == record.value:
                return position
        return 0

    def _ends(self, topic: str, partition: int) -> Iterator[tuple[Record, int]]:
        """Yield the records that bear a store position, the highest of the newest ones first."""
        end = self._log.head(topic, partition)
        while end > 0:
            start = max(0, end - TAIL_RECORDS)
            found = []
            place = start
            while place < end:
                batch = self._log.read(topic, partition, place, end - place)
                found += [record for record in batch.records if record.offset < end]
                if batch.position == place:
                    break
                place = batch.position
            marked = [(record, _store_position(record)) for record in found]
            yield from sorted(
                ((record, position) for record, position in marked if position),
                key=lambda pair: -pair[1],
            )
            end = start


def _store_position(record: Record) -> int:
    stored = record.header(STORE_POSITION) or b""
    return int(stored) if stored.isdigit() and len(stored) <= MAXIMUM_POSITION_DIGITS else 0


def _event_record(stored: StoredEvent, partition: int, *, cloudevents: bool) -> NewRecord:
    event = stored.event
    attributes = binary_headers(event) if cloudevents else _plain_headers(event)
    headers = (
        *attributes,
        ("recorded", repr(stored.recorded).encode()),
        (STORE_POSITION, str(stored.position).encode()),
    )
    return NewRecord(EVENTS, partition, event.subject.encode(), encode_event(event), headers)


def _plain_headers(event: ContextEvent) -> Headers:
    """Return what tracing needs: every header costs each reader about a microsecond."""
    headers = [("ce_id", str(event.event_id).encode())]
    for name, value in (
        ("ce_correlationid", event.correlation_id),
        ("traceparent", event.traceparent),
    ):
        if value is not None:
            headers.append((name, value.encode()))
    return tuple(headers)


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
            (STORE_POSITION, str(stored.position).encode()),
        ),
    )
