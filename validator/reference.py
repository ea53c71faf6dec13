"""What every view must be at a position, computed from the log alone and without state per key.

The fold subtracts the hash of each update's ``previous`` and adds that of its ``current``, so its
size depends on views, partitions and buckets, never on the number of keys. That is exact for a log
that the command side wrote, complete from its start; a record without a sequence takes the proof
away, and the reference says so (`Fold.unproven`).

It shares the encoding and the hash with the replicas, and not one line of their fold.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from synchroscope.digest import (
    DEFAULT_BITS,
    MASK,
    Digest,
    Hasher,
    Lanes,
    aggregate_hash,
    event_hash,
)
from synchroscope.errors import InvalidEventError
from synchroscope.event import WireEvent, decode_wire
from synchroscope.ports import EVENTS, Log, Record
from synchroscope.records import Records
from synchroscope.sketch import MAXIMUM_SKETCH_BITS, Numbers, Part, Sketches
from synchroscope.view import View
from validator.batch_fold import BatchFold, Ordinary
from validator.folds import Fold, StoredFold, ViewSum
from validator.refused import MAXIMUM_REFUSED, NO_EVENT, Refused, producer_of
from validator.repeats import RecentMarks, Runs, Store, StoreClaims, store_position

REPEAT_WINDOW = 1_024
MAXIMUM_MADE_UP = 1_024
"""How many of the newest records with a made-up store position are remembered."""
KEPT_POINTS = 64
MAXIMUM_REPLAY = 65_536
MAXIMUM_SKETCH_REPLAY = 20_000
"""Offsets behind the newest fold up to which sketches can be told."""
READ_RECORDS = 1_000
MINIMUM_REACH_SHARE = 8
"""A batch is not cut to less than this part of what it may have."""
BATCH_RECORDS = 16
"""Fewer records are folded one by one: looking at them as a batch would cost more."""
_PLAIN = frozenset({str, int, float, bool, type(None)})


class Reference:
    """The reference of every view on every partition of a log.

    Parameters
    ----------
    log: The log to fold.
    views: The views that replicas are expected to have, one a model.
    bits, hasher: The digest's size and hash; replicas must use the same.
    marker_interval: Offsets between two kept points; smaller makes going back cheaper and costs
        memory (`KEPT_POINTS` tables of 24 bytes a bucket, a view and a partition).
    partitions: Which partitions to fold; default: all of the log.
    repeat_window: How many event IDs of a partition are remembered, to know those that come again;
        what the relay publishes again is known without.
    store: Tells which store positions are made up; default: all are believed.
    """

    def __init__(
        self,
        log: Log,
        views: Iterable[View],
        *,
        bits: int = DEFAULT_BITS,
        hasher: Hasher | None = None,
        marker_interval: int = 1_024,
        partitions: Sequence[int] | None = None,
        repeat_window: int = REPEAT_WINDOW,
        store: Store | None = None,
    ) -> None:
        self._log = log
        self._repeat_window = repeat_window
        self._views = {view.model: view for view in views}
        self._bits = bits
        self._hasher = hasher or Hasher()
        self._interval = marker_interval
        hashes = (f"{model}:{view.hash()}" for model, view in sorted(self._views.items()))
        self._made_of = "/".join((self._hasher.algorithm, str(bits), *hashes))
        mine = range(log.partitions(EVENTS)) if partitions is None else partitions
        self._folds = {number: self._empty(is_empty=True) for number in mine}
        self._points: dict[int, OrderedDict[int, Fold]] = {n: OrderedDict() for n in mine}
        self._recent = {n: RecentMarks(repeat_window) for n in mine}
        self._batches = BatchFold(self._views.values(), bits, self._hasher)
        self._repeats: dict[int, deque[int]] = {n: deque(maxlen=repeat_window) for n in mine}
        self._runs = {number: Runs() for number in mine}
        self._claims = StoreClaims(store)
        #: Offsets of records whose store position is made up.
        self._made_up: dict[int, deque[int]] = {n: deque(maxlen=MAXIMUM_MADE_UP) for n in mine}
        self._stored: dict[int, StoredFold] = {}
        self.repeated = dict.fromkeys(mine, 0)
        self.undecodable = dict.fromkeys(mine, 0)
        """How many records were passed over because they are no events, by partition."""
        self._refused: deque[Refused] = deque(maxlen=MAXIMUM_REFUSED)
        for number in mine:
            self._keep(number, self._folds[number])

    def _empty(self, *, is_empty: bool = False) -> Fold:
        """Return a fold of nothing; `is_empty`: so that its sketches are known."""

        def sketches() -> Sketches | None:
            has_any = self._bits <= MAXIMUM_SKETCH_BITS
            return Sketches(self._bits, is_empty=is_empty) if has_any else None

        return Fold(
            {model: ViewSum(Digest(self._bits), (0, 0), 0, sketches()) for model in self._views}
        )

    @property
    def partitions(self) -> Sequence[int]:
        """The partitions that are folded."""
        return list(self._folds)

    def position(self, partition: int) -> int:
        """Return the next offset to fold."""
        return self._folds[partition].position

    def current(self, partition: int) -> Fold:
        """Return the newest fold; not to be changed."""
        return self._folds[partition]

    # -- going forward -----------------------------------------------------------------------

    def advance(self, partition: int, limit: int, wanted: Iterable[int] = ()) -> int:
        """Fold up to `limit` records, keeping a point at each wanted position; count them.

        It ends at a marker rather than pass it, so that the next batch has not to be divided,
        unless that leaves few.
        """
        fold = self._folds[partition]
        reach = (fold.position + limit) // self._interval * self._interval - fold.position
        if 0 < limit // MINIMUM_REACH_SHARE <= reach:
            limit = reach
        batch = self._log.read(EVENTS, partition, fold.position, limit)
        if batch.position == fold.position:
            return 0
        self._stored.pop(partition, None)
        stops = self._stops(fold.position, batch.position, wanted)
        if len(batch.records) < BATCH_RECORDS:
            self._fold_each(partition, batch.records, stops)
        else:
            self._fold_batch(partition, Records.of(batch.records), stops)
        for stop in stops:
            self._keep_at(partition, fold, stop)
        fold.position = batch.position
        return len(batch.records)

    def _fold_batch(self, partition: int, records: Records, stops: deque[int]) -> None:
        highest = self._folds[partition].store_position
        ordinary = self._batches.read(records, highest, self._recent[partition])
        positions = [] if ordinary is None else ordinary.store_positions
        is_made_up = bool(positions) and self._claims.is_beyond(positions[-1], highest)
        if ordinary is None or is_made_up:
            self._fold_each(partition, records, stops)
        else:
            self._fold_together(partition, records, ordinary, stops)

    def _stops(self, start: int, end: int, wanted: Iterable[int]) -> deque[int]:
        """Return where points are to be kept: the markers and what is wanted, in order."""
        markers = range((start // self._interval + 1) * self._interval, end + 1, self._interval)
        # More than are kept would only push each other out.
        inside = {position for position in wanted if start < position <= end}
        return deque(sorted(inside.union(markers[-KEPT_POINTS:])))

    def _fold_each(self, partition: int, records: Sequence[Record], stops: deque[int]) -> None:
        fold, recent = self._folds[partition], self._recent[partition]
        for record in records:
            while stops and stops[0] <= record.offset:
                self._keep_at(partition, fold, stops.popleft())
            self._look_through(partition, fold, record)
            is_repeat = self._is_published(partition, fold, record)
            self._runs[partition].add(record.offset, is_repeat)
            if is_repeat:
                self.repeated[partition] += 1
                continue
            try:
                event = decode_wire(record.value)
            except InvalidEventError as error:
                self.undecodable[partition] += 1
                producer = producer_of(record.value)
                self._refused.append(Refused(partition, record.offset, str(error), producer))
                continue
            mark = event_hash(event.event_id)
            if mark in recent:
                self._repeats[partition].append(record.offset)
                self.repeated[partition] += 1
                continue
            recent.add(mark)
            self._fold_event(partition, fold, record, event)

    def _look_through(self, partition: int, fold: Fold, record: Record) -> None:
        """Note whether a record's store position is made up, where it is out of the ordinary."""
        position = store_position(record.headers)
        if position is None:
            return
        if position > fold.store_position:
            is_made_up = self._claims.is_beyond(position, fold.store_position)
        elif self._runs[partition].leads_on:
            event = _decoded(record)
            is_made_up = event is not None and self._claims.is_foreign(position, event.event_id)
        else:  # The relay repeats many in a row: that the first one is the store's will do.
            return
        if is_made_up:
            self._made_up[partition].append(record.offset)

    def _position_of(self, partition: int, record: Record) -> int | None:
        """Return the store position that the relay gave a record; None where it gave none."""
        is_made_up = record.offset in self._made_up[partition]
        return None if is_made_up else store_position(record.headers)

    def _is_published(self, partition: int, fold: Fold, record: Record) -> bool:
        """Say whether the relay published this event before.

        A relay publishes a partition's events in the store's order. One that was thought dead may
        publish some of them again; what does not lead on is such a repetition, however late it
        comes.
        """
        position = self._position_of(partition, record)
        return position is not None and position <= fold.store_position

    def _fold_together(
        self, partition: int, records: Records, ordinary: Ordinary, stops: deque[int]
    ) -> None:
        """Fold a batch of which no record is a repeat, stretch by stretch from stop to stop."""
        fold, done = self._folds[partition], 0
        while done < len(records):
            end = len(records)
            if stops:
                end = records.place_of(stops[0])
            if end > done:
                for model, change in ordinary.changes(done, end).items():
                    fold.views[model].add(change)
                if ordinary.store_positions:
                    fold.store_position = ordinary.store_positions[end - 1]
                done = end
            if done < len(records):
                self._keep_at(partition, fold, stops.popleft())
        self._runs[partition].add(records.last_offset, False)
        self._recent[partition].add_all(ordinary.marks)

    def drain_refused(self) -> list[Refused]:
        """Return the newest records that were passed over as no events since the last call."""
        refused = list(self._refused)
        self._refused.clear()
        return refused

    def _keep_at(self, partition: int, fold: Fold, position: int) -> None:
        fold.position = position
        self._keep(partition, fold)

    def _keep(self, partition: int, fold: Fold) -> None:
        points = self._points[partition]
        points[fold.position] = fold.copy()
        points.move_to_end(fold.position)
        while len(points) > KEPT_POINTS:
            points.popitem(last=False)

    def _fold_event(self, partition: int, fold: Fold, record: Record, event: WireEvent) -> None:
        fold.store_position = self._position_of(partition, record) or fold.store_position
        if event.sequence is None:
            fold.unproven = (
                f"record at offset {record.offset} of {producer_of(record.value)} "
                "has no sequence: order is UNKNOWN; have its producer go through the command side, "
                "and begin this log anew"
            )
            return
        kind, subject = event.context_type, event.subject
        concerned = [
            (model, view.fields[kind], fold.views[model])
            for model, view in self._views.items()
            if kind in view.fields
        ]
        if not concerned:
            return
        lane0, lane1 = self._hasher.applied(record.offset, event.event_id, event.sequence - 1)
        hashed = aggregate_hash(kind, subject)
        bucket = hashed >> concerned[0][2].digest.shift
        for _, _, total in concerned:
            total.audit = ((total.audit[0] + lane0) & MASK, (total.audit[1] + lane1) & MASK)
            total.applied += 1
        targets = event.propagation_rules.target_models
        for name, update in event.context_delta.updates.items():
            old_targets = update.previous_targets
            if old_targets == targets and _is_same(update.previous, update.current):
                continue
            views = [(m, total) for m, wanted, total in concerned if not wanted or name in wanted]
            if not views:
                continue
            before = self.lanes(kind, subject, name, update.previous)
            after = self.lanes(kind, subject, name, update.current)
            for model, total in views:
                parts: list[Part] = []
                if before is not None and (old_targets is None or model in old_targets):
                    total.digest.subtract(bucket, before)
                    parts.append((hashed, -before[0]))
                if after is not None and (targets is None or model in targets):
                    total.digest.add(bucket, after)
                    parts.append((hashed, after[0]))
                if total.sketches is not None:
                    total.sketches.change(parts)

    def lanes(self, kind: str, subject: str, field: str, value: object) -> Lanes | None:
        """Return a fact's lanes; None where there is no fact."""
        return None if value is None else self._hasher.fact(kind, subject, field, value)

    # -- going back --------------------------------------------------------------------------

    def at(self, partition: int, position: int) -> Fold | None:
        """Return the fold at exactly that position; None when it is out of reach.

        Out of reach is what lies ahead, and what lies so far back that no kept point is near.
        """
        fold = self._folds[partition]
        if position == fold.position:
            return fold
        points = self._points[partition]
        if position in points:
            return points[position]
        earlier = [kept for kept in points if kept < position]
        if position > fold.position or not earlier or position - max(earlier) > MAXIMUM_REPLAY:
            return None
        repeats = self._repeats[partition]
        if len(repeats) == self._repeat_window and repeats[0] > max(earlier):
            return None  # Which of these records were repeats is no longer known.
        twin = points[max(earlier)].copy()
        for record in self.records(partition, twin.position, position):
            if self._is_published(partition, twin, record) or record.offset in repeats:
                continue
            event = _decoded(record)
            if event is not None:
                self._fold_event(partition, twin, record, event)
        twin.position = position
        self._keep(partition, twin)
        return twin

    # -- sketches ----------------------------------------------------------------------------

    def since(self, partition: int, point: Fold) -> Fold | None:
        """Return what the records from a kept point up to the newest fold have changed.

        None where that lies too far back; its sketches are what counts.
        """
        newest = self._folds[partition]
        change = self._empty(is_empty=True)
        if self._bits > MAXIMUM_SKETCH_BITS or point.unproven:
            return None
        if newest.position - point.position > MAXIMUM_SKETCH_REPLAY:
            return None
        repeats = self._repeats[partition]
        if len(repeats) == self._repeat_window and repeats[0] > point.position:
            return None
        change.store_position = point.store_position
        for record in self.records(partition, point.position, newest.position):
            if self._is_published(partition, change, record) or record.offset in repeats:
                continue
            event = _decoded(record)
            if event is not None:
                self._fold_event(partition, change, record, event)
        return None if change.unproven else change

    def unbuilt(self, partition: int, model: str, buckets: Iterable[int]) -> list[int]:
        """Return the buckets whose sketches are not known, and have to be built."""
        sketches = self._folds[partition].views[model].sketches
        return [b for b in buckets if sketches is None or not sketches.is_built(b)]

    def build(
        self, partition: int, model: str, bucket: int, parts: Sequence[Part], change: Fold
    ) -> None:
        """Set a bucket's sketch from all its facts at the point that `change` begins at."""
        sketches, later = self._folds[partition].views[model].sketches, change.views[model].sketches
        if sketches is not None and later is not None:
            sketches.build(bucket, parts)
            sketches.add_all(later, [bucket])

    def cells(
        self, partition: int, model: str, buckets: Sequence[int], size: int, change: Fold
    ) -> Numbers | None:
        """Return the buckets' sketch at the point that `change` begins at; None: not built."""
        newest, later = self._folds[partition].views[model].sketches, change.views[model].sketches
        if newest is None or later is None or not all(map(newest.is_built, buckets)):
            return None
        return newest.cells(buckets, size) - later.cells(buckets, size)

    def records(self, partition: int, start: int, end: int) -> Iterable[Record]:
        """Yield the log's records from offset `start` up to, not including, `end`."""
        while start < end:
            batch = self._log.read(EVENTS, partition, start, min(READ_RECORDS, end - start))
            for record in batch.records:
                if record.offset >= end:
                    return
                yield record
            if batch.position <= start:
                return
            start = batch.position

    def repeats_known_from(self, partition: int) -> int:
        """Return the offset from which on it is known which records were published before."""
        return self._runs[partition].since

    def record_from(self, partition: int, offset: int) -> Record | None:
        """Return the first record at or after an offset that was not published before."""
        while True:
            records = self._log.read(EVENTS, partition, offset, 1).records
            if not records:
                return None
            end = self._runs[partition].end_at(records[0].offset)
            if end is None:
                return records[0]
            offset = end

    def events(
        self, partition: int, start: int, end: int, published: int = 0
    ) -> Iterable[tuple[Record, WireEvent]]:
        """Yield the events of an interval as the fold takes them: without what is repeated.

        `published` is the store position of what stands before the interval.
        """
        for record in self.records(partition, start, end):
            event = _decoded(record)
            if event is None:
                continue
            position = self._position_of(partition, record)
            if position is not None:
                if position <= published:
                    continue
                published = position
            if record.offset not in self._repeats[partition]:
                yield record, event

    # -- correcting --------------------------------------------------------------------------

    def rebase(
        self, partition: int, model: str, bucket: int, facts: Sequence[Lanes], at: Fold
    ) -> None:
        """Correct a bucket that the log's own contradiction spoilt: `facts` are the
        true ones at `at`.

        The same difference is added to the current fold; kept points are dropped, as they carry the
        error.
        """
        self._stored.pop(partition, None)
        held = at.views[model].digest
        truth = Digest(self._bits)
        truth.replace(bucket, facts)
        newest = self._folds[partition].views[model]
        if newest.sketches is not None:
            newest.sketches.forget([bucket])
        current = newest.digest
        pairs = ((truth.lane0, held.lane0), (truth.lane1, held.lane1), (truth.counts, held.counts))
        sums = (np.array([(true[bucket] - own[bucket]) & MASK], np.uint64) for true, own in pairs)
        current.add_sums(np.array([bucket]), *sums)
        self._points[partition].clear()
        self._keep(partition, self._folds[partition])

    # -- checkpoint --------------------------------------------------------------------------

    def store(self) -> dict[int, StoredFold]:
        """Return everything needed to go on from here, by partition."""
        for number, fold in self._folds.items():
            if number not in self._stored:
                self._stored[number] = self._store(number, fold)
        return dict(self._stored)

    def _store(self, number: int, fold: Fold) -> StoredFold:
        return StoredFold(
            fold.position,
            fold.store_position,
            fold.unproven,
            self.repeated[number],
            {m: (v.digest.table(), v.audit, v.applied) for m, v in fold.views.items()},
            list(self._recent[number]),
            self._made_of,
            list(self._runs[number].known),
            self._runs[number].since,
            self.undecodable[number],
        )

    def restore(self, stored: Mapping[int, StoredFold]) -> None:
        """Go on from a checkpoint; raise ValueError when it is of other views or partitions, or of
        a log that was lost and made anew.
        """
        if stored.keys() != self._folds.keys():
            raise ValueError("checkpoint of other partitions")
        if any(part.made_of != self._made_of for part in stored.values()):
            raise ValueError("checkpoint of other views or another digest")
        if any(part.unproven.endswith(NO_EVENT) for part in stored.values()):
            raise ValueError("checkpoint of a release that could not pass over what is no event")
        if any(self._is_of_another_log(number, part) for number, part in stored.items()):
            raise ValueError("checkpoint of a log that was lost and made anew")
        self._stored.clear()
        for number, part in stored.items():
            fold = self._empty()
            fold.position, fold.store_position = part.position, part.store_position
            fold.unproven = part.unproven
            for model, (table, audit, applied) in part.views.items():
                sketches = fold.views[model].sketches
                fold.views[model] = ViewSum(Digest.from_table(table), audit, applied, sketches)
            self._folds[number] = fold
            self._recent[number] = RecentMarks(self._repeat_window, part.recent)
            self._runs[number] = Runs(part.runs, part.runs_from)
            self.repeated[number] = part.repeated
            self.undecodable[number] = part.undecodable
            self._points[number].clear()
            self._keep(number, fold)

    def _is_of_another_log(self, partition: int, part: StoredFold) -> bool:
        """Say whether the log ends before what was folded, or holds there what was not."""
        if part.position > self._log.head(EVENTS, partition):
            return True
        before = self._log.read(EVENTS, partition, part.position - 1, 1) if part.position else None
        return before is not None and any(
            record.offset < part.position
            and (store_position(record.headers) or 0) > part.store_position
            and _decoded(record) is not None
            for record in before.records
        )


def _decoded(record: Record) -> WireEvent | None:
    """Return the event of a record; None where it is none."""
    try:
        return decode_wire(record.value)
    except InvalidEventError:
        return None


def _is_same(before: object, after: object) -> bool:
    # Plain values only: in Python [1] equals [True], in a digest it does not.
    return type(before) is type(after) and type(after) in _PLAIN and before == after
