"""Kafka topics that belong to one test alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import delete_topics, ensure_topics
from tests.servers import kafka_server

KAFKA_CLIENTS = ("confluent", "kafka-python")


def kafka_settings(client: str, **more: Any) -> KafkaSettings:
    """Return settings with a topic prefix and a name that nobody else uses."""
    settings = {
        "bootstrap_servers": more.get("bootstrap_servers") or kafka_server(),
        "client": client,
        "topic_prefix": f"test-{uuid4().hex}.",
        "name": f"test-{uuid4().hex}",
        "partitions": 2,
        "control_retention_seconds": None,  # The tests' clock begins in 1970.
    }
    return KafkaSettings(**{**settings, **more})


def new_topics(client: str, to_close: ExitStack, **more: Any) -> KafkaSettings:
    """Create topics that are deleted at the end, and return the settings to use them with."""
    settings = kafka_settings(client, **more)
    ensure_topics(settings)
    to_close.callback(delete_topics, settings)
    return settings
