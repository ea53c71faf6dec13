"""The Prometheus metrics of consumers' sessions, for the registry of their process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from synchroscope.session import Guarantee, SessionMonitor

READS = "synchroscope_session_reads_total"
VIOLATIONS = "synchroscope_session_violations_total"
WAITS = "synchroscope_session_waits_total"
SESSION_METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    READS: ("Reads that were checked.", ("replica",)),
    VIOLATIONS: ("Reads that broke a guarantee.", ("replica", "guarantee")),
    WAITS: ("Reads that waited, by whether what they waited for came.", ("came",)),
}


class SessionCollector(Collector):
    """Exposes a monitor at the moment of the scrape."""

    def __init__(self, monitor: SessionMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yield all counters."""
        monitor = self._monitor
        reads, violations, waits = (
            CounterMetricFamily(name, text, labels=labels)
            for name, (text, labels) in SESSION_METRICS.items()
        )
        for replica, number in list(monitor.reads.items()):
            reads.add_metric((replica,), number)
            for guarantee in Guarantee:
                broken = monitor.violations[replica, guarantee]
                violations.add_metric((replica, guarantee.value), broken)
        for came in (True, False):
            waits.add_metric(("yes" if came else "no",), monitor.waits[came])
        yield from (reads, violations, waits)
