"""One replica as the validator sees it, for reports, metrics and people."""

from __future__ import annotations

from msgspec import Struct

from validator.watch import Judged, ReplicaWatch, Verdict


class ReplicaStatus(Struct, frozen=True):
    """One replica as the validator sees it.

    ``late`` is what the replica says of itself, ``ordering_violations`` what the audit proves;
    ``agreements`` are the comparisons that showed no news.
    """

    name: str
    model: str
    verdict: Verdict
    reason: str
    applied: int
    position: dict[int, int]
    duplicates: int
    gaps: int
    late: int
    anomalies: int
    ordering_violations: int
    markers_compared: int
    agreements: int
    open_findings: int
    reported_at: float | None
    repaired: int = 0
    compared_at: float | None = None
    """When the partition whose evidence is the oldest was compared; None: one never was."""
    reasons: dict[int, str] = {}
    """Partition -> verdict and reason, where several are judged singly and it is not CONSISTENT."""


def status_of(watch: ReplicaWatch, judged: Judged, open_findings: int) -> ReplicaStatus:
    """Return what is known of a replica, with its verdict."""
    compared = [p.compared_at for p in watch.partitions.values() if p.compared_position >= 0]
    is_compared = len(compared) == len(watch.partitions) > 0
    notes = [part.newest for part in watch.partitions.values() if part.newest is not None]
    return ReplicaStatus(
        name=watch.name,
        model=watch.model,
        verdict=judged.verdict,
        reason=judged.reason,
        applied=sum(note.applied for note in notes),
        position={note.partition: note.position for note in notes},
        duplicates=sum(note.duplicates for note in notes),
        gaps=sum(note.gaps for note in notes),
        late=sum(note.late for note in notes),
        anomalies=sum(note.anomalies for note in notes),
        ordering_violations=sum(part.ordering_violations for part in watch.partitions.values()),
        markers_compared=watch.markers_compared,
        agreements=watch.agreements,
        open_findings=open_findings,
        reported_at=watch.reported_at or None,
        repaired=sum(note.repaired for note in notes),
        compared_at=min(compared) if is_compared else None,
    )
