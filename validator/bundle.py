"""From causes to findings: one finding a cause, and of many of one kind few findings. Pure.

A finding of many causes, a bundle, names the keys of all of them, and closes when all of these are
in order. While it is small it takes in what is found later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

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

BULK_FINDINGS = 50
"""From so many findings of one kind and context type on, an interval's findings become one."""
SINGLE_FINDINGS = 200
"""So many of one kind and context type are open one by one at most; the others are bundled."""
GROWN_SUBJECTS = 250
"""So many subjects a bundle has at most that grows. More: fewer findings, each published again with
all that it names whenever it grows."""
MAXIMUM_SUBJECT_CHARACTERS = 100_000
"""So long all subjects of a bundle are at most, for it has to fit into a record."""
MAXIMUM_CAUSES = 1_000
"""So many causes of a bundle are named one by one."""
SAMPLES = 10


class Scene(Struct, frozen=True):
    """Where and when: what all findings of one conclusion share.

    ``values`` are the replica's stored values of fields that are not personal; ``written`` the
    offset after the last event that wrote an aggregate, where it could be found;
    ``agreed_position`` where the digests last agreed; ``news_at`` when a report first showed a
    difference (None where only the scrub's answer did); ``doubtful`` are aggregates that may have
    deviated before, unseen.
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
    doubtful: Collection[AggregateKey] = frozenset()


class Cause(Struct, frozen=True, gc=False):
    """What will be a finding, or one of many in a bundle; ``evidence`` works its evidence out."""

    kind: Kind
    key: AggregateKey | None
    offset: int
    after: int | None
    evidence: Callable[[], dict[str, Any]]
    event_id: str | None = None


def gathered(scene: Scene, found: Sequence[Cause], known: Sequence[Finding]) -> list[Finding]:
    """Return the findings that tell of all causes: new ones, and `known` ones that tell of them."""
    open_by_id = {finding.id: finding for finding in known}
    groups: dict[tuple[Kind, str | None], list[Cause]] = {}
    told: dict[str, Finding] = {}
    for cause in found:
        single = open_by_id.get(_id_of(scene, cause))
        if single is not None:
            told[single.id] = _told_again(told.get(single.id, single), cause.evidence())
        else:
            context_type = None if cause.key is None else cause.key[0]
            groups.setdefault((cause.kind, context_type), []).append(cause)
    for (kind, context_type), group in groups.items():
        alike = [f for f in known if f.kind == kind and f.context_type == context_type]
        bundles = [finding for finding in alike if "causes" in finding.evidence]
        owners = {cause: bundle for bundle in bundles for cause in _causes_told(bundle)}
        fresh = [cause for cause in group if _identity(cause) not in owners]
        again = [owners[_identity(cause)] for cause in group if _identity(cause) in owners]
        singles = len(alike) - len(bundles) + len(fresh)
        if len(fresh) < BULK_FINDINGS and singles <= SINGLE_FINDINGS:
            new = [_single(scene, cause) for cause in fresh]
        else:
            new = _bundled(scene, kind, fresh, bundles)
        told.update({finding.id: finding for finding in [*again, *new]})
    return list(told.values())


def _id_of(scene: Scene, cause: Cause) -> str:
    key = cause.key or ("", "")
    return finding_id(scene.replica, scene.partition, cause.kind, cause.offset, *key)


def _identity(cause: Cause) -> tuple[str | None, int, str | None]:
    return None if cause.key is None else cause.key[1], cause.offset, cause.event_id


def _causes_told(bundle: Finding) -> Iterator[tuple[str | None, int, str | None]]:
    """Yield the causes of a bundle whose keys are not in order yet."""
    deviating = {subject for _, subject in bundle.keys}
    for cause in bundle.evidence["causes"]:
        if cause["subject"] is None or cause["subject"] in deviating:
            yield cause["subject"], cause["offset"], cause["event_id"]


def _told_again(told: Finding, evidence: Mapping[str, Any]) -> Finding:
    """Return a finding with what is seen now of its key's fields, beside those it told of."""
    fields = dict(told.evidence.get("fields", {}))
    for name, pair in evidence.get("fields", {}).items():
        first = fields.get(name, pair)
        fields[name] = {**pair, "expected_hash": first["expected_hash"]}
    if not fields:
        return told
    return replace(told, evidence={**told.evidence, "fields": fields})


def _finding(
    scene: Scene,
    kind: Kind,
    identity: str,
    keys: Sequence[AggregateKey],
    offset: int,
    after: int | None,
    evidence: dict[str, Any],
) -> Finding:
    return Finding(
        id=identity,
        state="open",
        kind=kind,
        replica=scene.replica,
        context_type=keys[0][0] if keys else None,
        subjects=subjects_of(keys),
        first_bad_position=Position(scene.partition, offset),
        since=Since(scene.partition, after, offset, _recorded_at(scene, offset)),
        detected_at=timestamp(scene.now),
        resolved_at=None,
        evidence=_dated(scene, evidence),
        partition=scene.partition,
        keys=list(keys),
    )


def _recorded_at(scene: Scene, offset: int) -> str | None:
    recorded = scene.recorded.get(offset)
    return None if recorded is None else timestamp(recorded)


