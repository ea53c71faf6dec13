"""From a replica's explanation to the aggregates that deviate: gathers what `judge` needs.

What a suspect aggregate ought to be comes from its own events in the store, up to the very event
that stands last before the position; nothing is read of aggregates that nothing points at.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Protocol

from msgspec import Struct

from synchroscope.digest import (
    MASK,
    Digest,
    Lanes,
    aggregate_hash,
    event_hash,
    lanes_from_hex,
    lanes_hex,
    sum_lanes,
)
from synchroscope.event import ContextEvent, WireEvent
from synchroscope.ports import AggregateKey, Record
from synchroscope.report import Entry, Explanation, Mismatch, Repaired, StoredAggregate
from synchroscope.sketch import BELOW_BUCKET_BITS, Part
from synchroscope.view import View
from validator.folds import Fold
from validator.judgement import Case, Judgement, Version, judge
from validator.reference import Reference
from validator.refused import producer_of
from validator.shown import Shown
from validator.watch import Held, compare

MAXIMUM_SUSPECTS = 10_000
"""So many aggregates that were not known to deviate are judged at once."""
PartitionOf = Callable[[str, str], int]
MAXIMUM_ALTERED = 1_000
"""Of so many events it is known that log and history have them otherwise."""
Changes = list[tuple[str, Lanes | None, Lanes | None]]
MAXIMUM_KEPT_EVENTS = 20_000
"""So many events of aggregates are kept from one step of a location to the next."""
FIRST_HISTORIES, HISTORIES_AT_ONCE, SHORT_HISTORY = 16, 250, 8
"""Of how many aggregates the events are read together at first, and at most; where they have more
events than that on average, of fewer the next time."""


class HistoricEvent(Protocol):
    """An event in the authority's total order."""

    @property
    def position(self) -> int:
        """Its place in the order."""
        ...

    @property
    def event(self) -> ContextEvent:
        """The event."""
        ...


class History(Protocol):
    """The authority on what happened to an aggregate: the event store."""

    def history(self, key: AggregateKey, until: int | None = None) -> Sequence[HistoricEvent]:
        """Return the aggregate's events in order, up to and including position `until`."""
        ...

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> Mapping[AggregateKey, Sequence[HistoricEvent]]:
        """Return what `history` does of several aggregates, in few queries."""
        ...

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates whose hash begins with `bucket`."""
        ...

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return what `aggregates` does of several buckets, in few queries and any order."""
        ...


Seen = tuple[HistoricEvent, Changes]
"""An event, and what one view sees of it."""


class Expected(Struct, frozen=True, gc=False):
    """An event of the interval that the view has to apply."""

    offset: int
    key: AggregateKey
    sequence: int
    event_id: str
    mark: int


class Contradiction(Struct, frozen=True):
    """A bucket whose reference is not the sum of what the aggregates' histories say."""

    bucket: int
    bits: int
    facts: list[Lanes]
    keys: list[AggregateKey]


class Culprit(Struct, frozen=True):
    """The record that contradicts its aggregate's history, and who produced it.

    ``altered``: the history has this event, but not like that; None: it does not have it.
    """

    key: AggregateKey
    offset: int
    event_id: str
    producer: str
    altered: WireEvent | None = None


class Located(Struct, frozen=True):
    """All judgements of one explanation."""

    judgements: list[Judgement]
    contradictions: list[Contradiction]
    offsets: dict[str, int]
    """Event ID -> offset, of the interval's events."""
    journal_complete: bool
    strangers: list[Entry]
    """What the replica applied and no event of the log stands for."""
    left_out: list[AggregateKey]
    """Suspects that were not judged because there were too many."""
    unchanged: list[AggregateKey]
    """Aggregates known to deviate that were not judged anew, for nothing happened to them."""
    unexplained: list[int]
    """Buckets in which the aggregates that were shown do not make up the difference."""


