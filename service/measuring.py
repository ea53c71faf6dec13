"""From what there is to tell of a pipeline to the numbers behind its metrics."""

from __future__ import annotations

from service.account import Account
from tracing.metrics import Measurements, ReplicaMeasurements


def measurements_of(account: Account) -> Measurements:
    """Return the numbers for the metrics; what is not known is left out, never 0."""
    heads = dict(account.heads)
    end = sum(heads.values())
    replicas = tuple(
        ReplicaMeasurements(
            name=status.name,
            verdict=status.verdict.value,
            applied=status.applied,
            duplicates=status.duplicates,
            missing=status.gaps,
            late=status.late,
            anomalies=status.anomalies,
            lag_events=(
                end - sum(status.position.values())
                if status.position.keys() == heads.keys()
                else None
            ),
            comparisons=status.markers_compared,
            reported_at=status.reported_at,
            latencies=account.latencies[status.name],
        )
        for status in account.statuses
    )
    backlog = None
    if account.relay_position is not None:
        backlog = max(account.events_produced - account.relay_position, 0)
    folded = account.reference_positions
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
        validator_lag_events=(
            end - sum(folded.values()) if folded.keys() == heads.keys() else None
        ),
        validator_requests=account.requests,
        repeated_in_log=account.repeated,
    )
