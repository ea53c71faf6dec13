"""Reading committed records with librdkafka."""

from __future__ import annotations

from typing import cast

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
        place, records = ("", -1), list[Record]()
        for message in messages:
            error = message.error()
            if error is not None:
                at = message.topic(), message.partition()
                self._take_error(chunks, at, error, message.offset())
                continue
            # A fetch brings records of one partition in a row.
            if message.partition() != place[1] or message.topic() != place[0]:
                place = message.topic(), message.partition()
                records = chunks.setdefault(place, Chunk(place, [], -1)).records
            headers = message.headers()
            record = Record(
                message.offset(),
                message.key() or b"",
                message.value() or b"",
                _headers(headers) if headers else (),
                message.timestamp()[1] / 1000,
            )
            records.append(record)
        for chunk in chunks.values():
            if chunk.records:
                chunk.position = max(chunk.position, chunk.records[-1].offset + 1)
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


def _headers(headers: list[tuple[str, bytes | None]]) -> Headers:
    for _, value in headers:
        if value is None:  # Only foreign producers write such.
            return tuple([(name, value or b"") for name, value in headers])
    return cast(Headers, tuple(headers))
