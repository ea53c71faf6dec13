"""The validator's role: reads reports and events, compares, asks, concludes, publishes.

One step, in this order:

1. Read reports and answers; remember the positions at which they need the reference.
2. Fold events forward, keeping a point at each such position.
3. Compare every note whose position the fold has reached; a difference that is not accounted for
   starts an investigation.
4. Conclude investigations that are answered; ask again where no answer came.
5. Publish findings and requests together with the checkpoint, in one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from synchroscope.blocked import Blocked
from synchroscope.digest import DEFAULT_BITS, Hasher
from synchroscope.errors import FencedError
from synchroscope.foreign import decoded
from synchroscope.ports import EVENTS, REPORTS, REQUESTS, STATE, Log, NewRecord, Progress
from synchroscope.report import (
    Check,
    Explanation,
    Note,
    Repair,
    RepairOrder,
    Report,
    Request,
    decode_message,
    encode_message,
)
from synchroscope.view import View
from validator.finding import Finding
from validator.folds import Fold, StoredFold
from validator.histories import History, PartitionOf
from validator.investigator import Investigator
from validator.ledger import Ledger
from validator.locate import Locator
from validator.pages import paged, stored
from validator.pinpoint import WHOLE_FACTS
from validator.proofs import Proofs
from validator.reference import REPEAT_WINDOW, Reference
from validator.refused_finding import RefusedFindings
from validator.repairing import Repairer, RepairLimits
from validator.repeats import Store
from validator.soundness import Heads, flaw_of_explanation, flaw_of_report
from validator.standing import Standing, consumer_of, encode_standing, standing_key
from validator.status import ReplicaStatus, status_of
from validator.watch import (
    MAXIMUM_WAITING,
    NEVER_SCRUBBED,
    Judged,
    PartitionWatch,
    ReplicaWatch,
    Verdict,
    compare,
    judge_replica,
    refuse_reason,
)

REPORTS_PER_STEP = 500
DEFAULT_REPAIR_LIMITS = RepairLimits()


class ExpectedReplica(Struct, frozen=True):
    """A replica that must report: its name and its view's model."""

    name: str
    model: str


class Checkpoint(Struct, array_like=True):
    """The validator's state: of constant size, and of what deviates within its bounds."""

    reports: int
    folds: dict[int, StoredFold]
    watches: list[ReplicaWatch]
    open: list[Finding]
    opened_total: dict[str, int]
    resolved_total: dict[str, int]
    checks: dict[str, int]
    requests: int


_decode_checkpoint = msgspec.msgpack.Decoder(Checkpoint).decode


