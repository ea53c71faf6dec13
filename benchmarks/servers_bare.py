"""The two Kafka clients with as little code around them as can do the job: what ours is held to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, simplefilter

import confluent_kafka

from pipeline.kafka_settings import KafkaSettings
from synchroscope.ports import EVENTS, NewRecord

BATCH_RECORDS = 2_000
LIMIT_SECONDS = 60.0
POLL_SECONDS = 0.1
FLUSH_SECONDS = 60.0
#: Where a record stands: (partition, offset).
Place = tuple[int, int]
Send = Callable[[Sequence[NewRecord]], None]


class Stuck(Exception):  # noqa: N818 - it says what happened
    """Records did not come in time."""


def _kafka_python() -> Any:
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)
        import kafka
    return kafka


# -- producing ---------------------------------------------------------------------------------


def confluent_options(
    settings: KafkaSettings, linger: float, *, tuned: bool = True
) -> dict[str, Any]:
    """Return a producer's options: as ours, or the library's own defaults."""
    options: dict[str, Any] = {"bootstrap.servers": settings.bootstrap_servers}
    if tuned:
        options |= {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": linger,
            "batch.size": settings.batch_bytes,
            "compression.type": settings.compression,
            "socket.nagle.disable": True,
        }
    return options


def python_options(settings: KafkaSettings, linger: float, *, tuned: bool = True) -> dict[str, Any]:
    """Return the same for kafka-python."""
    options: dict[str, Any] = {"bootstrap_servers": settings.bootstrap_servers}
    if tuned:
        compression = None if settings.compression == "none" else settings.compression
        options |= {
            "enable_idempotence": True,
            "acks": "all",
            "linger_ms": linger,
            "batch_size": settings.batch_bytes,
            "compression_type": compression,
        }
    return options


def _note_failure(error: Any, message: Any) -> None:
    if error is not None:
        raise confluent_kafka.KafkaException(error)


@contextmanager
def producer(
    settings: KafkaSettings, linger: float, *, tuned: bool = True
) -> Iterator[tuple[Send, Callable[[], None]]]:
    """Yield what hands records to a bare producer, and what waits for all of them."""
    topic = settings.topic(EVENTS)
    if settings.client == "confluent":
        handle: Any = confluent_kafka.Producer(confluent_options(settings, linger, tuned=tuned))
        handle.list_topics(timeout=LIMIT_SECONDS)

        def send(records: Sequence[NewRecord]) -> None:
            for record in records:
                while True:
                    try:
                        handle.produce(
                            topic,
                            record.value,
                            record.key,
                            record.partition,
                            _note_failure,
                            headers=list(record.headers) or None,
                        )
                        break
                    except BufferError:
                        handle.poll(POLL_SECONDS)
                handle.poll(0)

        def flush() -> None:
            if handle.flush(FLUSH_SECONDS):
                raise Stuck("not acknowledged")

        yield send, flush
        return
    kafka = _kafka_python()
    handle = kafka.KafkaProducer(**python_options(settings, linger, tuned=tuned))
    handle.partitions_for(topic)
    try:
        yield _python_send(handle, topic), lambda: handle.flush(FLUSH_SECONDS)
    finally:
        handle.close(timeout=5)


def _python_send(handle: Any, topic: str) -> Send:
    def send(records: Sequence[NewRecord]) -> None:
        for record in records:
            handle.send(topic, record.value, record.key, list(record.headers), record.partition)

    return send


# -- consuming ---------------------------------------------------------------------------------


@contextmanager
def consumer(settings: KafkaSettings) -> Iterator[Callable[[], list[Place]]]:
    """Yield a function that waits for records a moment and returns which have come.

    It takes each record's value; it begins to fetch when it is called first.
    """
    if settings.client == "confluent":
        yield from _confluent_consumer(settings)
    else:
        yield from _python_consumer(settings)


def _confluent_consumer(settings: KafkaSettings) -> Iterator[Callable[[], list[Place]]]:
    handle: Any = confluent_kafka.Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": settings.name,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "socket.nagle.disable": True,
        }
    )
    topic = settings.topic(EVENTS)
    handle.list_topics(topic, timeout=LIMIT_SECONDS)
    places = [
        confluent_kafka.TopicPartition(topic, number, 0) for number in range(settings.partitions)
    ]

    def take() -> list[Place]:
        if places:
            handle.assign(places)
            places.clear()
        first = handle.poll(POLL_SECONDS)
        messages = handle.consume(BATCH_RECORDS, 0)
        if first is not None:
            messages.insert(0, first)
        for message in messages:
            if message.error() is not None:
                raise confluent_kafka.KafkaException(message.error())
            message.value()
        return [(message.partition(), message.offset()) for message in messages]

    try:
        yield take
    finally:
        handle.close()


def _python_consumer(settings: KafkaSettings) -> Iterator[Callable[[], list[Place]]]:
    kafka = _kafka_python()
    handle = kafka.KafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=BATCH_RECORDS,
    )
    topic = settings.topic(EVENTS)
    places = [kafka.TopicPartition(topic, number) for number in range(settings.partitions)]
    handle.partitions_for_topic(topic)

    def take() -> list[Place]:
        if places:
            handle.assign(places)
            handle.seek_to_beginning()
            places.clear()
        answer = handle.poll(timeout_ms=POLL_SECONDS * 1000)
        return [(message.partition, message.offset) for part in answer.values() for message in part]

    try:
        yield take
    finally:
        handle.close(autocommit=False)


def take_all(take: Callable[[], list[Place]], count: int) -> None:
    """Consume until so many records have come."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while count > 0:
        count -= len(take())
        if time.monotonic() > deadline:
            raise Stuck(f"{count} records are missing")
