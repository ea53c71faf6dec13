"""The first tier of a model's reads: what was read from a storage that another process writes.

An event of the log says which aggregate has changed. It may come before the storage has applied it,
so that what is read then is still the old value, and it must not stay. Positions decide:

1. An entry is what the storage held at exactly its position: that was the same before and after the
   read, and nobody has seen a higher one since. So no thread gets anything older from an entry than
   it had before. An event at offset `o` drops the entry, unless its position is beyond `o`.
2. What is read later is kept only if its position is beyond every event of that aggregate that was
   seen. Of events that the storage had certainly applied, and of those too many to remember, only
   the highest offset is known: what was read at a position up to that one is not kept.

So once a step has seen an event and the storage has applied it, no read returns what was before it;
also where the storage falls back to an older copy and applies events again. Where the events cannot
be followed, every read goes to the storage, and `is_following` and `behind_since` say so.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import msgspec
from msgspec import Struct

from synchroscope.errors import ConfigurationError, InvalidEventError, SynchroscopeError
from synchroscope.event import WireEvent, decode_wire
from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import EVENTS, AggregateKey, Log, Progress, Record, ReplicaStorage
from synchroscope.view import View

DEFAULT_CAPACITY_AGGREGATES = 100_000
DEFAULT_BATCH_RECORDS = 1_000
DEFAULT_MAXIMUM_AGE_SECONDS = 60.0
MAXIMUM_PENDING = 10_000
"""Aggregates of a partition whose events are remembered until the storage has applied them."""
HEAD_INTERVAL_SECONDS = 1.0
"""Time between two looks at how far the log has come; it must be reached until the next one."""

_CONTAINERS = frozenset({list, dict})


class _Position(Struct, array_like=True):
    """The beginning of a partition's state, as a replica stores it; the rest is not decoded."""

    position: int = 0


class _Entry(Struct):
    """What the storage held of an aggregate at a position."""

    facts: dict[str, Any]
    partition: int
    position: int
    read_at: float


class _Tail:
    """How far the events of one partition were followed, and what is known of the storage there."""

    __slots__ = ("epoch", "floor", "last", "pending", "position", "stored", "target")

    def __init__(self, head: int) -> None:
        self.position = head
        self.last: int | None = None
        """The offset of the last record that was seen."""
        self.floor = head
        """What was read at a position before this one may lack an event that nobody remembers."""
        self.pending: dict[AggregateKey, int] = {}
        """Aggregate -> its last event that was seen, lowest first; all of them from `floor` on."""
        self.stored = 0
        self.epoch = 0
        """Grows when the storage turns out to have fallen back; what is being read then is old."""
        self.target = head

    def remember(self, key: AggregateKey, offset: int) -> None:
        self.pending.pop(key, None)
        self.pending[key] = offset
        if len(self.pending) > MAXIMUM_PENDING:
            self._forget_oldest()

    def forget_applied(self) -> None:
        while self.pending and next(iter(self.pending.values())) < self.stored:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self.floor = self.pending.pop(next(iter(self.pending))) + 1

    def may_keep(self, key: AggregateKey, position: int) -> bool:
        return position >= self.floor and self.pending.get(key, -1) < position


_decode_position = msgspec.msgpack.Decoder(_Position).decode


def stored_position(storage: ReplicaStorage, partition: int) -> int | None:
    """Return how far a replica has applied, as its storage says; None where that is unreadable."""
    state = storage.partition_state(partition)
    if state is None:
        return 0
    try:
        return _decode_position(state).position
    except UNDECODABLE:
        return None


