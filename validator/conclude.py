"""From judgements to findings: one finding a cause, with its evidence. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from synchroscope.ports import AggregateKey
from validator.finding import (
    MAXIMUM_SUBJECTS,
    Finding,
    Kind,
    Position,
    Since,
    finding_id,
    subjects_of,
    timestamp,
)
from validator.judgement import Actual, Fault, Judgement, Version
from validator.locate import Located

BULK_FINDINGS = 50
"""From so many findings of one kind and context type on, an interval's findings become one."""
MAXIMUM_CAUSES = 200
"""So many causes of a bundle are named one by one, the first ones in the log's order."""
SAMPLES = 10
_KINDS: Mapping[str, Kind] = {"stale": "stale", "corrupted": "corrupted", "foreign": "foreign"}


class Scene(Struct, frozen=True):
    """Where and when: what all findings of one conclusion share.

    ``values`` are the replica's stored values of fields that are not personal; ``written`` the
    offset after the last event that wrote an aggregate, where it could be found;
    ``agreed_position`` where the digests last agreed; ``news_at`` when a report first showed a
    difference (None where only the scrub's answer did).
    """

    replica: str
    partition: int
    position: int
    agreed_position: int | None
    now: float
    news_at: float | None
    values: Mapping[tuple[AggregateKey, str], Any]
    written: Mapping[AggregateKey, int]
    recorded: Mapping[int, float]


def findings_of(scene: Scene, located: Located) -> list[Finding]:
    """Return the new findings, every one in state open."""
    found: list[Finding] = []
    for judgement in located.judgements:
        found += [_missed(scene, located, judgement, version) for version in judgement.missed]
        found += [_doubled(scene, located, judgement, version) for version in judgement.doubled]
        if judgement.foreign:
            found.append(_foreign(scene, judgement))
        if judgement.faults:
            found.append(_storage(scene, judgement))
        if judgement.unexplained:
            found.append(_unexplained(scene, located, judgement))
        if judgement.late and not (judgement.missed or judgement.faults):
            odd = _field_evidence(scene, judgement.key, judgement.expected, judgement.actual)
            if odd:
                found.append(_reordered(scene, located, judgement, odd))
    for entry in located.strangers:
        found.append(
            _finding(
                scene,
                "foreign",
                [],
                entry.offset,
                None,
                {"reason": "applied something that is no event of the log", "event": entry.event},
            )
        )
    return _bundled(scene, found)


def _finding(
    scene: Scene,
    kind: Kind,
    keys: Sequence[AggregateKey],
    offset: int,
    after: int | None,
    evidence: dict[str, Any],
) -> Finding:
    recorded = scene.recorded.get(offset)
    first = keys[0] if keys else ("", "")
    return Finding(
        id=finding_id(scene.replica, scene.partition, kind, offset, *first),
        state="open",
        kind=kind,
        replica=scene.replica,
        context_type=keys[0][0] if keys else None,
        subjects=subjects_of(keys),
        first_bad_position=Position(scene.partition, offset),
        since=Since(
            scene.partition, after, offset, None if recorded is None else timestamp(recorded)
        ),
        detected_at=timestamp(scene.now),
        resolved_at=None,
        evidence={
            "checked_position": scene.position,
            "first_reported_at": timestamp(scene.now if scene.news_at is None else scene.news_at),
            **evidence,
        },
        partition=scene.partition,
        keys=list(keys),
    )


def _event_evidence(located: Located, version: Version) -> dict[str, Any]:
    return {
        "event_id": version.event_id,
        "correlation_id": version.correlation_id,
        "sequence": version.sequence,
        "offset": version.offset
        if version.offset is not None
        else located.offsets.get(version.event_id),
    }


def _field_evidence(
    scene: Scene, key: AggregateKey, must: Actual, seen: Actual
) -> dict[str, dict[str, Any]]:
    expected, actual = must.facts(), seen.facts()
    names = sorted(set(expected) | set(actual))
    return {
        name: _pair(scene, key, name, expected.get(name), actual.get(name))
        for name in names
        if expected.get(name) != actual.get(name)
    }


def _pair(
    scene: Scene, key: AggregateKey, name: str, expected: str | None, seen: str | None
) -> dict[str, Any]:
    pair: dict[str, Any] = {"expected_hash": expected, "seen_hash": seen}
    if (key, name) in scene.values:
        pair["seen_value"] = scene.values[key, name]
    return pair


def _missed(scene: Scene, located: Located, judgement: Judgement, version: Version) -> Finding:
    offset = version.offset if version.offset is not None else scene.position
    fields = {
        name: {"expected_hash": mark, "previous_hash": version.previous.get(name)}
        for name, mark in version.fields.items()
    }
    evidence = {
        "reason": "the event stands in the log and was not applied; the position moved past it",
        "events": [_event_evidence(located, version)],
        "fields": fields,
        "still_deviating": _field_evidence(
            scene, judgement.key, judgement.expected, judgement.actual
        ),
    }
    return _finding(scene, "missed", [judgement.key], offset, offset, evidence)


