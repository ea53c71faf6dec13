"""Keys of one test's own in a Redis, and servers of one test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from pipeline.storage_redis import RedisStorage
from tests.servers import redis_url

START_SECONDS = 10.0


@contextmanager
def redis_prefix() -> Iterator[str]:
    """Name a prefix, and delete its keys in the end."""
    url, prefix = redis_url(), f"test-{uuid4().hex[:12]}"
    try:
        yield prefix
    finally:
        with closing(redis.Redis.from_url(url)) as client:
            for key in client.scan_iter(f"{{{prefix}*", count=1_000):
                client.delete(key)


@contextmanager
def redis_storage() -> Iterator[RedisStorage]:
    """Open a storage on keys of its own."""
    with redis_prefix() as prefix:
        yield RedisStorage(redis_url(), "scorer@1", prefix=prefix)


class PrivateRedis:
    """A server of one test's own, which may be stopped, paused and started again.

    Parameters
    ----------
    folder: Where it keeps its files.
    settings: As on its command line, without the leading dashes: ``{"maxmemory": "8mb"}``.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "repl-diskless-sync-delay": "0",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [_binary()]
        for name, value in self._settings.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"redis-server ended: {command}"
            assert time.monotonic() < deadline, "redis-server did not answer in time"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Kill it without warning, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def private_redis(
    folder: Path, settings: Mapping[str, str] | None = None
) -> Iterator[PrivateRedis]:
    """Run a server of one's own in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    server = PrivateRedis(folder, settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        reason = "no redis-server is installed: install one with `deploy/local/up redis`"
        if os.environ.get("SYNCHROSCOPE_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
