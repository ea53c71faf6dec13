"""CloudEvents 1.0 in binary content mode on Kafka: attributes in headers, the event in the value.

Sources: CloudEvents specification 1.0.2; its Kafka protocol binding, section 3.2; its extensions
"Distributed Tracing" and "Correlation".
"""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from synchroscope.errors import InvalidEventError
from synchroscope.event import ContextEvent, decode_event
from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import Headers, Record

SPECIFICATION = b"1.0"
CONTENT_TYPE = b"application/json"
_PREFIX = "ce_"


def binary_headers(event: ContextEvent) -> Headers:
    """Return the attributes of an event whose JSON is the record's value."""
    source = event.source
    headers = [
        ("ce_specversion", SPECIFICATION),
        ("ce_id", str(event.event_id).encode()),
        ("ce_source", f"/{source.model_id}/{source.instance_id}".encode()),
        ("ce_type", event.event_type.encode()),
        ("ce_time", event.timestamp.isoformat().encode()),
        ("ce_subject", event.subject.encode()),
        ("content-type", CONTENT_TYPE),
    ]
    for name, value in (
        ("ce_correlationid", event.correlation_id),
        ("ce_causationid", event.causation_id),
        ("ce_traceparent", event.traceparent),
        ("traceparent", event.traceparent),
    ):
        if value is not None:
            headers.append((name, value.encode()))
    return tuple(headers)


def event_from_binary(record: Record) -> ContextEvent:
    """Return the event of a record, with what its value does not say taken from the attributes.

    The value is a whole context event, or its ``contextDelta`` alone. An ``id`` that is no UUID
    stands for the UUID of (source, id), so that a repeated record is the same event again.

    Raises `InvalidEventError` where the record is no CloudEvent in binary mode or no event.
    """
    attributes = _attributes(record)
    if attributes.get("specversion") != SPECIFICATION.decode():
        raise InvalidEventError("no CloudEvent", "header ce_specversion is not 1.0")
    content_type = (record.header("content-type") or CONTENT_TYPE).split(b";")[0].strip()
    if content_type != CONTENT_TYPE and not content_type.endswith(b"+json"):
        raise InvalidEventError("no CloudEvent", "only content-type application/json is read")
    try:
        data = msgspec.json.decode(record.value)
    except UNDECODABLE as error:
        raise InvalidEventError("malformed JSON", str(error)) from None
    if not isinstance(data, dict):
        raise InvalidEventError("schema violation", "$: the value is no object")
    whole = data if "contextDelta" in data else {"contextDelta": data}
    for name, value in _told(attributes).items():
        whole.setdefault(name, value)
    return decode_event(msgspec.json.encode(whole))


def _attributes(record: Record) -> dict[str, str]:
    try:
        return {
            name.lower().removeprefix(_PREFIX): value.decode()
            for name, value in record.headers
            if name.lower().startswith(_PREFIX)
        }
    except UnicodeDecodeError:
        raise InvalidEventError("no CloudEvent", "an attribute is not UTF-8") from None


def _told(attributes: dict[str, str]) -> dict[str, Any]:
    """Return what the attributes say, under the names of the event's JSON."""
    found: dict[str, Any] = {}
    source = attributes.get("source", "")
    if source:
        parts = [part for part in source.split("/") if part]
        found["source"] = {
            "modelId": "/".join(parts[:-1]) or source,
            "instanceId": parts[-1] if len(parts) > 1 else "-",
        }
    if "id" in attributes:
        found["eventId"] = _uuid(source, attributes["id"])
    for attribute, name in (
        ("type", "eventType"),
        ("time", "timestamp"),
        ("correlationid", "correlationId"),
        ("causationid", "causationId"),
        ("traceparent", "traceparent"),
    ):
        if attributes.get(attribute):
            found[name] = attributes[attribute]
    return found


def _uuid(source: str, identity: str) -> str:
    try:
        return str(UUID(identity))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"{source}#{identity}"))
