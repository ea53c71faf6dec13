"""The role that checks every event of the log against its schema, and publishes what is wrong.

It reads the log as any consumer does. Its position, its counts, its open findings and what it
publishes are stored in one append, so that a crash counts nothing twice and finds nothing twice.
What it could not check, because no schema is registered or none can be used, it counts as such;
only where everything was checked and nothing is wrong does it say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from synchroscope.foreign import UNDECODABLE, decoded
from synchroscope.ports import EVENTS, STATE, Log, NewRecord, Progress, Record
from validator.pages import paged, stored
from validator.schemas.checking import (
    UNKNOWN_VERSION,
    Violation,
    WrittenEvent,
    decode_written,
    values_of,
    violations_of,
)
from validator.schemas.document import CompiledSchema, compile_schema
from validator.schemas.model import (
    DEFAULT_SUBJECT,
    RegistryError,
    SchemaSource,
    SchemaVersion,
    subject_of_context_type,
)
from validator.schemas.registry_client import Kept
from validator.schemas.violations import SCHEMA_VIOLATION, Book, Group, Place, Sighting

CONSUMER = "schema-checker"
STANDING_KEY = b"schemas-standing"
RECORDS_PER_STEP = 1_000
COMPILED_SCHEMAS = 1_000
OTHER_VERSIONS = 5
"""So many versions are tried for one that an event would be right for."""
NOT_REGISTERED = "no schema is registered"
MAXIMUM_NAMES = 100
"""Context types that are named as unchecked."""

Verdict = Literal["VALID", "UNKNOWN", "VIOLATED"]
Result = Literal[
    "valid", "violation", "empty", "unregistered", "unusable", "undecodable", "skipped"
]
UNCHECKED: Sequence[Result] = ("unregistered", "unusable", "undecodable", "skipped")


class SchemaStanding(Struct, frozen=True, rename="camel"):
    """How the check stands. ``at`` is in seconds since 1970; positions are by partition.

    ``checks`` counts events by `Result`, ``rules`` violations by rule; ``unchecked`` says why which
    context types cannot be checked now; ``sample_every`` is 1 where every event is checked.
    """

    at: float
    positions: dict[int, int]
    checks: dict[str, int]
    rules: dict[str, int]
    unchecked: dict[str, str]
    sample_every: int
    opened: int
    resolved: int
    open: int

    def verdict(self, heads: Mapping[int, int]) -> tuple[Verdict, str]:
        """Return how the log up to these heads is, and why."""
        if self.open:
            return "VIOLATED", f"{self.open} schema violations are open"
        if self.unchecked:
            name, why = next(iter(sorted(self.unchecked.items())))
            more = f", and {len(self.unchecked) - 1} more" if len(self.unchecked) > 1 else ""
            return "UNKNOWN", f"{name}: {why}{more}"
        if self.sample_every > 1:
            return "UNKNOWN", f"one event in {self.sample_every} is checked"
        missing = sum(self.checks.get(name, 0) for name in UNCHECKED)
        if missing:
            return "UNKNOWN", f"{missing} events could not be checked"
        if any(self.positions.get(number, 0) < head for number, head in heads.items()):
            return "UNKNOWN", "not all of the log is checked yet"
        return "VALID", ""


class Stored(Struct):
    """What goes into the log as the checker's checkpoint."""

    checks: dict[str, int]
    rules: dict[str, int]
    opened: int
    resolved: int
    groups: list[Group]


_decode_stored = msgspec.msgpack.Decoder(Stored).decode


