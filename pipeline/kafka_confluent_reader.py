"""Reading committed records with librdkafka."""

from __future__ import annotations

from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from pipeline.kafka_client import Chunk
from pipeline.kafka_confluent_connection import LASTING_TROUBLES, Connection
from pipeline.kafka_confluent_records import error_of, native_runs, runs
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import TopicPartition
from synchroscope.records import Records

#: What is taken from librdkafka in one piece: so many the processor's cache holds while columns are
#: made of them. And how many of them make up one poll, at most.
PORTION_RECORDS = 500
POLL_PORTIONS = 10
#: What librdkafka fetches ahead of a reader, at most.
PREFETCH_RECORDS = 5_000
PREFETCH_KIBIBYTES = 16_384
#: What one answer brings of a partition: an eighth of librdkafka's own choice is unpacked within
#: the processor's cache.
FETCH_BYTES = 131_072


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
                "check.crcs": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": wait_milliseconds,
                "fetch.error.backoff.ms": 20,
                "fetch.queue.backoff.ms": 5,
                "fetch.message.max.bytes": FETCH_BYTES,
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
            try:
                self._consumer.incremental_unassign([Place(*place)])
            except KafkaException as error:
                raise self._translated(error, place) from error

    def poll(self, timeout_seconds: float) -> list[Chunk]:
        """Return what has come."""
        # `consume` with a time-out waits until it has ALL the messages asked for, or it is over.
        first = self._consumer.poll(timeout_seconds) if timeout_seconds > 0 else None
        chunks: dict[TopicPartition, Chunk] = {}
        if first is not None:
            self._take(chunks, [first])
        for _ in range(POLL_PORTIONS):
            # Messages are gone before others are made, which then take their place in the cache.
            if self._take(chunks, self._consumer.consume(PORTION_RECORDS, 0)) < PORTION_RECORDS:
                break
        return list(chunks.values())

    def _take(self, chunks: dict[TopicPartition, Chunk], messages: list[Any]) -> int:
        """Add what messages hold to the chunks, and return how many messages there were."""
        count = len(messages)
        found = native_runs(messages)
        if found is None:
            errors = list(map(error_of, messages))
            if any(errors):
                for message, error in zip(messages, errors, strict=True):
                    if error is not None:
                        at = message.topic(), message.partition()
                        self._take_error(chunks, at, error, message.offset())
                messages = [message for message in messages if message.error() is None]
            found = runs(messages)
        for topic, partition, records, size in found:
            place = topic, partition
            chunk = chunks.get(place)
            if chunk is None:
                chunks[place] = Chunk(place, records, records.last_offset + 1, bytes=size)
                continue
            chunk.records.extend(records)
            chunk.bytes += size
            chunk.position = max(chunk.position, records.last_offset + 1)
        return count

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
        chunk = chunks.setdefault(place, Chunk(place, Records.of(()), -1))
        if code == KafkaError._PARTITION_EOF:
            chunk.position = max(chunk.position, offset)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            chunk.is_out_of_range = True
        elif code == KafkaError._BAD_MSG:
            # librdkafka goes on behind it.
            chunk.damaged_at = offset if chunk.damaged_at < 0 else min(chunk.damaged_at, offset)
        elif not error.retriable() and code >= 0:
            chunk.error = self._translated(error, place)

    def close(self) -> None:
        """Release what is held."""
        self._consumer.close()

    def _translated(
        self, error: KafkaException | KafkaError, place: TopicPartition
    ) -> SynchroscopeError:
        return self._connection.translated(error, f"reading {place[0]} partition {place[1]}")
