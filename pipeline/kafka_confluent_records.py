"""Which records librdkafka's messages hold, and of which partitions.

Their columns are made by the extension `_messages`, where it was built. What it is not sure of it
does not make at all: then it is done in Python, which is the rule.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, cast

import confluent_kafka

from synchroscope.native_hashing import loaded
from synchroscope.ports import Headers
from synchroscope.records import Columns, Records

Run = tuple[str, int, Records, int]
"""Topic, partition, records of it that came in a row, and the bytes of their keys and values."""

#: The methods of a message, unbound: mapped over many messages they cost least.
_Message: Any = confluent_kafka.Message
error_of = _Message.error
_offset_of, _partition_of, _topic_of = _Message.offset, _Message.partition, _Message.topic
_timestamp_of, _headers_of = _Message.timestamp, _Message.headers
_key_of, _value_of = _Message.key, _Message.value
#: In the order of `pipeline/_messages.c`.
_METHODS = (
    *(error_of, _topic_of, _partition_of, _timestamp_of, _headers_of),
    *(_offset_of, _key_of, _value_of),
)


_extension = loaded("pipeline._messages")
_native_runs: Callable[..., list[Any] | None] | None = _extension and _extension.runs


def is_native() -> bool:
    """Say whether records are made by the extension."""
    return _native_runs is not None


def native_runs(messages: list[Any]) -> list[Run] | None:
    """Return what messages without errors hold; None where it is for `runs` to say."""
    found = None if _native_runs is None else _native_runs(messages, _METHODS)
    if found is None:
        return None
    made = []
    for topic, partition, offsets, keys, values, headers, seconds, size in found:
        columns = Columns(array("q", offsets), keys, values, headers, array("d", seconds))
        made.append((topic, partition, Records(columns), size))
    return made


def runs(messages: list[Any]) -> list[Run]:
    """Return what messages without errors hold, in their order."""
    records = _records(messages)
    found = []
    for topic, partition, start, end in _stretches(messages):
        mine = records[start:end]
        found.append((topic, partition, mine, mine.payload_bytes()))
    return found


def _stretches(messages: list[Any]) -> Iterator[tuple[str, int, int, int]]:
    """Give the place of messages in a row, as a fetch brings them, with first index and end."""
    topics = list(map(_topic_of, messages))
    start = 0
    for partition, numbers in groupby(map(_partition_of, messages)):
        end = start + len(list(numbers))
        while start < end:
            topic, stop = topics[start], end
            if topics[start:end].count(topic) < end - start:
                stop = next(n for n in range(start, end) if topics[n] != topic)
            yield topic, partition, start, stop
            start = stop


def _records(messages: list[Any]) -> Records:
    """Return the records that messages hold."""
    keys, values = list(map(_key_of, messages)), list(map(_value_of, messages))
    if not all(keys):
        keys = [key or b"" for key in keys]
    if not all(values):
        values = [value or b"" for value in values]
    headers = [_headers(found) if found else () for found in map(_headers_of, messages)]
    seconds = [milliseconds / 1000 for _, milliseconds in map(_timestamp_of, messages)]
    offsets = array("q", list(map(_offset_of, messages)))
    return Records(Columns(offsets, keys, values, headers, array("d", seconds)))


def _headers(headers: list[tuple[str, bytes | None]]) -> Headers:
    for _, value in headers:
        if value is None:  # Only foreign producers write such.
            return tuple([(name, value or b"") for name, value in headers])
    return cast(Headers, tuple(headers))
