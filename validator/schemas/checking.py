"""Whether what an event writes is as its context type's schema says.

The schema describes the fields that an event changes, as one object: field -> its new value. A
field that is removed (``current`` null) has no value to check, and an event that only removes has
nothing to check at all; ``required`` names what every other event has to carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
import msgspec
from msgspec import Struct

from validator.schemas.document import CompiledSchema

MAXIMUM_VIOLATIONS = 20
"""Of one event; further ones are not looked at."""
MAXIMUM_SHOWN_ITEMS = 20
NEW_FIELD, REQUIRED, UNKNOWN_VERSION = "new-field", "required", "unknown-version"
EVOLUTIONS: Mapping[str, str] = {
    NEW_FIELD: "a field that the schema does not declare",
    "type": "a field that has another type than the schema says",
    UNKNOWN_VERSION: "a version that nobody registered",
}
_UNDECLARED = frozenset({"additionalProperties", "unevaluatedProperties"})
_TYPES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


class WrittenUpdate(Struct, frozen=True, gc=False):
    """What the check needs of an `Update`."""

    current: Any = None


class WrittenDelta(Struct, frozen=True, rename="camel", gc=False):
    """What the check needs of a `ContextDelta`."""

    updates: dict[str, WrittenUpdate]
    user_id: str | None = None
    session_id: str | None = None


class WrittenSource(Struct, frozen=True, rename="camel", gc=False):
    """Who produced the event."""

    model_id: str = ""
    instance_id: str = ""


class WrittenEvent(Struct, frozen=True, rename="camel", gc=False):
    """What the check needs of a `ContextEvent`; the rest is skipped while decoding."""

    context_delta: WrittenDelta
    source: WrittenSource = WrittenSource()
    context_type: str = "general"
    schema_version: int | None = None
    event_id: str = ""
    correlation_id: str | None = None

    @property
    def subject(self) -> str:
        """``user:ID``, or ``session:ID``; empty where there is neither."""
        delta = self.context_delta
        if delta.user_id is not None:
            return f"user:{delta.user_id}"
        return "" if delta.session_id is None else f"session:{delta.session_id}"


decode_written = msgspec.json.Decoder(WrittenEvent).decode
"""Bytes -> `WrittenEvent`; raises what msgspec raises."""


class Violation(Struct, frozen=True):
    """What of an event is not as its schema says.

    ``field`` is a JSON pointer into the changed fields, with ``*`` for the places of lists and the
    keys of maps; ``expected`` is what the schema says, ``seen`` the kind of value, never the value.
    """

    field: str
    rule: str
    expected: Any
    seen: str


def values_of(event: WrittenEvent) -> dict[str, Any]:
    """Return the fields that an event gives a value."""
    return {
        name: update.current
        for name, update in event.context_delta.updates.items()
        if update.current is not None
    }


def violations_of(schema: CompiledSchema, values: Mapping[str, Any]) -> list[Violation]:
    """Return what is not as the schema says, each field and rule once.

    >>> from validator.schemas.document import compile_schema
    >>> schema = compile_schema('{"properties": {"spend": {"type": "number"}}}')
    >>> [(one.field, one.rule, one.seen) for one in violations_of(schema, {"spend": "12"})]
    [('/spend', 'type', 'string of 2 characters')]
    """
    if schema.validator.is_valid(values):
        return []
    found: dict[tuple[str, str], Violation] = {}
    for error in schema.validator.iter_errors(values):
        for violation in _violations(schema, error):
            found.setdefault((violation.field, violation.rule), violation)
        if len(found) >= MAXIMUM_VIOLATIONS:
            break
    return list(found.values())[:MAXIMUM_VIOLATIONS]


def _violations(schema: CompiledSchema, error: jsonschema_rs.ValidationError) -> list[Violation]:
    kind: Any = error.kind
    place = _pointer(error.instance_path, schema.names)
    if kind.name in _UNDECLARED:
        inside = error.instance if isinstance(error.instance, dict) else {}
        return [
            Violation(f"{place}/{_escaped(name)}", NEW_FIELD, None, kind_of(inside.get(name)))
            for name in kind.unexpected
        ]
    if kind.name == REQUIRED:
        return [Violation(f"{place}/{_escaped(kind.property)}", REQUIRED, None, "absent")]
    rule = "forbidden" if kind.name == "falseSchema" else kind.name
    return [Violation(place, rule, _shown(kind.value), kind_of(error.instance))]


def _pointer(path: Sequence[str | int], names: frozenset[str]) -> str:
    """Return a pointer in which what is not named by the schema is ``*``: there are few of them."""
    return "".join(
        f"/{_escaped(part)}" if isinstance(part, str) and part in names else "/*" for part in path
    )


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _shown(value: Any) -> Any:
    """Return what of the schema can be shown; alternatives and the like are found there."""
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list) and len(value) <= MAXIMUM_SHOWN_ITEMS:
        return value if all(isinstance(item, str | int | float | bool) for item in value) else None
    return None


def kind_of(value: Any) -> str:
    """Return what kind of value it is, without the value, which may be personal.

    >>> kind_of("abc"), kind_of([1, 2]), kind_of(5)
    ('string of 3 characters', 'array of 2 items', 'integer')
    """
    kind = _TYPES.get(type(value), type(value).__name__)
    if isinstance(value, str):
        return f"{kind} of {len(value)} characters"
    return f"{kind} of {len(value)} items" if isinstance(value, list) else kind