def _doubled(scene: Scene, located: Located, judgement: Judgement, version: Version) -> Finding:
    offset = version.offset if version.offset is not None else scene.position
    evidence = {
        "reason": "the event was applied more than once",
        "events": [_event_evidence(located, version)],
    }
    return _finding(scene, "doubled", [judgement.key], offset, offset, evidence)


def _foreign(scene: Scene, judgement: Judgement) -> Finding:
    offset = min(entry.offset for entry in judgement.foreign)
    evidence = {"reason": "applied an event that its aggregate's history does not have"}
    return _finding(scene, "foreign", [judgement.key], offset, offset, evidence)


def _storage(scene: Scene, judgement: Judgement) -> Finding:
    kinds = {fault.kind for fault in judgement.faults}
    kind: Kind = "corrupted" if "corrupted" in kinds else _KINDS[judgement.faults[0].kind]
    offset = min(fault.offset for fault in judgement.faults)
    fields: dict[str, Any] = {}
    for fault in judgement.faults:
        for name, (must, seen) in fault.fields.items():
            fields.setdefault(name, _pair(scene, judgement.key, name, must, seen))
    reasons = {
        "stale": "storage returned an older version than the one that was written last",
        "corrupted": "storage returned a value that no event ever wrote",
        "foreign": "storage returned a version that the replica never applied",
    }
    evidence = {"reason": reasons[kind], "fields": fields, "met_at": _met(judgement.faults, scene)}
    after = scene.written.get(judgement.key)
    if after is not None and after > offset:
        after = None
    return _finding(scene, kind, [judgement.key], offset, after, evidence)


def _met(faults: Sequence[Fault], scene: Scene) -> str:
    return "event" if any(fault.offset < scene.position for fault in faults) else "scrub"


def _unexplained(scene: Scene, located: Located, judgement: Judgement) -> Finding:
    why = (
        "the journal does not explain the difference"
        if located.journal_complete
        else "the replica no longer knows what it applied since the last agreement"
    )
    fields = {
        name: _pair(scene, judgement.key, name, must, seen)
        for name, (must, seen) in judgement.unexplained.items()
    }
    evidence = {"reason": f"stored facts differ; cause UNKNOWN: {why}", "fields": fields}
    after = scene.agreed_position
    return _finding(scene, "unexplained", [judgement.key], scene.position, after, evidence)


def _reordered(
    scene: Scene, located: Located, judgement: Judgement, odd: dict[str, Any]
) -> Finding:
    events = [_event_evidence(located, version) for version in judgement.late]
    offsets = [version.offset for version in judgement.late if version.offset is not None]
    evidence = {"reason": "applied after its successor", "events": events, "fields": odd}
    offset = min(offsets, default=scene.position)
    return _finding(scene, "reordered", [judgement.key], offset, offset, evidence)


def _bundled(scene: Scene, found: list[Finding]) -> list[Finding]:
    """Make one finding of many of one kind and context type."""
    groups: dict[tuple[Kind, str | None], list[Finding]] = {}
    for finding in found:
        groups.setdefault((finding.kind, finding.context_type), []).append(finding)
    bundled: list[Finding] = []
    for (kind, _), group in groups.items():
        if len(group) < BULK_FINDINGS:
            bundled += group
            continue
        group.sort(key=_offset_of)
        keys = list(dict.fromkeys(key for finding in group for key in finding.keys))
        evidence = {
            "reason": f"{len(group)} causes of one kind at once: consider to rebuild the replica",
            "subjects_total": len(keys),
            "causes_total": len(group),
            "causes": [_cause(finding) for finding in group[:MAXIMUM_CAUSES]],
            "samples": [finding.evidence for finding in group[:SAMPLES]],
        }
        first = _offset_of(group[0])
        afters = [None if f.since is None else f.since.after_offset for f in group]
        known = [after for after in afters if after is not None]
        after = min(known) if len(known) == len(group) else None
        bundled.append(_finding(scene, kind, keys[:MAXIMUM_SUBJECTS], first, after, evidence))
    return bundled


def _offset_of(finding: Finding) -> int:
    return -1 if finding.first_bad_position is None else finding.first_bad_position.offset


def _cause(finding: Finding) -> dict[str, Any]:
    """Return a cause within a bundle: whose, where, and since when at the earliest."""
    events = finding.evidence.get("events", [])
    return {
        "subject": finding.subjects[0] if finding.subjects else None,
        "offset": _offset_of(finding),
        "after_offset": None if finding.since is None else finding.since.after_offset,
        "event_id": events[0]["event_id"] if events else None,
    }
