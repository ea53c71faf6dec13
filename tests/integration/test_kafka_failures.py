"""What happens when Kafka is wrongly addressed, goes away, stands still or comes back."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.division_kafka import KafkaDivision
from pipeline.kafka_client import open_client
from pipeline.kafka_settings import KafkaSecurity, KafkaSettings
from pipeline.kafka_topics import ensure_topics
from pipeline.log_kafka import KafkaLog
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.ports import EVENTS, NewRecord, Record
from tests.private_kafka import PASSWORD, USER, PrivateKafka, private_kafka
from tests.topics import kafka_settings, new_topics
from tests.waiting import until

WAIT_SECONDS = 60.0
PATIENCE_SECONDS = 2.0
PAUSE_SECONDS = 0.01


# kafka-python leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("refused_sockets_are_collected"),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateKafka]:
    folder: Path = tmp_path_factory.mktemp("kafka")
    with private_kafka(folder) as started:
        yield started


@pytest.fixture
def private(broker: PrivateKafka, client: str, to_close: ExitStack) -> KafkaSettings:
    """Settings under which there are new topics on the private broker."""
    return new_topics(
        client,
        to_close,
        bootstrap_servers=broker.address,
        request_timeout_seconds=PATIENCE_SECONDS,
        session_timeout_seconds=3.0,
    )


# -- wrong from the start ------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:9092"])
def test_a_wrong_address_is_named_with_the_setting(client: str, address: str) -> None:
    settings = kafka_settings(client, bootstrap_servers=address, request_timeout_seconds=1.0)
    with pytest.raises(UnavailableError, match="bootstrap_servers") as caught:
        KafkaLog(settings)
    assert caught.value.server == f"kafka {address}"


def test_servers_that_hang_do_not_keep_a_client_from_the_one_that_answers(
    broker: PrivateKafka, private: KafkaSettings, to_close: ExitStack
) -> None:
    silent = [to_close.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in silent]
    settings = replace(
        private,
        bootstrap_servers=",".join([*addresses, broker.address]),
        request_timeout_seconds=3.0,
    )
    for _ in range(5):
        with closing(KafkaLog(settings)) as log:
            assert log.head(EVENTS, 0) == 0


def test_a_writer_that_is_closed_ends_at_once_and_not_with_the_next_collection_of_garbage(
    private: KafkaSettings, to_close: ExitStack
) -> None:
    client = to_close.enter_context(closing(open_client(private)))
    gc.collect()
    gc.disable()
    to_close.callback(gc.enable)
    before = set(client_threads())
    writer = client.writer("w")
    assert set(client_threads()) - before
    writer.close()
    until(lambda: not set(client_threads()) - before, "its threads to end", WAIT_SECONDS)


def client_threads() -> list[str]:
    """Return the threads of this process that are librdkafka's or kafka-python's."""
    found = [f"{one.name} {one.native_id}" for one in threading.enumerate() if one is not None]
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            name = (task / "comm").read_text()
            found += [f"{name} {task.name}"] if name.startswith("rdk:") else []
    return found


def test_a_broker_that_speaks_without_login_is_a_matter_of_configuration(client: str) -> None:
    security = KafkaSecurity(
        protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="u", password="a-secret"
    )
    settings = kafka_settings(client, security=security, request_timeout_seconds=1.0)
    with pytest.raises(ConfigurationError, match=r"security\.mechanism") as caught:
        KafkaLog(settings)
    assert "a-secret" not in str(caught.value)
    assert "a-secret" not in repr(settings)


def test_a_wrong_password_is_named_and_not_shown_and_the_right_one_works(
    broker: PrivateKafka, private: KafkaSettings
) -> None:
    security = KafkaSecurity(
        protocol="SASL_PLAINTEXT", mechanism="PLAIN", username=USER, password="wrong-password"
    )
    wrong = replace(private, bootstrap_servers=broker.sasl_address, security=security)
    # kafka-python does not always see the refusal before the end of the connection.
    expected = (ConfigurationError, UnavailableError)[: 1 + (private.client == "kafka-python")]
    with pytest.raises(expected, match=r"security\.password") as caught:
        KafkaLog(wrong)
    assert "wrong-password" not in str(caught.value)
    right = replace(wrong, security=replace(security, password=PASSWORD))
    with closing(KafkaLog(right, writer="w")) as log:
        log.append([NewRecord(EVENTS, 0, b"k", b"v")], 1.0)
        assert log.read(EVENTS, 0, 0, 1).records[0].value == b"v"


@pytest.mark.parametrize(
    "security",
    [
        {"protocol": "SASL_SSL", "username": "u"},
        {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN"},
    ],
)
def test_a_login_that_lacks_something_is_refused_at_once(security: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"security\.mechanism"):
        KafkaSecurity(**security)


def test_a_certificate_that_is_not_there_is_refused_at_once(client: str, tmp_path: Path) -> None:
    security = KafkaSecurity(protocol="SSL", ca_file=str(tmp_path / "absent.pem"))
    with pytest.raises(ConfigurationError, match=r"setting|security\.ca_file"):
        KafkaLog(kafka_settings(client, security=security))


def test_more_copies_than_brokers_are_refused_with_the_setting(client: str) -> None:
    with pytest.raises(ConfigurationError, match="replication_factor"):
        ensure_topics(kafka_settings(client, replication_factor=3))


def test_a_transaction_timeout_above_the_brokers_is_refused_with_the_setting(
    client: str, to_close: ExitStack
) -> None:
    settings = new_topics(client, to_close, transaction_timeout_seconds=1e6)
    with pytest.raises(ConfigurationError, match="transaction_timeout_seconds"):
        KafkaLog(settings, writer="w")


@pytest.mark.parametrize("writer", ["", "w"])
def test_a_clock_far_ahead_is_named_and_nothing_is_stored(
    client: str, to_close: ExitStack, writer: str
) -> None:
    settings = new_topics(client, to_close)
    with closing(KafkaLog(settings, writer=writer)) as log:
        with pytest.raises(ConfigurationError, match="clock"):
            log.append([NewRecord(EVENTS, 0, b"k", b"v")], time.time() + 1e6)
        assert log.read(EVENTS, 0, 0, 1).records == []


# -- away for a while ----------------------------------------------------------------------------


class Counter:
    """Appends 0, 1, 2, … whatever happens, as a role does: on trouble it begins anew."""

    def __init__(self, settings: KafkaSettings, atomic: bool) -> None:
        self._settings = settings
        self._atomic = atomic
        self._stopping = threading.Event()
        self.acknowledged = 0
        self.troubles: list[SynchroscopeError] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(KafkaLog(self._settings, writer="w", atomic=self._atomic)) as log:
                    self._count(log)
            except (UnavailableError, FencedError) as error:
                self.troubles.append(error)

    def _count(self, log: KafkaLog) -> None:
        number = self._next(log)
        while not self._stopping.wait(PAUSE_SECONDS):
            records = [
                NewRecord(EVENTS, partition, b"k", str(number + step).encode())
                for step in range(3)
                for partition in (0, 1)
            ]
            log.append(records, 1.0, consumer="c", positions={("source", 0): number + 3})
            number += 3
            self.acknowledged = number

    def _next(self, log: KafkaLog) -> int:
        if self._atomic:
            return log.positions("c").get(("source", 0), 0)
        # Not atomic: a part of the last append may be there. Both partitions are made equal.
        stored = [values(log, partition) for partition in (0, 1)]
        number = min(map(len, stored))
        lacking = 0 if len(stored[0]) < len(stored[1]) else 1
        missing = range(number, max(map(len, stored)))
        log.append([NewRecord(EVENTS, lacking, b"k", str(n).encode()) for n in missing], 1.0)
        return max(map(len, stored))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


def values(log: KafkaLog, partition: int) -> list[int]:
    head, position, found = log.head(EVENTS, partition), 0, list[int]()
    while position < head:
        batch = log.read(EVENTS, partition, position, 1_000)
        found += [int(record.value) for record in batch.records]
        position = batch.position
    return found


def number_of(record: Record) -> int:
    return int(record.value)


class Follower:
    """Reads all partitions through one log that it never opens anew."""

    def __init__(
        self, settings: KafkaSettings, number_of: Callable[[Record], int] = number_of
    ) -> None:
        self._log = KafkaLog(settings)
        self._number_of = number_of
        self._stopping = threading.Event()
        self._positions = [0] * settings.partitions
        self.found: list[list[int]] = [[] for _ in self._positions]
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    if not self._step():
                        self._log.wait(0.2)
                except UnavailableError:
                    continue  # What is known to be there does not come: asked again, it will.
        except BaseException as error:
            self.failures.append(error)

    def _step(self) -> int:
        count = 0
        for partition in range(len(self._positions)):
            batch = self._log.read(EVENTS, partition, self._positions[partition], 1_000)
            self.found[partition] += map(self._number_of, batch.records)
            self._positions[partition] = batch.position
            count += len(batch.records)
        return count

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(WAIT_SECONDS)
        self._log.close()


@pytest.mark.parametrize(
    ("atomic", "ending"), [(True, signal.SIGKILL), (False, signal.SIGTERM)], ids=["kill", "stop"]
)
def test_a_restart_of_the_broker_under_load_loses_nothing_and_doubles_nothing(
    broker: PrivateKafka,
    private: KafkaSettings,
    to_close: ExitStack,
    atomic: bool,
    ending: signal.Signals,
) -> None:
    counter, follower = Counter(private, atomic), Follower(private)
    division = KafkaDivision(private, "g", EVENTS)
    to_close.callback(division.close)
    to_close.callback(follower.stop)
    to_close.callback(counter.stop)
    until(lambda: counter.acknowledged >= 30 and len(division.owned()) == 2, "the start")
    before = counter.acknowledged
    broker.send(ending)
    broker.start()
    until(lambda: counter.acknowledged >= before + 30, "acknowledgements")
    until(lambda: len(division.owned()) == 2, "both partitions")
    counter.stop()
    assert all(isinstance(trouble, UnavailableError) for trouble in counter.troubles)
    until(
        lambda: follower.failures or all(len(f) >= counter.acknowledged for f in follower.found),
        "all that was acknowledged",
    )
    assert follower.failures == []
    for found in follower.found:
        assert found == list(range(len(found)))


def test_a_broker_that_stands_still_is_unavailable_within_the_timeout_and_reading_waits(
    broker: PrivateKafka, private: KafkaSettings, to_close: ExitStack
) -> None:
    log = to_close.enter_context(closing(KafkaLog(private)))
    log.append([NewRecord(EVENTS, 0, b"k", b"before")], 1.0)
    reader = to_close.enter_context(closing(KafkaLog(private)))
    position, found = reader.read(EVENTS, 0, 0, 10).position, list[bytes]()
    broker.send(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="bootstrap_servers"):
            log.append([NewRecord(EVENTS, 0, b"k", b"during")], 1.0)
        assert time.monotonic() - started < 3 * PATIENCE_SECONDS
        with pytest.raises(UnavailableError, match="open a new log"):
            log.append([NewRecord(EVENTS, 0, b"k", b"again")], 1.0)
        batch = reader.read(EVENTS, 0, position, 10)
        assert (batch.records, batch.position) == ([], position)
    finally:
        broker.send(signal.SIGCONT)

    def has_come() -> bool:
        nonlocal position
        batch = reader.read(EVENTS, 0, position, 10)
        found.extend(record.value for record in batch.records)
        position = batch.position
        return b"after" in found

    with closing(KafkaLog(private)) as new:
        new.append([NewRecord(EVENTS, 0, b"k", b"after")], 1.0)
        until(has_come, "the record")
    # What was under way when the broker stood still may have been stored, once.
    assert [value for value in found if value != b"during"] == [b"after"]
    assert found.count(b"during") <= 1
