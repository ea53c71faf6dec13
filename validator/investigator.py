"""Follows a difference to its end: asks the replica, locates, concludes, corrects the reference.

The questions go out with the validator's next checkpoint; the answers come back as explanations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from synchroscope.digest import Digest, aggregate_hash, lanes_hex
from synchroscope.ports import AggregateKey, Log
from synchroscope.recorded import recorded_at
from synchroscope.replica import MAXIMUM_MISMATCHES
from synchroscope.report import Explanation, Note, Request
from synchroscope.sketch import Part, number_of, pack_numbers
from synchroscope.view import View
from validator.bundle import Scene
from validator.conclude import findings_of
from validator.contradiction import contradiction_finding
from validator.finding import Finding
from validator.folds import Fold
from validator.ledger import Ledger
from validator.left_out import admitted, doubtful, is_more_to_name
from validator.locate import Contradiction, Culprit, Located, Locator
from validator.pinpoint import MAXIMUM_BUCKETS, MAXIMUM_ROUNDS, WHOLE_FACTS, Pinpoint, Wish
from validator.reference import Reference
from validator.unlocated import lost, unlocated
from validator.watch import Held, Investigation, PartitionWatch, ReplicaWatch, compare

KEPT_BUCKETS = 32
KEPT_NUMBERS = 500
MAXIMUM_ALTERED_AT_ONCE = 16
"""Of so many events in a row it is learnt in one step that log and history differ."""
MAXIMUM_PASSED_RECORDS = 32
"""Records that are nearer to each other are read together, with those between them."""


class Conclusion(Struct, frozen=True):
    """An answer that is accounted for, what had to be there, and the buckets that differed."""

    answer: Explanation
    point: Fold
    differing: list[int]
    numbers: Collection[int] = ()
    """The aggregates that are shown beside those of whole buckets."""


def _state_of(table: bytes) -> str:
    if not table:
        return ""
    root = Digest.from_table(table).root()
    return lanes_hex((root.lane0, root.lane1))


def _always(finding: Finding) -> bool:
    return True


class Investigator:
    """Turns a difference that nothing accounts for into findings.

    Parameters
    ----------
    log: Where earlier findings are looked up.
    views: Model -> its view.
    reference, locator, ledger: What must be; who deviates; where findings go.
    bits: The digest's size.
    request_timeout_seconds: After this a question is put again, later each time.
    whole_facts: See `Pinpoint`.
    """

    def __init__(
        self,
        log: Log,
        views: Mapping[str, View],
        reference: Reference,
        locator: Locator,
        ledger: Ledger,
        bits: int,
        request_timeout_seconds: float,
        whole_facts: int = WHOLE_FACTS,
    ) -> None:
        self._log = log
        self._views = views
        self._reference = reference
        self._locator = locator
        self._ledger = ledger
        self._bits = bits
        self._request_timeout_seconds = request_timeout_seconds
        self._pinpoint = Pinpoint(reference, bits, whole_facts)
        self.requests: list[Request] = []
        self.requests_total = 0
        self.is_dirty = False

    def follow_up(
        self, watch: ReplicaWatch, number: int, part: PartitionWatch, now: float
    ) -> Conclusion | None:
        """Ask where there is news, ask again where no answer came, conclude where one did."""
        investigation = part.investigation
        if investigation is None:
            if part.news:
                # Where facts differ, more is asked for next, and only then the journal.
                self.ask(watch, number, part, [], False, now, has_journal=not part.differs)
            return None
        answer = investigation.answer
        if answer is None:
            wait = self._request_timeout_seconds * min(investigation.attempts, 5)
            if not 0 <= now - investigation.asked_at < wait:
                self.ask(
                    watch,
                    number,
                    part,
                    investigation.buckets,
                    investigation.scrub,
                    now,
                    investigation.attempts + 1,
                    investigation.request_id,
                    investigation.keep,
                    earlier=investigation,
                    has_journal=investigation.since <= part.settled,
                )
            return None
        if answer.note.position > self._reference.position(number):
            return None
        point = self._reference.at(number, answer.note.position)
        if point is None:
            investigation.answer, investigation.asked_at = None, now
            return None
        if point.unproven:
            part.investigation, part.news, part.news_at = None, False, None
            return None
        return self._evaluate(watch, number, part, investigation, answer, point, now)

    def ask(
        self,
        watch: ReplicaWatch,
        number: int,
        part: PartitionWatch,
        buckets: list[int],
        scrub: bool,
        now: float,
        attempts: int = 1,
        request_id: str = "",
        keep: Sequence[int] = (),
        *,
        kept_numbers: Sequence[int] = (),
        earlier: Investigation | None = None,
        wish: Wish | None = None,
        has_journal: bool = True,
    ) -> None:
        """Put a question to a replica: everything since the settled position, and these buckets.

        Without the journal, nothing can be concluded of the answer, and another question follows.

        Put again it keeps its ID, so that a slow answer to the first time counts as well. The
        buckets and aggregates to keep are shown whether they differ or not. What was found out by
        an `earlier` question is not lost, and the `wish` is asked for beside the buckets.
        """
        buckets = sorted({*buckets, *keep}) if keep else buckets
        self.requests_total += 1
        request_id = request_id or f"{self.requests_total}-{watch.incarnation}"
        since = part.settled if has_journal else max(part.settled, self._reference.position(number))
        asked = Investigation(request_id, since, buckets, scrub, now, attempts, keep=list(keep))
        before = part.investigation
        if before is not None:
            asked.table = before.table if before.answer is None else before.answer.table
        if earlier is None:
            asked.kept_numbers = asked.numbers = list(kept_numbers)
        else:
            asked.kept_numbers, asked.rounds = earlier.kept_numbers, earlier.rounds
            asked.named, asked.tries = earlier.named, earlier.tries
            asked.sketched, asked.numbers = earlier.sketched, earlier.numbers
        if wish is not None:
            asked.sketched, asked.rounds = wish.sketches, asked.rounds + 1
            asked.numbers = list(dict.fromkeys([*wish.numbers, *asked.kept_numbers]))
        part.investigation = asked
        self.requests.append(
            Request(
                request_id,
                watch.name,
                number,
                since,
                buckets,
                scrub,
                asked.sketched,
                pack_numbers(asked.numbers, self._bits),
                _state_of(asked.table),
                compact=True,
            )
        )

    def ask_about(
        self,
        watch: ReplicaWatch,
        number: int,
        part: PartitionWatch,
        keys: Sequence[AggregateKey],
        now: float,
    ) -> None:
        """Put a question whose answer shows these aggregates, or the first of them."""
        hashes = [aggregate_hash(*key) for key in keys]
        if self._pinpoint.is_plain(watch.name):
            buckets = dict.fromkeys(hashed >> (64 - self._bits) for hashed in hashes)
            kept = list(buckets)[:KEPT_BUCKETS]
            self.ask(watch, number, part, [], False, now, keep=kept)
            return
        numbers = dict.fromkeys(number_of(hashed, self._bits) for hashed in hashes)
        kept_numbers = list(numbers)[:KEPT_NUMBERS]
        self.ask(watch, number, part, [], False, now, kept_numbers=kept_numbers)

    def _evaluate(
        self,
        watch: ReplicaWatch,
        number: int,
        part: PartitionWatch,
        investigation: Investigation,
        answer: Explanation,
        point: Fold,
        now: float,
    ) -> Conclusion | None:
        if self._pinpoint.is_answered_plainly(investigation, answer):
            part.investigation, part.news = None, True
            return None
        table = Digest.from_table(answer.table)
        bad = point.views[watch.model].digest.differing(table)
        is_plain = self._pinpoint.is_plain(watch.name)
        if not is_plain and self._pinpoint.is_wanted(investigation, bad, table):
            return self._pin_down(watch, part, investigation, answer, point, bad, now)
        asked = self._next_buckets(watch, number, bad)
        if not set(investigation.buckets) <= set(answer.buckets):
            # Not what was asked for: no answer, and no reason to ask again at once.
            investigation.answer, investigation.asked_at = None, now
            return None
        if not set(asked) <= set(answer.buckets):
            self.ask(
                watch,
                number,
                part,
                asked,
                False,
                now,
                keep=investigation.keep,
                kept_numbers=investigation.kept_numbers,
            )
            if answer.scrubbed:
                part.scrubbed_position = answer.note.position
            return None
        return self._conclude(watch, part, investigation, answer, point, bad, now)

    def _pin_down(
        self,
        watch: ReplicaWatch,
        part: PartitionWatch,
        investigation: Investigation,
        answer: Explanation,
        point: Fold,
        bad: list[int],
        now: float,
    ) -> Conclusion | None:
        """Go on by sketches, until all that differs is shown."""
        view, number = self._views[watch.model], answer.note.partition

        def parts_of(bucket: int) -> list[Part]:
            return self._locator.parts_of(view, number, bucket, point)

        if not self._pinpoint.take(watch.model, investigation, answer, point, parts_of):
            return None
        wish = self._pinpoint.wish(investigation, bad, Digest.from_table(answer.table))
        is_shown = set(wish.numbers) <= set(investigation.numbers) and (
            answer.named or not investigation.numbers
        )
        is_known = not wish.sketches and is_shown and set(wish.buckets) <= set(answer.buckets)
        if is_known or investigation.rounds >= MAXIMUM_ROUNDS:
            return self._conclude(watch, part, investigation, answer, point, bad, now)
        if answer.scrubbed:
            part.scrubbed_position = answer.note.position
        self.ask(
            watch,
            number,
            part,
            wish.buckets,
            False,
            now,
            keep=investigation.keep,
            earlier=investigation,
            wish=wish,
            has_journal=not wish.sketches,
        )
        return None

    def _conclude(
        self,
        watch: ReplicaWatch,
        part: PartitionWatch,
        investigation: Investigation,
        answer: Explanation,
        point: Fold,
        bad: list[int],
        now: float,
    ) -> Conclusion | None:
        note, view = answer.note, self._views[watch.model]
        if investigation.since > part.settled:
            self.ask(
                watch,
                note.partition,
                part,
                investigation.buckets,
                False,
                now,
                keep=investigation.keep,
                earlier=investigation,
                wish=Wish([], investigation.numbers, investigation.buckets),
            )
            return None
        known = part.known.repaired
        answer = replace(answer, repairs=[r for r in answer.repairs if r.serial > known])
        whole = set(answer.buckets)
        numbers = set(investigation.numbers) if answer.named else set()
        named = {
            bucket: investigation.named[bucket]
            for bucket in bad
            if bucket not in whole
            and bucket in investigation.named
            and numbers.issuperset(investigation.named[bucket])
        }
        locate = partial(
            self._locator.locate,
            view,
            answer,
            part.settled,
            part.settled_store_position,
            part.held,
            point,
            [bucket for bucket in bad if bucket in whole],
            named,
            numbers,
        )
        located = locate()
        contradicted = self._contradicted(view, note, located)
        for _ in range(MAXIMUM_ALTERED_AT_ONCE):
            followed = [one for one in contradicted if self._locator.follow_log(one[1])]
            if not followed:
                break
            self._open_contradictions(view, note, followed, now)
            located = locate()
            contradicted = self._contradicted(view, note, located)
        if located.unexplained and investigation.rounds < MAXIMUM_ROUNDS:
            for bucket in located.unexplained:
                del investigation.named[bucket]
                investigation.tries[bucket] = investigation.tries.get(bucket, 0) + 1
            return self._pin_down(watch, part, investigation, answer, point, bad, now)
        if located.contradictions:
            point = self._correct(view, note, point, located.contradictions)
            self._open_contradictions(view, note, contradicted, now)
        delta = compare(point.views[watch.model], note)
        is_seen = any(judgement.has_other_facts for judgement in located.judgements) or any(
            part.held[key].has_other_facts for key in located.unchanged
        )
        if delta.holds_the_same_facts == is_seen and not investigation.scrub:
            # The digest and what is stored tell different tales: have it summed from storage.
            self.ask(watch, note.partition, part, answer.buckets, True, now)
            return None
        if delta.holds_the_same_facts == is_seen and not answer.scrubbed:
            investigation.answer, investigation.asked_at, part.news = None, now, True
            return None
        located, left_out = admitted(located, part.held)
        scene = self._scene(watch, part, answer, located, now)
        known_findings = self._ledger.open_findings(watch.name, note.partition)
        findings = findings_of(scene, located, known_findings)
        for finding in findings:
            self._ledger.tell(finding, self._log)
        is_late = any(judgement.late for judgement in located.judgements)
        is_lost = delta.applied > part.known.applied
        if is_lost and not (findings or is_late or located.journal_complete):
            self._ledger.tell(lost(watch, part, note, delta, known_findings, now), self._log)
        is_cut = len(answer.mismatches) >= MAXIMUM_MISMATCHES
        unseen = set(bad) - whole - (named.keys() - set(located.unexplained))

        def is_shown(keys: Sequence[AggregateKey]) -> bool:
            buckets = {aggregate_hash(*key) >> (64 - self._bits) for key in keys}
            return not buckets & unseen

        deviating = self._remember(watch, part, located, point, delta.holds_the_same_facts)
        deviating |= left_out
        part.known = delta
        part.settled, part.settled_store_position = note.position, point.store_position
        part.news, part.news_at = False, None
        part.investigation = None
        if note.position >= part.compared_position:
            # A report that differed at this very position is refuted by the next report only.
            is_open = part.differs and note.position == part.compared_position
            part.differs = is_open or not delta.holds_the_same_facts
            part.compared_position, part.compared_at = note.position, now
        self.is_dirty = True
        if answer.scrubbed:
            part.scrubbed_position = note.position
        part.left_out = max(part.left_out, len(left_out))
        if delta.holds_the_same_facts:
            part.agreed_position, part.left_out = note.position, 0
            self._ledger.resolve(watch.name, note.partition, note.position, now, _always)
        else:
            self._ledger.resolve(
                watch.name,
                note.partition,
                note.position,
                now,
                lambda f: bool(f.keys) and not deviating & set(f.keys) and is_shown(f.keys),
            )
            self._ledger.narrow(
                watch.name,
                note.partition,
                lambda key: key in deviating or not is_shown([key]),
            )
            has_agreed_since = (part.agreed_position or 0) > note.position
            is_covered = bool(self._ledger.open_findings(watch.name, note.partition))
            is_wide = len(bad) > MAXIMUM_BUCKETS and not named
            is_bulk = bool(left_out) or is_cut or is_wide
            if is_bulk or not (is_covered or has_agreed_since):
                self._open_unlocated(watch, part, note, bad, now)
            rest = self._next_buckets(watch, note.partition, bad)
            if unseen.intersection(rest) or is_more_to_name(located, part.held):
                part.news, part.news_at = True, now  # There are more: go on with the next ones.
        return Conclusion(answer, point, bad, numbers)

    def _next_buckets(self, watch: ReplicaWatch, number: int, bad: Sequence[int]) -> list[int]:
        """Return the differing buckets to look into: first those of no open finding."""
        covered = {
            aggregate_hash(*key) >> (64 - self._bits)
            for finding in self._ledger.open_findings(watch.name, number)
            for key in finding.keys
        }
        fresh = [bucket for bucket in bad if bucket not in covered]
        return (fresh + [b for b in bad if b in covered])[:MAXIMUM_BUCKETS]

    def _remember(
        self,
        watch: ReplicaWatch,
        part: PartitionWatch,
        located: Located,
        point: Fold,
        is_refuted: bool,
    ) -> set[tuple[str, str]]:
        """Keep how deviating aggregates are held; return those whose facts differ.

        Where the digest agrees, a prediction that facts differ is refuted and not kept.
        """
        deviating = {key for key in located.unchanged if part.held[key].has_other_facts}
        for judgement in located.judgements:
            part.ordering_violations += len(judgement.late)
            part.held.pop(judgement.key, None)
            if judgement.has_other_facts:
                deviating.add(judgement.key)
                if is_refuted:
                    continue
            if judgement.deviates:
                has_other_facts = judgement.has_other_facts
                held = Held(judgement.actual, point.store_position, has_other_facts)
                part.held[judgement.key] = held
        return deviating

    def _scene(
        self,
        watch: ReplicaWatch,
        part: PartitionWatch,
        answer: Explanation,
        located: Located,
        now: float,
    ) -> Scene:
        number = answer.note.partition
        values: dict[tuple[tuple[str, str], str], Any] = {}
        view = self._views[watch.model]
        for aggregate in answer.aggregates:
            for fact in aggregate.facts:
                if view.is_public(aggregate.context_type, fact.field):
                    key = (aggregate.context_type, aggregate.subject)
                    values[key, fact.field] = fact.value
        written: dict[tuple[str, str], int] = {}
        offsets: set[int] = set()
        for judgement in located.judgements:
            offsets.update(v.offset for v in judgement.missed if v.offset is not None)
            offsets.update(fault.offset for fault in judgement.faults)
            if judgement.faults:
                last = self._locator.last_written(judgement, number)
                if last is not None:
                    written[judgement.key] = last + 1
        self._locator.forget()
        recorded = self._recorded_at(number, sorted(offsets))
        return Scene(
            watch.name,
            number,
            answer.note.position,
            part.agreed_position,
            now,
            part.news_at,
            values,
            written,
            recorded,
            doubtful(located, part),
        )

    def _recorded_at(self, number: int, offsets: Sequence[int]) -> dict[int, float]:
        """Return when the events at some offsets, in order, were accepted; in few reads."""
        recorded: dict[int, float] = {}
        first = 0
        for place, offset in enumerate(offsets):
            is_last = place + 1 == len(offsets)
            if not is_last and offsets[place + 1] - offset <= MAXIMUM_PASSED_RECORDS:
                continue
            wanted = set(offsets[first : place + 1])
            for record in self._reference.records(number, offsets[first], offset + 1):
                if record.offset in wanted:
                    found = recorded_at(record)
                    recorded[record.offset] = record.timestamp if found is None else found
            first = place + 1
        return recorded

    def _open_unlocated(
        self,
        watch: ReplicaWatch,
        part: PartitionWatch,
        note: Note,
        bad: Sequence[int],
        now: float,
    ) -> None:
        finding = unlocated(watch, part, note, len(bad) / (1 << self._bits), bad, now)
        known = self._ledger.open_findings(watch.name, note.partition)
        # It stays open until the whole partition agrees: a second one would say nothing more.
        same = [other for other in known if other.kind == finding.kind]
        if not same:
            self._ledger.open(finding, self._log)
        elif same[0].evidence.get("left_out", 0) < part.left_out:
            self._ledger.mark(replace(same[0], evidence={**same[0].evidence, **finding.evidence}))

    def _contradicted(
        self, view: View, note: Note, located: Located
    ) -> list[tuple[Contradiction, Culprit | None]]:
        """Return the contradictions, each with the record that brought it, where that is known."""
        search = partial(self._locator.contradicting_record, view, note.partition)
        return [(found, search(found, note.position)) for found in located.contradictions]

    def _open_contradictions(
        self,
        view: View,
        note: Note,
        contradicted: Iterable[tuple[Contradiction, Culprit | None]],
        now: float,
    ) -> None:
        for contradiction, culprit in contradicted:
            found = contradiction_finding(view.model, note, contradiction, culprit, now)
            self._ledger.open(found, self._log)

    def _correct(
        self, view: View, note: Note, point: Fold, contradictions: Iterable[Contradiction]
    ) -> Fold:
        """Rebase the reference where a record contradicts its own aggregate's history."""
        point = point.copy()
        for contradiction in contradictions:
            bucket = contradiction.bucket
            self._reference.rebase(note.partition, view.model, bucket, contradiction.facts, point)
            point.views[view.model].digest.replace(bucket, contradiction.facts)
        return point
