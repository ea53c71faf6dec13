"""From what there is to tell of a pipeline to the numbers behind its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from pipeline.kafka_settings import KafkaSettings
from pipeline.scrubbing import ScrubStanding
from service.account import Account
from service.board import ProcessRecord, ReaderWork, ReplicaWork
from service.supervision import Health
from synchroscope.latency import Latencies
from synchroscope.ports import EVENTS
from tracing.metrics import (
    GroupLag,
    HopMeasurements,
    Measurements,
    ReplicaMeasurements,
    RoleMeasurements,
    ScrubMeasurements,
)
from validator.hop_standing import HopWork


def measurements_of(account: Account) -> Measurements:
    """Return the numbers for the metrics; what is not known is left out, never 0."""
    heads = dict(account.heads)
    replicas = tuple(
        ReplicaMeasurements(
            name=status.name,
            verdict=status.verdict.value,
            applied=status.applied,
            duplicates=status.duplicates,
            missing=status.gaps,
            late=status.late,
            anomalies=status.anomalies,
            repaired=status.repaired,
            lag_events=_behind(heads, status.position),
            comparisons=status.markers_compared,
            reported_at=status.reported_at,
        )
        for status in account.statuses
    )
    backlog = None
    if account.relay_position is not None:
        backlog = account.events_produced - account.relay_position
        backlog = backlog if backlog >= 0 else None
    schemas, hops = account.schemas, account.hops
    return Measurements(
        at=account.at,
        events_produced=account.events_produced,
        rows_read=account.rows_read,
        dead_letters=account.dead_letters,
        log_heads=heads,
        relay_backlog=backlog,
        replicas=replicas,
        consistent_ratio=account.consistent_ratio,
        checks=account.checks,
        open_findings={**dict.fromkeys(account.opened, 0), **account.open},
        findings=account.opened,
        resolved=account.resolved,
        validator_lag_events=_behind(heads, account.reference_positions),
        latencies=account.latencies,
        scrubs=account.scrubs,
        validator_requests=account.requests,
        repeated_in_log=account.repeated,
        undecodable_in_log=account.undecodable,
        hops={} if hops is None else {name: _hop(work) for name, work in hops.hops.items()},
        schema_checks={} if schemas is None else schemas.checks,
        schema_violations={} if schemas is None else schemas.rules,
        schema_unchecked_types=None if schemas is None else len(schemas.unchecked),
        schema_lag_events=None if schemas is None else _behind(heads, schemas.positions),
    )


def _behind(heads: Mapping[int, int], positions: Mapping[int, int]) -> int | None:
    """Return how many records lie before the heads; None where that is not known.

    It is not where a partition has no position, or one that lies beyond the head: the topic was
    lost and made anew.
    """
    if positions.keys() != heads.keys() or any(positions[n] > heads[n] for n in heads):
        return None
    return sum(heads.values()) - sum(positions.values())


def _hop(work: HopWork) -> HopMeasurements:
    return HopMeasurements(work.windows, work.events, work.judged_until)


def process_measurements(
    account: Account | None,
    healths: Sequence[Health],
    records: Sequence[ProcessRecord],
    settings: KafkaSettings,
    validated_at: Mapping[int, float],
    now: float,
    *,
    is_reporter: bool,
) -> Measurements:
    """Return what one process of many exposes: of itself always, of the pipeline if it reports.

    Parameters
    ----------
    account: The whole pipeline's; None while it cannot be gathered.
    healths, records: How this process's roles do, and what they told last.
    settings: Kafka's, for the names of groups and topics.
    validated_at: Partition -> when a validator last spoke of it.
    """
    lags = [lag for record in records for lag in _group_lags(record, settings)]
    own = {name: work for record in records for name, work in record.replicas.items()}
    whole = Measurements(at=now) if account is None else measurements_of(account)
    return replace(
        whole,
        at=now,
        is_reporter=is_reporter and account is not None,
        roles=tuple(
            RoleMeasurements(h.role, h.state, h.restarts, h.circuit, h.stepped_at) for h in healths
        ),
        group_lags=tuple(lags),
        latencies={name: Latencies(*work.latencies) for name, work in own.items()},
        scrubs={
            name: scrub_measurements(work.scrubs, work.scrubbed, work.mended, now)
            for name, work in own.items()
            if not work.waiting
        },
        validated_at=validated_at,
    )


def scrub_measurements(
    standings: Mapping[int, ScrubStanding], keys: int, mended: int, now: float
) -> ScrubMeasurements:
    """Return how much of a storage was read again; an age that is not known is left out."""
    return ScrubMeasurements(
        {number: standing.coverage_ratio for number, standing in standings.items()},
        {
            number: now - standing.oldest_at
            for number, standing in standings.items()
            if standing.oldest_at is not None and standing.oldest_at <= now
        },
        keys,
        mended,
    )


def replica_lag_seconds(
    records: Sequence[ProcessRecord], heads: Mapping[int, int], now: float
) -> dict[str, float]:
    """Return how old the oldest unread record of each replica is at most, over all that work on it.

    What was told gets older; what came since it was told is no older than that. A replica of which
    any partition's lag is not known is left out.
    """
    found: dict[str, float] = {}
    unknown: set[str] = set()
    for record in records:
        for name, work in record.replicas.items():
            if work.waiting or work.lag_seconds.keys() != work.positions.keys():
                unknown.add(name)
            for partition, seconds in work.lag_seconds.items():
                is_behind = work.positions.get(partition, 0) < heads.get(partition, 0)
                if seconds > 0 or is_behind:
                    seconds += max(now - record.at, 0.001)
                found[name] = max(found.get(name, 0.0), seconds)
    return {name: seconds for name, seconds in found.items() if name not in unknown}


def _group_lags(record: ProcessRecord, settings: KafkaSettings) -> Iterator[GroupLag]:
    """Yield the lag of the group as a whole: of the reader that is furthest behind."""
    topic = settings.topic(EVENTS)
    readers: list[ReplicaWork | ReaderWork] = [*record.replicas.values()]
    readers += [] if record.reader is None else [record.reader]
    for partition in record.partitions:
        works = [work for work in readers if partition in work.positions]
        if not works or any(partition not in work.lag_events for work in works):
            continue
        seconds = [work.lag_seconds.get(partition) for work in works]
        known = [one for one in seconds if one is not None]
        yield GroupLag(
            f"{settings.name}.{record.role}",
            topic,
            partition,
            max(work.lag_events[partition] for work in works),
            max(known) if len(known) == len(seconds) else None,
        )
