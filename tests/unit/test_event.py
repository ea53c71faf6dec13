"""What is a context event, and what is none: each refusal with its reason and its place."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.errors import InvalidEventError
from synchroscope.event import (
    MAXIMUM_EVENT_BYTES,
    MAXIMUM_SEQUENCE,
    PRIORITIES,
    ContextDelta,
    ContextEvent,
    PropagationRules,
    Source,
    Update,
    check_event,
    decode_event,
    decode_wire,
    encode_event,
)
from tests.builders import event

ANY_SPEED = settings(deadline=None)  # A law does not depend on how busy the machine is.

NAMES = st.text(min_size=1, max_size=12)
TEXT = st.text(max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TARGETS = st.none() | st.lists(NAMES, max_size=3).map(tuple)
SHARES = st.none() | st.floats(0, 1)


@st.composite
def deltas(draw: st.DrawFn) -> ContextDelta:
    user = draw(st.none() | NAMES)
    session = draw(NAMES if user is None else st.none() | NAMES)
    updates = st.builds(Update, VALUES, VALUES, SHARES, TARGETS)
    return ContextDelta(
        draw(st.dictionaries(NAMES, updates, min_size=1, max_size=4)), user, session
    )


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
EVENTS = st.builds(
    ContextEvent,
    event_id=st.uuids(),
    timestamp=st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=ZONES),
    event_type=st.from_regex(r"\Acontext\.[a-z][a-z_-]{0,63}\Z"),
    source=st.builds(Source, NAMES, NAMES),
    context_delta=deltas(),
    propagation_rules=st.builds(
        PropagationRules, TARGETS, st.sampled_from(PRIORITIES), st.none() | st.integers(1, 2**31)
    ),
    context_type=NAMES,
    sequence=st.none() | st.integers(1, MAXIMUM_SEQUENCE),
    schema_version=st.none() | st.integers(1, 9),
    retention=st.none() | NAMES,
    correlation_id=st.none() | NAMES,
    causation_id=st.none() | NAMES,
    traceparent=st.none() | st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"),
)


@ANY_SPEED
@given(EVENTS)
def test_an_event_goes_through_its_bytes_unchanged(made: ContextEvent) -> None:
    back = decode_event(encode_event(made))

    assert back == made
    assert encode_event(back) == encode_event(made)


@ANY_SPEED
@given(EVENTS)
def test_a_fold_reads_of_an_event_what_the_border_read(made: ContextEvent) -> None:
    wire = decode_wire(encode_event(made))

    assert (wire.event_id, wire.subject) == (str(made.event_id), made.subject)
    assert (wire.context_type, wire.sequence) == (made.context_type, made.sequence)
    assert wire.propagation_rules.target_models == made.propagation_rules.target_models
    assert wire.propagation_rules.priority == made.propagation_rules.priority
    for name, update in made.context_delta.updates.items():
        seen = wire.context_delta.updates[name]
        assert (seen.current, seen.previous) == (update.current, update.previous)
        assert seen.previous_targets == update.previous_targets


def decodes_or_is_refused(data: bytes) -> None:
    for decode in (decode_event, decode_wire):
        try:
            decode(data)
        except InvalidEventError as error:
            assert error.reason and error.detail


@ANY_SPEED
@given(st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_a_refusal(data: bytes) -> None:
    decodes_or_is_refused(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@ANY_SPEED
@given(EVENTS, st.data())
def test_a_valid_event_with_one_thing_replaced_raises_nothing_but_a_refusal(
    made: ContextEvent, data: st.DataObject
) -> None:
    whole = json.loads(encode_event(made))
    place = whole
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    decodes_or_is_refused(json.dumps(whole).encode())


@ANY_SPEED
@given(EVENTS, st.data())
def test_a_valid_event_with_bytes_flipped_raises_nothing_but_a_refusal(
    made: ContextEvent, data: st.DataObject
) -> None:
    mutated = bytearray(encode_event(made))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(bytes(mutated))
    decodes_or_is_refused(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))


def test_the_example_of_the_mission_is_an_event() -> None:
    decoded = decode_event(
        b"""{"eventId": "0198c0a4-5d2f-7c3a-9e1b-2f4a6c8e0d12",
        "timestamp": "2026-03-01T12:00:00.250Z", "eventType": "context.updated",
        "source": {"modelId": "risk-assessment-v2.1", "instanceId": "ra-prod-03"},
        "contextDelta": {"userId": "user-12345", "sessionId": "sess-abcdef",
          "updates": {"riskTolerance": {"previous": "moderate", "current": "conservative",
            "confidence": 0.87}}},
        "propagationRules": {"targetModels": ["portfolio-optimizer", "compliance-checker"],
          "priority": "high", "ttl": 300}}"""
    )

    assert decoded.subject == "user:user-12345"
    assert decoded.context_type == "general"
    assert decoded.timestamp == dt.datetime(2026, 3, 1, 12, 0, 0, 250_000, dt.UTC)
    assert decoded.context_delta.updates == {
        "riskTolerance": Update("conservative", "moderate", 0.87)
    }
    assert decoded.propagation_rules == PropagationRules(
        ("portfolio-optimizer", "compliance-checker"), "high", 300
    )
    assert decoded.sequence is None


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def changed(path: str, value: Any) -> bytes:
    whole = event(1, {"limit": 5})
    place = whole
    *way, last = path.split(".")
    for key in way:
        place = place.setdefault(key, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return msgspec.json.encode(whole)


SCHEMA, RANGE = "schema violation", "value out of range"
LIMIT = "contextDelta.updates.limit"
BAD_EVENTS = [
    ("eventId", ..., SCHEMA, "missing required field `eventId`"),
    ("eventId", "uuid", SCHEMA, "Invalid UUID - at `$.eventId`"),
    ("timestamp", "2026-03-01T12:00:00", SCHEMA, "timezone component - at `$.timestamp`"),
    ("timestamp", "yesterday", SCHEMA, "Invalid RFC3339 encoded datetime - at `$.timestamp`"),
    ("timestamp", 1.5, SCHEMA, "at `$.timestamp`"),
    ("eventType", "updated", SCHEMA, "at `$.eventType`"),
    ("eventType", "context.Updated", SCHEMA, "at `$.eventType`"),
    ("source.modelId", "", SCHEMA, "length >= 1 - at `$.source.modelId`"),
    ("source.modelId", "m" * 257, SCHEMA, "length <= 256 - at `$.source.modelId`"),
    ("source.instance", "x", SCHEMA, "unknown field `instance` - at `$.source`"),
    ("contextDelta", [], SCHEMA, "got `array` - at `$.contextDelta`"),
    ("contextDelta.updates", {}, SCHEMA, "length >= 1 - at `$.contextDelta.updates`"),
    (
        "contextDelta.updates",
        {f"f{n}": {"current": 1} for n in range(1_001)},
        SCHEMA,
        "length <= 1000 - at `$.contextDelta.updates`",
    ),
    ("contextDelta.updates", {"": {"current": 1}}, SCHEMA, "length >= 1 - at `key` in"),
    (LIMIT, 5, SCHEMA, "Expected `object`, got `int` - at `$.contextDelta.updates[...]`"),
    (LIMIT + ".current", ..., SCHEMA, "missing required field `current`"),
    (LIMIT + ".confidence", 1.5, SCHEMA, "<= 1.0 - at `$.contextDelta.updates[...].confidence`"),
    (LIMIT + ".previousTargets", [1], SCHEMA, "`$.contextDelta.updates[...].previousTargets[0]`"),
    (LIMIT + ".current", 2**63, RANGE, f"$.{LIMIT}.current: integer needs over 64 bits"),
    (LIMIT + ".previous", {"a": [-(2**64)]}, RANGE, f"$.{LIMIT}.previous.a[0]: integer"),
    (LIMIT + ".current", nested(17), "too deep", f"$.{LIMIT}.current{'[0]' * 16}: over 16"),
    ("contextDelta.userId", ..., "no subject", "neither userId nor sessionId"),
    ("contextDelta.userId", "", SCHEMA, "length >= 1 - at `$.contextDelta.userId`"),
    ("contextDelta.account", "1", SCHEMA, "unknown field `account` - at `$.contextDelta`"),
    ("propagationRules.priority", "asap", SCHEMA, "at `$.propagationRules.priority`"),
    ("propagationRules.ttl", 0, SCHEMA, "at `$.propagationRules.ttl`"),
    ("propagationRules.ttl", 1.5, SCHEMA, "at `$.propagationRules.ttl`"),
    ("sequence", 0, SCHEMA, "at `$.sequence`"),
    ("sequence", 2**53 + 1, SCHEMA, "at `$.sequence`"),
    ("schemaVersion", 0, SCHEMA, "at `$.schemaVersion`"),
    ("traceparent", "00-x", SCHEMA, "at `$.traceparent`"),
    ("ttl", 5, SCHEMA, "unknown field `ttl`"),
]


@pytest.mark.parametrize(
    "path, value, reason, detail", BAD_EVENTS, ids=[f"{p}={str(v)[:20]}" for p, v, *_ in BAD_EVENTS]
)
def test_a_bad_event_is_refused_with_reason_and_place(
    path: str, value: Any, reason: str, detail: str
) -> None:
    with pytest.raises(InvalidEventError) as caught:
        decode_event(changed(path, value))

    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"eventId": NaN}',
        changed("contextDelta.updates.limit.current", 7).replace(b":7", b":" + b"[" * 100_000),
        changed("contextDelta.userId", "USER").replace(b"USER", b"\\ud800"),
        changed("contextDelta.userId", "USER").replace(b"USER", b"\xed\xa0\x80"),
        changed("contextDelta.userId", "USER") + b"x",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(InvalidEventError) as caught:
        decode_event(data)
    assert caught.value.reason == "malformed JSON"


def test_an_event_may_be_as_large_as_the_limit_and_not_a_byte_larger() -> None:
    room = MAXIMUM_EVENT_BYTES - len(changed(LIMIT + ".current", ""))

    assert decode_event(changed(LIMIT + ".current", "x" * room))
    with pytest.raises(InvalidEventError, match="too large: 1048577 bytes, 1048576 allowed"):
        decode_event(changed(LIMIT + ".current", "x" * (room + 1)))


@pytest.mark.parametrize(
    "value, reason",
    [
        (float("nan"), RANGE),
        (float("-inf"), RANGE),
        ("\ud800", "malformed JSON"),
        ({"\ud800": 1}, "malformed JSON"),
        ({1: 1}, SCHEMA),
        ([b"bytes"], SCHEMA),
        (nested(17), "too deep"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_event_made_in_python_is_checked_for_what_json_cannot_say(
    value: Any, reason: str
) -> None:
    valid = decode_event(msgspec.json.encode(event(1, {"limit": 5})))
    bad = msgspec.structs.replace(valid, context_delta=ContextDelta({"x": Update(value)}, "1"))

    with pytest.raises(InvalidEventError) as caught:
        check_event(bad)
    assert caught.value.reason == reason


def test_a_value_may_be_as_deep_as_the_limit() -> None:
    assert decode_event(changed(LIMIT + ".current", nested(16)))


@pytest.mark.parametrize(
    "path, value",
    [
        (LIMIT + ".current", 2**63),
        (LIMIT + ".previous", 10**40),
        (LIMIT + ".current", [{"a": -(2**63) - 1}]),
        (LIMIT + ".current", nested(17)),
        (LIMIT + ".current", nested(900)),
        ("sequence", 0),
        ("sequence", -1),
        ("sequence", 2**53 + 1),
        ("sequence", 2**70),
        ("contextDelta.userId", ...),
        ("propagationRules.priority", "asap"),
        ("contextType", None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_record_that_no_fold_could_hash_or_store_is_refused_before_it_starts(
    path: str, value: Any
) -> None:
    with pytest.raises(InvalidEventError):
        decode_wire(changed(path, value))


def test_a_fold_passes_over_what_it_does_not_know() -> None:
    assert decode_wire(changed("source.later", 1)) == decode_wire(changed("future", {"a": 1}))