def _dated(scene: Scene, evidence: dict[str, Any]) -> dict[str, Any]:
    """Return evidence with when and where it was found."""
    return {
        "checked_position": scene.position,
        "first_reported_at": timestamp(scene.now if scene.news_at is None else scene.news_at),
        **evidence,
    }


def _single(scene: Scene, cause: Cause) -> Finding:
    keys = [] if cause.key is None else [cause.key]
    identity, evidence = _id_of(scene, cause), cause.evidence()
    return _finding(scene, cause.kind, identity, keys, cause.offset, cause.after, evidence)


def _bundled(
    scene: Scene, kind: Kind, causes: Sequence[Cause], bundles: Sequence[Finding]
) -> list[Finding]:
    """Return the findings that take in causes of one kind and context type.

    Evidence is worked out only for what is shown.
    """
    rest = sorted(causes, key=attrgetter("offset"))
    taken = {bundle.id for bundle in bundles}
    found: list[Finding] = []
    for growing in filter(_is_growing, bundles[-1:]):
        size = _size(rest, GROWN_SUBJECTS, growing.subjects)
        if size:
            found.append(_grown(scene, growing, rest[:size]))
        rest = rest[size:]
    while rest:
        size = _size(rest, MAXIMUM_SUBJECTS, ())
        found.append(_bundle(scene, kind, rest[:size], taken))
        taken.add(found[-1].id)
        rest = rest[size:]
    return found


def _is_growing(bundle: Finding) -> bool:
    """Say whether a bundle takes in more; not one whose repair was ordered as it is."""
    return bundle.state == "open" and "repair" not in bundle.evidence


def _size(causes: Sequence[Cause], most: int, subjects: Collection[str]) -> int:
    """Return how many causes, the first ones, go into a bundle that has these subjects."""
    known = set(subjects)
    characters = sum(map(len, known))
    for size, cause in enumerate(causes):
        if cause.key is None or cause.key[1] in known:
            continue
        characters += len(cause.key[1])
        if known and (len(known) >= most or characters > MAXIMUM_SUBJECT_CHARACTERS):
            return size
        known.add(cause.key[1])
    return len(causes)


def _bundle(scene: Scene, kind: Kind, causes: Sequence[Cause], taken: Collection[str]) -> Finding:
    keys = _keys_of(causes)
    first = causes[0].offset
    number = 0
    while (identity := _bundle_id(scene, causes[0], number)) in taken:
        number += 1
    evidence = {
        "reason": _reason(len(causes)),
        "subjects_total": len(keys),
        "causes_total": len(causes),
        "causes": list(map(_listed, causes[:MAXIMUM_CAUSES])),
        "samples": [_dated(scene, cause.evidence()) for cause in causes[:SAMPLES]],
    }
    return _finding(scene, kind, identity, keys, first, _after(causes), evidence)


def _bundle_id(scene: Scene, first: Cause, number: int) -> str:
    key = first.key or ("", "")
    place = scene.replica, scene.partition, first.kind, "bundle", first.offset
    return finding_id(*place, *key, number)


def _grown(scene: Scene, bundle: Finding, causes: Sequence[Cause]) -> Finding:
    """Return a bundle that tells of these causes too."""
    keys = list(dict.fromkeys([*bundle.keys, *_keys_of(causes)]))
    subjects = list(dict.fromkeys([*bundle.subjects, *subjects_of(_keys_of(causes))]))
    known = bundle.evidence
    total = known["causes_total"] + len(causes)
    room = max(SAMPLES - len(known["samples"]), 0)
    evidence = {
        **known,
        "checked_position": scene.position,
        "reason": _reason(total),
        "subjects_total": len(subjects),
        "causes_total": total,
        "causes": [*known["causes"], *map(_listed, causes)][:MAXIMUM_CAUSES],
        "samples": [*known["samples"], *(_dated(scene, c.evidence()) for c in causes[:room])],
    }
    since = _since(scene, bundle.since, causes)
    return replace(
        bundle,
        keys=keys,
        subjects=subjects,
        since=since,
        first_bad_position=Position(scene.partition, since.by_offset),
        evidence=evidence,
    )


def _since(scene: Scene, known: Since | None, causes: Sequence[Cause]) -> Since:
    """Return since when, where causes, in order, come to a bundle."""
    offset, after = causes[0].offset, _after(causes)
    found = Since(scene.partition, after, offset, _recorded_at(scene, offset))
    if known is None:
        return found
    before = known.after_offset
    lower = None if before is None or after is None else min(before, after)
    return replace(known if known.by_offset <= offset else found, after_offset=lower)


def _keys_of(causes: Sequence[Cause]) -> list[AggregateKey]:
    return list(dict.fromkeys(cause.key for cause in causes if cause.key is not None))


def _after(causes: Sequence[Cause]) -> int | None:
    """Return since when at the earliest; None where that is not known of every cause."""
    known = [cause.after for cause in causes if cause.after is not None]
    return min(known) if len(known) == len(causes) else None


def _reason(count: int) -> str:
    return f"{count} causes of one kind: consider to rebuild the replica"


def _listed(cause: Cause) -> dict[str, Any]:
    """Return a cause within a bundle: whose, where, and since when at the earliest."""
    return {
        "subject": None if cause.key is None else cause.key[1],
        "offset": cause.offset,
        "after_offset": cause.after,
        "event_id": cause.event_id,
    }