class Validator:
    """Proves replicas consistent, or names what is not.

    Parameters
    ----------
    log: Events, reports, requests, findings and the checkpoint all live here.
    views, replicas: What must be; a replica that never reports is UNKNOWN.
    history: The authority for what a suspect aggregate ought to be.
    partition_of: (context type, subject) -> partition, as the relay has it.
    evidence_limit_seconds: Age from which evidence no longer counts.
    request_timeout_seconds: After this a question is put again.
    fold_records: Most events folded of one partition in one step.
    checkpoint_interval_seconds: Most time between checkpoints while there is nothing to publish.
    repeat_window: How many event IDs of a partition are remembered (see `Reference`).
    partitions: Which partitions to validate; default: all. Others are passed over in silence, so
        several validators can divide a log.
    worker: Name of the process; if given, each checkpoint publishes how things stand, so that a
        board can tell who validates what.
    repair_limits: How much is repaired at once.
    store: The event store, which tells made-up store positions; default: they are believed.
    whole_facts: Buckets that differ and hold more facts than that together are looked into by
        sketches; the others are shown whole, which takes a question less.
    """

    def __init__(
        self,
        log: Log,
        views: Sequence[View],
        replicas: Sequence[ExpectedReplica],
        history: History,
        partition_of: PartitionOf,
        *,
        bits: int = DEFAULT_BITS,
        hasher: Hasher | None = None,
        marker_interval: int = 1_024,
        evidence_limit_seconds: float = 30.0,
        request_timeout_seconds: float = 2.0,
        fold_records: int = 2_048,
        checkpoint_interval_seconds: float = 0.5,
        repeat_window: int = REPEAT_WINDOW,
        partitions: Sequence[int] | None = None,
        worker: str = "",
        repair_limits: RepairLimits = DEFAULT_REPAIR_LIMITS,
        whole_facts: int = WHOLE_FACTS,
        store: Store | None = None,
    ) -> None:
        self._log = log
        self._worker = worker
        self._consumer = consumer_of(partitions)
        self._heads = Heads(log)
        self._views = {view.model: view for view in views}
        self._hasher = hasher or Hasher()
        self._bits = bits
        self._evidence_limit_seconds = evidence_limit_seconds
        self._fold_records = fold_records
        self._checkpoint_interval_seconds = checkpoint_interval_seconds
        self.reference = Reference(
            log,
            views,
            bits=bits,
            hasher=self._hasher,
            marker_interval=marker_interval,
            partitions=partitions,
            repeat_window=repeat_window,
            store=store,
        )
        self._watches = {r.name: ReplicaWatch(r.name, r.model) for r in replicas}
        self._ledger = Ledger()
        self._refused = RefusedFindings(self._ledger, log)
        self._investigator = Investigator(
            log,
            self._views,
            self.reference,
            Locator(self.reference, history, partition_of),
            self._ledger,
            bits,
            request_timeout_seconds,
            whole_facts,
        )
        self._repairer = Repairer(
            self._views,
            self.reference,
            history,
            partition_of,
            self._ledger,
            self._investigator,
            self._hasher,
            bits,
            repair_limits,
            request_timeout_seconds,
        )
        self._reports_position = 0
        self._requests_position = log.head(REQUESTS, 0)
        self._proofs = Proofs()
        #: What of the log cannot be read on.
        self.blocked = Blocked()
        self.checks = {"match": 0, "mismatch": 0, "unknown": 0}
        self._checkpoint_at: float | None = None
        self._dirty = False
        self._restore()

    # -- the step ----------------------------------------------------------------------------

    def step(self, now: float) -> Progress:
        """Do one bounded round of work."""
        consumed = self._read_reports(now)
        self._read_checks(now)
        for partition in self.reference.partitions:
            if not self.blocked.is_due(partition):
                continue
            wanted = self._wanted(partition)
            with self.blocked.noting(partition):
                consumed += self.reference.advance(partition, self._fold_records, wanted)
        self._refused.open(self.reference.drain_refused(), now)
        for watch in self._watches.values():
            for number, part in watch.partitions.items():
                self._compare_waiting(watch, part, now)
                concluded = self._investigator.follow_up(watch, number, part, now)
                self._repairer.follow_up(watch, number, part, concluded, now)
        self._refused.close(self._watches.values(), now)
        self._prove(now)
        self._publish(now, consumed > 0)
        return Progress(consumed)

    def _read_reports(self, now: float) -> int:
        batch = self._log.read(REPORTS, 0, self._reports_position, REPORTS_PER_STEP)
        for record in batch.records:
            message = decode_message(record.value)
            if isinstance(message, Report):
                self._take_report(message, now)
            elif isinstance(message, Explanation):
                self._take_explanation(message)
        self._reports_position = batch.position
        return len(batch.records)

    def _read_checks(self, now: float) -> None:
        batch = self._log.read(REQUESTS, 0, self._requests_position, REPORTS_PER_STEP)
        self._requests_position = batch.position
        for record in batch.records:
            message = decode_message(record.value)
            if isinstance(message, Check):
                self._proofs.ask(message.request_id)
            elif isinstance(message, RepairOrder):
                self._repairer.order(message, now)

    def _prove(self, now: float) -> None:
        """Have every replica sum its storage for those who asked, however lately it did so."""
        parts = [part for watch in self._watches.values() for part in watch.partitions.values()]
        is_summed = all(part.scrubbed_position != NEVER_SCRUBBED for part in parts)
        if self._proofs.is_running and is_summed and self.is_settled():
            self._proofs.end()
            self._dirty = True
        may_begin = not self._proofs.is_running or is_summed
        if self._proofs.is_wanted and may_begin and self._is_at_head():
            self._proofs.begin()
            for part in parts:
                part.scrubbed_position = NEVER_SCRUBBED
        if self._proofs.is_running:
            self._sum_storage(NEVER_SCRUBBED + 1, now)

    def _is_at_head(self) -> bool:
        """Say whether every replica was compared where the log ends."""
        heads = {number: self._log.head(EVENTS, number) for number in self.reference.partitions}
        return all(
            part.compared_position == heads[number]
            for watch in self._watches.values()
            for number, part in watch.partitions.items()
        )

    def _take_report(self, report: Report, now: float) -> None:
        watch = self._watches.get(report.replica)
        if watch is None:
            return
        view = self._views[watch.model]
        watch.refused = refuse_reason(view, self._hasher.algorithm, self._bits, report)
        watch.refused = watch.refused or flaw_of_report(report, self._heads)
        if watch.refused:
            self.checks["unknown"] += 1
            for part in watch.partitions.values():
                part.compared_position = -1
            return
        if report.incarnation in watch.earlier:
            if abs(now - watch.reported_at) <= self._evidence_limit_seconds:
                watch.conflict_at = now
                return
            # Nothing of the present life for so long: an older copy of the storage came back.
            watch.conflict_at = None
        if report.incarnation != watch.incarnation:
            watch.reset(report.incarnation, self.reference.partitions)
        for note in report.notes:
            if note.partition not in watch.partitions:
                continue
            part = watch.partitions[note.partition]
            watch.reported_at = now
            if part.newest is not None and not note.marker and _is_before(note, part.newest):
                if report.at < watch.spoken_at.get(note.partition, report.at):
                    continue  # Late words of a process that lost this partition meanwhile.
                part = watch.partitions[note.partition] = PartitionWatch()
            if not note.marker:
                part.newest = note
                watch.spoken_at[note.partition] = report.at
            part.waiting.append(note)
            del part.waiting[:-MAXIMUM_WAITING]

    def _take_explanation(self, explanation: Explanation) -> None:
        watch = self._watches.get(explanation.replica)
        if watch is None or watch.incarnation != explanation.incarnation:
            return
        part = watch.partitions.get(explanation.note.partition)
        if part is None:
            return
        investigation = part.investigation
        is_asked = investigation is not None and investigation.request_id == explanation.request_id
        if investigation is not None and is_asked and not explanation.table:
            explanation = replace(explanation, table=investigation.table)
        if flaw_of_explanation(explanation, self._heads, self._bits):
            self.checks["unknown"] += 1
            part.news = part.news or is_asked
            return
        if part.newest is None or not _is_before(explanation.note, part.newest):
            part.newest = explanation.note
        if investigation is not None and is_asked:
            investigation.answer = explanation

    def _wanted(self, partition: int) -> list[int]:
        wanted = []
        for watch in self._watches.values():
            part = watch.partitions.get(partition)
            if part is None:
                continue
            wanted += [note.position for note in part.waiting]
            if part.investigation is not None and part.investigation.answer is not None:
                wanted.append(part.investigation.answer.note.position)
        return wanted

    # -- comparing ---------------------------------------------------------------------------

    def _compare_waiting(self, watch: ReplicaWatch, part: PartitionWatch, now: float) -> None:
        rest: list[Note] = []
        for note in part.waiting:
            if note.position > self.reference.position(note.partition):
                rest.append(note)
            elif note.position >= part.settled:
                point = self.reference.at(note.partition, note.position)
                if point is None:
                    self.checks["unknown"] += 1
                else:
                    self._compare(watch, part, note, point, now)
        part.waiting = rest

    def _compare(
        self, watch: ReplicaWatch, part: PartitionWatch, note: Note, point: Fold, now: float
    ) -> None:
        if point.unproven:
            self.checks["unknown"] += 1
            return
        delta = compare(point.views[watch.model], note)
        watch.markers_compared += 1
        self._dirty = True
        part.compared_position, part.compared_at = note.position, now
        self.checks["match" if delta.holds_the_same_facts else "mismatch"] += 1
        watch.agreements += delta == part.known
        if delta.holds_the_same_facts:
            part.agreed_position = note.position
            self._ledger.resolve(
                watch.name, note.partition, note.position, now, lambda finding: True
            )
        part.differs = not delta.holds_the_same_facts
        if note.marker:
            return
        if delta != part.known:
            part.news = True
            part.news_at = now if part.news_at is None else part.news_at
        elif part.investigation is None:
            part.settled, part.settled_store_position = note.position, point.store_position

    # -- publishing and the checkpoint -------------------------------------------------------

    def _publish(self, now: float, worked: bool) -> None:
        messages: list[Request | Repair] = [*self._investigator.requests, *self._repairer.messages]
        outputs = [
            NewRecord(REQUESTS, 0, message.replica.encode(), encode_message(message))
            for message in messages
        ]
        self._investigator.requests.clear()
        self._repairer.messages.clear()
        outputs += self._ledger.drain()
        self._dirty = self._dirty or worked or self._investigator.is_dirty
        due = (
            self._checkpoint_at is None
            or not 0 <= now - self._checkpoint_at < self._checkpoint_interval_seconds
        )
        # Whoever watches from outside has to be told even that there is no news.
        if not outputs and not ((self._dirty or self._worker) and due):
            return
        outputs += paged(self._consumer.encode(), self._checkpoint())
        if self._worker:
            key = standing_key(self._consumer)
            outputs.append(NewRecord(STATE, 0, key, encode_standing(self.standing(now))))
        self._log.append(
            outputs,
            now,
            consumer=self._consumer,
            positions={(REPORTS, 0): self._reports_position},
        )
        self._checkpoint_at = now
        self._dirty = self._investigator.is_dirty = False

    def _checkpoint(self) -> bytes:
        return msgspec.msgpack.encode(
            Checkpoint(
                self._reports_position,
                self.reference.store(),
                list(self._watches.values()),
                self._ledger.open_findings(),
                dict(self._ledger.opened_total),
                dict(self._ledger.resolved_total),
                self.checks,
                self._investigator.requests_total,
            )
        )

    def _restore(self) -> None:
        data = stored(self._log, self._consumer.encode())
        if data is None:
            return
        before = decoded(_decode_checkpoint, data)
        if before is None:
            return  # Of another release: as with other views, fold the log anew.
        self._reports_position = before.reports
        self._ledger.restore(before.open, before.opened_total, before.resolved_total)
        self.checks = before.checks
        self._investigator.requests_total = before.requests
        try:
            self.reference.restore(before.folds)
        except ValueError:
            return  # Another log, views or digest: fold the log anew and compare everything.
        for watch in before.watches:
            if watch.name in self._watches and watch.model == self._watches[watch.name].model:
                self._watches[watch.name] = watch

    # -- asking the validator ----------------------------------------------------------------

    def scrub(self, now: float) -> None:
        """Ask every replica to sum its facts again from storage, where it was not at the head."""
        self._sum_storage(None, now)

    def _sum_storage(self, position: int | None, now: float) -> None:
        """Have parts summed that were not at that position, or at the log's head."""
        for watch in self._watches.values():
            for number, part in watch.partitions.items():
                wanted = self._log.head(EVENTS, number) if position is None else position
                if part.investigation is None and part.scrubbed_position < wanted:
                    self._investigator.ask(watch, number, part, [], True, now)

    def is_settled(self) -> bool:
        """Say whether every replica was scrubbed and compared at every partition's head."""
        heads = {number: self._log.head(EVENTS, number) for number in self.reference.partitions}
        return all(
            watch.partitions
            and not watch.refused
            and all(
                part.compared_position == heads[number]
                and part.settled == heads[number]
                and part.scrubbed_position >= heads[number]
                and part.investigation is None
                and not part.news
                for number, part in watch.partitions.items()
            )
            for watch in self._watches.values()
        )

    def settled_total(self) -> int:
        """Return the sum of all positions up to which everything is accounted for and scrubbed."""
        parts = [part for watch in self._watches.values() for part in watch.partitions.values()]
        return sum(part.settled + part.scrubbed_position for part in parts)

    def judge(self, name: str, now: float, *, final: bool = False) -> Judged:
        """Return one replica's verdict.

        The final one of a run is CONSISTENT only where every partition was compared at the log's
        head, and its stored facts were summed there.
        """
        watch = self._watches[name]
        judged = self._judge_now(watch, now)
        if not final or judged.verdict is not Verdict.CONSISTENT:
            return judged
        for number, part in watch.partitions.items():
            head = self._log.head(EVENTS, number)
            if part.compared_position != head or part.settled != head:
                place = f"{number}:{part.compared_position} of {head}"
                return Judged(Verdict.UNKNOWN, f"not compared at the head: {place}")
            if part.scrubbed_position < head:
                return Judged(Verdict.UNKNOWN, f"partition {number} was not scrubbed at the head")
        return judged

    def _judge_now(self, watch: ReplicaWatch, now: float) -> Judged:
        return judge_replica(
            watch,
            {
                number: self.reference.current(number).unproven
                or self.blocked.reasons.get(number, "")
                for number in self.reference.partitions
            },
            bool(self._ledger.open_findings(watch.name)),
            now,
            self._evidence_limit_seconds,
        )

    def status(self, now: float, *, final: bool = False) -> list[ReplicaStatus]:
        """Return every expected replica's status; `final` as in `judge`."""
        return [
            status_of(
                watch,
                self.judge(watch.name, now, final=final),
                len(self._ledger.open_findings(watch.name)),
            )
            for watch in self._watches.values()
        ]

    def standing(self, now: float) -> Standing:
        """Return how every replica stands on these partitions, for whoever watches from outside."""
        parts = self.reference.partitions
        heads = {number: self._log.head(EVENTS, number) for number in parts}
        for number, head in heads.items():
            if self.reference.position(number) > head:
                raise FencedError(
                    f"partition {number} of {EVENTS} ends at {head}, and more than that was read: "
                    "it was lost and made anew, and is folded anew"
                )
        final = {name: self.judge(name, now, final=True) for name in self._watches}
        # What a checkpoint says may be too old to count: then a report has to come first.
        is_decided = all(judged.verdict is not Verdict.UNKNOWN for judged in final.values())
        return Standing(
            worker=self._worker,
            at=now,
            heads=heads,
            positions={number: self.reference.position(number) for number in parts},
            replicas=self.status(now),
            final=final,
            settled=is_decided and self.is_settled(),
            settled_total=self.settled_total(),
            applied={model: self.applied(model) for model in self._views},
            checks=dict(self.checks),
            opened=self.findings_total,
            resolved=self.resolved_total,
            open=Counter(finding.kind for finding in self.open_findings()),
            requests=self.requests_total,
            repeated=sum(self.reference.repeated.values()),
            undecodable=sum(self.reference.undecodable.values()),
            proven=list(self._proofs.given),
        )

    def open_findings(self) -> list[Finding]:
        """Return the open findings."""
        return self._ledger.open_findings()

    @property
    def findings_total(self) -> dict[str, int]:
        """How many findings were ever opened, by kind."""
        return dict(self._ledger.opened_total)

    @property
    def resolved_total(self) -> dict[str, int]:
        """How many findings were resolved, by kind."""
        return dict(self._ledger.resolved_total)

    @property
    def requests_total(self) -> int:
        """How many questions were put to replicas."""
        return self._investigator.requests_total

    def applied(self, model: str) -> int:
        """Return how many events of the log a view has to apply, up to the fold's position."""
        return sum(
            self.reference.current(p).views[model].applied for p in self.reference.partitions
        )

    @property
    def consistent_ratio(self) -> float | None:
        """Share of comparisons in which the facts agreed; None before the first."""
        total = self.checks["match"] + self.checks["mismatch"]
        return self.checks["match"] / total if total else None


def _is_before(note: Note, other: Note) -> bool:
    """Say whether a replica was at a note before it was at another one."""
    return (note.position, note.repaired) < (other.position, other.repaired)
