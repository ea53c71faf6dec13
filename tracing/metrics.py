"""The Prometheus metrics, made at scrape time from one immutable set of measurements.

Every metric of the product is declared in `METRICS`; ``docs/metrics.md`` describes each, and a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector
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
ROLE_STATES = ("starting", "running", "waiting", "failed", "stopped")
CIRCUIT_STATES = ("closed", "half-open", "open")
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
    repaired: int = 0


class RoleMeasurements(Struct, frozen=True):
    """One role of this process: its state, how often it was built anew, its circuit breaker."""

    role: str
    state: str
    restarts: int
    circuit: str
    stepped_at: float | None


class GroupLag(Struct, frozen=True):
    """How far a consumer group is behind on one partition; seconds None is "not known"."""

    group: str
    topic: str
    partition: int
    events: int
    seconds: float | None


class ScrubMeasurements(Struct, frozen=True):
    """How much of a storage was read again, by partition; keys that were read, and mended."""

    coverage_ratios: Mapping[int, float]
    ages_seconds: Mapping[int, float]
    keys: int
    mended: int


class HopMeasurements(Struct, frozen=True):
    """One hop: windows by verdict, events by what befell them, end of the newest one compared."""

    windows: Mapping[str, int]
    events: Mapping[str, int]
    judged_until: float | None


class Measurements(Struct, frozen=True):
    """Everything that is exposed, at one moment.

    ``is_reporter``: this process speaks for the whole pipeline; of several processes one does, so
    that sums over all of them are right.
    """

    at: float
    is_reporter: bool = True
    roles: tuple[RoleMeasurements, ...] = ()
    group_lags: tuple[GroupLag, ...] = ()
    replica_lag_seconds: Mapping[str, float] = {}
    validated_at: Mapping[int, float] = {}
    relay_backlog_growth: float | None = None
    latencies: Mapping[str, Latencies] = {}
    """Replica -> what this process measured itself, so that buckets may be summed over all."""
    scrubs: Mapping[str, ScrubMeasurements] = {}
    """Replica -> what this process has read again of its storage."""
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
    undecodable_in_log: int = 0
    hops: Mapping[str, HopMeasurements] = {}
    schema_checks: Mapping[str, int] = {}
    schema_violations: Mapping[str, int] = {}
    schema_unchecked_types: int | None = None
    schema_lag_events: int | None = None


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
    "synchroscope_replica_repaired_aggregates_total": (
        _C,
        "Aggregates that a repair changed.",
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
    "synchroscope_scrub_coverage_ratio": (
        _G,
        "Share of the partition's buckets that were read again from storage in the last hour.",
        ("replica", "partition"),
    ),
    "synchroscope_scrub_age_seconds": (
        _G,
        "Time since the bucket was read that was read longest ago.",
        ("replica", "partition"),
    ),
    "synchroscope_scrub_keys_total": (
        _C,
        "Stored aggregates that the scrub has read.",
        ("replica",),
    ),
    "synchroscope_scrub_mended_total": (
        _C,
        "Stored aggregates that stood where no scan found them, and were put where one does.",
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
    "synchroscope_log_undecodable_records_total": (
        _C,
        "Records of the log that are no events.",
        (),
    ),
    "synchroscope_schema_checks_total": (
        _C,
        "Events that were to be checked against their schemas, by result.",
        ("result",),
    ),
    "synchroscope_schema_violations_total": (_C, "Schema rules that events broke.", ("rule",)),
    "synchroscope_schema_unchecked_context_types": (
        _G,
        "Context types whose events cannot be checked now.",
        (),
    ),
    "synchroscope_schema_lag_events": (_G, "Log records not yet checked.", ()),
    "synchroscope_replica_lag_seconds": (
        _G,
        "Age of the first record that the replica has not applied, the oldest of all partitions.",
        ("replica",),
    ),
    "synchroscope_relay_backlog_growth_events_per_second": (
        _G,
        "How fast the relay's backlog grows; negative while it shrinks.",
        (),
    ),
    "synchroscope_partition_validated_timestamp_seconds": (
        _G,
        "When a validator last said how replicas stand on the partition.",
        ("partition",),
    ),
    "synchroscope_role_state": (
        _G,
        "1 for the state that a role of this process is in, 0 for the others.",
        ("role", "state"),
    ),
    "synchroscope_role_restarts_total": (
        _C,
        "How often a role of this process was built anew.",
        ("role",),
    ),
    "synchroscope_circuit_state": (
        _G,
        "1 for the state of a role's circuit breaker, 0 for the others.",
        ("role", "state"),
    ),
    "kafka_consumergroup_group_lag": (
        _G,
        "Records of the partition that the consumer group has not read.",
        ("group", "topic", "partition"),
    ),
    "kafka_consumergroup_group_lag_seconds": (
        _G,
        "Age of the first record of the partition that the consumer group has not read.",
        ("group", "topic", "partition"),
    ),
    "synchroscope_hop_windows_total": (
        _C,
        "Windows that were compared between two hops, by verdict.",
        ("hop", "verdict"),
    ),
    "synchroscope_hop_events_total": (
        _C,
        "Events that were found lost, doubled or altered between two hops.",
        ("hop", "kind"),
    ),
    "synchroscope_hop_compared_timestamp_seconds": (
        _G,
        "End of the newest window that was compared.",
        ("hop",),
    ),
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
        samples_by_name = _own_samples(found)
        if found.is_reporter:
            samples_by_name |= _samples(found)
        for name, samples in samples_by_name.items():
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
    ProcessCollector(registry=registry)
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
        "synchroscope_replica_repaired_aggregates_total": each(lambda r: r.repaired),
        "synchroscope_replica_lag_events": each(lambda r: r.lag_events),
        "synchroscope_replica_lag_seconds": [
            ((name,), seconds) for name, seconds in found.replica_lag_seconds.items()
        ],
        "synchroscope_relay_backlog_growth_events_per_second": total(found.relay_backlog_growth),
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
        "synchroscope_hop_windows_total": [
            ((hop, verdict), number)
            for hop, work in found.hops.items()
            for verdict, number in work.windows.items()
        ],
        "synchroscope_hop_events_total": [
            ((hop, kind), number)
            for hop, work in found.hops.items()
            for kind, number in work.events.items()
        ],
        "synchroscope_hop_compared_timestamp_seconds": [
            ((hop,), work.judged_until) for hop, work in found.hops.items()
        ],
        "synchroscope_log_repeated_events_total": total(found.repeated_in_log),
        "synchroscope_log_undecodable_records_total": total(found.undecodable_in_log),
        "synchroscope_schema_checks_total": labelled(found.schema_checks),
        "synchroscope_schema_violations_total": labelled(found.schema_violations),
        "synchroscope_schema_unchecked_context_types": total(found.schema_unchecked_types),
        "synchroscope_schema_lag_events": total(found.schema_lag_events),
    }


def _own_samples(found: Measurements) -> dict[str, Samples]:
    """Return what every process says of itself, and what may be said by several without harm."""
    lags = [((lag.group, lag.topic, str(lag.partition)), lag) for lag in found.group_lags]
    return {
        "synchroscope_build_info": [((__version__,), 1)],
        "synchroscope_last_step_timestamp_seconds": [((), found.at)],
        "synchroscope_partition_validated_timestamp_seconds": [
            ((str(partition),), at) for partition, at in found.validated_at.items()
        ],
        "synchroscope_role_state": [
            ((role.role, state), float(role.state == state))
            for role in found.roles
            for state in ROLE_STATES
        ],
        "synchroscope_role_restarts_total": [((r.role,), r.restarts) for r in found.roles],
        "synchroscope_circuit_state": [
            ((role.role, state), float(role.circuit == state))
            for role in found.roles
            for state in CIRCUIT_STATES
        ],
        "synchroscope_scrub_coverage_ratio": _by_partition(
            {name: scrub.coverage_ratios for name, scrub in found.scrubs.items()}
        ),
        "synchroscope_scrub_age_seconds": _by_partition(
            {name: scrub.ages_seconds for name, scrub in found.scrubs.items()}
        ),
        "synchroscope_scrub_keys_total": [
            ((name,), scrub.keys) for name, scrub in found.scrubs.items()
        ],
        "synchroscope_scrub_mended_total": [
            ((name,), scrub.mended) for name, scrub in found.scrubs.items()
        ],
        "kafka_consumergroup_group_lag": [(labels, lag.events) for labels, lag in lags],
        "kafka_consumergroup_group_lag_seconds": [(labels, lag.seconds) for labels, lag in lags],
    }


def _by_partition(numbers: Mapping[str, Mapping[int, float]]) -> Samples:
    return [
        ((replica, str(partition)), number)
        for replica, partitions in numbers.items()
        for partition, number in partitions.items()
    ]


def _latency_family(found: Measurements) -> HistogramMetricFamily:
    name = "synchroscope_propagation_latency_seconds"
    _, text, labels = METRICS[name]
    family = HistogramMetricFamily(name, text, labels=labels)
    for replica, latencies in found.latencies.items():
        buckets = [
            (f"{edge:g}", float(latencies.at_most(edge))) for edge in LATENCY_BUCKETS_SECONDS
        ]
        buckets.append(("+Inf", float(latencies.count)))
        family.add_metric((replica,), buckets, latencies.total_seconds)
    return family
