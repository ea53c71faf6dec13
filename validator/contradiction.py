"""The finding of a record that contradicts its own aggregate's history."""

from __future__ import annotations

from synchroscope.report import Note
from validator.finding import Finding, Position, finding_id, timestamp
from validator.locate import Contradiction, Culprit

CORRECTED = (
    "a record contradicts its own aggregate's history; the reference was corrected, replicas are "
    "not blamed"
)
OTHERWISE = (
    "log and event store have this event otherwise; replicas are held against the log, and not "
    "blamed"
)


def contradiction_finding(
    model: str, note: Note, contradiction: Contradiction, culprit: Culprit | None, now: float
) -> Finding:
    """Return the finding; without a culprit it cannot say which record it is."""
    keys = contradiction.keys if culprit is None else [culprit.key]
    offset = None if culprit is None else culprit.offset
    is_altered = culprit is not None and culprit.altered is not None
    return Finding(
        id=finding_id("log", note.partition, model, offset, contradiction.bucket),
        state="open",
        kind="log-contradiction",
        replica=None,
        context_type=keys[0][0] if keys else None,
        subjects=[] if culprit is None else [culprit.key[1]],
        first_bad_position=None if offset is None else Position(note.partition, offset),
        since=None,
        detected_at=timestamp(now),
        resolved_at=None,
        evidence={
            "reason": OTHERWISE if is_altered else CORRECTED,
            "event_id": None if culprit is None else culprit.event_id,
            "producer": None if culprit is None else culprit.producer,
            "corrected_bucket": contradiction.bucket,
            "model": model,
        },
        partition=note.partition,
        keys=list(keys[:1]),
    )
