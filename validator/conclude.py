"""From judgements to the causes that findings tell of, with their evidence. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from synchroscope.ports import AggregateKey
from synchroscope.report import Entry
from validator.bundle import Cause, Scene, gathered
from validator.finding import Finding, Kind
from validator.judgement import Actual, Fault, Judgement, Version
from validator.locate import Located

_KINDS: Mapping[str, Kind] = {"stale": "stale", "corrupted": "corrupted", "foreign": "foreign"}
_REASONS: Mapping[str, str] = {
    "stale": "storage returned an older version than the one that was written last",
    "corrupted": "storage returned a value that no event ever wrote",
    "foreign": "storage returned a version that the replica never applied",
}


def findings_of(scene: Scene, located: Located, known: Sequence[Finding]) -> list[Finding]:
    """Return what is found: new findings in state open, and those of the `known` it adds to.

    `known` are the open findings of the replica's partition.
    """
    found: list[Cause] = []
    for judgement in located.judgements:
        found += [_missed(scene, located, judgement, version) for version in judgement.missed]
        found += [_doubled(scene, located, judgement, version) for version in judgement.doubled]
        if judgement.foreign:
            found.append(_foreign(judgement))
        if judgement.key in scene.doubtful:
            if judgement.has_other_facts and not judgement.missed:
                found.append(_unexplained(scene, located, judgement))
        elif judgement.faults:
            found.append(_storage(scene, judgement))
        if judgement.unexplained:
            found.append(_unexplained(scene, located, judgement))
        if judgement.late and not (judgement.missed or judgement.faults):
            odd = _field_evidence(scene, judgement.key, judgement.expected, judgement.actual)
            if odd:
                found.append(_reordered(scene, located, judgement, odd))
    found += [_stranger(entry) for entry in located.strangers]
    return gathered(scene, found, known)


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


def _missed(scene: Scene, located: Located, judgement: Judgement, version: Version) -> Cause:
    offset = version.offset if version.offset is not None else scene.position
    evidence = partial(_missed_evidence, scene, located, judgement, version)
    return Cause("missed", judgement.key, offset, offset, evidence, version.event_id)


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


def _doubled(scene: Scene, located: Located, judgement: Judgement, version: Version) -> Cause:
    offset = version.offset if version.offset is not None else scene.position
    reason = "the event was applied more than once"
    evidence = partial(_events_evidence, located, reason, [version])
    return Cause("doubled", judgement.key, offset, offset, evidence, version.event_id)


def _events_evidence(
    located: Located, reason: str, versions: Sequence[Version], **more: Any
) -> dict[str, Any]:
    events = [_event_evidence(located, version) for version in versions]
    return {"reason": reason, "events": events, **more}


def _foreign(judgement: Judgement) -> Cause:
    offset = min(entry.offset for entry in judgement.foreign)
    reason = "applied an event that its aggregate's history does not have"
    return Cause("foreign", judgement.key, offset, offset, partial(_evidence, reason=reason))


def _stranger(entry: Entry) -> Cause:
    reason = "applied something that is no event of the log"
    evidence = partial(_evidence, reason=reason, event=entry.event)
    return Cause("foreign", None, entry.offset, None, evidence)


def _evidence(**evidence: Any) -> dict[str, Any]:
    return evidence


def _storage(scene: Scene, judgement: Judgement) -> Cause:
    faults = judgement.faults
    kinds = {fault.kind for fault in faults}
    kind: Kind = "corrupted" if "corrupted" in kinds else _KINDS[faults[0].kind]
    offset = min(fault.offset for fault in faults)
    after = scene.written.get(judgement.key)
    if after is not None and after > offset:
        after = None
    evidence = partial(_storage_evidence, scene, judgement, kind)
    return Cause(kind, judgement.key, offset, after, evidence)


def _storage_evidence(scene: Scene, judgement: Judgement, kind: Kind) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for fault in judgement.faults:
        for name, (must, seen) in fault.fields.items():
            fields.setdefault(name, _pair(scene, judgement.key, name, must, seen))
    return {"reason": _REASONS[kind], "fields": fields, "met_at": _met(judgement.faults, scene)}


def _met(faults: Sequence[Fault], scene: Scene) -> str:
    return "event" if any(fault.offset < scene.position for fault in faults) else "scrub"


def _unexplained(scene: Scene, located: Located, judgement: Judgement) -> Cause:
    evidence = partial(_unexplained_evidence, scene, located, judgement)
    after = scene.agreed_position
    return Cause("unexplained", judgement.key, scene.position, after, evidence)


def _unexplained_evidence(scene: Scene, located: Located, judgement: Judgement) -> dict[str, Any]:
    why = (
        "the journal does not explain the difference"
        if located.journal_complete
        else "the replica no longer knows what it applied since the last agreement"
    )
    if judgement.key in scene.doubtful:
        why = "it may be one of those that deviated when there were too many to follow each"
    fields = _field_evidence(scene, judgement.key, judgement.expected, judgement.actual)
    return {"reason": f"stored facts differ; cause UNKNOWN: {why}", "fields": fields}


def _reordered(scene: Scene, located: Located, judgement: Judgement, odd: dict[str, Any]) -> Cause:
    late = judgement.late
    evidence = partial(_events_evidence, located, "applied after its successor", late, fields=odd)
    offset = min((v.offset for v in late if v.offset is not None), default=scene.position)
    return Cause("reordered", judgement.key, offset, offset, evidence, late[0].event_id)