class SchemaChecker:
    """Checks the events of all partitions.

    Parameters
    ----------
    log: Where events are read and findings are written.
    schemas: Where schemas come from.
    subject: The registry's subject of a context type, e.g. ``"context-{context_type}"``.
    sample_every: Check every so many-th event of a partition, by its offset. Over 1: less work, and
        what is not looked at is UNKNOWN.
    right_events, right_seconds: How long a producer has to be right until a finding is resolved;
        see `Book`.
    records_per_step: Most events of a partition in one step. Higher: more throughput, slower steps.
    checkpoint_interval_seconds: Most time between two checkpoints while events come in. Higher:
        fewer records, more to check again after a crash.
    heartbeat_seconds: Say that often how the check stands, even if nothing happened; None: never.
    """

    def __init__(
        self,
        log: Log,
        schemas: SchemaSource,
        *,
        subject: str = DEFAULT_SUBJECT,
        sample_every: int = 1,
        right_events: int = 100,
        right_seconds: float = 60.0,
        records_per_step: int = RECORDS_PER_STEP,
        checkpoint_interval_seconds: float = 0.5,
        heartbeat_seconds: float | None = None,
    ) -> None:
        self._log = log
        self._schemas = schemas
        self._subject = subject
        self._sample_every = sample_every
        self._records_per_step = records_per_step
        self._checkpoint_interval_seconds = checkpoint_interval_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._book = Book(right_events, right_seconds)
        self._checks: Counter[str] = Counter()
        self._rules: Counter[str] = Counter()
        self._unchecked: dict[str, str] = {}
        self._generation = -1
        self._usable: dict[tuple[str, int | None], _Schema] = {}
        self._compiled: Kept[tuple[int, str], CompiledSchema | str] = Kept(COMPILED_SCHEMAS)
        self._checkpoint_at: float | None = None
        self.is_dirty = True
        self.positions = dict.fromkeys(range(log.partitions(EVENTS)), 0)
        self._restore()

    def _restore(self) -> None:
        data = stored(self._log, CONSUMER.encode())
        if data is None:
            return
        before = decoded(_decode_stored, data)
        if before is None:
            return  # Of another release, or garbage: check the log anew.
        self._checks, self._rules = Counter(before.checks), Counter(before.rules)
        self._book.restore(before.groups, before.opened, before.resolved)
        for (topic, number), position in self._log.positions(CONSUMER).items():
            if topic == EVENTS:
                self.positions[number] = position

    def step(self, now: float) -> Progress:
        """Check a bounded batch of every partition."""
        batches = [
            (number, self._log.read(EVENTS, number, position, self._records_per_step))
            for number, position in self.positions.items()
        ]
        consumed = sum(len(batch.records) for _, batch in batches)
        if consumed:
            # After the events were read: what was registered before they were written is known.
            self._follow_registry(now)
        for number, batch in batches:
            for record in batch.records:
                self._checks[self._check(number, record, now)] += 1
            self.is_dirty = self.is_dirty or batch.position != self.positions[number]
            self.positions[number] = batch.position
        self._publish(now)
        return Progress(consumed)

    def _follow_registry(self, now: float) -> None:
        generation = self._schemas.refresh(now)
        if generation != self._generation:
            self._generation = generation
            self._usable.clear()
            self._unchecked.clear()

    # -- one event ---------------------------------------------------------------------------

    def _check(self, partition: int, record: Record, now: float) -> Result:
        if self._sample_every > 1 and record.offset % self._sample_every:
            return "skipped"
        try:
            event = decode_written(record.value)
        except UNDECODABLE:
            return "undecodable"
        key = event.context_type, event.schema_version
        schema = self._usable.get(key) or self._schema_of(*key, now)
        if schema.problem:
            return self._unusable(event.context_type, schema)
        values = values_of(event)
        violations = self._violations(event, schema, values, now)
        source = event.source.model_id, event.context_type
        if violations or self._book.has_open(source):
            sighting = Sighting(
                Place(partition, record.offset, record.timestamp),
                event.source.instance_id,
                event.schema_version if schema.compiled is None else _version_of(schema),
                event.subject,
                event.event_id,
                event.correlation_id,
            )
            self._book.see(
                source, sighting, violations, values, now, lambda: self._fitting(event, values, now)
            )
        self._rules.update(violation.rule for violation in violations)
        if violations:
            return "violation"
        return "valid" if values else "empty"

    def _violations(
        self, event: WrittenEvent, schema: _Schema, values: dict[str, Any], now: float
    ) -> list[Violation]:
        if schema.compiled is None:
            return [_unknown_version(event, schema)]
        if not values:
            return []
        violations = violations_of(schema.compiled, values)
        if violations and event.schema_version is None:
            # There may be a later version than the one that was the latest lately.
            newer = self._schema_of(event.context_type, None, now, sure=True)
            if newer.compiled is not None and newer.compiled is not schema.compiled:
                violations = violations_of(newer.compiled, values)
        return violations

    def _unusable(self, context_type: str, schema: _Schema) -> Result:
        if context_type in self._unchecked or len(self._unchecked) < MAXIMUM_NAMES:
            self._unchecked[context_type] = schema.problem
        return "unregistered" if schema.problem == NOT_REGISTERED else "unusable"

    def _fitting(self, event: WrittenEvent, values: Mapping[str, Any], now: float) -> int | None:
        """Return the newest version that the event would be right for."""
        latest = self._schema_of(event.context_type, None, now).found
        versions = range(latest.version, 0, -1) if latest is not None else range(0)
        for version in versions[:OTHER_VERSIONS]:
            compiled = self._schema_of(event.context_type, version, now).compiled
            if compiled is not None and compiled.validator.is_valid(dict(values)):
                return version
        return None

    # -- schemas -----------------------------------------------------------------------------

    def _schema_of(
        self, context_type: str, version: int | None, now: float, *, sure: bool = False
    ) -> _Schema:
        schema = self._look_up(context_type, version, now, sure)
        # What is absent now may be there the next time, without a new generation.
        if schema.compiled is not None and len(self._usable) < COMPILED_SCHEMAS:
            self._usable[context_type, version] = schema
        return schema

    def _look_up(self, context_type: str, version: int | None, now: float, sure: bool) -> _Schema:
        subject = subject_of_context_type(context_type, self._subject)
        try:
            found = self._schemas.find(subject, version, now, sure=sure)
            latest = found or self._schemas.find(subject, None, now)
        except RegistryError as error:
            return _Schema(None, None, f"the registry refuses {subject}: {error}")
        if latest is None:
            return _Schema(None, None, NOT_REGISTERED)
        if found is None:
            return _Schema(latest, None, "")
        key = found.id, found.text
        compiled = self._compiled.get(key)
        if compiled is None:
            try:
                compiled = self._compiled.put(key, compile_schema(found.text))
            except RegistryError as error:
                compiled = self._compiled.put(key, f"version {found.version}: {error}")
        if isinstance(compiled, str):
            return _Schema(found, None, compiled)
        return _Schema(found, compiled, "")

    # -- what others see ---------------------------------------------------------------------

    def standing(self, now: float) -> SchemaStanding:
        """Return how the check stands."""
        return SchemaStanding(
            at=now,
            positions=dict(self.positions),
            checks=dict(self._checks),
            rules=dict(self._rules),
            unchecked=dict(self._unchecked),
            sample_every=self._sample_every,
            opened=self._book.opened,
            resolved=self._book.resolved,
            open=len(self._book.groups()),
        )

    def _is_due(self, now: float) -> bool:
        if self._checkpoint_at is None:
            return True
        interval = self._checkpoint_interval_seconds if self.is_dirty else self._heartbeat_seconds
        return interval is not None and not 0 <= now - self._checkpoint_at < interval

    def _publish(self, now: float) -> None:
        outputs = self._book.drain(now)
        if not (outputs or self._is_due(now)):
            return
        state = Stored(
            dict(self._checks),
            dict(self._rules),
            self._book.opened,
            self._book.resolved,
            self._book.groups(),
        )
        outputs += paged(CONSUMER.encode(), msgspec.msgpack.encode(state))
        standing = msgspec.json.encode(self.standing(now))
        outputs.append(NewRecord(STATE, 0, STANDING_KEY, standing))
        positions = {(EVENTS, number): position for number, position in self.positions.items()}
        self._log.append(outputs, now, consumer=CONSUMER, positions=positions)
        self._checkpoint_at = now
        self.is_dirty = False


class _Schema(Struct, frozen=True):
    """What is known for checking: the version and its validator, or the problem.

    Without problem and validator, `found` is the latest version of a subject that does not have the
    version that was asked for.
    """

    found: SchemaVersion | None
    compiled: CompiledSchema | None
    problem: str


def _version_of(schema: _Schema) -> int | None:
    return None if schema.found is None else schema.found.version


def _unknown_version(event: WrittenEvent, schema: _Schema) -> Violation:
    latest = _version_of(schema)
    return Violation("", UNKNOWN_VERSION, latest, f"version {event.schema_version}")


_decode_standing = msgspec.json.Decoder(SchemaStanding).decode


def decode_standing(data: bytes) -> SchemaStanding | None:
    """Return what a checker published; None for bytes that are none of this release."""
    return decoded(_decode_standing, data)


__all__ = ["SCHEMA_VIOLATION", "SchemaChecker", "SchemaStanding", "decode_standing"]
