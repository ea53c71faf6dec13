"""Kafka through kafka-python: the client that always installs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from kafka import KafkaAdminClient
from kafka import TopicPartition as Place
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from pipeline.kafka_client import NewTopic, OnWait, TopicState
from pipeline.kafka_python_connection import Connection
from pipeline.kafka_python_member import PythonMember
from pipeline.kafka_python_reader import PythonReader
from pipeline.kafka_python_writer import PythonWriter
from pipeline.kafka_settings import KafkaSettings
from synchroscope.ports import TopicPartition


class PythonClient:
    """The `Client` port on kafka-python."""

    def __init__(self, settings: KafkaSettings, on_wait: OnWait | None = None) -> None:
        self._settings = settings
        self._on_wait = on_wait
        self._connection = Connection(settings, on_wait)
        self._admin = self._connection.open(KafkaAdminClient, {})

    def _ask(self, act: Callable[[], Any], doing: str) -> Any:
        return self._connection.call_bounded(act, doing)

    def partition_counts(self) -> dict[str, int]:
        """Return how many partitions each topic has."""
        topics = self._ask(self._admin.describe_topics, "asking for the topics")
        return {topic["name"]: len(topic["partitions"]) for topic in topics}

    def topic_id(self, name: str) -> str | None:
        """Return what tells a topic from others of its name."""
        topics = self._ask(self._admin.describe_topics, "asking for the topics")
        found = [topic for topic in topics if topic["name"] == name]
        return str(found[0].get("topic_id") or "") if found else None

    def topics(self, names: Sequence[str]) -> dict[str, TopicState]:
        """Return the state of those topics that exist."""
        described = self._ask(self._admin.describe_topics, "asking for the topics")
        found = {topic["name"]: topic for topic in described if topic["name"] in names}
        if not found:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
        answer = self._ask(
            lambda: self._admin.describe_configs(resources, config_filter="all"),
            "describing topics",
        )
        return {
            name: TopicState(
                len(topic["partitions"]),
                min((len(part["replica_nodes"]) for part in topic["partitions"]), default=0),
                {key: entry["value"] for key, entry in answer["topic"][name].items()},
            )
            for name, topic in found.items()
        }

    def create_topics(self, topics: Sequence[NewTopic]) -> None:
        """Create the topics; one that exists by now is no error."""
        for topic in topics:  # One by one: an error says nothing of the others.
            wanted = {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication_factor,
                "configs": dict(topic.settings),
            }
            self._do_once(
                partial(self._admin.create_topics, {topic.name: wanted}),
                f"creating topic {topic.name}",
                TopicAlreadyExistsError,
            )

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete the topics; one that does not exist is no error."""
        for name in names:
            self._do_once(
                partial(self._admin.delete_topics, [name]),
                f"deleting topic {name}",
                UnknownTopicOrPartitionError,
            )

    def _do_once(self, act: Callable[[], Any], doing: str, done: type[Exception]) -> None:
        def unless_done() -> None:
            with suppress(done):
                act()

        self._ask(unless_done, doing)

    def end(self, place: TopicPartition, *, committed: bool) -> int:
        """Ask for the end of the partition, or of what is committed of it."""
        return self._offset(place, OffsetSpec.LATEST, committed=committed)

    def range(self, place: TopicPartition) -> tuple[int, int]:
        """Ask for the first kept offset and the end of what is committed."""
        first = self._offset(place, OffsetSpec.EARLIEST, committed=True)
        return first, self._offset(place, OffsetSpec.LATEST, committed=True)

    def _offset(self, place: TopicPartition, which: Any, *, committed: bool) -> int:
        wanted = {Place(*place): which}
        isolation = "read_committed" if committed else "read_uncommitted"
        answer = self._connection.call(
            lambda: self._admin.list_partition_offsets(wanted, isolation_level=isolation),
            f"asking for the range of {place[0]}",
        )
        offset: int = answer[Place(*place)].offset
        return offset

    def reader(self, *, wait_milliseconds: int) -> PythonReader:
        """Open a reader of committed records."""
        return PythonReader(Connection(self._settings, self._on_wait), wait_milliseconds)

    def writer(self, transactional_id: str = "") -> PythonWriter:
        """Open a writer; with a transactional ID, fence its earlier holder."""
        return PythonWriter(Connection(self._settings, self._on_wait), transactional_id)

    def member(
        self,
        group: str,
        topic: str,
        on_assigned: Callable[[Sequence[int]], None],
        on_lost: Callable[[Sequence[int]], None],
    ) -> PythonMember:
        """Join a group."""
        connection = Connection(self._settings, self._on_wait)
        return PythonMember(connection, group, topic, on_assigned, on_lost)

    def close(self) -> None:
        """Release what is held."""
        self._admin.close()
