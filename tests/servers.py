"""Where the real servers of the integration tests are, and what happens when one is missing."""

from __future__ import annotations

import os
import socket
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

DEFAULT_KAFKA = "127.0.0.1:29092"
DEFAULT_POSTGRESQL = "postgresql://sync@127.0.0.1:25432/postgres"
DEFAULT_REDIS = "redis://127.0.0.1:26379/0"
CONNECT_SECONDS = 1.0


def kafka_server() -> str:
    """Return the bootstrap address of the Kafka to test against."""
    address = os.environ.get("SYNCHROSCOPE_KAFKA", DEFAULT_KAFKA)
    host, _, port = address.rpartition(":")
    _need("kafka", host, int(port))
    return address


def postgresql_dsn() -> str:
    """Return the DSN of the PostgreSQL to test against."""
    dsn = os.environ.get("SYNCHROSCOPE_POSTGRESQL", DEFAULT_POSTGRESQL)
    parts = urlsplit(dsn)
    _need("postgres", parts.hostname or "127.0.0.1", parts.port or 5432)
    return dsn


def redis_url() -> str:
    """Return the URL of the Redis to test against."""
    url = os.environ.get("SYNCHROSCOPE_REDIS", DEFAULT_REDIS)
    parts = urlsplit(url)
    _need("redis", parts.hostname or "127.0.0.1", parts.port or 6379)
    return url


def _need(name: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        missing(f"no {name} at {host}:{port} ({error}): start one with `deploy/local/up {name}`")


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    if os.environ.get("SYNCHROSCOPE_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
