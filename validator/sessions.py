"""What consumers' sessions tell of replicas: which of it is a replica's own fault.

A consumer that goes from one replica to another which is behind sees time go back; that is lag,
and no fault of a replica. Two things are: a replica that shows an older version than it showed
before, and one that shows an event without its predecessors or another state of the same version.
These become findings, where the event store knows the version that had to be shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from synchroscope.foreign import decoded
from synchroscope.ports import REPORTS, AggregateKey, Log, Progress
from synchroscope.session import Guarantee, Violation
from synchroscope.session_report import SESSIONS_PREFIX, SessionReport, decode_session_report
from validator.finding import Finding, Kind, finding_id, timestamp
from validator.ledger import Ledger
from validator.pages import paged, stored

SESSION_VIOLATION: Kind = "session-violation"
CHECKPOINT_KEY = b"sessions/checkpoint"
DEFAULT_QUIET_SECONDS = 60.0
DEFAULT_QUIET_READS = 100
REPORTS_PER_STEP = 500
MAXIMUM_PROCESSES = 1_000
MAXIMUM_OPEN = 1_000
"""So many findings are open at most; what comes beyond is counted only."""
NO_PARTITION = -1


class StoredState(Protocol):
    """An aggregate as the event store has it."""

    @property
    def sequence(self) -> int:
        """Its version; 0 where it does not exist."""
        ...


class Authority(Protocol):
    """The event store, as far as it is asked here."""

    def state(self, key: AggregateKey) -> StoredState:
        """Return an aggregate's present state."""
        ...


class _Fault(Struct):
    """What a finding waits for: how many reads were fine since the last violation."""

    at: float
    reads: int = 0


class _Checkpoint(Struct, array_like=True):
    position: int
    totals: dict[str, dict[str, int]]
    open: list[Finding]
    faults: dict[str, _Fault]


_decode_checkpoint = msgspec.msgpack.Decoder(_Checkpoint).decode


class SessionChecker:
    """Follows the reports of sessions.

    Parameters
    ----------
    log, store: Where reports come from and findings go; what proves that a version exists.
    quiet_seconds, quiet_reads: A finding is resolved after so long and so many checked reads of its
        replica without another violation of that guarantee. Higher: a replica that errs now and
        then keeps one finding.
    """

    def __init__(
        self,
        log: Log,
        store: Authority,
        *,
        quiet_seconds: float = DEFAULT_QUIET_SECONDS,
        quiet_reads: int = DEFAULT_QUIET_READS,
    ) -> None:
        self._log = log
        self._store = store
        self._quiet_seconds = quiet_seconds
        self._quiet_reads = quiet_reads
        self._ledger = Ledger()
        self._position = log.head(REPORTS, 0)
        self._totals: dict[str, dict[str, int]] = {}
        self._faults: dict[str, _Fault] = {}
        self.unproven = 0
        """Claims of versions that the event store does not have."""
        self.violations: Counter[tuple[str, Guarantee]] = Counter()
        """How many violations were told since this process began, by replica and guarantee."""
        self._restore()

    def step(self, now: float) -> Progress:
        """Take a batch of reports, and close what has been quiet for long enough."""
        batch = self._log.read(REPORTS, 0, self._position, REPORTS_PER_STEP)
        self._position = batch.position
        taken = 0
        for record in batch.records:
            if record.key.startswith(SESSIONS_PREFIX.encode()):
                report = decode_session_report(record.value)
                if report is not None:
                    self._take(report, now)
                    taken += 1
        self._close(now)
        outputs = self._ledger.drain()
        if taken or outputs:
            outputs += paged(CHECKPOINT_KEY, self._checkpoint())
            self._log.append(outputs, now)
        return Progress(taken)

    def _take(self, report: SessionReport, now: float) -> None:
        process = f"{report.process}/{report.life}"
        before = self._totals.pop(process, {})
        self._totals[process] = dict(report.reads)
        while len(self._totals) > MAXIMUM_PROCESSES:
            del self._totals[next(iter(self._totals))]
        for violation in report.evidence:
            self.violations[violation.replica, violation.guarantee] += 1
            if _is_own_fault(violation):
                self._blame(violation, now)
        for finding in self._ledger.open_findings():
            replica, fault = finding.replica or "", self._faults.get(finding.id)
            if fault is not None and fault.at < now:
                fault.reads += max(report.reads.get(replica, 0) - before.get(replica, 0), 0)

    def _blame(self, violation: Violation, now: float) -> None:
        key = (violation.context_type, violation.subject)
        if self._store.state(key).sequence < violation.expected_sequence:
            self.unproven += 1
            return
        finding = _finding_of(violation, now)
        if finding.id in self._faults or len(self._faults) < MAXIMUM_OPEN:
            self._faults[finding.id] = _Fault(now)
            self._ledger.open(finding, self._log)

    def _close(self, now: float) -> None:
        for finding in self._ledger.open_findings():
            fault = self._faults[finding.id]
            if fault.reads < self._quiet_reads or now - fault.at < self._quiet_seconds:
                continue
            identity = finding.id
            self._ledger.resolve(
                finding.replica,
                NO_PARTITION,
                0,
                now,
                lambda one, mine=identity: one.id == mine,  # type: ignore[misc]
            )
            del self._faults[identity]

    def open_findings(self) -> Sequence[Finding]:
        """Return the open findings."""
        return self._ledger.open_findings()

    # -- checkpoint --------------------------------------------------------------------------

    def _checkpoint(self) -> bytes:
        found = self._ledger.open_findings()
        return msgspec.msgpack.encode(
            _Checkpoint(self._position, self._totals, found, self._faults)
        )

    def _restore(self) -> None:
        data = stored(self._log, CHECKPOINT_KEY)
        if data is None:
            return
        before = decoded(_decode_checkpoint, data)
        if before is None:
            return
        self._position, self._totals = before.position, before.totals
        self._faults = before.faults
        self._ledger.restore(before.open, {}, {})


def _is_own_fault(violation: Violation) -> bool:
    if violation.guarantee is Guarantee.MONOTONIC_READS:
        return violation.expected_from == violation.replica
    return violation.guarantee is Guarantee.ORDERING


def _finding_of(violation: Violation, now: float) -> Finding:
    key = (violation.context_type, violation.subject)
    return Finding(
        id=finding_id("session", violation.replica, violation.guarantee, *key),
        state="open",
        kind=SESSION_VIOLATION,
        replica=violation.replica,
        context_type=violation.context_type,
        subjects=[violation.subject],
        first_bad_position=None,
        since=None,
        detected_at=timestamp(now),
        resolved_at=None,
        evidence={
            "reason": violation.reason,
            "guarantee": violation.guarantee.value,
            "session": violation.session,
            "expected_sequence": violation.expected_sequence,
            "seen_sequence": violation.seen_sequence,
            "expected_from": violation.expected_from,
            "read_at": timestamp(violation.at),
        },
        partition=NO_PARTITION,
        keys=[key],
    )
