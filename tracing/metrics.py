"""The Prometheus metrics, made at scrape time from one immutable set of measurements.

Every metric of the product is declared in `METRICS`; ``docs/metrics.md`` describes each, and a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from synchroscope import __version__
from synchroscope.latency import Latencies

VERDICTS = ("CONSISTENT", "UNKNOWN", "DIVERGED")
LATENCY_BUCKETS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
)  # fmt: skip


class ReplicaMeasurements(Struct, frozen=True):
    """One replica in numbers; `None` is "not known", and is not exposed."""

    name: str
    verdict: str
    applied: int
    duplicates: int
    missing: int
    late: int
    anomalies: int
    lag_events: int | None
    comparisons: int
    reported_at: float | None
    latencies: Latencies


class Measurements(Struct, frozen=True):
    """Everything that is exposed, at one moment."""

    at: float
    events_produced: int = 0
    rows_read: int = 0
    dead_letters: Mapping[str, int] = {}
    log_heads: Mapping[int, int] = {}
    relay_backlog: int | None = None
    replicas: tuple[ReplicaMeasurements, ...] = ()
    consistent_ratio: float | None = None
    checks: Mapping[str, int] = {}
    open_findings: Mapping[str, int] = {}
    findings: Mapping[str, int] = {}
    resolved: Mapping[str, int] = {}
    validator_lag_events: int | None = None
    validator_requests: int = 0
    repeated_in_log: int = 0


_G, _C = GaugeMetricFamily, CounterMetricFamily
Family = GaugeMetricFamily | CounterMetricFamily
METRICS: Mapping[str, tuple[type[Family] | type[HistogramMetricFamily], str, tuple[str, ...]]] = {
    "synchroscope_build_info": (_G, "Version of this process; always 1.", ("version",)),
    "synchroscope_events_produced_total": (_C, "Events that the command side accepted.", ()),
    "synchroscope_rows_read_total": (_C, "Input rows read from the source.", ()),
    "synchroscope_dead_letters_total": (_C, "Input that could not become an event.", ("reason",)),
    "synchroscope_log_head_offset": (_G, "Offset the next event gets.", ("partition",)),
    "synchroscope_relay_backlog_events": (_G, "Accepted events that are not in the log yet.", ()),
    "synchroscope_replica_verdict": (
        _G,
        "1 for the verdict that holds, 0 for the others.",
        ("replica", "verdict"),
    ),
    "synchroscope_replica_applied_events_total": (_C, "Events of its view applied.", ("replica",)),
    "synchroscope_replica_duplicate_events_total": (
        _C,
        "Events that arrived again and were ignored.",
        ("replica",),
    ),
    "synchroscope_replica_missing_events": (
        _G,
        "Sequences that were passed over and did not come yet.",
        ("replica",),
    ),
    "synchroscope_replica_anomalies_total": (
        _C,
        "Stored values that were not what the log says, and wrong bucket sums.",
        ("replica",),
    ),
    "synchroscope_replica_lag_events": (_G, "Log records not yet read.", ("replica",)),
    "synchroscope_replica_comparisons_total": (
        _C,
        "Comparisons with the reference at equal positions.",
        ("replica",),
    ),
    "synchroscope_replica_last_report_timestamp_seconds": (
        _G,
        "When the last report was read.",
        ("replica",),
    ),
    "synchroscope_ordering_violations_total": (
        _C,
        "Events that came after a successor of their aggregate.",
        ("replica",),
    ),
    "synchroscope_propagation_latency_seconds": (
        HistogramMetricFamily,
        "From acceptance by the command side to applied and stored.",
        ("replica",),
    ),
    "synchroscope_consistent_ratio": (_G, "Share of comparisons in which the facts agreed.", ()),
    "synchroscope_consistency_checks_total": (_C, "Comparisons by result.", ("result",)),
    "synchroscope_open_findings": (_G, "Findings that are open.", ("kind",)),
    "synchroscope_findings_total": (_C, "Findings ever opened.", ("kind",)),
    "synchroscope_findings_resolved_total": (_C, "Findings ever resolved.", ("kind",)),
    "synchroscope_validator_lag_events": (_G, "Log records the reference has not folded.", ()),
    "synchroscope_validator_requests_total": (_C, "Questions put to replicas.", ()),
    "synchroscope_log_repeated_events_total": (_C, "Event IDs that the log holds twice.", ()),
    "synchroscope_last_step_timestamp_seconds": (_G, "When the process last did its rounds.", ()),
}


class MeasurementsCollector(Collector):
    """Exposes what `measure` returns at the moment of the scrape."""

    def __init__(self, measure: Callable[[], Measurements | None]) -> None:
        self._measure = measure

    def collect(self) -> Iterator[Metric]:
        """Yield every metric for which there is a measurement."""
        found = self._measure()
        if found is None:
            return
        for name, samples in _samples(found).items():
            kind, text, labels = METRICS[name]
            family = kind(name, text, labels=labels)
            for values, number in samples:
                if number is not None:
                    family.add_metric(values, number)  # type: ignore[call-arg, arg-type]
            yield family
        yield _latency_family(found)


def registry_for(measure: Callable[[], Measurements | None]) -> CollectorRegistry:
    """Return a registry of its own with these metrics."""
    registry = CollectorRegistry()
    registry.register(MeasurementsCollector(measure))
    return registry


Samples = list[tuple[tuple[str, ...], float | None]]


def _samples(found: Measurements) -> dict[str, Samples]:
    def total(number: float | None) -> Samples:
        return [((), number)]

    def labelled(numbers: Mapping[str, int]) -> Samples:
        return [((str(label),), number) for label, number in numbers.items()]

    def each(pick: Callable[[ReplicaMeasurements], float | None]) -> Samples:
        return [((replica.name,), pick(replica)) for replica in found.replicas]

    return {
        "synchroscope_build_info": [((__version__,), 1)],
        "synchroscope_events_produced_total": total(found.events_produced),
        "synchroscope_rows_read_total": total(found.rows_read),
        "synchroscope_dead_letters_total": labelled(found.dead_letters),
        "synchroscope_log_head_offset": [((str(p),), n) for p, n in found.log_heads.items()],
        "synchroscope_relay_backlog_events": total(found.relay_backlog),
        "synchroscope_replica_verdict": [
            ((replica.name, verdict), float(replica.verdict == verdict))
            for replica in found.replicas
            for verdict in VERDICTS
        ],
        "synchroscope_replica_applied_events_total": each(lambda r: r.applied),
        "synchroscope_replica_duplicate_events_total": each(lambda r: r.duplicates),
        "synchroscope_replica_missing_events": each(lambda r: r.missing),
        "synchroscope_replica_anomalies_total": each(lambda r: r.anomalies),
        "synchroscope_replica_lag_events": each(lambda r: r.lag_events),
        "synchroscope_replica_comparisons_total": each(lambda r: r.comparisons),
        "synchroscope_replica_last_report_timestamp_seconds": each(lambda r: r.reported_at),
        "synchroscope_ordering_violations_total": each(lambda r: r.late),
        "synchroscope_consistent_ratio": total(found.consistent_ratio),
        "synchroscope_consistency_checks_total": labelled(found.checks),
        "synchroscope_open_findings": labelled(found.open_findings),
        "synchroscope_findings_total": labelled(found.findings),
        "synchroscope_findings_resolved_total": labelled(found.resolved),
        "synchroscope_validator_lag_events": total(found.validator_lag_events),
        "synchroscope_validator_requests_total": total(found.validator_requests),
        "synchroscope_log_repeated_events_total": total(found.repeated_in_log),
        "synchroscope_last_step_timestamp_seconds": total(found.at),
    }


def _latency_family(found: Measurements) -> HistogramMetricFamily:
    name = "synchroscope_propagation_latency_seconds"
    _, text, labels = METRICS[name]
    family = HistogramMetricFamily(name, text, labels=labels)
    for replica in found.replicas:
        latencies = replica.latencies
        buckets = [
            (f"{edge:g}", float(latencies.at_most(edge))) for edge in LATENCY_BUCKETS_SECONDS
        ]
        buckets.append(("+Inf", float(latencies.count)))
        family.add_metric((replica.name,), buckets, latencies.total_seconds)
    return family
