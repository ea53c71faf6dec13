"""One model instance's copy of its view: applies events, keeps its digest, answers for itself.

Usable alone: `apply` takes records from any poll loop, `report` and `explain` return the messages
to publish. Nothing here reads a clock, a socket or a random source.

The rules, in the order in which an event meets them:

1. A sequence at or below the aggregate's, not known as missing, is a duplicate: counted, ignored.
2. A sequence beyond the next one leaves a gap: the ones passed over are remembered as missing.
3. A missing sequence that comes late is applied, but never over a field that a newer event wrote.
4. An event that does not name this model withdraws the fields it changes.
5. What storage returned is subtracted from the digest, not what the event's ``previous`` claims. If
   the two differ, that is kept as evidence and the bucket is summed again from storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from synchroscope.digest import (
    DEFAULT_BITS,
    MASK,
    Digest,
    Hasher,
    Lanes,
    event_hash,
    lanes_hex,
)
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    InvalidEventError,
    StorageError,
)
from synchroscope.event import PRIORITIES, WireEvent, decode_wire
from synchroscope.ports import (
    AggregateKey,
    AggregateRecord,
    JournalChunk,
    Record,
    ReplicaStorage,
)
from synchroscope.report import (
    Entry,
    Explanation,
    Mismatch,
    Note,
    Report,
    Request,
    StoredAggregate,
    StoredFact,
)
from synchroscope.view import View

DEFAULT_MARKER_INTERVAL = 1_024
JOURNAL_OFFSETS = 65_536
MAXIMUM_MISSING = 1_024
MAXIMUM_PENDING_NOTES = 64
MAXIMUM_MISMATCHES = 4_096
_RANK = {name: rank for rank, name in enumerate(PRIORITIES)}
_CONTAINERS = frozenset({list, dict})
# The replicas of one process read the same records shortly after each other.
_decode = lru_cache(maxsize=2_048)(decode_wire)


class PartitionState(Struct, array_like=True):
    """One partition of a replica at a position; stored with the facts, in one transaction."""

    position: int = 0
    table: bytes = b""
    audit: tuple[int, int] = (0, 0)
    applied: int = 0
    anomalies: int = 0
    duplicates: int = 0
    gaps: int = 0
    late: int = 0
    undecodable: int = 0
    unsequenced: int = 0
    journal_from: int = 0


class Change(Struct, frozen=True):
    """One applied event, as a model may want to react to it."""

    event: WireEvent
    offset: int
    fields: tuple[str, ...]


class _Partition:
    """A partition while it is worked on: the stored state with its digest unpacked."""

    __slots__ = ("digest", "is_reported", "notes", "state", "stored")

    def __init__(
        self, state: PartitionState, digest: Digest, notes: list[Note], stored: bytes | None
    ) -> None:
        self.state = state
        self.digest = digest
        self.notes = notes
        self.stored = stored
        """The state as the storage holds it."""
        self.is_reported = False

    def copy(self) -> _Partition:
        state = PartitionState(*[getattr(self.state, n) for n in self.state.__struct_fields__])
        twin = _Partition(state, self.digest.copy(), self.notes[:], self.stored)
        twin.is_reported = self.is_reported
        return twin

    def note(self, number: int, marker: int | None = None) -> Note:
        state, root = self.state, self.digest.root()
        return Note(
            partition=number,
            position=state.position if marker is None else marker,
            state=lanes_hex((root.lane0, root.lane1)),
            facts=root.facts,
            audit=lanes_hex(state.audit),
            applied=state.applied,
            anomalies=state.anomalies,
            duplicates=state.duplicates,
            gaps=state.gaps,
            late=state.late,
            undecodable=state.undecodable,
            unsequenced=state.unsequenced,
            marker=marker is not None,
        )


class _Work:
    """What one `apply` has changed and not yet committed."""

    def __init__(self) -> None:
        self.records: dict[AggregateKey, AggregateRecord] = {}
        self.entries: list[Entry] = []
        self.mismatches: list[Mismatch] = []
        self.changes: list[Change] = []
        self.dirty: set[int] = set()


class Replica:
    """A replica of one view.

    Parameters
    ----------
    name: ``model@instance``, unique among replicas.
    view: What the model is to see.
    storage: Where the facts live; may hold an earlier life of this replica.
    incarnation: A new unique name, used when the storage is empty (or of another view).
    hasher, bits: The digest's algorithm and size; the validator must use the same.
    marker_interval: Offsets between two virtual markers; smaller tells more precisely since when,
        and costs one note of about 200 bytes each.
    """

    def __init__(
        self,
        name: str,
        view: View,
        storage: ReplicaStorage,
        *,
        incarnation: str,
        hasher: Hasher | None = None,
        bits: int = DEFAULT_BITS,
        marker_interval: int = DEFAULT_MARKER_INTERVAL,
    ) -> None:
        self.name = name
        self.view = view
        self._storage = storage
        self._hasher = hasher or Hasher()
        self.bits = bits
        self._marker_interval = marker_interval
        self._view_hash = view.hash()
        self._partitions: dict[int, _Partition] = {}
        if marker_interval < 1:
            raise ConfigurationError(f"marker interval must be 1 or more, not {marker_interval}")
        Digest(bits)  # Refuses wrong bits before the storage is emptied for them.
        life = f"/{self._view_hash}/{self._hasher.algorithm}/{bits}"
        stored = storage.incarnation()
        if stored is None or not stored.endswith(life):
            storage.begin(incarnation + life)
        self.incarnation = storage.incarnation() or ""

    # -- reading, by the model ---------------------------------------------------------------

    def get(self, subject: str, context_type: str) -> dict[str, Any]:
        """Return the facts of one aggregate, field -> value; empty when there are none."""
        record = self._storage.get((context_type, subject))
        if record is None:
            return {}
        return {
            # The model may do with the answer what it likes; the stored value stays.
            name: deepcopy(value) if type(value) in _CONTAINERS else value
            for name, (value, _) in record.fields.items()
            if value is not None
        }

    def position(self, partition: int) -> int:
        """Return the next offset to read."""
        return self._partition(partition).state.position

    def refresh(self, partition: int) -> bool:
        """Look whether the storage still holds what this object knows of a partition.

        If another process has gone on with it, what is known is dropped and read anew when it is
        needed; then False is returned. Raises `FencedError` where the storage has another life.
        """
        known = self._partitions.get(partition)
        if known is None:
            return True
        state = self._storage.partition_state(partition)
        self._check_life()
        if state == known.stored:
            return True
        del self._partitions[partition]
        return False

    def forget(self, partition: int) -> None:
        """Drop what is known of a partition that another process may go on with."""
        self._partitions.pop(partition, None)

    def is_reported(self, partition: int) -> bool:
        """Say whether a report was made of a partition since it was read from storage."""
        return self._partition(partition).is_reported

    # -- applying ----------------------------------------------------------------------------

    def apply(self, partition: int, records: Sequence[Record], position: int) -> list[Change]:
        """Apply records of one partition and move to `position`, in one transaction.

        Never moves back, nor to before the last record.
        Returns the changes, urgent ones first (never out of order within an aggregate). When it
        raises, nothing has happened.
        """
        current = self._partition(partition)
        start = current.state.position
        target = max(position, start, records[-1].offset + 1 if records else 0)
        if not records and target == start:
            return []
        after, work = current.copy(), _Work()
        events = [self._decode(record) for record in records]
        self._storage.prefetch(
            [(e.context_type, e.subject) for e in events if isinstance(e, WireEvent)]
        )
        for record, event in zip(records, events, strict=True):
            self._pass_markers(partition, after, work, record.offset)
            if isinstance(event, WireEvent):
                self._apply_event(partition, after, work, record, event)
            elif event is not None:
                after.state.undecodable += 1
        self._pass_markers(partition, after, work, target)
        self._sum_dirty(partition, after, work)
        after.state.position = target
        self._commit(partition, after, work, start)
        return _by_urgency(work.changes)

    def _pass_markers(self, number: int, after: _Partition, work: _Work, offset: int) -> None:
        interval = self._marker_interval
        marker = (after.state.position // interval + 1) * interval
        if marker > offset:
            return
        self._sum_dirty(number, after, work)
        # A log that begins far from 0 is passed in one leap: only the last markers are kept.
        marker = max(marker, (offset // interval - MAXIMUM_PENDING_NOTES + 1) * interval)
        while marker <= offset:
            after.notes.append(after.note(number, marker))
            after.state.position = marker
            marker += interval
        del after.notes[:-MAXIMUM_PENDING_NOTES]

    def _decode(self, record: Record) -> WireEvent | InvalidEventError | None:
        """Return the event, what is wrong with it, or None for what the view has nothing of."""
        try:
            event = _decode(record.value)
        except InvalidEventError as error:
            return error
        return event if event.context_type in self.view.fields else None

    def _apply_event(
        self, number: int, after: _Partition, work: _Work, record: Record, event: WireEvent
    ) -> None:
        state = after.state
        wanted = self.view.fields[event.context_type]
        key = (event.context_type, event.subject)
        aggregate = self._open(number, work, key)
        prior = aggregate.sequence
        if event.sequence is None:
            sequence = prior + 1
            state.unsequenced += 1
        else:
            sequence = event.sequence
        bucket = after.digest.bucket(*key)
        late = sequence <= prior
        if late:
            if sequence not in aggregate.missing:
                state.duplicates += 1
                return
            aggregate.missing.remove(sequence)
            state.late += 1
            state.gaps -= 1
        else:
            if sequence > prior + 1:
                self._remember_gap(state, aggregate, sequence)
                work.dirty.add(bucket)
            aggregate.sequence = sequence
        work.records[key] = aggregate
        lanes = self._hasher.applied(record.offset, event.event_id, prior)
        state.audit = ((state.audit[0] + lanes[0]) & MASK, (state.audit[1] + lanes[1]) & MASK)
        state.applied += 1
        work.entries.append(Entry(record.offset, event_hash(event.event_id), sequence, prior))
        names = event.context_delta.updates
        if wanted:
            names = {name: update for name, update in names.items() if name in wanted}
        changed = tuple(
            name
            for name in names
            if self._set_field(
                after, work, event, aggregate, name, bucket, (record.offset, sequence, prior)
            )
        )
        if changed:
            work.changes.append(Change(event, record.offset, changed))

    def _open(self, number: int, work: _Work, key: AggregateKey) -> AggregateRecord:
        opened = work.records.get(key)
        if opened is not None:
            return opened
        stored = self._storage.get(key)
        if stored is None:
            return AggregateRecord(key[0], key[1], number, 0, {}, [])
        return stored.copy()

    @staticmethod
    def _remember_gap(state: PartitionState, aggregate: AggregateRecord, sequence: int) -> None:
        state.gaps += sequence - aggregate.sequence - 1
        first = max(aggregate.sequence + 1, sequence - MAXIMUM_MISSING)
        aggregate.missing.extend(range(first, sequence))
        del aggregate.missing[:-MAXIMUM_MISSING]

    def _set_field(
        self,
        after: _Partition,
        work: _Work,
        event: WireEvent,
        aggregate: AggregateRecord,
        name: str,
        bucket: int,
        at: tuple[int, int, int],
    ) -> bool:
        update = event.context_delta.updates[name]
        offset, sequence, prior = at
        kind, subject, model = event.context_type, aggregate.subject, self.view.model
        stored, stored_sequence = aggregate.fields.get(name, (None, 0))
        late = sequence <= prior
        if late and stored_sequence > sequence:
            return False
        targets = event.propagation_rules.target_models
        current = update.current if targets is None or model in targets else None
        before = update.previous_targets
        previous = update.previous if before is None or model in before else None
        stored_lanes = self._lanes(kind, subject, name, stored)
        # Equality is only the short way for plain values: Python's [1] equals [True].
        is_known = (
            type(previous) is type(stored)
            and type(stored) not in _CONTAINERS
            and previous == stored
        )
        if not is_known:
            previous_lanes = self._lanes(kind, subject, name, previous)
            if previous_lanes != stored_lanes:
                after.state.anomalies += 1
                work.dirty.add(bucket)
                work.mismatches.append(
                    Mismatch(
                        offset,
                        kind,
                        subject,
                        name,
                        sequence,
                        prior,
                        previous_lanes and lanes_hex(previous_lanes),
                        stored_lanes and lanes_hex(stored_lanes),
                    )
                )
        if stored_lanes is not None:
            after.digest.subtract(bucket, stored_lanes)
        current_lanes = self._lanes(kind, subject, name, current)
        if current_lanes is not None:
            after.digest.add(bucket, current_lanes)
        aggregate.fields[name] = (current, sequence)
        return True

    def _lanes(self, kind: str, subject: str, field: str, value: Any) -> Lanes | None:
        return None if value is None else self._hasher.fact(kind, subject, field, value)

    def _sum_dirty(self, number: int, after: _Partition, work: _Work) -> None:
        for bucket in work.dirty:
            self._sum_bucket(number, after, bucket, work.records)
        work.dirty.clear()

    def _sum_bucket(
        self,
        number: int,
        after: _Partition,
        bucket: int,
        overlay: dict[AggregateKey, AggregateRecord],
    ) -> bool:
        """Take the bucket's sum from storage; say whether it was what the digest said."""
        lanes: list[Lanes] = []
        seen = set()
        for stored in self._storage.scan(number, bucket, self.bits):
            key = (stored.context_type, stored.subject)
            seen.add(key)
            lanes.extend(self._fact_lanes(overlay.get(key, stored)))
        for key, record in overlay.items():
            if key not in seen and after.digest.bucket(*key) == bucket:
                lanes.extend(self._fact_lanes(record))
        if after.digest.replace(bucket, lanes):
            return True
        after.state.anomalies += 1
        return False

    def _fact_lanes(self, record: AggregateRecord) -> list[Lanes]:
        return [
            self._hasher.fact(record.context_type, record.subject, name, value)
            for name, (value, _) in record.fields.items()
            if value is not None
        ]

    def _commit(self, number: int, after: _Partition, work: _Work, start: int) -> None:
        state = after.state
        floor = max(state.journal_from, state.position - JOURNAL_OFFSETS)
        state.journal_from = floor
        chunk = None
        if work.entries or work.mismatches:
            data = msgspec.msgpack.encode((work.entries, work.mismatches))
            chunk = JournalChunk(start, state.position, data)
        self._store(number, after, work.records, chunk, floor)

    def _store(
        self,
        number: int,
        after: _Partition,
        records: dict[AggregateKey, AggregateRecord],
        chunk: JournalChunk | None,
        floor: int,
    ) -> None:
        after.state.table = after.digest.table()
        after.stored = msgspec.msgpack.encode(after.state)
        self._storage.commit(records, number, after.stored, chunk, floor)
        self._partitions[number] = after

    def _partition(self, number: int) -> _Partition:
        known = self._partitions.get(number)
        if known is not None:
            return known
        data = self._storage.partition_state(number)
        self._check_life()
        state = PartitionState() if data is None else _decode_state(data)
        digest = Digest(self.bits)
        if state.table:
            digest = Digest.from_table(state.table)
        self._partitions[number] = _Partition(state, digest, [], data)
        return self._partitions[number]

    def _check_life(self) -> None:
        """Raise if the storage was emptied, or is an older copy: this name stands for another."""
        if self._storage.incarnation() != self.incarnation:
            raise FencedError(f"the storage of {self.name} has another life: start anew from it")

    # -- answering ---------------------------------------------------------------------------

    def report(self, now: float, partitions: Sequence[int]) -> Report:
        """Return what this replica says of itself now, with every marker passed since the last."""
        notes: list[Note] = []
        for number in partitions:
            known = self._partition(number)
            notes.extend(known.notes)
            notes.append(known.note(number))
            known.notes.clear()
            known.is_reported = True
        return Report(
            replica=self.name,
            view_hash=self._view_hash,
            algorithm=self._hasher.algorithm,
            bits=self.bits,
            incarnation=self.incarnation,
            at=now,
            notes=notes,
        )

    def explain(self, request: Request) -> Explanation:
        """Answer a request, from storage, at exactly this replica's position."""
        number = request.partition
        if request.scrub:
            self.scrub(number, range(1 << self.bits))
        known = self._partition(number)
        entries: list[Entry] = []
        mismatches: list[Mismatch] = []
        for chunk in self._storage.journal(number, request.since):
            more, odd = msgspec.msgpack.decode(chunk.data, type=tuple[list[Entry], list[Mismatch]])
            entries.extend(more)
            mismatches.extend(odd)
        aggregates = [
            self._show(record)
            for bucket in request.buckets
            if 0 <= bucket < 1 << self.bits
            for record in self._storage.scan(number, bucket, self.bits)
        ]
        return Explanation(
            replica=self.name,
            incarnation=self.incarnation,
            request_id=request.request_id,
            note=known.note(number),
            table=known.digest.table(),
            journal_from=known.state.journal_from,
            entries=entries,
            mismatches=mismatches[:MAXIMUM_MISMATCHES],
            buckets=list(request.buckets),
            aggregates=aggregates,
            scrubbed=request.scrub,
        )

    def scrub(self, partition: int, buckets: Sequence[int]) -> int:
        """Sum buckets again from storage; return how many were not what the digest said.

        The digest then says what storage holds, so that the validator sees it at the next report.
        """
        after = self._partition(partition).copy()
        wrong = sum(not self._sum_bucket(partition, after, bucket, {}) for bucket in buckets)
        if wrong:
            self._store(partition, after, {}, None, after.state.journal_from)
        return wrong

    def _show(self, record: AggregateRecord) -> StoredAggregate:
        facts = []
        for name, (value, sequence) in sorted(record.fields.items()):
            lanes = self._lanes(record.context_type, record.subject, name, value)
            public = self.view.is_public(record.context_type, name)
            facts.append(
                StoredFact(name, lanes and lanes_hex(lanes), sequence, value if public else None)
            )
        return StoredAggregate(record.context_type, record.subject, record.sequence, facts)


def _decode_state(data: bytes) -> PartitionState:
    try:
        return msgspec.msgpack.decode(data, type=PartitionState)
    except msgspec.DecodeError as error:
        raise StorageError(
            f"a partition's state cannot be read ({error}); empty the replica's storage, "
            "the replica is then built again from the log"
        ) from None


def _by_urgency(changes: list[Change]) -> list[Change]:
    """Order by priority; an aggregate's changes keep their order, all at its most urgent rank.

    >>> _by_urgency([])
    []
    """
    if len({change.event.propagation_rules.priority for change in changes}) < 2:
        return changes
    rank: dict[AggregateKey, int] = {}
    for change in changes:
        key = (change.event.context_type, change.event.subject)
        own = _RANK[change.event.propagation_rules.priority]
        rank[key] = min(own, rank.get(key, own))
    return sorted(changes, key=lambda c: rank[(c.event.context_type, c.event.subject)])
