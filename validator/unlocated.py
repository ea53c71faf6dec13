"""Findings that name no key: what is known of a difference that could not be located. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from synchroscope.report import Note
from validator.finding import Finding, Kind, Position, Since, finding_id, timestamp
from validator.pinpoint import MAXIMUM_BUCKETS
from validator.watch import MAXIMUM_HELD, Delta, PartitionWatch, ReplicaWatch


def lost(
    watch: ReplicaWatch,
    part: PartitionWatch,
    note: Note,
    delta: Delta,
    known: Sequence[Finding],
    now: float,
) -> Finding:
    """Return the finding of events that were not applied, where the replica forgot which.

    It closes when the whole partition agrees. One that is `known` takes in what is lost later.
    """
    missing = delta.applied - part.known.applied
    earlier = next((one for one in known if "missing" in one.evidence), None)
    if earlier is not None:
        missing += earlier.evidence["missing"]
    evidence = {
        "reason": f"{missing} events were not applied; the replica no longer knows which, "
        "location UNKNOWN",
        "missing": missing,
        "checked_position": note.position,
        "first_reported_at": timestamp(now if part.news_at is None else part.news_at),
    }
    if earlier is not None:
        first = earlier.evidence["first_reported_at"]
        more = {**evidence, "first_reported_at": first}
        return replace(earlier, evidence={**earlier.evidence, **more})
    since = Since(note.partition, part.settled, note.position)
    return _finding(watch, note, "missed", "lost", part.settled, since, evidence, now)


def unlocated(
    watch: ReplicaWatch,
    part: PartitionWatch,
    note: Note,
    share: float,
    bad: Sequence[int],
    now: float,
) -> Finding:
    """Return the finding of buckets that differ, a share of all, beside what is located."""
    evidence: dict[str, Any] = {
        "reason": f"{len(bad)} buckets ({share:.0%}) differ; location UNKNOWN. "
        "A rebuild of the replica is cheaper than a repair from about a tenth on",
        "buckets": list(bad[:MAXIMUM_BUCKETS]),
    }
    if part.left_out:
        evidence["left_out"] = part.left_out
        evidence["reason"] = (
            f"{part.left_out} aggregates were left out at once, for no more than {MAXIMUM_HELD} "
            f"are followed each; {evidence['reason']}"
        )
    kind: Kind = "bulk" if part.left_out or len(bad) > MAXIMUM_BUCKETS else "unlocated"
    since = Since(note.partition, part.agreed_position, note.position)
    return _finding(watch, note, kind, "bulk", note.position, since, evidence, now)


def _finding(
    watch: ReplicaWatch,
    note: Note,
    kind: Kind,
    name: str,
    offset: int,
    since: Since,
    evidence: dict[str, Any],
    now: float,
) -> Finding:
    return Finding(
        id=finding_id(watch.name, note.partition, name, note.position),
        state="open",
        kind=kind,
        replica=watch.name,
        context_type=None,
        subjects=[],
        first_bad_position=Position(note.partition, offset),
        since=since,
        detected_at=timestamp(now),
        resolved_at=None,
        evidence=evidence,
        partition=note.partition,
    )
