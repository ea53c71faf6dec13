"""What a submitted event must be to be decided on, and what the command side fills in."""

from __future__ import annotations

import datetime as dt

import msgspec

from pipeline.event_store import AggregateState
from synchroscope.errors import InvalidEventError
from synchroscope.event import (
    MAXIMUM_EVENT_BYTES,
    ContextDelta,
    ContextEvent,
    Update,
    check_event,
    decode_event,
    encode_event,
)

MAXIMUM_DETAIL_CHARACTERS = 1_000

_decode_typed = msgspec.json.Decoder(ContextEvent).decode


def admit(event: ContextEvent | bytes) -> ContextEvent:
    """Return a checked event that shares nothing changeable with its producer.

    Raises `InvalidEventError` for input that is no event.
    """
    if isinstance(event, bytes):
        admitted = decode_event(event)
    else:
        # A typed event may hold what its JSON cannot (NaN, a naive time): what is judged and kept
        # is what the log will say.
        try:
            check_event(event)
            data = encode_event(event)
            admitted = _decode_typed(data)
        except (msgspec.MsgspecError, TypeError, ValueError, AttributeError) as error:
            raise InvalidEventError("schema violation", str(error)) from None
        if len(data) > MAXIMUM_EVENT_BYTES:
            detail = f"{len(data)} bytes, {MAXIMUM_EVENT_BYTES} allowed"
            raise InvalidEventError("too large", detail)
    try:
        admitted.timestamp.astimezone(dt.UTC)
    except OverflowError:
        detail = f"{admitted.timestamp} is beyond the calendar in UTC"
        raise InvalidEventError("timestamp out of range", detail) from None
    return admitted


def fill_in(event: ContextEvent, state: AggregateState) -> ContextEvent:
    """Return the event with what the command side alone knows."""
    delta = event.context_delta
    updates = {}
    for name, update in delta.updates.items():
        field = state.fields.get(name)
        previous, targets = (None, None) if field is None else (field.value, field.targets)
        updates[name] = Update(update.current, previous, update.confidence, targets)
    return msgspec.structs.replace(
        event,
        context_delta=ContextDelta(updates, delta.user_id, delta.session_id),
        sequence=state.sequence + 1,
        correlation_id=event.correlation_id or str(event.event_id),
    )


def bytes_of(event: ContextEvent) -> bytes:
    """Return the event as JSON, or a description of it where it has none."""
    try:
        return encode_event(event)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        try:
            return repr(event).encode("utf-8", "backslashreplace")
        except RecursionError:
            return f"event {event.event_id}, nested too deeply to be shown".encode()


def clean(text: str) -> str:
    """Return the text bounded, and in a form that every store takes."""
    return text[:MAXIMUM_DETAIL_CHARACTERS].encode("utf-8", "backslashreplace").decode()
