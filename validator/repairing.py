"""Follows a repair that was ordered to its proof: shows, says what must be, looks again.

A repair is worked out of an answer that was just concluded: everything that the replica did and
held up to that position is accounted for then, so nothing can be mended unseen. What the replica
did about it stands in its journal and comes back with the next answer; no message has to arrive
for that, and one that comes late or twice does no harm. How far a repair is stands in the finding
itself, so another validator goes on with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from synchroscope.digest import Hasher
from synchroscope.ports import AggregateKey
from synchroscope.report import AggregateRepair, Explanation, Repair, RepairOrder
from synchroscope.view import View
from validator.finding import Finding, timestamp
from validator.histories import History, PartitionOf
from validator.investigator import Conclusion, Investigator
from validator.ledger import Ledger
from validator.reference import Reference
from validator.repair_plan import (
    Deviation,
    aggregate_repair,
    candidates,
    deviations,
    lack_of_authority,
    refusal,
)
from validator.watch import PartitionWatch, ReplicaWatch

AGGREGATES_PER_MESSAGE = 100
AGGREGATES_PER_SECOND = 500.0
BYTES_PER_MESSAGE = 262_144
MAXIMUM_ATTEMPTS = 8
"""After so many messages about one aggregate that still deviates the repair has failed."""
FARTHEST_SECONDS = 60.0
"""What is due later than this was set by a clock that was set back since."""
Place = tuple[str, int]


class RepairLimits(Struct, frozen=True):
    """How hard a replica may be worked by repairs, for each of its partitions."""

    aggregates_per_message: int = AGGREGATES_PER_MESSAGE
    aggregates_per_second: float = AGGREGATES_PER_SECOND


class _Work:
    """What is done in one partition of one replica; forgotten with the validator, and done anew."""

    def __init__(self) -> None:
        self.asks_at = 0.0
        self.sends_at = 0.0
        self.times: Counter[AggregateKey] = Counter()
        self.told_at: dict[AggregateKey, float] = {}


class Repairer:
    """Carries out repairs that were ordered.

    Parameters
    ----------
    views, reference, history, partition_of: What must be, and who says so.
    ledger: Where findings are kept; one in state repairing is what is to be done.
    investigator: Puts the questions.
    hasher, bits: The digest's algorithm and size.
    limits: How much at once.
    retry_seconds: After this it is looked again whether a repair took effect; later each time.
    """

    def __init__(
        self,
        views: Mapping[str, View],
        reference: Reference,
        history: History,
        partition_of: PartitionOf,
        ledger: Ledger,
        investigator: Investigator,
        hasher: Hasher,
        bits: int,
        limits: RepairLimits,
        retry_seconds: float,
    ) -> None:
        self._views = views
        self._reference = reference
        self._history = history
        self._partition_of = partition_of
        self._ledger = ledger
        self._investigator = investigator
        self._hasher = hasher
        self._bits = bits
        self._limits = limits
        self._retry_seconds = retry_seconds
        self._works: dict[Place, _Work] = {}
        self.messages: list[Repair] = []

    def order(self, order: RepairOrder, now: float) -> None:
        """Take an order, or say in the finding why not; one that is known already is passed."""
        finding = self._ledger.get(order.finding)
        if finding is None or finding.state == "repairing":
            return
        earlier = finding.evidence.get("repair", {})
        if earlier.get("request_id") == order.request_id:
            return
        work = {
            "request_id": order.request_id,
            "requested_at": timestamp(now),
            "force": order.force,
            "attempts": 0,
            "aggregates": 0,
        }
        reason = refusal(finding, force=order.force)
        if not reason and finding.partition in self._reference.partitions:
            reason = self._unproven(finding.partition)
        if reason:
            self._ledger.mark(_with(finding, "open", {**work, "refused": reason}))
            return
        self._ledger.mark(_with(finding, "repairing", work))

    def follow_up(
        self,
        watch: ReplicaWatch,
        number: int,
        part: PartitionWatch,
        concluded: Conclusion | None,
        now: float,
    ) -> None:
        """Go on with what is to be repaired in one partition of one replica."""
        wanted = [
            finding
            for finding in self._ledger.open_findings(watch.name, number)
            if finding.state == "repairing"
        ]
        place = (watch.name, number)
        if not wanted:
            self._works.pop(place, None)
            return
        work = self._works.setdefault(place, _Work())
        if concluded is not None:
            self._mend(watch, work, concluded, wanted, now)
            return
        if part.investigation is not None or part.news or watch.refused or not watch.incarnation:
            return
        if _is_ahead(work.asks_at, now):
            return
        if reason := self._unproven(number):
            for finding in wanted:
                self._give_up(finding, "refused", reason)
            return
        work.asks_at = now + self._retry_seconds
        keys = sorted(
            (key for finding in wanted for key in finding.keys), key=work.times.__getitem__
        )
        self._investigator.ask_about(watch, number, part, keys, now)

    def _unproven(self, number: int) -> str:
        flaw = self._reference.current(number).unproven
        if not flaw:
            return ""
        return f"what the keys must be is UNKNOWN, the reference is not proven: {flaw}"

    def _mend(
        self,
        watch: ReplicaWatch,
        work: _Work,
        concluded: Conclusion,
        wanted: Sequence[Finding],
        now: float,
    ) -> None:
        found: dict[AggregateKey, Deviation] = {}
        owners: dict[AggregateKey, Finding] = {}
        for finding in wanted:
            for deviation in self._deviations(watch, work, concluded, finding):
                told_at = work.told_at.get(deviation.key, -FARTHEST_SECONDS)
                pause = self._retry_seconds * min(work.times[deviation.key], 5)
                if _is_ahead(told_at + pause, now):
                    continue  # It was told just now, and may not have done it yet.
                found.setdefault(deviation.key, deviation)
                owners.setdefault(deviation.key, finding)
        if not found or _is_ahead(work.sends_at, now):
            return
        keys = sorted(found, key=work.times.__getitem__)
        message = self._message(watch, concluded.answer, [found[key] for key in keys])
        self.messages.append(message)
        told = [(one.context_type, one.subject) for one in message.aggregates]
        work.times.update(told)
        work.told_at.update(dict.fromkeys(told, now))
        work.sends_at = now + len(told) / self._limits.aggregates_per_second
        work.asks_at = now + self._retry_seconds
        for finding in {owners[key].id: owners[key] for key in told}.values():
            self._note(finding, sum(owners[key] is finding for key in told), concluded.answer)

    def _deviations(
        self, watch: ReplicaWatch, work: _Work, concluded: Conclusion, finding: Finding
    ) -> list[Deviation]:
        """Return what is to be mended of a finding; none where that has come to its end."""
        view, answer = self._views[watch.model], concluded.answer
        keys = candidates(
            finding,
            answer,
            view,
            self._history,
            self._partition_of,
            self._bits,
            set(concluded.differing),
            concluded.numbers,
        )
        store_position = concluded.point.store_position
        found = deviations(keys, answer, view, self._history, store_position, self._hasher)
        reason = lack_of_authority(
            [one.key for one in found], watch.model, self._bits, self._ledger.open_findings()
        )
        if reason:
            self._give_up(finding, "refused", reason)
            return []
        stubborn = [one.key for one in found if work.times[one.key] >= MAXIMUM_ATTEMPTS]
        if stubborn:
            reason = (
                f"{len(stubborn)} aggregates still deviated at {answer.note.position} after "
                f"{MAXIMUM_ATTEMPTS} repairs: something goes on harming them"
            )
            self._give_up(finding, "failed", reason)
            for key in stubborn:
                del work.times[key]
            return []
        return found

    def _message(
        self, watch: ReplicaWatch, answer: Explanation, found: Sequence[Deviation]
    ) -> Repair:
        aggregates: list[AggregateRepair] = []
        size = 0
        for deviation in found[: self._limits.aggregates_per_message]:
            one = aggregate_repair(deviation)
            size += len(msgspec.json.encode(one))
            if aggregates and size > BYTES_PER_MESSAGE:
                break
            aggregates.append(one)
        note = answer.note
        return Repair(
            repair_id=f"{note.partition}:{note.position}:{note.repaired}",
            replica=watch.name,
            incarnation=answer.incarnation,
            view_hash=self._views[watch.model].hash(),
            partition=note.partition,
            position=note.position,
            accounted=note.repaired,
            aggregates=aggregates,
        )

    def _note(self, finding: Finding, count: int, answer: Explanation) -> None:
        work = finding.evidence["repair"]
        more = {
            "attempts": work["attempts"] + 1,
            "aggregates": work["aggregates"] + count,
            "position": answer.note.position,
        }
        self._ledger.mark(_with(finding, "repairing", {**work, **more}))

    def _give_up(self, finding: Finding, how: str, reason: str) -> None:
        self._ledger.mark(_with(finding, "open", {**finding.evidence["repair"], how: reason}))


def _with(finding: Finding, state: Any, work: Mapping[str, Any]) -> Finding:
    evidence = {**finding.evidence, "repair": dict(work)}
    return replace(finding, state=state, evidence=evidence)


def _is_ahead(moment: float, now: float) -> bool:
    return now < moment <= now + FARTHEST_SECONDS
