"""CloudEvents in binary mode: what is written can be read, and what others write as well."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cloudevents import binary_headers, event_from_binary
from pipeline.commands import Accepted, CommandSide, Repeated
from pipeline.event_store_memory import MemoryEventStore
from synchroscope.errors import InvalidEventError
from synchroscope.event import decode_event, decode_wire, encode_event
from synchroscope.ports import Headers, Record
from tests.builders import event

ATTRIBUTES = {
    "ce_specversion": b"1.0",
    "ce_id": b"7f3c1f6e-8a57-4d0e-9a10-52a3c3b5f001",
    "ce_source": b"/risk-assessment-v2.1/ra-prod-03",
    "ce_type": b"context.updated",
    "ce_time": b"2026-11-23T10:00:00Z",
    "content-type": b"application/json",
}
DELTA = {"userId": "1", "updates": {"limit": {"current": 5}}}


def record(value: Any, headers: dict[str, bytes] | None = None) -> Record:
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    made: Headers = tuple((ATTRIBUTES if headers is None else headers).items())
    return Record(0, b"", data, made, 0.0)


def test_what_the_relay_writes_is_read_as_it_was() -> None:
    whole = event(3, {"limit": 5}) | {"correlationId": "c", "causationId": "d"}
    whole |= {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    made = decode_event(msgspec.json.encode(whole))
    headers = dict(binary_headers(made))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_subject"] == made.subject.encode()
    assert headers["ce_correlationid"] == b"c"
    assert event_from_binary(record(encode_event(made), headers)) == made


def test_the_attributes_stand_for_what_the_value_does_not_say() -> None:
    made = event_from_binary(record(DELTA))
    assert str(made.event_id) == ATTRIBUTES["ce_id"].decode()
    assert made.event_type == "context.updated"
    assert (made.source.model_id, made.source.instance_id) == ("risk-assessment-v2.1", "ra-prod-03")
    assert made.context_delta.updates["limit"].current == 5
    assert made.timestamp.isoformat() == "2026-11-23T10:00:00+00:00"


def test_the_value_outweighs_the_attributes() -> None:
    whole = event(1, {"limit": 5}, number=8)
    assert str(event_from_binary(record(whole)).event_id) == whole["eventId"]


def test_an_id_that_is_no_uuid_is_the_same_event_each_time_and_another_for_another_source() -> None:
    ids = [
        event_from_binary(record(DELTA, ATTRIBUTES | {"ce_id": b"A-7", "ce_source": source}))
        for source in (b"/a/1", b"/a/1", b"/b/1")
    ]
    assert ids[0].event_id == ids[1].event_id != ids[2].event_id


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (DELTA, {}),
        (DELTA, ATTRIBUTES | {"ce_specversion": b"0.3"}),
        (DELTA, ATTRIBUTES | {"content-type": b"application/avro"}),
        (DELTA, ATTRIBUTES | {"ce_time": b"yesterday"}),
        (DELTA, ATTRIBUTES | {"ce_type": b"\xff"}),
        (b"{", ATTRIBUTES),
        (b"[]", ATTRIBUTES),
        ({"updates": {}}, ATTRIBUTES),
    ],
)
def test_what_is_no_event_is_refused(value: Any, headers: dict[str, bytes]) -> None:
    with pytest.raises(InvalidEventError):
        event_from_binary(record(value, headers))


@given(st.binary(), st.dictionaries(st.sampled_from(sorted(ATTRIBUTES)), st.binary(max_size=40)))
def test_garbage_is_refused_and_nothing_else_is_raised(
    value: bytes, headers: dict[str, bytes]
) -> None:
    with contextlib.suppress(InvalidEventError):
        event_from_binary(record(value, ATTRIBUTES | headers))


def test_what_others_write_gets_its_sequence_from_the_command_side_and_only_once() -> None:
    store = MemoryEventStore()
    foreign = record(DELTA, ATTRIBUTES | {"ce_id": b"order-17"})
    with CommandSide(store).batch(0.0) as batch:
        outcomes = [type(batch.submit(event_from_binary(foreign))) for _ in range(2)]
    assert outcomes == [Accepted, Repeated]
    [stored] = store.read(0, 10)
    assert (stored.event.sequence, stored.event.subject) == (1, "user:1")


def test_data_alone_is_no_event_for_those_who_read_the_log() -> None:
    with pytest.raises(InvalidEventError):
        decode_wire(record(DELTA).value)
