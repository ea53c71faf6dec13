"""Servers of one benchmark's own: in a folder and on ports that nobody else has."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

LOCAL = Path(__file__).resolve().parent.parent / "deploy" / "local"
PORTS = (20_000, 32_000)


def free_ports(count: int) -> int:
    """Return the first of some free ports, below those that outgoing connections are given."""
    while True:
        first = random.SystemRandom().randrange(*PORTS, count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


@contextlib.contextmanager
def own_servers(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Start all in a folder, yield the addresses of Kafka, PostgreSQL and Redis, and stop them."""
    folder.mkdir(mode=0o755)
    folder.parent.chmod(0o755)  # PostgreSQL runs as another user.
    own = Servers(folder)
    try:
        own.run("up")
        kafka, postgresql, redis_url = own.addresses.values()
        yield kafka, postgresql, redis_url
    finally:
        own.run("down", "--purge")


class Servers:
    """Kafka, PostgreSQL and Redis of one's own, by the scripts of `deploy/local`."""

    def __init__(self, folder: Path) -> None:
        kafka = free_ports(4)  # Kafka's controller takes the second.
        postgres, other = kafka + 2, kafka + 3
        self.environment = {
            **os.environ,
            "SYNCHROSCOPE_LOCAL_DIR": str(folder),
            "SYNCHROSCOPE_LOCAL_KAFKA_PORT": str(kafka),
            "SYNCHROSCOPE_LOCAL_POSTGRES_PORT": str(postgres),
            "SYNCHROSCOPE_LOCAL_REDIS_PORT": str(other),
        }
        self.addresses = {
            "SYNCHROSCOPE_KAFKA": f"127.0.0.1:{kafka}",
            "SYNCHROSCOPE_POSTGRESQL": f"postgresql://sync@127.0.0.1:{postgres}/postgres",
            "SYNCHROSCOPE_REDIS": f"redis://127.0.0.1:{other}/0",
        }

    def run(self, script: str, *arguments: str) -> None:
        """Run a script of `deploy/local`; raise with its words when it fails."""
        done = subprocess.run(
            [str(LOCAL / script), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{script} {' '.join(arguments)}: {done.stderr.strip()}")
