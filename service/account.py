"""What there is to tell of a pipeline at one moment, however many processes it runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from synchroscope.latency import Latencies
from tracing.metrics import ScrubMeasurements
from validator.finding import Finding
from validator.hop_standing import HopStanding
from validator.schemas.checker import SchemaStanding
from validator.status import ReplicaStatus


class Account(Struct, frozen=True):
    """All that reports, screens and metrics show.

    Parameters
    ----------
    at: Wall time in seconds since 1970.
    runs, producing_seconds: How often the pipeline was started, and how long it produced in all.
    rows_read, events_produced, dead_letters: What the command side did; dead letters by reason.
    heads: Event log's heads by partition.
    relay_position: How far the store's order is published; None: no relay has said.
    statuses: Every expected replica.
    latencies: Replica -> propagation latencies.
    applied: Model -> events that its view has to apply, up to where validators have come.
    consistent_ratio, checks, opened, resolved, open: Comparisons by result, findings by kind.
    reference_positions: How far the reference is folded, by partition.
    requests, repeated: Questions put to replicas; events that the log holds twice.
    undecodable: Records of the log that are no events.
    faults: What was injected on purpose, in the report's form.
    findings: Every finding ever opened.
    schemas: How the check of events against their schemas stands; None: none is checked.
    scrubs: Replica -> how much of its storage this process has read again.
    """

    at: float
    runs: int
    producing_seconds: float
    rows_read: int
    events_produced: int
    dead_letters: Mapping[str, int]
    heads: Mapping[int, int]
    relay_position: int | None
    statuses: Sequence[ReplicaStatus]
    latencies: Mapping[str, Latencies]
    applied: Mapping[str, int]
    consistent_ratio: float | None
    checks: Mapping[str, int]
    opened: Mapping[str, int]
    resolved: Mapping[str, int]
    open: Mapping[str, int]
    reference_positions: Mapping[int, int]
    requests: int
    repeated: int
    faults: Sequence[Mapping[str, Any]]
    findings: Sequence[Finding]
    undecodable: int = 0
    schemas: SchemaStanding | None = None
    hops: HopStanding | None = None
    unpublished: str = ""
    """Why the log may not have all accepted events; nothing where it has."""
    scrubs: Mapping[str, ScrubMeasurements] = {}