class ContextCache:
    """Reads through to a replica's storage. `get` from any thread, beside `step` from one.

    Parameters
    ----------
    storage: The replica's storage, which is only read, by the threads that call `get` and `step`.
        Never the object that a replica writes through: a look at a partition tells a storage that
        its user knows what is there now.
    log: Where the events come from that the storage is fed with.
    view: The replica's view.
    partition_of: Context type and subject -> partition, as the log's producers choose it.
    capacity_aggregates: Most aggregates that are kept; more hit more often, each takes about 500
        bytes and its values.
    batch_records: Most events seen in a step, of each partition.
    maximum_age_seconds: An entry older than that is read again, so that what changed without an
        event (a repair, somebody's own write) is seen as well; shorter sees it earlier.
    """

    def __init__(
        self,
        storage: ReplicaStorage,
        log: Log,
        view: View,
        partition_of: Callable[[str, str], int],
        *,
        capacity_aggregates: int = DEFAULT_CAPACITY_AGGREGATES,
        batch_records: int = DEFAULT_BATCH_RECORDS,
        maximum_age_seconds: float = DEFAULT_MAXIMUM_AGE_SECONDS,
    ) -> None:
        if min(capacity_aggregates, batch_records) < 1:
            raise ConfigurationError("a cache's capacity and batch must be 1 or more")
        self._storage = storage
        self._log = log
        self._view = view
        self._partition_of = partition_of
        self._capacity_aggregates = capacity_aggregates
        self._batch_records = batch_records
        self._maximum_age_seconds = maximum_age_seconds
        self._lock = threading.Lock()
        self._entries: OrderedDict[AggregateKey, _Entry] = OrderedDict()
        self._tails: dict[int, _Tail] = {}
        self._incarnation: str | None = None
        self._looked_at = 0
        self._now = 0.0
        self._targets_at = 0.0
        self.is_following = False
        """Whether all was seen that was in the log about `HEAD_INTERVAL_SECONDS` ago."""
        self.followed_at: float | None = None
        """When a step had last seen all that; None before the first one."""
        self.seen_at: float | None = None
        """All that was in the log at this time was seen: what an entry shows is no older."""
        self.behind_since: float | None = None
        """Since when not all was seen; None while it is, and before the first step."""
        self.hits = 0
        self.misses = 0

    @property
    def hit_rate(self) -> float | None:
        """The share of reads that needed no storage, 0 to 1; None before the first read."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else None

    def __len__(self) -> int:
        return len(self._entries)

    # -- reading, by the model ---------------------------------------------------------------

    def get(self, subject: str, context_type: str) -> dict[str, Any]:
        """Return the facts of one aggregate, field -> value; empty when there are none."""
        key = (context_type, subject)
        partition = self._partition_of(context_type, subject)
        with self._lock:
            entry = self._fresh_entry(key)
            if entry is not None:
                self.hits += 1
                return copied_facts(entry.facts)
            self.misses += 1
            tail = self._tails.get(partition)
            now = self._now
            if tail is not None:
                stored, epoch = tail.stored, tail.epoch
        if tail is None:
            return copied_facts(self._read(key))
        before = self._position(partition)
        facts = self._read(key)
        position = self._position(partition)
        with self._lock:
            self._look(partition, tail, stored, min(before, position))
            self._look(partition, tail, before, position)
            known = self._entries.get(key)
            if known is not None and known.position < position:
                del self._entries[key]
            is_exact = before == position == tail.stored
            if is_exact and tail.epoch == epoch and tail.may_keep(key, position):
                self._entries[key] = _Entry(facts, partition, position, now)
                self._entries.move_to_end(key)
                while len(self._entries) > self._capacity_aggregates:
                    self._entries.popitem(last=False)
        return copied_facts(facts)

    def _fresh_entry(self, key: AggregateKey) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or not self.is_following:
            return None
        # A negative age: a clock was set back since.
        if not 0 <= self._now - entry.read_at <= self._maximum_age_seconds:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def _read(self, key: AggregateKey) -> dict[str, Any]:
        record = self._storage.get(key)
        if record is None:
            return {}
        return {name: value for name, (value, _) in record.fields.items() if value is not None}

    def _position(self, partition: int) -> int:
        return stored_position(self._storage, partition) or 0

    def _look(self, partition: int, tail: _Tail, before: int, position: int) -> None:
        """Take note of the storage's position, read after it was known to be at `before`."""
        if position < before:
            self._drop(partition)
            tail.stored = position
        tail.stored = max(tail.stored, position)
        tail.forget_applied()

    def _drop(self, partition: int) -> None:
        self._tails[partition].epoch += 1
        for key in [key for key, entry in self._entries.items() if entry.partition == partition]:
            del self._entries[key]

    # -- following the events ----------------------------------------------------------------

    def step(self, now: float) -> Progress:
        """See a batch of events of each partition, then look how the storage stands."""
        with self._lock:
            self._now = now
        try:
            if not self._tails:
                self._begin(now)
            consumed = sum(self._follow(number) for number in self._tails)
            self._judge(now)
        except SynchroscopeError:
            self._fall_behind(self.followed_at if self.followed_at is not None else now)
            raise
        self._look_at_storage()
        return Progress(consumed)

    def _begin(self, now: float) -> None:
        count = self._log.partitions(EVENTS)
        tails = {number: _Tail(self._log.head(EVENTS, number)) for number in range(count)}
        with self._lock:
            self._tails = tails
            self._targets_at = now

    def _follow(self, number: int) -> int:
        tail = self._tails[number]
        batch = self._log.read(EVENTS, number, tail.position, self._batch_records)
        first = batch.records[0].offset if batch.records else batch.position
        was_lost = first > tail.position and not self._is_kept(number, tail.last)
        with self._lock:
            if was_lost:
                # Events may be gone that nobody has seen.
                self._drop(number)
                tail.pending.clear()
                tail.floor = first
            for record in batch.records:
                self._see(tail, record)
            tail.position = batch.position
            tail.forget_applied()
        return len(batch.records)

    def _is_kept(self, number: int, offset: int | None) -> bool:
        """Say whether the log still has a record: then it has all that came after it."""
        if offset is None:
            return False
        found = self._log.read(EVENTS, number, offset, 1).records
        return bool(found) and found[0].offset == offset

    def _see(self, tail: _Tail, record: Record) -> None:
        tail.last = record.offset
        try:
            event = decode_wire(record.value)
        except InvalidEventError:
            return  # No replica applies it either.
        if not self._concerns(event):
            return
        key = (event.context_type, event.subject)
        entry = self._entries.get(key)
        if entry is not None and entry.position <= record.offset:
            del self._entries[key]
        tail.remember(key, record.offset)

    def _concerns(self, event: WireEvent) -> bool:
        wanted = self._view.fields.get(event.context_type)
        if wanted is None:
            return False
        return not wanted or not wanted.isdisjoint(event.context_delta.updates)

    def _judge(self, now: float) -> None:
        """Decide whether the events are followed, by how far the log was at the last look."""
        is_due = not 0 <= now - self._targets_at < HEAD_INTERVAL_SECONDS
        if all(tail.position >= tail.target for tail in self._tails.values()):
            self.is_following, self.behind_since, self.followed_at = True, None, now
            self.seen_at = self._targets_at
            if is_due:
                for number, tail in self._tails.items():
                    tail.target = self._log.head(EVENTS, number)
                self._targets_at = now
        elif is_due:
            self._fall_behind(self._targets_at)

    def _fall_behind(self, since: float) -> None:
        self.is_following = False
        if self.behind_since is None:
            self.behind_since = since

    def _look_at_storage(self) -> None:
        """Look at one partition after the other, and at the storage's life, for falling back."""
        incarnation = self._storage.incarnation()
        number = self._looked_at = (self._looked_at + 1) % len(self._tails)
        tail = self._tails[number]
        with self._lock:
            before = tail.stored
        position = self._position(number)
        with self._lock:
            self._look(number, tail, before, position)
            if incarnation != self._incarnation:
                for other in self._tails:
                    self._drop(other)
                self._incarnation = incarnation


def copied_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy whose lists and objects are copies as well."""
    # The model may do with the answer what it likes; what is kept stays.
    return {
        name: deepcopy(value) if type(value) in _CONTAINERS else value
        for name, value in facts.items()
    }
