"""Kafka through confluent-kafka (librdkafka): the fast client, used where it is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Place
from confluent_kafka import admin as typed_admin

from pipeline.kafka_client import NewTopic, OnWait, TopicState, looks_seconds
from pipeline.kafka_confluent_connection import Connection
from pipeline.kafka_confluent_member import ConfluentMember
from pipeline.kafka_confluent_reader import ConfluentReader
from pipeline.kafka_confluent_writer import ConfluentWriter
from pipeline.kafka_errors import TOPIC_EXISTS, UNKNOWN_TOPIC, unavailable
from pipeline.kafka_settings import KafkaSettings
from synchroscope.errors import UnavailableError
from synchroscope.ports import TopicPartition

#: The answer to a request has a time-out of its own; this is for a client that lost it.
GRACE_SECONDS = 1.0
LEADER_SECONDS = 0.1

admin: Any = typed_admin  # Its names are re-exported without saying so.


class ConfluentClient:
    """The `Client` port on confluent-kafka."""

    def __init__(self, settings: KafkaSettings, on_wait: OnWait | None = None) -> None:
        self._settings = settings
        self._on_wait = on_wait
        self._connection = Connection(settings, on_wait)
        self._timeout_seconds = settings.request_timeout_seconds
        self._admin = self._connection.open(admin.AdminClient, {})

    def partition_counts(self) -> dict[str, int]:
        """Return how many partitions each topic has."""
        return {name: len(topic.partitions) for name, topic in self._metadata().items()}

    def _metadata(self) -> dict[str, Any]:
        failure: KafkaException | None = None
        for seconds in looks_seconds(self._timeout_seconds):
            try:
                topics: dict[str, Any] = self._admin.list_topics(timeout=seconds).topics
            except KafkaException as error:
                failure = error
                self._admin.poll(0)  # Serves the complaint that says why.
                if self._connection.is_refused():
                    break
            else:
                return topics
        assert failure is not None
        raise self._connection.translated(failure, "asking for the topics") from failure

    def topic_id(self, name: str) -> str | None:
        """Return what tells a topic from others of its name."""
        asked = self._admin.describe_topics(
            TopicCollection([name]), request_timeout=self._timeout_seconds
        )
        found = self._result(asked[name], f"describing topic {name}", UNKNOWN_TOPIC)
        return None if found is None else str(found.topic_id or "")

    def topics(self, names: Sequence[str]) -> dict[str, TopicState]:
        """Return the state of those topics that exist."""
        found = {name: topic for name, topic in self._metadata().items() if name in names}
        if not found:
            return {}
        resources = [admin.ConfigResource(admin.ResourceType.TOPIC, name) for name in found]
        futures = self._admin.describe_configs(resources, request_timeout=self._timeout_seconds)
        states = {}
        for resource, future in futures.items():
            entries = self._result(future, f"describing topic {resource.name}")
            partitions = found[resource.name].partitions
            states[resource.name] = TopicState(
                len(partitions),
                min((len(state.replicas) for state in partitions.values()), default=0),
                {entry.name: entry.value for entry in entries.values()},
            )
        return states

    def create_topics(self, topics: Sequence[NewTopic]) -> None:
        """Create the topics; one that exists by now is no error."""
        new = [
            admin.NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication_factor,
                config=dict(topic.settings),
            )
            for topic in topics
        ]
        futures = self._admin.create_topics(new, request_timeout=self._timeout_seconds)
        for name, future in futures.items():
            self._result(future, f"creating topic {name}", TOPIC_EXISTS)

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete the topics; one that does not exist is no error."""
        futures = self._admin.delete_topics(list(names), request_timeout=self._timeout_seconds)
        for name, future in futures.items():
            self._result(future, f"deleting topic {name}", UNKNOWN_TOPIC)

    def end(self, place: TopicPartition, *, committed: bool) -> int:
        """Ask for the end of the partition, or of what is committed of it."""
        doing = f"asking for the end of {place[0]}"
        return self._offset(place, admin.OffsetSpec.latest(), doing, committed=committed)

    def range(self, place: TopicPartition) -> tuple[int, int]:
        """Ask for the first kept offset and the end of what is committed."""
        doing = f"asking for the range of {place[0]}"
        first = self._offset(place, admin.OffsetSpec.earliest(), doing, committed=True)
        return first, self._offset(place, admin.OffsetSpec.latest(), doing, committed=True)

    def _offset(self, place: TopicPartition, which: Any, doing: str, *, committed: bool) -> int:
        """Ask for an offset, again while the partition is without a leader that knows itself so."""
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            (future,) = self._admin.list_offsets(
                {Place(*place): which},
                isolation_level=isolation,
                request_timeout=self._timeout_seconds,
            ).values()
            try:
                offset: int = self._result(future, doing).offset
            except UnavailableError as error:
                # Among them the client's own "No leaders found", which has no code of its own.
                if "leader" not in str(error).lower() or time.monotonic() >= deadline:
                    raise
            else:
                if offset >= 0:
                    return offset
                # None came, and it is not said why: while the leader changes.
                if time.monotonic() >= deadline:
                    raise unavailable(self._settings, doing, "no offset came")
            time.sleep(LEADER_SECONDS)
            self._metadata()  # A handle that was idle goes by what it knew before a restart.

    def _result(self, future: Any, doing: str, harmless: int | None = None) -> Any:
        try:
            return future.result(self._timeout_seconds + GRACE_SECONDS)
        except KafkaException as error:
            if error.args[0].code() == harmless:
                return None
            self._admin.poll(0)
            raise self._connection.translated(error, doing) from error
        except FutureTimeoutError:
            raise self._connection.timed_out(doing) from None

    def reader(self, *, wait_milliseconds: int) -> ConfluentReader:
        """Open a reader of committed records."""
        return ConfluentReader(Connection(self._settings, self._on_wait), wait_milliseconds)

    def writer(self, transactional_id: str = "") -> ConfluentWriter:
        """Open a writer; with a transactional ID, fence its earlier holder."""
        return ConfluentWriter(Connection(self._settings, self._on_wait), transactional_id)

    def member(
        self,
        group: str,
        topic: str,
        on_assigned: Callable[[Sequence[int]], None],
        on_lost: Callable[[Sequence[int]], None],
    ) -> ConfluentMember:
        """Join a group."""
        connection = Connection(self._settings, self._on_wait)
        return ConfluentMember(connection, group, topic, on_assigned, on_lost)

    def close(self) -> None:
        """Release what is held."""
        self._admin.poll(0)
