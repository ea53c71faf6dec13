"""What is compared of an event: its dimensions, and who has to apply it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import AggregateKey, Record
from synchroscope.view import View
from validator.ranking import Observation

Dimension = Callable[[bytes], "str | tuple[str, ...]"]
"""What an own dimension makes of an event's bytes; empty where it has no value."""
_TIMES = ((100, "100 times or more"), (10, "10 to 99 times"), (2, "2 to 9 times"))


class ComparedSource(Struct, frozen=True, rename="camel", gc=False):
    """Who produced the event."""

    model_id: str = ""
    instance_id: str = ""


class ComparedDelta(Struct, frozen=True, rename="camel", gc=False):
    """Whose context changes, and which fields; their values are not looked at."""

    updates: dict[str, msgspec.Raw]
    user_id: str | None = None
    session_id: str | None = None


class ComparedRules(Struct, frozen=True, rename="camel", gc=False):
    """Who is to see it, and how urgently."""

    target_models: tuple[str, ...] | None = None
    priority: str = "normal"


class ComparedEvent(Struct, frozen=True, rename="camel", gc=False):
    """What is compared of a `ContextEvent`; the rest is skipped while decoding."""

    context_delta: ComparedDelta
    source: ComparedSource = ComparedSource()
    timestamp: dt.datetime | None = None
    event_type: str = ""
    propagation_rules: ComparedRules = ComparedRules()
    context_type: str = "general"
    schema_version: int | None = None
    sequence: int | None = None
    retention: str | None = None

    @property
    def key(self) -> AggregateKey:
        """The aggregate."""
        delta = self.context_delta
        subject = f"user:{delta.user_id}" if delta.user_id is not None else None
        return self.context_type, subject or f"session:{delta.session_id}"


_decode = msgspec.json.Decoder(ComparedEvent).decode


def decode_compared(record: Record) -> ComparedEvent | None:
    """Return what is compared of a record; None where it is no event."""
    try:
        return _decode(record.value)
    except UNDECODABLE:
        return None


DIMENSIONS = frozenset(
    {
        "producer", "instance", "schema_version", "partition", "context_type", "field", "priority",
        "event_type", "subject_kind", "written", "hour", "retention", "replica", "model",
    }
)  # fmt: skip
"""What every event is compared by."""


def observe(
    event: ComparedEvent,
    record: Record,
    partition: int,
    replica: tuple[str, View] | None,
    dimensions: Mapping[str, Dimension],
) -> Observation:
    """Return the event's dimensions, with those of the replica that it is looked at for."""
    found: dict[str, str | tuple[str, ...]] = {
        "producer": event.source.model_id,
        "instance": f"{event.source.model_id}/{event.source.instance_id}",
        "schema_version": str(event.schema_version or "none"),
        "partition": str(partition),
        "context_type": event.context_type,
        "field": tuple(f"{event.context_type}.{name}" for name in event.context_delta.updates),
        "priority": event.propagation_rules.priority,
        "event_type": event.event_type,
        "subject_kind": event.key[1].partition(":")[0],
    }
    if event.sequence is not None:
        found["written"] = _times(event.sequence)
    if event.timestamp is not None:
        moment = event.timestamp
        moment = moment.astimezone(dt.UTC) if moment.tzinfo is not None else moment
        found["hour"] = f"{moment:%Y-%m-%dT%H}"
    if event.retention is not None:
        found["retention"] = event.retention
    if replica is not None:
        found["replica"], found["model"] = replica[0], replica[1].model
    for name, dimension in dimensions.items():
        value = dimension(record.value)
        if value:
            found[name] = value
    return found


def sees(view: View, event: ComparedEvent) -> bool:
    """Say whether a view has to apply an event."""
    targets = event.propagation_rules.target_models
    if targets is not None and view.model not in targets:
        return False
    fields = view.fields.get(event.context_type)
    return fields is not None and (
        not fields or any(name in fields for name in event.context_delta.updates)
    )


def _times(sequence: int) -> str:
    """Return how often an aggregate was written, roughly.

    >>> _times(1), _times(12)
    ('once', '10 to 99 times')
    """
    return next((name for least, name in _TIMES if sequence >= least), "once")
