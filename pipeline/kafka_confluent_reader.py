"""Reading committed records with librdkafka."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from pipeline.kafka_client import Chunk
from pipeline.kafka_confluent_connection import LASTING_TROUBLES, Connection
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import Headers, Record, TopicPartition

POLL_RECORDS = 5_000
#: What librdkafka fetches ahead of a reader, at most.
PREFETCH_RECORDS = 10_000
PREFETCH_KIBIBYTES = 16_384

#: The methods of a message, unbound: mapped over many messages they cost least.
_Message: Any = confluent_kafka.Message
_error_of, _offset_of, _partition_of = _Message.error, _Message.offset, _Message.partition
_topic_of, _timestamp_of, _headers_of = _Message.topic, _Message.timestamp, _Message.headers
_key_of, _value_of = _Message.key, _Message.value


class ConfluentReader:
    """The `Reader` port: a consumer with a manual assignment."""

    def __init__(self, connection: Connection, wait_milliseconds: int) -> None:
        self._connection = connection
        self._settings = connection.settings
        self._followed: set[TopicPartition] = set()
        self._consumer = connection.open(
            confluent_kafka.Consumer,
            {
                "group.id": f"{self._settings.name}.reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": wait_milliseconds,
                "fetch.error.backoff.ms": 20,
                "fetch.queue.backoff.ms": 5,
                "queued.min.messages": PREFETCH_RECORDS,
                "queued.max.messages.kbytes": PREFETCH_KIBIBYTES,
                "receive.message.max.bytes": max(100_000_000, 2 * self._settings.message_bytes),
            },
        )

    def start(self, place: TopicPartition, position: int) -> None:
        """Follow a partition from a position."""
        try:
            if place in self._followed:
                self._consumer.incremental_unassign([Place(*place)])
            self._consumer.incremental_assign([Place(*place, position)])
            self._followed.add(place)
        except KafkaException as error:
            raise self._translated(error, place) from error

    def stop(self, place: TopicPartition) -> None:
        """Follow the partition no more."""
        if place in self._followed:
            self._followed.discard(place)
            self._consumer.incremental_unassign([Place(*place)])

    def poll(self, timeout_seconds: float) -> list[Chunk]:
        """Return what has come."""
        # `consume` with a time-out waits until it has ALL the messages asked for, or it is over.
        first = self._consumer.poll(timeout_seconds) if timeout_seconds > 0 else None
        messages = self._consumer.consume(POLL_RECORDS, 0)
        if first is not None:
            messages.insert(0, first)
        chunks: dict[TopicPartition, Chunk] = {}
        errors = list(map(_error_of, messages))
        if any(errors):
            for message, error in zip(messages, errors, strict=True):
                if error is not None:
                    at = message.topic(), message.partition()
                    self._take_error(chunks, at, error, message.offset())
            messages = [message for message in messages if message.error() is None]
        records = _records(messages)
        for place, start, end in _runs(messages):
            chunk = chunks.setdefault(place, Chunk(place, [], -1))
            chunk.records += records[start:end]
            chunk.position = max(chunk.position, records[end - 1].offset + 1)
        return list(chunks.values())

    def _take_error(
        self,
        chunks: dict[TopicPartition, Chunk],
        place: TopicPartition,
        error: KafkaError,
        offset: int,
    ) -> None:
        code = error.code()
        if place not in self._followed:
            if code in LASTING_TROUBLES:
                raise self._connection.translated(error, "reading")
            return
        chunk = chunks.setdefault(place, Chunk(place, [], -1))
        if code == KafkaError._PARTITION_EOF:
            chunk.position = max(chunk.position, offset)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            chunk.is_out_of_range = True
        elif not error.retriable() and code >= 0:
            chunk.error = self._translated(error, place)

    def close(self) -> None:
        """Release what is held."""
        self._consumer.close()

    def _translated(
        self, error: KafkaException | KafkaError, place: TopicPartition
    ) -> SynchroscopeError:
        return self._connection.translated(error, f"reading {place[0]} partition {place[1]}")


def _runs(messages: list[Any]) -> Iterator[tuple[TopicPartition, int, int]]:
    """Give the place of messages in a row, as a fetch brings them, with first index and end."""
    topics = list(map(_topic_of, messages))
    start = 0
    for partition, numbers in groupby(map(_partition_of, messages)):
        end = start + len(list(numbers))
        while start < end:
            topic, stop = topics[start], end
            if topics[start:end].count(topic) < end - start:
                stop = next(n for n in range(start, end) if topics[n] != topic)
            yield (topic, partition), start, stop
            start = stop


def _records(messages: list[Any]) -> list[Record]:
    """Return the records that messages hold: column by column, which is the cheapest way."""
    keys, values = list(map(_key_of, messages)), list(map(_value_of, messages))
    if not all(keys):
        keys = [key or b"" for key in keys]
    if not all(values):
        values = [value or b"" for value in values]
    headers = [_headers(found) if found else () for found in map(_headers_of, messages)]
    seconds = [milliseconds / 1000 for _, milliseconds in map(_timestamp_of, messages)]
    return list(map(Record, map(_offset_of, messages), keys, values, headers, seconds))


def _headers(headers: list[tuple[str, bytes | None]]) -> Headers:
    for _, value in headers:
        if value is None:  # Only foreign producers write such.
            return tuple([(name, value or b"") for name, value in headers])
    return cast(Headers, tuple(headers))
