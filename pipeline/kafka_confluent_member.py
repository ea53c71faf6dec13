"""Taking part in a consumer group with librdkafka, without fetching anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Place

from pipeline.kafka_confluent_connection import Connection

HEARTBEATS_A_SESSION = 6


class ConfluentMember:
    """The `Member` port: a consumer that takes part in a group and fetches nothing."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topic: str,
        on_assigned: Callable[[Sequence[int]], None],
        on_lost: Callable[[Sequence[int]], None],
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._on_assigned = on_assigned
        self._on_lost = on_lost
        settings = connection.settings
        session_milliseconds = int(settings.session_timeout_seconds * 1000)
        hang_milliseconds = int(settings.hang_timeout_seconds * 1000)
        self._consumer = connection.open(
            confluent_kafka.Consumer,
            {
                "group.id": group,
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_milliseconds,
                "heartbeat.interval.ms": session_milliseconds // HEARTBEATS_A_SESSION,
                "max.poll.interval.ms": max(hang_milliseconds, session_milliseconds),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
            },
        )
        self._consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def _assigned(self, consumer: Any, places: Sequence[Place]) -> None:
        at_the_end = [
            Place(place.topic, place.partition, confluent_kafka.OFFSET_END) for place in places
        ]
        consumer.incremental_assign(at_the_end)
        if places:
            consumer.pause(at_the_end)
        self._on_assigned([place.partition for place in places])

    def _revoked(self, consumer: Any, places: Sequence[Place]) -> None:
        self._on_lost([place.partition for place in places])
        consumer.incremental_unassign(places)

    def poll(self) -> None:
        """Take part in the group."""
        while (message := self._consumer.poll(0)) is not None:
            error = message.error()
            if error is not None and not error.retriable() and error.code() >= 0:
                raise self._connection.translated(error, f"sharing {self._topic}")

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the group's positions, without waiting for an answer."""
        places = [Place(self._topic, number, position) for number, position in positions.items()]
        with suppress(KafkaException):  # It is for lag tools alone; the next commit says it anew.
            self._consumer.commit(offsets=places, asynchronous=True)

    def close(self) -> None:
        """Leave the group at once."""
        self._consumer.close()
