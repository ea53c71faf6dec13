"""Records that the extension makes of messages are those that Python makes; others it leaves."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import kafka_confluent_records
from pipeline.kafka_confluent_records import native_runs, runs
from synchroscope.ports import Record

native = pytest.mark.skipif(
    not kafka_confluent_records.is_native(),
    reason="the extension was not built, or is not to be used",
)

BYTES = st.none() | st.binary(max_size=8)
HEADERS = st.none() | st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=4)), max_size=3)


def message(**more: Any) -> Any:
    plain: dict[str, Any] = {
        "topic": "events",
        "partition": 0,
        "offset": 7,
        "key": b"k",
        "value": b"v",
        "headers": None,
        "timestamp": (1, 1_700_000_000_123),
        "error": None,
    }
    return Message(**{**plain, **more})


MESSAGES = st.lists(
    st.builds(
        message,
        topic=st.sampled_from(["a", "b", "ü"]),
        partition=st.integers(0, 2),
        offset=st.integers(0, 2**62),
        key=BYTES,
        value=BYTES,
        headers=HEADERS,
        timestamp=st.tuples(st.just(1), st.integers(-1, 2**53)),
    ),
    max_size=12,
)


def test_a_message_gives_a_record_with_seconds_and_without_null() -> None:
    pairs = [("a", b"1"), ("b", None)]
    found = runs([message(), message(partition=1, key=None, value=None, headers=pairs)])
    assert found == [
        ("events", 0, [Record(7, b"k", b"v", (), 1_700_000_000.123)], 2),
        ("events", 1, [Record(7, b"", b"", (("a", b"1"), ("b", b"")), 1_700_000_000.123)], 0),
    ]


@native
@settings(deadline=None)
@given(MESSAGES)
def test_the_extension_makes_the_same(messages: list[Any]) -> None:
    made = native_runs(messages)
    assert made == runs(messages)
    assert made is not None
    of = [(m.topic(), m.partition()) for m in messages]
    assert [(topic, part, len(rs)) for topic, part, rs, _ in made] == [
        (*place, len(list(same))) for place, same in groupby(of)
    ]
    for record in (record for _, _, records, _ in made for record in records):
        assert (type(record.offset), type(record.timestamp)) == (int, float)


@native
@pytest.mark.parametrize(
    "odd",
    [
        {"error": KafkaError(KafkaError._PARTITION_EOF)},
        {"headers": [("a", b"1"), ("b", None)]},
        {"timestamp": (1, 2**53 + 1)},
        {"timestamp": (1, -(2**53) - 1)},
    ],
    ids=str,
)
def test_what_is_unusual_is_left_to_python(odd: dict[str, Any]) -> None:
    assert native_runs([message(), message(**odd), message()]) is None


@native
def test_what_a_method_raises_is_raised() -> None:
    with pytest.raises(TypeError, match="Message"):
        native_runs([message(), attrgetter("x")])


@native
def test_a_list_that_changes_while_it_is_read_is_left_to_python() -> None:
    messages = [message()]
    error_of, *others = kafka_confluent_records._METHODS

    def growing(one: Any) -> Any:
        messages.extend([message()] * 1_000)
        return error_of(one)

    assert kafka_confluent_records._extension.runs(messages, (growing, *others)) is None


def test_nothing_gives_nothing() -> None:
    assert runs([]) == []
    assert native_runs([]) in ([], None)
