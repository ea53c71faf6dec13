"""A topic that is not ours and is deleted while it is read."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import topic_kafka
from pipeline.kafka_settings import KafkaSettings
from pipeline.topic_kafka import KafkaTopic
from synchroscope.errors import ConfigurationError, UnavailableError


class RefusingClient:
    """Has the topic until that is deleted, and refuses every question for its ends."""

    def __init__(self) -> None:
        self.is_deleted = False

    def partition_counts(self) -> dict[str, int]:
        return {} if self.is_deleted else {"topic": 1}

    def topic_id(self, name: str) -> str | None:
        return None if self.is_deleted else "id"

    def range(self, place: Any) -> tuple[int, int]:
        raise ConfigurationError("check kafka topic_prefix, or create the topics")

    def reader(self, *, wait_milliseconds: int) -> Any:
        return None

    def close(self) -> None:
        """Nothing is held."""


class NoFollower:
    def __init__(self, *arguments: Any) -> None:
        self.windows: dict[Any, Any] = {}

    def close(self) -> None:
        """Nothing is held."""


def test_a_topic_that_is_deleted_while_it_is_read_is_unavailable_and_no_wrong_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = RefusingClient()
    monkeypatch.setattr(topic_kafka, "open_client", lambda settings, on_wait: client)
    monkeypatch.setattr(topic_kafka, "Follower", NoFollower)
    topic = KafkaTopic(KafkaSettings(bootstrap_servers="host:1"), "topic")
    with pytest.raises(ConfigurationError):
        topic.range(0)
    client.is_deleted = True
    for ask in (lambda: topic.range(0), lambda: topic.read(0, 0, 10)):
        with pytest.raises(UnavailableError, match="has no topic 'topic' any more"):
            ask()
