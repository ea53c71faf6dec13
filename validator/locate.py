"""From a replica's explanation to the aggregates that deviate: gathers what `judge` needs.

What a suspect aggregate ought to be comes from its own events in the store, up to the very event
that stands last before the position; nothing is read of aggregates that nothing points at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

from msgspec import Struct

from synchroscope.digest import (
    MASK,
    Digest,
    Lanes,
    aggregate_hash,
    event_hash,
    lanes_from_hex,
    sum_lanes,
)
from synchroscope.event import WireEvent
from synchroscope.ports import AggregateKey
from synchroscope.report import Entry, Explanation, Mismatch, Repaired, StoredAggregate
from synchroscope.sketch import BELOW_BUCKET_BITS, Part
from synchroscope.view import View
from validator.event_offsets import EventOffsets
from validator.folds import Fold
from validator.histories import Changes, Histories, History, PartitionOf, present
from validator.judgement import Case, Judgement, judge
from validator.reference import Reference
from validator.refused import producer_of
from validator.shown import Shown
from validator.watch import Held, compare

MAXIMUM_SUSPECTS = 10_000
"""So many aggregates that were not known to deviate are judged at once."""


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
        self._histories = Histories(history, reference.lanes)
        self._offsets = EventOffsets(reference)
        self._partition_of = partition_of

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
            self._histories.look_up(view, keys, point.store_position)
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
        self._histories.look_up(view, keys_judged, point.store_position)
        versions_of = {
            key: self._histories.versions(view, key, point.store_position, offsets.get(key, {}))
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
        self._offsets.forget()
        self._histories.forget()

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
        self._histories.look_up(view, mine, point.store_position)
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
                left = present(self._histories.seen_of(view, historic) for historic in events)
                facts = left.values()
                hashed = aggregate_hash(*key)
                parts += [(hashed, lane) for lane, _ in facts]
        return parts

    def last_written(self, judgement: Judgement, partition: int) -> int | None:
        """Return the offset of the event that wrote what the first fault's fields had to be."""
        first = min(judgement.faults, key=attrgetter("offset"))
        if not first.wrote:
            return None
        position = self._histories.position_of(judgement.key, first.wrote)
        return None if position is None else self._offsets.offset_of(partition, position)

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
                    str(historic.event.event_id): self._histories.seen(view, historic.event)
                    for historic in self._history.history(key)
                }
            # Each event of the history is taken once: a second record of it contradicts.
            must, seen = known[key].pop(event.event_id, None), self._histories.seen(view, event)
            if must == seen:
                continue
            altered = None if must is None else event
            producer = producer_of(record.value) or "?"
            culprit = Culprit(key, record.offset, event.event_id, producer, altered)
            followed = self._histories.altered(event.event_id)
            if must is None or followed is None or self._histories.seen(view, followed) != seen:
                return culprit
            named = named or culprit
        return named

    def follow_log(self, culprit: Culprit | None) -> bool:
        """Go by the log from now on, of an event that it has otherwise; say whether that is news.

        Replicas that do as the log says are not to be blamed for what somebody did to it, or to
        the history.
        """
        altered = None if culprit is None else culprit.altered
        return altered is not None and self._histories.follow(altered)

    def _true_facts(self, view: View, key: AggregateKey, point: Fold) -> dict[str, Lanes]:
        return self._histories.true_facts(view, key, point.store_position)

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