class Locator:
    """Turns explanations into judgements, for all views of a log."""

    def __init__(self, reference: Reference, history: History, partition_of: PartitionOf) -> None:
        self._reference = reference
        self._history = history
        self._partition_of = partition_of
        self._probes: dict[tuple[int, int], Record | None] = {}
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._histories: dict[AggregateKey, Sequence[Seen]] = {}
        self._kept_events = 0
        #: Event ID -> the event as the log has it, where the history has it otherwise.
        self._altered: OrderedDict[str, WireEvent] = OrderedDict()

    def locate(
        self,
        view: View,
        explanation: Explanation,
        since: int,
        since_store_position: int,
        known: Mapping[AggregateKey, Held],
        point: Fold,
        bad_buckets: Sequence[int],
        named: Mapping[int, Sequence[int]],
        numbers: Collection[int],
    ) -> Located:
        """Judge every aggregate that the explanation casts suspicion on.

        `bad_buckets` are those that differ and are shown whole; of those in `named` the aggregates
        of these numbers are shown. `numbers` are all of which aggregates are shown.
        """
        self.forget()
        partition, position = explanation.note.partition, explanation.note.position
        complete = explanation.journal_from <= since
        expected = self._expected(view, partition, since, position, since_store_position)
        entries = explanation.entries
        suspects = self._suspects(expected, entries, explanation.mismatches, complete)
        for repaired in explanation.repairs:
            suspects.setdefault(_key_of(repaired.aggregate))
        strangers = self._name_strangers(view, partition, expected, entries, suspects)
        touched = {*suspects, *(event.key for event in expected)}
        bits = point.views[view.model].digest.bits
        answered = Shown(explanation, bits, numbers)
        shown = answered.aggregates
        contradictions = []
        must = point.views[view.model].digest
        for bucket in bad_buckets:
            keys = [
                key
                for key in self._history.aggregates(bucket, bits)
                if key[0] in view.fields and self._partition_of(*key) == partition
            ]
            self._look_up(view, keys, point.store_position)
            found = {key: self._true_facts(view, key, point) for key in keys}
            facts = [lanes for of_key in found.values() for lanes in of_key.values()]
            if (sum_lanes(facts), len(facts)) != (must.sum_of(bucket), must.counts[bucket] & MASK):
                contradictions.append(Contradiction(bucket, bits, facts, keys))
            for key in {**dict.fromkeys(keys), **dict.fromkeys(shown)}:
                if self._bucket(key, bits) != bucket:
                    continue
                if _facts_held(shown.get(key)) != found.get(key, {}):
                    suspects.setdefault(key)
        unexplained = self._look_into(view, partition, named, shown, explanation, point, suspects)
        has_agreed = compare(point.views[view.model], explanation.note).holds_the_same_facts
        is_stable = complete and not has_agreed and not contradictions
        unchanged = {
            key: None
            for key, held in known.items()
            if is_stable and key not in touched and not answered.is_otherwise(key, held.actual)
        }
        fresh = [key for key in suspects if key not in known]
        keys_judged = fresh[:MAXIMUM_SUSPECTS] + [key for key in known if key not in unchanged]
        by_key: dict[AggregateKey, list[Entry]] = {key: [] for key in keys_judged}
        key_of = {e.mark: e.key for e in expected}
        offsets: dict[AggregateKey, dict[int, int]] = {}
        for event in expected:
            offsets.setdefault(event.key, {})[event.mark] = event.offset
        self._look_up(view, keys_judged, point.store_position)
        versions_of = {
            key: self._versions(view, key, point.store_position, offsets.get(key, {}))
            for key in keys_judged
        }
        for key, (versions, _) in versions_of.items():
            key_of.update({version.mark: key for version in versions})
        repairs: dict[AggregateKey, list[tuple[int, Repaired]]] = {}
        waiting = deque(explanation.repairs)
        first = explanation.note.applied - len(entries)
        for number, entry in enumerate(entries, first):
            _repair_before(waiting, number, by_key, repairs)
            if (owner := key_of.get(entry.event)) in by_key:
                by_key[owner].append(entry)
        _repair_before(waiting, explanation.note.applied, by_key, repairs)
        odd: dict[AggregateKey, dict[tuple[int, str], Mismatch]] = {}
        for mismatch in explanation.mismatches:
            of_key = odd.setdefault((mismatch.context_type, mismatch.subject), {})
            of_key[mismatch.offset, mismatch.field] = mismatch
        judgements = []
        for key in keys_judged:
            versions, positions = versions_of[key]
            before = sum(place <= since_store_position for place in positions)
            held = known.get(key)
            held_before = 0 if held is None else sum(p <= held.store_position for p in positions)
            judgements.append(
                judge(
                    Case(
                        key,
                        versions,
                        before,
                        by_key[key] if complete else None,
                        odd.get(key, {}),
                        answered.is_shown(key),
                        shown.get(key),
                        None if held is None else held.actual,
                        held_before,
                        position,
                        repairs.get(key, ()),
                    )
                )
            )
        return Located(
            judgements,
            contradictions,
            {e.event_id: e.offset for e in expected},
            complete,
            strangers,
            fresh[MAXIMUM_SUSPECTS:],
            list(unchanged),
            unexplained,
        )

    def forget(self) -> None:
        """Drop what was looked up for one location."""
        self._probes.clear()
        self._places.clear()
        self._histories.clear()
        self._kept_events = 0

    def _look_into(
        self,
        view: View,
        partition: int,
        named: Mapping[int, Sequence[int]],
        shown: Mapping[AggregateKey, StoredAggregate],
        explanation: Explanation,
        point: Fold,
        suspects: dict[AggregateKey, None],
    ) -> list[int]:
        """Suspect the named aggregates that deviate; return buckets where that is not all."""
        if not named:
            return []
        bits = point.views[view.model].digest.bits
        by_bucket: dict[int, list[AggregateKey]] = {bucket: [] for bucket in named}
        every_number = [number for numbers in named.values() for number in numbers]
        known = self._history.aggregates_in(every_number, bits + BELOW_BUCKET_BITS)
        # What is shown and not known to the authority comes last; each once.
        for key in dict.fromkeys([*sorted(known, key=_hash_of), *shown]):
            if (bucket := self._bucket(key, bits)) in by_bucket:
                by_bucket[bucket].append(key)
        mine = {
            key: None
            for keys in by_bucket.values()
            for key in keys
            if key[0] in view.fields and self._partition_of(*key) == partition
        }
        self._look_up(view, mine, point.store_position)
        must, table = point.views[view.model].digest, Digest.from_table(explanation.table)
        unexplained = []
        for bucket, keys in by_bucket.items():
            lane0 = lane1 = counted = 0
            for key in keys:
                facts = self._true_facts(view, key, point) if key in mine else {}
                facts_held = _facts_held(shown.get(key))
                if facts_held == facts:
                    continue
                suspects.setdefault(key)
                for sign, lanes in ((1, facts.values()), (-1, facts_held.values())):
                    for first, second in lanes:
                        lane0 += sign * first
                        lane1 += sign * second
                        counted += sign
            is_all = (lane0 & MASK, lane1 & MASK) == _minus(
                must.sum_of(bucket), table.sum_of(bucket)
            )
            if not is_all or (must.counts[bucket] - table.counts[bucket] - counted) & MASK:
                unexplained.append(bucket)
        return unexplained

    def parts_of(self, view: View, partition: int, bucket: int, point: Fold) -> list[Part]:
        """Return what the sketch of a bucket is made of, from the aggregates' histories."""
        bits = point.views[view.model].digest.bits
        parts = []
        for key in self._history.aggregates(bucket, bits):
            if key[0] in view.fields and self._partition_of(*key) == partition:
                # Of buckets full of aggregates nothing is kept: each is looked up once.
                events = self._history.history(key, point.store_position)
                present = _present(self._seen_of(view, historic) for historic in events)
                facts = present.values()
                hashed = aggregate_hash(*key)
                parts += [(hashed, lane) for lane, _ in facts]
        return parts

    def last_written(self, judgement: Judgement, partition: int) -> int | None:
        """Return the offset of the event that wrote what the first fault's fields had to be."""
        first = min(judgement.faults, key=attrgetter("offset"))
        if not first.wrote:
            return None
        for historic, _ in self._histories.get(judgement.key, ()):
            if historic.event.sequence == first.wrote:
                return self._offset_of(partition, historic.position)
        for historic in self._history.history(judgement.key):
            if historic.event.sequence == first.wrote:
                return self._offset_of(partition, historic.position)
        return None

    def _offset_of(self, partition: int, store_position: int) -> int | None:
        """Find the record of an event: without what is repeated, store positions rise.

        They rise about evenly, so every second place that is looked at is where it would then be,
        the others halve what is left. None where it is not known any more what is repeated.
        """
        low, high = (
            self._reference.repeats_known_from(partition),
            self._reference.position(partition),
        )
        below, above = 0, self._reference.current(partition).store_position + 1
        places = self._places.setdefault(partition, [])
        after = bisect_right(places, (store_position, high))
        if after and places[after - 1][0] == store_position:
            return places[after - 1][1]
        if after:
            below, low = places[after - 1][0], places[after - 1][1] + 1
        if after < len(places):
            above, high = places[after]
        is_guessed = True
        while low < high:
            middle = (low + high) // 2
            if is_guessed and below < store_position < above:
                middle = low + (high - low) * (store_position - below) // (above - below)
            is_guessed = not is_guessed
            place = partition, middle
            if place not in self._probes:
                self._probes[place] = self._reference.record_from(*place)
            record = self._probes[place]
            if record is None or record.offset >= high:
                high = middle
                continue
            stored = record.header("store-position")
            if stored is None or not stored.isdigit():
                return None
            found = int(stored)
            insort(places, (found, record.offset))
            if found == store_position:
                return record.offset
            if found < store_position:
                low, below = record.offset + 1, found
            else:
                high, above = middle, found
        return None

    def contradicting_record(
        self, view: View, partition: int, contradiction: Contradiction, position: int
    ) -> Culprit | None:
        """Name the first record that is not, or not like that, in its aggregate's history.

        One that was named before only where there is no other.
        """
        bits = contradiction.bits
        named: Culprit | None = None
        known: dict[AggregateKey, dict[str, Changes]] = {}
        for record, event in self._reference.events(partition, 0, position):
            key = (event.context_type, event.subject)
            if key[0] not in view.fields or self._bucket(key, bits) != contradiction.bucket:
                continue
            if key not in known:
                known[key] = {
                    str(historic.event.event_id): self._seen(view, historic.event)
                    for historic in self._history.history(key)
                }
            # Each event of the history is taken once: a second record of it contradicts.
            must, seen = known[key].pop(event.event_id, None), self._seen(view, event)
            if must == seen:
                continue
            altered = None if must is None else event
            producer = producer_of(record.value) or "?"
            culprit = Culprit(key, record.offset, event.event_id, producer, altered)
            followed = self._altered.get(event.event_id)
            if must is None or followed is None or self._seen(view, followed) != seen:
                return culprit
            named = named or culprit
        return named

    def follow_log(self, culprit: Culprit | None) -> bool:
        """Go by the log from now on, of an event that it has otherwise; say whether that is news.

        Replicas that do as the log says are not to be blamed for what somebody did to it, or to
        the history.
        """
        altered = None if culprit is None else culprit.altered
        if culprit is None or altered is None or self._altered.get(culprit.event_id) == altered:
            return False
        self._altered[culprit.event_id] = altered
        if len(self._altered) > MAXIMUM_ALTERED:
            self._altered.popitem(last=False)
        return True

    def _bucket(self, key: AggregateKey, bits: int) -> int:
        return aggregate_hash(*key) >> (64 - bits)

    def _expected(
        self, view: View, partition: int, since: int, position: int, published: int = 0
    ) -> list[Expected]:
        found = []
        for record, event in self._reference.events(partition, since, position, published):
            if event.context_type in view.fields and event.sequence is not None:
                key = (event.context_type, event.subject)
                mark = event_hash(event.event_id)
                found.append(Expected(record.offset, key, event.sequence, event.event_id, mark))
        return found

    def _name_strangers(
        self,
        view: View,
        partition: int,
        expected: Sequence[Expected],
        entries: Sequence[Entry],
        suspects: dict[AggregateKey, None],
    ) -> list[Entry]:
        """Find the aggregates of earlier events' entries; return entries of no event at all."""
        marks = {e.mark for e in expected}
        strangers = []
        for entry in entries:
            if entry.event in marks:
                continue
            earlier = self._expected(view, partition, entry.offset, entry.offset + 1)
            if earlier and earlier[0].mark == entry.event:
                suspects.setdefault(earlier[0].key)
            else:
                strangers.append(entry)
        return strangers

    @staticmethod
    def _suspects(
        expected: Sequence[Expected],
        entries: Sequence[Entry],
        mismatches: Sequence[Mismatch],
        complete: bool,
    ) -> dict[AggregateKey, None]:
        """Return the aggregates whose journal is not what it must be, in order of discovery."""
        suspects: dict[AggregateKey, None] = {}
        for mismatch in mismatches:
            suspects.setdefault((mismatch.context_type, mismatch.subject))
        if not complete:
            return suspects
        by_mark = {e.mark: e for e in expected}
        applied: dict[int, int] = {}
        for entry in entries:
            applied[entry.event] = applied.get(entry.event, 0) + 1
            event = by_mark.get(entry.event)
            if event is not None and (
                entry.prior != entry.sequence - 1 or applied[entry.event] > 1
            ):
                suspects.setdefault(event.key)
        for event in expected:
            if event.mark not in applied:
                suspects.setdefault(event.key)
        return suspects

    def _look_up(self, view: View, keys: Iterable[AggregateKey], until: int) -> None:
        """Read the events of aggregates together, as far as so many are kept."""
        missing = deque(
            key
            for key in dict.fromkeys(keys)
            if key not in self._histories and key[0] in view.fields
        )
        size = FIRST_HISTORIES
        while missing and self._kept_events < MAXIMUM_KEPT_EVENTS:
            together = [missing.popleft() for _ in range(min(size, len(missing)))]
            histories = self._history.histories(together, until)
            for key, history in histories.items():
                self._keep(view, key, history)
            is_short = sum(map(len, histories.values())) <= SHORT_HISTORY * len(together)
            size = min(2 * size, HISTORIES_AT_ONCE) if is_short else max(size // 2, 1)

    def _keep(
        self, view: View, key: AggregateKey, history: Sequence[HistoricEvent]
    ) -> Sequence[Seen]:
        known = [(historic, self._seen_of(view, historic)) for historic in history]
        if self._kept_events + len(known) <= MAXIMUM_KEPT_EVENTS:
            self._kept_events += len(known)
            self._histories[key] = known
        return known

    def _known(self, view: View, key: AggregateKey, until: int) -> Sequence[Seen]:
        """Return an aggregate's events up to the store position that this location is at."""
        known = self._histories.get(key)
        return self._keep(view, key, self._history.history(key, until)) if known is None else known

    def _true_facts(self, view: View, key: AggregateKey, point: Fold) -> dict[str, Lanes]:
        """Return field -> lanes of what an aggregate must hold."""
        return _present(seen for _, seen in self._known(view, key, point.store_position))

    def _versions(
        self, view: View, key: AggregateKey, until: int, offsets: Mapping[int, int]
    ) -> tuple[list[Version], list[int]]:
        if key[0] not in view.fields:
            return [], []  # Whatever its history, this view has nothing of it.
        versions, positions = [], []
        for historic, seen in self._known(view, key, until):
            event = historic.event
            event_id = str(event.event_id)
            mark = event_hash(event_id)
            versions.append(
                Version(
                    event.sequence or 0,
                    event_id,
                    mark,
                    event.correlation_id,
                    offsets.get(mark),
                    {name: current and lanes_hex(current) for name, _, current in seen},
                    {name: before and lanes_hex(before) for name, before, _ in seen},
                )
            )
            positions.append(historic.position)
        return versions, positions

    def _seen_of(self, view: View, historic: HistoricEvent) -> Changes:
        event_id = str(historic.event.event_id) if self._altered else ""
        return self._seen(view, self._altered.get(event_id, historic.event))

    def _seen(self, view: View, event: ContextEvent | WireEvent) -> Changes:
        """Return (field, previous, current) of what the view sees of an event."""
        wanted = view.fields.get(event.context_type)
        if wanted is None:
            return []
        targets = event.propagation_rules.target_models
        seen: Changes = []
        for name, update in event.context_delta.updates.items():
            if wanted and name not in wanted:
                continue
            old = update.previous_targets
            previous = update.previous if old is None or view.model in old else None
            current = update.current if targets is None or view.model in targets else None
            kind, subject = event.context_type, event.subject
            seen.append(
                (
                    name,
                    self._reference.lanes(kind, subject, name, previous),
                    self._reference.lanes(kind, subject, name, current),
                )
            )
        return seen


def _present(changes: Iterable[Changes]) -> dict[str, Lanes]:
    """Return field -> lanes of the facts that events leave behind."""
    present: dict[str, Lanes] = {}
    for seen in changes:
        for name, _, current in seen:
            present.pop(name, None)
            if current is not None:
                present[name] = current
    return present


def _facts_held(stored: StoredAggregate | None) -> dict[str, Lanes]:
    """Return field -> lanes of the facts that a replica shows."""
    if stored is None:
        return {}
    return {fact.field: lanes_from_hex(fact.hash) for fact in stored.facts if fact.hash}


def _hash_of(key: AggregateKey) -> tuple[int, AggregateKey]:
    return aggregate_hash(*key), key


def _minus(one: Lanes, other: Lanes) -> Lanes:
    return (one[0] - other[0]) & MASK, (one[1] - other[1]) & MASK


def _key_of(aggregate: StoredAggregate) -> AggregateKey:
    return (aggregate.context_type, aggregate.subject)


def _repair_before(
    waiting: deque[Repaired],
    applied: int,
    entries: Mapping[AggregateKey, Sequence[Entry]],
    repairs: dict[AggregateKey, list[tuple[int, Repaired]]],
) -> None:
    """Put repairs where they belong among the entries: before the event that was applied next."""
    while waiting and waiting[0].applied <= applied:
        repaired = waiting.popleft()
        key = _key_of(repaired.aggregate)
        repairs.setdefault(key, []).append((len(entries.get(key, ())), repaired))
