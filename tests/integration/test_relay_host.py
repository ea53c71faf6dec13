"""A relay that stands by, or has not begun, knows whether its servers answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pipeline.kafka_topics import ensure_topics
from service.configuration import Configuration, load_configuration
from service.hosts import Identity
from service.relay_host import RelayHost
from synchroscope.errors import UnavailableError
from tests.private_kafka import PrivateKafka, private_kafka
from tests.private_postgresql import PrivateServer, private_server
from tests.topics import KAFKA_CLIENTS
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 30.0
DEAD = "127.0.0.1:9"
TEXT = """
log: {kafka: {bootstrap_servers: "KAFKA", client: CLIENT, request_timeout_seconds: 2}}
event_store: {postgresql: {dsn: "${DSN}"}}
views: {scorer: {fields: {financial: "*"}}}
replicas: [{name: scorer@1, memory: {}}]
startup_timeout_seconds: 3
"""


def written(folder: Path, kafka: str, client: str = "auto") -> Path:
    path = folder / "synchroscope.yaml"
    path.write_text(TEXT.replace("KAFKA", kafka).replace("CLIENT", client), encoding="utf-8")
    return path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PrivateKafka]:
    with private_kafka(tmp_path) as started:
        yield started


@pytest.fixture
def server() -> Iterator[PrivateServer]:
    with private_server() as started:
        yield started


def until_it_fails(host: RelayHost) -> UnavailableError:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            host.step(time.time())
        except UnavailableError as error:
            return error
        time.sleep(0.02)
    raise AssertionError("it runs without servers")


def standing_by(configuration: Configuration, stack: ExitStack) -> RelayHost:
    """Return a relay that stands by, beside one that is active."""
    first = stack.enter_context(closing(RelayHost(configuration, Identity("first"))))
    until(first.division.owned, "the first to be active")
    second = stack.enter_context(closing(RelayHost(configuration, Identity("second"))))
    for _ in range(20):
        first.step(time.time())
        second.step(time.time())
        time.sleep(0.02)
    return second


@pytest.mark.parametrize("client", KAFKA_CLIENTS)
def test_a_relay_that_stands_by_fails_while_one_of_its_servers_is_away(
    broker: PrivateKafka, server: PrivateServer, tmp_path: Path, client: str
) -> None:
    path = written(tmp_path, broker.address, client)
    configuration = load_configuration(path, {"DSN": server.dsn()})
    ensure_topics(configuration.log.kafka)
    with ExitStack() as stack:
        host = standing_by(configuration, stack)
        assert not host.division.owned()
        server.stop()
        assert str(server.port) in str(until_it_fails(host))
        server.start()
        host.step(time.time())
        broker.send(signal.SIGKILL)
        assert broker.address in str(until_it_fails(host))
        with pytest.raises(UnavailableError):
            RelayHost(configuration, Identity("third"))


@pytest.mark.parametrize("away", ["kafka", "postgresql"])
def test_a_relay_whose_server_never_answers_ends_with_code_3_and_says_which(
    tmp_path: Path, away: str
) -> None:
    with ExitStack() as stack:
        dsn = f"postgresql://nobody@{DEAD}/context"
        if away == "kafka":
            server = stack.enter_context(private_server())
            dsn = server.dsn()
        path = written(tmp_path, DEAD)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "service.cli", "run", "relay"),
                *("--config", str(path), "--http-port", "0"),
            ],
            cwd=ROOT,
            env={"DSN": dsn, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert "not ready after 3 s: relay:" in done.stderr
    assert away in done.stderr.lower()


def test_a_process_that_may_not_wait_for_the_client_says_what_cannot_be_reached(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, DEAD)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("request_timeout_seconds: 2", "request_timeout_seconds: 30"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "service.cli", "run", "projector"),
            *("--config", str(path), "--http-port", "0", "--replica", "scorer@1"),
        ],
        cwd=ROOT,
        env={"DSN": f"postgresql://nobody@{DEAD}/context", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=4 * WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert f"kafka: {DEAD} cannot be reached (Connection refused): check" in done.stderr
