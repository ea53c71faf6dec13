"""Whether anything listens where the configuration says that Kafka is."""

from __future__ import annotations

import socket
from contextlib import closing

from pipeline.kafka_settings import KafkaSettings

LOOK_SECONDS = 1.0
MAXIMUM_BROKERS = 3
"""So many of the addresses are tried."""


def why_unreached(settings: KafkaSettings) -> str:
    """Return why none of the brokers can be connected to; empty where one can.

    For a message that cannot wait until the client gives up, which may take
    `request_timeout_seconds`.
    """
    told = []
    for broker in settings.bootstrap_servers.split(",")[:MAXIMUM_BROKERS]:
        host, _, port = broker.strip().rpartition(":")
        try:
            with closing(socket.create_connection((host.strip("[]"), int(port)), LOOK_SECONDS)):
                return ""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            told.append(f"{broker.strip()} cannot be reached ({reason})")
    return f"kafka: {', '.join(told)}: check bootstrap_servers, and that it runs"
