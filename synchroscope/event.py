"""What a context event is, and how its bytes become one.

`decode_event` is strict and for the border (producers, command side): every field is checked and a
refusal says precisely why. `decode_wire` reads the few fields that replicas and the reference need,
of records that the command side has already checked.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from synchroscope.errors import InvalidEventError
from synchroscope.foreign import UNDECODABLE

MAXIMUM_EVENT_BYTES = 1_048_576
MAXIMUM_UPDATES = 1_000
MAXIMUM_VALUE_DEPTH = 16
MAXIMUM_SEQUENCE = 2**53
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1

DEFAULT_CONTEXT_TYPE = "general"
UPDATED = "context.updated"
EXPIRED = "context.expired"

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Priority = Literal["critical", "high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "normal", "low")


class Source(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Who produced the event: a model, an external source or a user interface, and its instance."""

    model_id: Name
    instance_id: Name


class Update(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """The change of one field.

    ``previous`` null or absent: there was no fact. ``current`` null: the fact is removed.
    ``previous_targets`` names the models that were to see ``previous``; null: every model.
    """

    current: Any
    previous: Any = None
    confidence: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    previous_targets: tuple[Name, ...] | None = None


class ContextDelta(
    Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """Whose context changes, and how. A user's context is the user's, whatever the session."""

    updates: Annotated[dict[Name, Update], Meta(min_length=1, max_length=MAXIMUM_UPDATES)]
    user_id: Name | None = None
    session_id: Name | None = None


class PropagationRules(
    Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """Which models are to see the change, how urgently, and for how long (``ttl`` in seconds).

    ``target_models`` null or absent: every model whose view has the fields. An empty list: none.
    """

    target_models: tuple[Name, ...] | None = None
    priority: Priority = "normal"
    ttl: Annotated[int, Meta(ge=1, le=2**31)] | None = None


class ContextEvent(
    Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """An immutable change of one aggregate (one context type of one subject)."""

    event_id: UUID
    timestamp: Annotated[dt.datetime, Meta(tz=True)]
    event_type: Annotated[str, Meta(pattern=r"^context\.[a-z][a-z_-]{0,63}$")]
    source: Source
    context_delta: ContextDelta
    propagation_rules: PropagationRules = PropagationRules()
    context_type: Name = DEFAULT_CONTEXT_TYPE
    sequence: Annotated[int, Meta(ge=1, le=MAXIMUM_SEQUENCE)] | None = None
    schema_version: Annotated[int, Meta(ge=1)] | None = None
    retention: Name | None = None
    correlation_id: Name | None = None
    causation_id: Name | None = None
    traceparent: (
        Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None
    ) = None

    @property
    def subject(self) -> str:
        """``user:ID``, or ``session:ID`` where no user is known."""
        delta = self.context_delta
        return subject_of(delta.user_id, delta.session_id)


def subject_of(user_id: str | None, session_id: str | None) -> str:
    """Return the subject that a user and a session ID stand for.

    >>> subject_of("17850", "536365"), subject_of(None, "536365")
    ('user:17850', 'session:536365')
    """
    if user_id is not None:
        return f"user:{user_id}"
    if session_id is not None:
        return f"session:{session_id}"
    raise InvalidEventError("no subject", "contextDelta has neither userId nor sessionId")


_decoder = msgspec.json.Decoder(ContextEvent)
_encoder = msgspec.json.Encoder()


def encode_event(event: ContextEvent) -> bytes:
    """Return the event as JSON in UTF-8, absent fields left out."""
    return _encoder.encode(event)


def decode_event(data: bytes) -> ContextEvent:
    """Return the event that the bytes state, or raise `InvalidEventError` with a precise reason."""
    if len(data) > MAXIMUM_EVENT_BYTES:
        raise InvalidEventError("too large", f"{len(data)} bytes, {MAXIMUM_EVENT_BYTES} allowed")
    try:
        event = _decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidEventError("schema violation", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEventError("malformed JSON", str(error)) from None
    except RecursionError:
        raise InvalidEventError("malformed JSON", "nested too deeply") from None
    check_event(event)
    return event


def check_event(event: ContextEvent) -> None:
    """Raise `InvalidEventError` for what the types alone cannot express."""
    delta = event.context_delta
    subject_of(delta.user_id, delta.session_id)
    for name, update in delta.updates.items():
        check_value(update.current, f"$.contextDelta.updates.{name}.current")
        check_value(update.previous, f"$.contextDelta.updates.{name}.previous")


def check_value(value: Any, path: str, depth: int = 0) -> None:
    """Raise unless the value is JSON that every language reads alike (64-bit integers, no NaN)."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int):
        if not _LOWEST <= value <= _HIGHEST:
            raise InvalidEventError("value out of range", f"{path}: integer needs over 64 bits")
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidEventError("value out of range", f"{path}: {value} is not JSON")
    elif depth >= MAXIMUM_VALUE_DEPTH:
        raise InvalidEventError("too deep", f"{path}: over {MAXIMUM_VALUE_DEPTH} levels")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_value(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidEventError("schema violation", f"{path}: keys must be text")
            _check_text(key, path)
            check_value(item, f"{path}.{key}", depth + 1)
    else:
        raise InvalidEventError("schema violation", f"{path}: {type(value).__name__} is not JSON")


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEventError("malformed JSON", f"{path}: lone surrogate") from None


# What is decoded from JSON holds no cycles: the collector need not look at it (``gc=False``), which
# makes decoding a third faster.


class WireUpdate(Struct, frozen=True, rename="camel", gc=False):
    """What a fold needs of an `Update`."""

    current: Any
    previous: Any = None
    previous_targets: tuple[str, ...] | None = None


class WireDelta(Struct, frozen=True, rename="camel", gc=False):
    """What a fold needs of a `ContextDelta`."""

    updates: dict[str, WireUpdate]
    user_id: str | None = None
    session_id: str | None = None


class WireRules(Struct, frozen=True, rename="camel", gc=False):
    """What a fold needs of the `PropagationRules`."""

    target_models: tuple[str, ...] | None = None
    priority: Priority = "normal"


class WireEvent(Struct, frozen=True, rename="camel", gc=False):
    """What a fold needs of a `ContextEvent`; the rest is skipped while decoding.

    Its values may be shared with a replica's storage and must not be changed.
    """

    event_id: str
    context_delta: WireDelta
    propagation_rules: WireRules = WireRules()
    context_type: str = DEFAULT_CONTEXT_TYPE
    sequence: Annotated[int, Meta(ge=1, le=MAXIMUM_SEQUENCE)] | None = None

    @property
    def subject(self) -> str:
        """``user:ID``, or ``session:ID`` where no user is known."""
        return subject_of(self.context_delta.user_id, self.context_delta.session_id)


decode_unchecked = msgspec.json.Decoder(WireEvent).decode
"""Bytes -> `WireEvent`, before the checks of `decode_wire`; raises what msgspec raises."""

_ALWAYS_VALID = frozenset({str, float, bool, type(None)})
"""Types that are sound as JSON decodes them: text is valid Unicode, floats are finite."""


def decode_wire(data: bytes) -> WireEvent:
    """Return the fields a fold needs, or raise `InvalidEventError`.

    What this accepts can be hashed and stored: a record that cannot must be refused here, before a
    fold has changed anything, or it would stop every fold for good.
    """
    try:
        event = decode_unchecked(data)
    except UNDECODABLE as error:
        raise InvalidEventError("undecodable record", str(error)) from None
    delta = event.context_delta
    if delta.user_id is None and delta.session_id is None:
        raise InvalidEventError("no subject", "contextDelta has neither userId nor sessionId")
    for name, update in delta.updates.items():
        check_update(update, name)
    return event


def check_update(update: WireUpdate, name: str = "…") -> None:
    """Raise `InvalidEventError` unless both values of a decoded update are sound."""
    if not _is_sound(update.current):
        check_value(update.current, f"$.contextDelta.updates.{name}.current")
    if not _is_sound(update.previous):
        check_value(update.previous, f"$.contextDelta.updates.{name}.previous")


def _is_sound(value: Any) -> bool:
    """Say whether a decoded value is sound at first sight; if not, a closer look decides."""
    kind = type(value)
    if kind in _ALWAYS_VALID:
        return True
    if kind is int:
        return bool(_LOWEST <= value <= _HIGHEST)
    if kind is list or kind is dict:
        items = value if kind is list else value.values()
        return all(
            type(item) in _ALWAYS_VALID or (type(item) is int and _LOWEST <= item <= _HIGHEST)
            for item in items
        )
    return False
