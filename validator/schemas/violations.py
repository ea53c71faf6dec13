"""Violations put together into findings: one for each producer, context type, field and rule.

A finding says since when, how often, of which versions; it is resolved when the producer's later
events have been right for a while, and what comes after that is a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from synchroscope.ports import FINDINGS, NewRecord
from validator.finding import Finding, Position, Since, encode_finding, finding_id, timestamp
from validator.schemas.checking import (
    EVOLUTIONS,
    NEW_FIELD,
    REQUIRED,
    UNKNOWN_VERSION,
    Violation,
)

SCHEMA_VIOLATION: Literal["schema-violation"] = "schema-violation"
MAXIMUM_OF_SOURCE = 50
"""Open findings of one producer and context type; what comes on top goes into one for the rest."""
MAXIMUM_SOURCES = 500
"""Producers and context types with open findings; likewise."""
MAXIMUM_COUNTED = 20
"""Versions, instances and subjects that a finding names."""
PUBLISH_SECONDS = 5.0
"""A finding that only counts on is not published more often."""
MANY = Violation("*", "many", None, "more kinds of violations than are kept apart")
_ALWAYS_EVIDENT = frozenset({NEW_FIELD, REQUIRED, UNKNOWN_VERSION, MANY.rule, "forbidden"})
"""Rules of which every event of the producer says whether it still breaks them."""

Source = tuple[str, str]
"""(producer's model ID, context type)"""


class Place(Struct, frozen=True):
    """Where an event stands in the log; ``at`` is the record's timestamp."""

    partition: int
    offset: int
    at: float


class Sighting(Struct, frozen=True):
    """An event that was checked, as far as findings tell of it."""

    place: Place
    instance: str
    version: int | None
    subject: str
    event_id: str
    correlation_id: str | None


class Group(Struct):
    """One open finding. ``right`` counts the events since the last violation that were right."""

    producer: str
    context_type: str
    violation: Violation
    first: Sighting
    last: Place
    detected_at: float
    fits_version: int | None = None
    count: int = 0
    right: int = 0
    versions: dict[str, int] = {}
    instances: dict[str, int] = {}
    subjects: list[str] = []
    published_count: int = 0
    published_at: float = 0.0


class Book:
    """The open findings, and how many were ever opened and resolved.

    Parameters
    ----------
    right_events: So many events of the producer have to be right in a row to resolve a finding.
        Higher: a producer that errs now and then keeps one finding.
    right_seconds: And for so long, by the records' timestamps.
    """

    def __init__(self, right_events: int, right_seconds: float) -> None:
        self._right_events = right_events
        self._right_seconds = right_seconds
        self._open: dict[Source, dict[tuple[str, str], Group]] = {}
        self._outputs: list[NewRecord] = []
        self.opened = 0
        self.resolved = 0

    def restore(self, groups: Iterable[Group], opened: int, resolved: int) -> None:
        """Go on from a checkpoint."""
        self._open.clear()
        for group in groups:
            source = group.producer, group.context_type
            key = group.violation.field, group.violation.rule
            self._open.setdefault(source, {})[key] = group
        self.opened, self.resolved = opened, resolved

    def groups(self) -> list[Group]:
        """Return the open findings."""
        return [group for groups in self._open.values() for group in groups.values()]

    def has_open(self, source: Source) -> bool:
        """Say whether anything is open of a producer and context type."""
        return source in self._open

    def see(
        self,
        source: Source,
        sighting: Sighting,
        violations: Sequence[Violation],
        values: Mapping[str, Any],
        now: float,
        fits: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Take note of a checked event; `fits` tells which other version it would be right for."""
        broken = set()
        for violation in violations:
            group = self._group(source, violation, sighting, now, fits)
            broken.add(id(group))
            _count(group, sighting)
        for key, group in list(self._open.get(source, {}).items()):
            if id(group) in broken or not _is_evident(group, values):
                continue
            group.right += 1
            is_long_enough = sighting.place.at - group.last.at >= self._right_seconds
            if group.right >= self._right_events and is_long_enough:
                self._resolve(source, key, group, sighting.place, now)

    def _group(
        self,
        source: Source,
        violation: Violation,
        sighting: Sighting,
        now: float,
        fits: Callable[[], int | None],
    ) -> Group:
        if source not in self._open and len(self._open) >= MAXIMUM_SOURCES:
            source, violation = ("*", "*"), MANY
        groups = self._open.setdefault(source, {})
        key = violation.field, violation.rule
        if key not in groups and len(groups) >= MAXIMUM_OF_SOURCE:
            violation, key = MANY, (MANY.field, MANY.rule)
        if key not in groups:
            group = Group(*source, violation, sighting, sighting.place, now, fits())
            groups[key] = group
            self.opened += 1
        return groups[key]

    def _resolve(
        self, source: Source, key: tuple[str, str], group: Group, place: Place, now: float
    ) -> None:
        del self._open[source][key]
        if not self._open[source]:
            del self._open[source]
        self.resolved += 1
        evidence = {
            "right_events": group.right,
            "right_position": {"partition": place.partition, "offset": place.offset},
        }
        self._publish(group, now, resolved=evidence)

    def _publish(self, group: Group, now: float, resolved: dict[str, Any] | None = None) -> None:
        group.published_count, group.published_at = group.count, now
        finding = finding_of(group, now, resolved)
        self._outputs.append(NewRecord(FINDINGS, 0, finding.id.encode(), encode_finding(finding)))

    def drain(self, now: float) -> list[NewRecord]:
        """Return what is to be published: new findings at once, counts that grew now and then."""
        for group in self.groups():
            is_due = not 0 <= now - group.published_at < PUBLISH_SECONDS
            if not group.published_count or (group.count > group.published_count and is_due):
                self._publish(group, now)
        outputs, self._outputs = self._outputs, []
        return outputs


def _count(group: Group, sighting: Sighting) -> None:
    group.count += 1
    group.right = 0
    group.last = sighting.place
    _tally(group.versions, "none" if sighting.version is None else str(sighting.version))
    _tally(group.instances, sighting.instance)
    is_new = sighting.subject not in group.subjects
    if is_new and sighting.subject and len(group.subjects) < MAXIMUM_COUNTED:
        group.subjects.append(sighting.subject)


def _tally(counts: dict[str, int], name: str) -> None:
    if name not in counts and len(counts) >= MAXIMUM_COUNTED:
        name = "other"
    counts[name] = counts.get(name, 0) + 1


def _is_evident(group: Group, values: Mapping[str, Any]) -> bool:
    """Say whether an event that did not break the rule shows that it can be kept."""
    if group.violation.rule in _ALWAYS_EVIDENT or not group.violation.field:
        return True
    field = group.violation.field.split("/")[1]
    return field.replace("~1", "/").replace("~0", "~") in values


def finding_of(group: Group, now: float, resolved: dict[str, Any] | None = None) -> Finding:
    """Return the finding as it is published; `resolved` is the evidence that it is over."""
    first, violation = group.first, group.violation
    place = Position(first.place.partition, first.place.offset)
    evidence: dict[str, Any] = {
        "producer": group.producer,
        "field": violation.field,
        "rule": violation.rule,
        "expected": violation.expected,
        "seen": violation.seen,
        "schema_version": first.version,
        "count": group.count,
        "versions": group.versions,
        "instances": group.instances,
        "event_id": first.event_id,
        "correlation_id": first.correlation_id,
        "last_position": {"partition": group.last.partition, "offset": group.last.offset},
        "fits_version": group.fits_version,
    }
    if violation.rule in EVOLUTIONS:
        evidence["evolution"] = EVOLUTIONS[violation.rule]
    return Finding(
        id=finding_id(
            SCHEMA_VIOLATION,
            group.producer,
            group.context_type,
            violation.field,
            violation.rule,
            place.partition,
            place.offset,
        ),
        state="open" if resolved is None else "resolved",
        kind=SCHEMA_VIOLATION,
        replica=None,
        context_type=group.context_type,
        subjects=list(group.subjects),
        first_bad_position=place,
        since=Since(place.partition, place.offset, place.offset, timestamp(first.place.at)),
        detected_at=timestamp(group.detected_at),
        resolved_at=None if resolved is None else timestamp(now),
        evidence={**evidence, **(resolved or {})},
        partition=place.partition,
    )
