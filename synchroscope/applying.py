"""The rules by which events change a replica, in the order in which an event meets them.

1. A sequence at or below the aggregate's, not known as missing, is a duplicate: counted, ignored.
2. A sequence beyond the next one leaves a gap: the ones passed over are remembered as missing.
3. A missing sequence that comes late is applied, but never over a field that a newer event wrote.
4. An event that does not name this model withdraws the fields it changes.
5. What storage returned is subtracted from the digest, not what the event's ``previous`` claims. If
   the two differ, that is kept as evidence and the bucket is summed again from storage.

Nothing is hashed event by event: what leaves and what enters is collected, and hashed for a hundred
events together, at the latest before anything is noted or summed again (`Applying._settle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from synchroscope.digest import MASK, Hasher, lanes_hex
from synchroscope.errors import InvalidEventError
from synchroscope.event import PRIORITIES, WireEvent, decode_wire
from synchroscope.hashed_changes import add_changes, hash_applied
from synchroscope.ports import AggregateKey, AggregateRecord, Record, ReplicaStorage
from synchroscope.replica_state import Change, Partition, PartitionState, Work
from synchroscope.report import Mismatch
from synchroscope.summing import FactSums
from synchroscope.view import View

MAXIMUM_MISSING = 1_024
MAXIMUM_PENDING_NOTES = 64
HASHED_AT_ONCE = 128
"""Of so many events it is collected what has to be hashed."""
_RANK = {name: rank for rank, name in enumerate(PRIORITIES)}
_CONTAINERS = frozenset({list, dict})
# The replicas of one process read the same records shortly after each other.
_decode = lru_cache(maxsize=2_048)(decode_wire)


class Applying:
    """Works events into partitions; stores nothing.

    Parameters
    ----------
    view: What the model is to see.
    storage: Where aggregates are read.
    hasher, sums: How facts are hashed and buckets summed.
    marker_interval: Offsets between two virtual markers.
    """

    def __init__(
        self,
        view: View,
        storage: ReplicaStorage,
        hasher: Hasher,
        sums: FactSums,
        marker_interval: int,
    ) -> None:
        self._view = view
        self._storage = storage
        self._hasher = hasher
        self._sums = sums
        self._lanes = sums.lanes
        self._marker_interval = marker_interval

    def apply(self, number: int, after: Partition, records: Sequence[Record], target: int) -> Work:
        """Work the records into `after` and move it to `target`; return what has to be stored."""
        work = Work()
        events = [self._decode(record) for record in records]
        self._storage.prefetch(
            [(e.context_type, e.subject) for e in events if isinstance(e, WireEvent)]
        )
        for record, event in zip(records, events, strict=True):
            self._pass_markers(number, after, work, record.offset)
            if isinstance(event, WireEvent):
                self._apply_event(number, after, work, record, event)
            elif event is not None:
                after.state.undecodable += 1
        self._pass_markers(number, after, work, target)
        self._settle(number, after, work)
        after.state.position = target
        return work

    def _pass_markers(self, number: int, after: Partition, work: Work, offset: int) -> None:
        interval = self._marker_interval
        marker = (after.state.position // interval + 1) * interval
        if marker > offset:
            return
        self._settle(number, after, work)
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
        return event if event.context_type in self._view.fields else None

    def _apply_event(
        self, number: int, after: Partition, work: Work, record: Record, event: WireEvent
    ) -> None:
        state = after.state
        wanted = self._view.fields[event.context_type]
        key = (event.context_type, event.subject)
        aggregate = self._open(number, work, key)
        prior = aggregate.sequence
        if event.sequence is None:
            sequence = prior + 1
            state.unsequenced += 1
        else:
            sequence = event.sequence
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
                work.dirty.add(after.digest.bucket(*key))
            aggregate.sequence = sequence
        work.records[key] = aggregate
        state.applied += 1
        work.steps.append((record.offset, event.event_id, sequence, prior))
        names = event.context_delta.updates
        if wanted:
            names = {name: update for name, update in names.items() if name in wanted}
        changed = tuple(
            name
            for name in names
            if self._set_field(
                after, work, event, aggregate, name, key, (record.offset, sequence, prior)
            )
        )
        if changed:
            work.changes.append(Change(event, record.offset, changed))
        if len(work.steps) >= HASHED_AT_ONCE:
            self._hash(after, work)

    def _open(self, number: int, work: Work, key: AggregateKey) -> AggregateRecord:
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
        after: Partition,
        work: Work,
        event: WireEvent,
        aggregate: AggregateRecord,
        name: str,
        key: AggregateKey,
        at: tuple[int, int, int],
    ) -> bool:
        update = event.context_delta.updates[name]
        _, sequence, prior = at
        model = self._view.model
        stored, stored_sequence = aggregate.fields.get(name, (None, 0))
        late = sequence <= prior
        if late and stored_sequence > sequence:
            return False
        targets = event.propagation_rules.target_models
        current = update.current if targets is None or model in targets else None
        before = update.previous_targets
        previous = update.previous if before is None or model in before else None
        # Equality is only the short way for plain values: Python's [1] equals [True].
        is_known = (
            type(previous) is type(stored)
            and type(stored) not in _CONTAINERS
            and previous == stored
        )
        if not is_known:
            self._compare(after, work, key, name, previous, stored, at)
        work.exchanges.append((key, name, stored, current))
        aggregate.fields[name] = (current, sequence)
        return True

    def _compare(
        self,
        after: Partition,
        work: Work,
        key: AggregateKey,
        name: str,
        previous: Any,
        stored: Any,
        at: tuple[int, int, int],
    ) -> None:
        """Keep as evidence where two values are not the same fact."""
        previous_lanes = self._lanes(*key, name, previous)
        stored_lanes = self._lanes(*key, name, stored)
        if previous_lanes == stored_lanes:
            return
        offset, sequence, prior = at
        after.state.anomalies += 1
        work.dirty.add(after.digest.bucket(*key))
        work.mismatches.append(
            Mismatch(
                offset,
                *key,
                name,
                sequence,
                prior,
                previous_lanes and lanes_hex(previous_lanes),
                stored_lanes and lanes_hex(stored_lanes),
            )
        )

    def _hash(self, after: Partition, work: Work) -> None:
        """Hash what was collected, while it is still near the processor."""
        steps, work.steps = work.steps, []
        entries, lanes = hash_applied(self._hasher, steps)
        work.entries.extend(entries)
        audit = after.state.audit
        after.state.audit = ((audit[0] + lanes[0]) & MASK, (audit[1] + lanes[1]) & MASK)
        exchanges, work.exchanges = work.exchanges, []
        if exchanges:
            after.parts.append(add_changes(after.digest, self._hasher, exchanges))

    def _settle(self, number: int, after: Partition, work: Work) -> None:
        """Bring digest, audit and journal up to what was applied."""
        if work.steps:
            self._hash(after, work)
        for bucket in work.dirty:
            self._sums.sum_bucket(number, after, bucket, work.records)
        work.dirty.clear()


def by_urgency(changes: list[Change]) -> list[Change]:
    """Order by priority; an aggregate's changes keep their order, all at its most urgent rank.

    >>> by_urgency([])
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
