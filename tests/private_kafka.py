"""Kafka brokers that one test may stop, kill and start again; never the shared one."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from msgspec import Struct

from tests.servers import missing
from tests.waiting import until

USER, PASSWORD = "tester", "right-password"
START_SECONDS = 60.0

#: It is to start soon; nothing runs for so long that more compiling would pay.
_JAVA = ("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
"""

#: What three brokers have beyond that; of a property that comes twice, the last one counts. A
#: broker that is silent is given up after three seconds, where Kafka waits for nine, and for an
#: answer of it, as that a transaction was ended there, for thirty.
_CLUSTER: Mapping[str, str] = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "request.timeout.ms": "3000",
    "controller.socket.timeout.ms": "3000",
    "replica.lag.time.max.ms": "3000",
    "auto.leader.rebalance.enable": "false",
}


class Listener(Struct, frozen=True):
    """A listener of the broker; its properties are written without ``listener.name.NAME.``."""

    name: str
    protocol: str
    properties: Mapping[str, str] = {}


_PLAIN = Listener("PLAINTEXT", "PLAINTEXT")
_LOGIN = Listener(
    "SASL_PLAINTEXT",
    "SASL_PLAINTEXT",
    {
        "sasl.enabled.mechanisms": "PLAIN",
        "plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
        f'required user_{USER}="{PASSWORD}";',
    },
)


class PrivateKafka:
    """One broker with data in a folder of its own, on ports that were free.

    Parameters
    ----------
    libraries: Where Kafka's jars are.
    folder: For its data, its properties and its log.
    listeners: Those it has besides one without security and one with a PLAIN login.
    format_words: More words for the command that formats its storage, such as users to add.
    properties: More of its properties.
    ports: Of the controller and the listeners, where they are given out already.
    """

    def __init__(
        self,
        libraries: Path,
        folder: Path,
        listeners: Sequence[Listener] = (),
        format_words: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        ports: Sequence[int] = (),
    ) -> None:
        self._libraries = libraries
        self._folder = folder
        listeners = (_PLAIN, _LOGIN, *listeners)
        controller, *ports = ports or _free_ports(1 + len(listeners))
        #: By listener.
        self.addresses = {
            listener.name: f"127.0.0.1:{port}"
            for listener, port in zip(listeners, ports, strict=True)
        }
        self.address = self.addresses[_PLAIN.name]
        self.sasl_address = self.addresses[_LOGIN.name]
        self._port = ports[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = folder / "server.properties"
        text = _PROPERTIES.format(
            controller=controller,
            listeners=",".join(f"{name}://{place}" for name, place in self.addresses.items()),
            protocols=",".join(f"{listener.name}:{listener.protocol}" for listener in listeners),
            folder=folder,
        )
        more = dict(properties or {})
        for listener in listeners:
            prefix = f"listener.name.{listener.name.lower()}."
            more |= {prefix + name: value for name, value in listener.properties.items()}
        self._properties.write_text(text + "".join(f"{name}={more[name]}\n" for name in more))
        words = ("-t", "kR5sVq0ZTzqJ0m9c8mV3kA", *format_words, "-c")
        self._java("kafka.tools.StorageTool", "format", *words)

    def _java(self, *words: str) -> None:
        command = [*_JAVA, "-cp", f"{self._libraries}/*", *words, str(self._properties)]
        subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS)

    def start(self) -> None:
        """Start the broker and wait until it takes connections."""
        self.launch()
        self.await_answer()

    def launch(self) -> None:
        """Start the broker."""
        command = [*_JAVA, "-cp", f"{self._libraries}/*"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "kafka.Kafka", str(self._properties)], stdout=log, stderr=log
            )

    def await_answer(self) -> None:
        """Wait until the broker takes connections."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self._port):
            assert self._process.poll() is None, f"Kafka ended: see {self._folder}/log"
            assert time.monotonic() < deadline, f"Kafka does not answer: see {self._folder}/log"
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send the broker a signal; after one that ends it, wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait(START_SECONDS)
        elif number == signal.SIGSTOP:
            pid = self._process.pid
            until(lambda: _stands_still(pid), "Kafka to stand still", START_SECONDS)

    def has_ended(self) -> bool:
        """Say whether the broker runs no more."""
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> None:
        """End the broker, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)


class PrivateCluster:
    """Three brokers, each a controller too; the number of one is its place in `brokers`."""

    def __init__(self, libraries: Path, folder: Path) -> None:
        ports = _free_ports(9)
        voters = ",".join(f"{number + 1}@127.0.0.1:{ports[3 * number]}" for number in range(3))
        folders = [folder / str(number + 1) for number in range(3)]
        for one in folders:
            one.mkdir()

        def made(number: int) -> PrivateKafka:
            own = {"node.id": str(number + 1), "controller.quorum.voters": voters}
            its_ports = ports[3 * number : 3 * number + 3]
            return PrivateKafka(
                libraries, folders[number], properties={**_CLUSTER, **own}, ports=its_ports
            )

        with ThreadPoolExecutor() as pool:
            self.brokers = list(pool.map(made, range(3)))
        self.address = ",".join(broker.address for broker in self.brokers)
        self._admin: Any = None

    def start(self) -> None:
        """Start all brokers and wait until they are one cluster."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.await_answer()
        self._admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        until(lambda: len(self._metadata().brokers) == 3, "three brokers", START_SECONDS)

    def _metadata(self) -> Any:
        return self._admin.list_topics(timeout=START_SECONDS)

    def leader(self, topic: str, partition: int = 0) -> int:
        """Return the place of the broker that leads a partition."""
        number = until(
            lambda: self._metadata().topics[topic].partitions[partition].leader + 1, "a leader"
        )
        return int(number) - 2

    def is_whole(self) -> bool:
        """Say whether every copy of every partition is in sync."""
        return all(
            len(partition.isrs) == len(partition.replicas)
            for topic in self._metadata().topics.values()
            for partition in topic.partitions.values()
        )

    def stop(self) -> None:
        """End all brokers, whatever state they are in."""
        for broker in self.brokers:
            broker.stop()


@contextmanager
def private_kafka(
    folder: Path,
    listeners: Sequence[Listener] = (),
    format_words: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
) -> Iterator[PrivateKafka]:
    """Start a broker; skip, or fail where servers are required, if Kafka was never fetched."""
    broker = PrivateKafka(_libraries(), folder, listeners, format_words, properties)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@contextmanager
def private_cluster(folder: Path) -> Iterator[PrivateCluster]:
    """Start three brokers; skip, or fail where servers are required, like `private_kafka`."""
    cluster = PrivateCluster(_libraries(), folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _libraries() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "synchroscope"
    found = sorted(path.parent for path in cache.glob("kafka-*/.complete"))
    if not found:
        missing("Apache Kafka was not fetched yet: run `deploy/local/up kafka` once")
    return found[-1]


def _stands_still(pid: int) -> bool:
    """Say whether every thread of a process is stopped: they do not stop all at once."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # It may end meanwhile.
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody has, below those that the system gives to connections: they would be
    taken while the broker is away."""
    ports: list[int] = []
    with ExitStack() as sockets:
        for port in random.SystemRandom().sample(range(22_000, 32_000), 1_000):
            try:
                sockets.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("no port is free")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
