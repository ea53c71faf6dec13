"""Reading committed records with kafka-python."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kafka import KafkaConsumer
from kafka import TopicPartition as Place
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    OffsetOutOfRangeError,
    RetriableError,
)

from pipeline.kafka_client import Chunk
from pipeline.kafka_python_connection import CLIENT_ERRORS, Connection
from pipeline.kafka_python_records import DamagedBatchError, mend_and_unpack, records_of
from synchroscope.ports import TopicPartition
from synchroscope.records import Records

#: How many messages are taken at once, or how many stretches of records in their place; where more
#: partitions are followed, one of each: what comes in little is a stretch for each of them.
POLL_RECORDS = 5_000
POLL_STRETCHES = 10
#: A poll costs half a millisecond even where nothing has come, and one that does not wait may leave
#: partitions out of the next fetch (see below): it is not repeated sooner than this.
REST_SECONDS = 0.002
#: When a fetch is sent just as the answer to the one before arrives, kafka-python asks only for the
#: partitions that had nothing in it. What comes on the others waits until the broker has answered:
#: so long at most, though a reader that waits longer would cost less while nothing comes.
FETCH_WAIT_MILLISECONDS = 25
FETCH_BYTES = 1_048_576


class PythonReader:
    """The `Reader` port: a consumer with a manual assignment."""

    def __init__(self, connection: Connection, wait_milliseconds: int) -> None:
        self._connection = connection
        self._slice_seconds = wait_milliseconds / 1000
        self._polled_at = float("-inf")
        #: Place -> the position after what was handed out.
        self._followed: dict[Place, int] = {}
        self._consumer = connection.open(
            KafkaConsumer,
            {
                "group_id": None,
                "isolation_level": "read_committed",
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "allow_auto_create_topics": False,
                "fetch_max_wait_ms": min(wait_milliseconds, FETCH_WAIT_MILLISECONDS),
                "max_partition_fetch_bytes": FETCH_BYTES,
                "metrics_enabled": False,
            },
        )
        self._is_native = mend_and_unpack(self._consumer)

    def start(self, place: TopicPartition, position: int) -> None:
        """Follow a partition from a position."""
        self.stop(place)
        self._followed[Place(*place)] = position
        self._consumer.assign(list(self._followed))
        self._consumer.seek(Place(*place), position)

    def stop(self, place: TopicPartition) -> None:
        """Follow the partition no more."""
        if self._followed.pop(Place(*place), None) is not None:
            self._consumer.assign(list(self._followed))

    def poll(self, timeout_seconds: float) -> list[Chunk]:
        """Return what has come."""
        now = time.monotonic()
        if timeout_seconds <= 0 and now - self._polled_at < REST_SECONDS:
            return []
        deadline = now + timeout_seconds
        while True:
            left = deadline - time.monotonic()
            # The consumer's own poll does not return when it moves past control records alone.
            chunks = self._poll_once(max(min(left, self._slice_seconds), 0))
            if chunks or left <= self._slice_seconds:
                self._polled_at = time.monotonic()
                return chunks

    def _poll_once(self, timeout_seconds: float) -> list[Chunk]:
        most = max(POLL_STRETCHES, len(self._followed)) if self._is_native else POLL_RECORDS
        try:
            answer = self._consumer.poll(timeout_seconds * 1000, most)
        except OffsetOutOfRangeError as error:
            return [
                Chunk(tuple(place), Records.of(()), -1, is_out_of_range=True)
                for place in self._places_of(error)
            ]
        except DamagedBatchError as error:
            self.stop(error.place)  # It would be fetched again and again.
            return [Chunk(tuple(error.place), Records.of(()), -1, damaged_at=error.offset)]
        except RetriableError:
            return []
        except CLIENT_ERRORS as error:
            if isinstance(error, KafkaError) and not isinstance(error, BrokerResponseError):
                return []
            raise self._connection.translated(error, "reading") from error
        chunks = []
        for place, before in self._followed.items():
            found = answer.get(place, [])
            stretches = found if self._is_native else [records_of(found)] if found else []
            # Past control records and aborted ones too.
            position = self._consumer.position(place, timeout_ms=0)
            position = before if position is None else position
            if not stretches and position <= before:
                continue
            self._followed[place] = position
            name = place.topic, place.partition
            for records in stretches:
                size = records.payload_bytes()
                chunks.append(Chunk(name, records, records.last_offset + 1, bytes=size))
            chunks.append(Chunk(name, Records.of(()), position))
        return chunks

    def _places_of(self, error: OffsetOutOfRangeError) -> list[Place]:
        # It carries a mapping of partitions to offsets, where it knows.
        named = error.args[0] if error.args else None
        known = named if isinstance(named, Mapping) else {}
        places = [place for place in known if place in self._followed]
        return places or list(self._followed)

    def close(self) -> None:
        """Release what is held."""
        self._consumer.close(autocommit=False, timeout_ms=0)
