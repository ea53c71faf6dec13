"""What a process tells of its consumers' sessions, on `sync.reports`."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from synchroscope.foreign import decoded
from synchroscope.ports import REPORTS, Log, NewRecord, Progress
from synchroscope.session import SessionMonitor, Violation

SESSIONS_PREFIX = "sessions/"
DEFAULT_REPORT_SECONDS = 1.0
MAXIMUM_EVIDENCE_PER_REPORT = 20


class SessionReport(Struct, frozen=True, rename="camel", tag="sessions"):
    """Reads and violations of all sessions of a process, as totals since it began.

    ``reads`` are by replica, ``violations`` by replica and guarantee; ``evidence`` the newest
    violations since the last report. ``life`` tells one process from the next of the same name.
    """

    process: str
    life: str
    at: float
    reads: dict[str, int]
    violations: dict[str, dict[str, int]]
    evidence: list[Violation]


class SessionReporter:
    """Publishes what a monitor counts, when there is news.

    Parameters
    ----------
    life: A new unique name of this process.
    """

    def __init__(
        self,
        monitor: SessionMonitor,
        log: Log,
        life: str,
        *,
        report_seconds: float = DEFAULT_REPORT_SECONDS,
    ) -> None:
        self._monitor = monitor
        self._log = log
        self._life = life
        self._report_seconds = report_seconds
        self._reported_at: float | None = None
        self._reported = (0, 0)

    def step(self, now: float) -> Progress:
        """Publish a report when it is time and something was read."""
        at = self._reported_at
        if at is not None and 0 <= now - at < self._report_seconds:
            return Progress(0)
        monitor = self._monitor
        totals = monitor.reads.total(), monitor.violations.total()
        if totals == self._reported:
            return Progress(0)
        by_replica: dict[str, dict[str, int]] = {}
        for (replica, guarantee), count in monitor.violations.items():
            by_replica.setdefault(replica, {})[guarantee.value] = count
        new = min(totals[1] - self._reported[1], MAXIMUM_EVIDENCE_PER_REPORT)
        evidence = list(monitor.evidence)[-new:] if new else []
        report = SessionReport(
            monitor.process, self._life, now, dict(monitor.reads), by_replica, evidence
        )
        key = f"{SESSIONS_PREFIX}{monitor.process}".encode()
        self._log.append([NewRecord(REPORTS, 0, key, msgspec.json.encode(report))], now)
        self._reported_at, self._reported = now, totals
        return Progress(1)


_decode = msgspec.json.Decoder(SessionReport).decode


def decode_session_report(data: bytes) -> SessionReport | None:
    """Return the report; None for what is none."""
    return decoded(_decode, data)
