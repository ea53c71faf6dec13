"""From judgements to findings: one finding a cause, with its evidence. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from msgspec import Struct

from synchroscope.ports import AggregateKey
from synchroscope.report import Entry
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
_REASONS: Mapping[str, str] = {
    "stale": "storage returned an older version than the one that was written last",
    "corrupted": "storage returned a value that no event ever wrote",
    "foreign": "storage returned a version that the replica never applied",
}


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


class _Cause(Struct, frozen=True, gc=False):
    """What will be a finding, or one of many in a bundle; ``evidence`` works its evidence out."""

    kind: Kind
    key: AggregateKey | None
    offset: int
    after: int | None
    evidence: Callable[[], dict[str, Any]]
    event_id: str | None = None


def findings_of(scene: Scene, located: Located) -> list[Finding]:
    """Return the new findings, every one in state open."""
    found: list[_Cause] = []
    for judgement in located.judgements:
        found += [_missed(scene, located, judgement, version) for version in judgement.missed]
        found += [_doubled(scene, located, judgement, version) for version in judgement.doubled]
        if judgement.foreign:
            found.append(_foreign(judgement))
        if judgement.faults:
            found.append(_storage(scene, judgement))
        if judgement.unexplained:
            found.append(_unexplained(scene, located, judgement))
        if judgement.late and not (judgement.missed or judgement.faults):
            odd = _field_evidence(scene, judgement.key, judgement.expected, judgement.actual)
            if odd:
                found.append(_reordered(scene, located, judgement, odd))
    found += [_stranger(entry) for entry in located.strangers]
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
        evidence=_dated(scene, evidence),
        partition=scene.partition,
        keys=list(keys),
    )


def _dated(scene: Scene, evidence: dict[str, Any]) -> dict[str, Any]:
    """Return evidence with when and where it was found."""
    return {
        "checked_position": scene.position,
        "first_reported_at": timestamp(scene.now if scene.news_at is None else scene.news_at),
        **evidence,
    }


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


def _missed(scene: Scene, located: Located, judgement: Judgement, version: Version) -> _Cause:
    offset = version.offset if version.offset is not None else scene.position
    evidence = partial(_missed_evidence, scene, located, judgement, version)
    return _Cause("missed", judgement.key, offset, offset, evidence, version.event_id)


def _missed_evidence(
    scene: Scene, located: Located, judgement: Judgement, version: Version
) -> dict[str, Any]:
    fields = {
        name: {"expected_hash": mark, "previous_hash": version.previous.get(name)}
        for name, mark in version.fields.items()
    }
    return {
        "reason": "the event stands in the log and was not applied; the position moved past it",
        "events": [_event_evidence(located, version)],
        "fields": fields,
        "still_deviating": _field_evidence(
            scene, judgement.key, judgement.expected, judgement.actual
        ),
    }


def _doubled(scene: Scene, located: Located, judgement: Judgement, version: Version) -> _Cause:
    offset = version.offset if version.offset is not None else scene.position
    reason = "the event was applied more than once"
    evidence = partial(_events_evidence, located, reason, [version])
    return _Cause("doubled", judgement.key, offset, offset, evidence, version.event_id)


def _events_evidence(
    located: Located, reason: str, versions: Sequence[Version], **more: Any
) -> dict[str, Any]:
    events = [_event_evidence(located, version) for version in versions]
    return {"reason": reason, "events": events, **more}


def _foreign(judgement: Judgement) -> _Cause:
    offset = min(entry.offset for entry in judgement.foreign)
    reason = "applied an event that its aggregate's history does not have"
    return _Cause("foreign", judgement.key, offset, offset, partial(_evidence, reason=reason))


def _stranger(entry: Entry) -> _Cause:
    reason = "applied something that is no event of the log"
    evidence = partial(_evidence, reason=reason, event=entry.event)
    return _Cause("foreign", None, entry.offset, None, evidence)


def _evidence(**evidence: Any) -> dict[str, Any]:
    return evidence


def _storage(scene: Scene, judgement: Judgement) -> _Cause:
    faults = judgement.faults
    kinds = {fault.kind for fault in faults}
    kind: Kind = "corrupted" if "corrupted" in kinds else _KINDS[faults[0].kind]
    offset = min(fault.offset for fault in faults)
    after = scene.written.get(judgement.key)
    if after is not None and after > offset:
        after = None
    evidence = partial(_storage_evidence, scene, judgement, kind)
    return _Cause(kind, judgement.key, offset, after, evidence)


def _storage_evidence(scene: Scene, judgement: Judgement, kind: Kind) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for fault in judgement.faults:
        for name, (must, seen) in fault.fields.items():
            fields.setdefault(name, _pair(scene, judgement.key, name, must, seen))
    return {"reason": _REASONS[kind], "fields": fields, "met_at": _met(judgement.faults, scene)}


def _met(faults: Sequence[Fault], scene: Scene) -> str:
    return "event" if any(fault.offset < scene.position for fault in faults) else "scrub"


def _unexplained(scene: Scene, located: Located, judgement: Judgement) -> _Cause:
    evidence = partial(_unexplained_evidence, scene, located, judgement)
    after = scene.agreed_position
    return _Cause("unexplained", judgement.key, scene.position, after, evidence)


def _unexplained_evidence(scene: Scene, located: Located, judgement: Judgement) -> dict[str, Any]:
    why = (
        "the journal does not explain the difference"
        if located.journal_complete
        else "the replica no longer knows what it applied since the last agreement"
    )
    fields = {
        name: _pair(scene, judgement.key, name, must, seen)
        for name, (must, seen) in judgement.unexplained.items()
    }
    return {"reason": f"stored facts differ; cause UNKNOWN: {why}", "fields": fields}


def _reordered(scene: Scene, located: Located, judgement: Judgement, odd: dict[str, Any]) -> _Cause:
    late = judgement.late
    evidence = partial(_events_evidence, located, "applied after its successor", late, fields=odd)
    offset = min((v.offset for v in late if v.offset is not None), default=scene.position)
    return _Cause("reordered", judgement.key, offset, offset, evidence, late[0].event_id)


def _bundled(scene: Scene, found: Sequence[_Cause]) -> list[Finding]:
    """Make one finding of many of one kind and context type.

    Evidence is worked out only for what is shown.
    """
    groups: dict[tuple[Kind, str | None], list[_Cause]] = {}
    for cause in found:
        context_type = None if cause.key is None else cause.key[0]
        groups.setdefault((cause.kind, context_type), []).append(cause)
    bundled: list[Finding] = []
    for (kind, _), group in groups.items():
        if len(group) < BULK_FINDINGS:
            bundled += [
                _finding(
                    scene,
                    kind,
                    [] if cause.key is None else [cause.key],
                    cause.offset,
                    cause.after,
                    cause.evidence(),
                )
                for cause in group
            ]
            continue
        group.sort(key=attrgetter("offset"))
        keys = list(dict.fromkeys(cause.key for cause in group if cause.key is not None))
        evidence = {
            "reason": f"{len(group)} causes of one kind at once: consider to rebuild the replica",
            "subjects_total": len(keys),
            "causes_total": len(group),
            "causes": list(map(_listed, group[:MAXIMUM_CAUSES])),
            "samples": [_dated(scene, cause.evidence()) for cause in group[:SAMPLES]],
        }
        known = [cause.after for cause in group if cause.after is not None]
        after = min(known) if len(known) == len(group) else None
        first = group[0].offset
        bundled.append(_finding(scene, kind, keys[:MAXIMUM_SUBJECTS], first, after, evidence))
    return bundled


def _listed(cause: _Cause) -> dict[str, Any]:
    """Return a cause within a bundle: whose, where, and since when at the earliest."""
    return {
        "subject": None if cause.key is None else cause.key[1],
        "offset": cause.offset,
        "after_offset": cause.after,
        "event_id": cause.event_id,
    }
