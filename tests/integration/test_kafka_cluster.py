"""What three Kafka brokers keep while one dies or stands still, and what is said while two do."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from pipeline.commands import CommandSide
from pipeline.division_kafka import KafkaDivision
from pipeline.event_store_memory import MemoryEventStore
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import check_topics, ensure_topics
from pipeline.log_kafka import KafkaLog
from pipeline.partitioner import by_subject
from pipeline.relay import Relay
from service.configuration import load_configuration
from service.configuration_servers import ask_servers
from synchroscope.errors import ConfigurationError, FencedError, UnavailableError
from synchroscope.event import encode_event
from synchroscope.ports import EVENTS, NewRecord, Record
from tests.builders import event
from tests.integration.test_kafka_failures import Counter, Follower, values
from tests.private_kafka import PrivateCluster, private_cluster
from tests.topics import KAFKA_CLIENTS, kafka_settings
from tests.waiting import until
from validator.repeats import store_position

PARTITIONS = 3
PATIENCE_SECONDS = 2.0
WAIT_SECONDS = 60.0
#: Of these, one has taken the broker's place when so many more are acknowledged: every partition
#: has got some.
MORE_EVENTS, MORE_NUMBERS = 100, 30
MOST_FENCED = 2
COORDINATED = "__consumer_offsets"

# kafka-python leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("refused_sockets_are_collected"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with private_cluster(folder) as started:
        yield started


def topics(
    cluster: PrivateCluster, client: str, partitions: int = 1, copies: int | None = None
) -> KafkaSettings:
    """Create topics with three copies; they end with the cluster."""
    settings = kafka_settings(
        client,
        bootstrap_servers=cluster.address,
        partitions=partitions,
        replication_factor=3,
        min_insync_replicas=copies,
        request_timeout_seconds=PATIENCE_SECONDS,
        session_timeout_seconds=3.0,
    )
    ensure_topics(settings)
    return settings


# -- how many copies -----------------------------------------------------------------------------


@pytest.mark.parametrize("client", KAFKA_CLIENTS)
def test_of_three_copies_two_are_needed_and_a_fourth_is_refused_with_the_setting(
    cluster: PrivateCluster, tmp_path: Path, client: str
) -> None:
    settings = topics(cluster, client)
    assert check_topics(settings) == []
    four = kafka_settings(client, bootstrap_servers=cluster.address, replication_factor=4)
    with pytest.raises(ConfigurationError, match="set kafka replication_factor to the number of"):
        ensure_topics(four)
    weak = topics(cluster, client, copies=1)
    assert check_topics(weak) == []
    told = check_topics(replace(weak, min_insync_replicas=None))
    assert len(told) == 6
    assert all("min.insync.replicas=1, needed is 2: kafka-configs --alter" in one for one in told)

    path = tmp_path / "synchroscope.yaml"
    path.write_text(f"""
        log:
          kafka:
            bootstrap_servers: "{cluster.address}"
            client: {client}
            topic_prefix: {settings.topic_prefix}
            partitions: {settings.partitions}
            replication_factor: 4
        event_store: {{postgresql: {{dsn: "postgresql://nobody@127.0.0.1:9/x"}}}}
        views: {{scorer: {{fields: {{financial: "*"}}}}}}
        replicas: [{{name: scorer@1, memory: {{}}}}]
        """)
    answer = next(ask_servers(load_configuration(path, {})))
    assert answer.state == "wrong"
    assert "has replication factor 3, configured is 4: reassign it" in answer.problems[0]


# -- one of three --------------------------------------------------------------------------------


class Publisher:
    """A relay over a store that events come into; on trouble it begins anew, as its host does."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self.store = MemoryEventStore()
        self.acknowledged = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            try:
                with closing(KafkaLog(self._settings, atomic=False)) as log:
                    self._publish(Relay(self.store, log, batch_records=20))
            except UnavailableError:
                continue

    def _publish(self, relay: Relay) -> None:
        looked_at = time.monotonic()
        while not self._stopping.wait(0.02):
            self._accept(10)
            now = time.time()
            relay.step(now)
            self.acknowledged = relay.position
            if time.monotonic() - looked_at > 1.0:
                relay.look_at_heads()
                relay.note(now)
                looked_at = time.monotonic()

    def _accept(self, count: int) -> None:
        first = self.store.count()
        with CommandSide(self.store).batch(1.0) as batch:
            for number in range(first, first + count):
                made = event(None, {"limit": number}, number=number, user=str(number % 17))
                batch.submit(msgspec.json.encode(made))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


def position_of(record: Record) -> int:
    position = store_position(record.headers)
    assert position is not None
    return position


class Member:
    """Takes part in a group all the time, as a role does."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._division = KafkaDivision(settings, "g", EVENTS)
        self._stopping = threading.Event()
        self._owned = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with closing(self._division):
            while not self._stopping.wait(0.02):
                self._owned = len(self._division.owned())

    def owns_all(self) -> bool:
        return self._owned == PARTITIONS

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


class Side:
    """All that one client does on the cluster at once."""

    def __init__(self, cluster: PrivateCluster, client: str, stack: ExitStack) -> None:
        self.client = client
        self.published = topics(cluster, client, PARTITIONS)
        self.counted = topics(cluster, client, 2)
        self.member = Member(self.published)
        stack.callback(self.member.stop)
        self.published_reader = Follower(self.published, position_of)
        stack.callback(self.published_reader.stop)
        self.counted_reader = Follower(self.counted)
        stack.callback(self.counted_reader.stop)
        self.publisher = Publisher(self.published)
        stack.callback(self.publisher.stop)
        self.counter = Counter(self.counted, atomic=True)
        stack.callback(self.counter.stop)

    def goals(self) -> dict[str, Callable[[], bool]]:
        """What is to come about from now on, and whether it has."""
        events = self.publisher.acknowledged + MORE_EVENTS
        numbers = self.counter.acknowledged + MORE_NUMBERS
        return {
            f"{self.client} relay": lambda: self.publisher.acknowledged >= events,
            f"{self.client} transactions": lambda: self.counter.acknowledged >= numbers,
        }

    def assert_nothing_is_lost_or_doubled(self) -> None:
        self.publisher.stop()
        self.counter.stop()
        # A request that was given up may come late and fence its own successor, but not each one.
        fenced = [one for one in self.counter.troubles if isinstance(one, FencedError)]
        print(f"{self.client}: {len(self.counter.troubles)} troubles, fenced {len(fenced)} times")
        assert len(fenced) <= MOST_FENCED
        with closing(KafkaLog(self.counted)) as log:
            counted = [values(log, partition) for partition in (0, 1)]
        for found in counted:
            assert found == list(range(len(found)))
            assert len(found) >= self.counter.acknowledged
        self._assert_published()
        self._assert_read(self.counted_reader, counted)

    def _assert_published(self) -> None:
        store = self.publisher.store
        stored = store.read(0, store.count())
        published = []
        with closing(KafkaLog(self.published)) as log:
            for partition in range(PARTITIONS):
                records = whole(log, partition)
                published.append([position_of(record) for record in records])
                for record in records:
                    assert record.value == encode_event(stored[position_of(record) - 1].event)
                wanted = [
                    one.position
                    for one in stored
                    if by_subject(one.event.context_type, one.event.subject, PARTITIONS)
                    == partition
                ]
                first_times = without_repeats(published[-1])
                assert first_times == wanted[: len(first_times)]
                assert not [one for one in wanted[len(first_times) :] if self._was_claimed(one)]
        self._assert_read(self.published_reader, published)

    def _was_claimed(self, position: int) -> bool:
        return position <= self.publisher.acknowledged

    @staticmethod
    def _assert_read(reader: Follower, everything: list[list[int]]) -> None:
        until(
            lambda: reader.failures or list(map(len, reader.found)) >= list(map(len, everything)),
            "the reader",
        )
        assert reader.failures == []
        assert reader.found == everything


def without_repeats(positions: list[int]) -> list[int]:
    """Leave out what does not lead on: every reader passes over it (`validator.repeats`)."""
    first_times, highest = [], 0
    for position in positions:
        if position > highest:
            first_times.append(position)
            highest = position
    return first_times


def whole(log: KafkaLog, partition: int) -> list[Record]:
    head, position, found = log.head(EVENTS, partition), 0, list[Record]()
    while position < head:
        batch = log.read(EVENTS, partition, position, 1_000)
        found += batch.records
        position = batch.position
    return found


def all_go_on(sides: list[Side], after: str) -> None:
    """Wait until everything has got on from here, and print how long that took."""
    started, goals = time.monotonic(), dict[str, Callable[[], bool]]()
    for side in sides:
        goals |= side.goals()
    reached: dict[str, float] = {}

    def are_reached() -> bool:
        for name in goals.keys() - reached.keys():
            if goals[name]():
                reached[name] = round(time.monotonic() - started, 1)
        return len(reached) == len(goals)

    try:
        until(are_reached, f"everything to go on after {after}")
        for side in sides:
            until(side.member.owns_all, f"{side.client}'s group to be whole after {after}")
    finally:
        print(f"after {after}, in seconds: {dict(sorted(reached.items()))}")


def test_a_leader_that_dies_or_stands_still_under_load_costs_no_record_and_doubles_none(
    cluster: PrivateCluster, to_close: ExitStack
) -> None:
    sides = [Side(cluster, client, to_close) for client in KAFKA_CLIENTS]
    all_go_on(sides, "the start")
    for ending, mending in (
        (signal.SIGKILL, lambda broker: broker.start()),
        (signal.SIGSTOP, lambda broker: broker.send(signal.SIGCONT)),
    ):
        # The groups' coordinator, which leads a third of all partitions too, or more.
        victim = cluster.leader(COORDINATED)
        for side in sides:
            topic = side.published.topic(EVENTS)
            assert victim in [cluster.leader(topic, number) for number in range(PARTITIONS)]
        cluster.brokers[victim].send(ending)
        try:
            all_go_on(sides, ending.name)
        finally:
            mending(cluster.brokers[victim])
        # One that stood still says for a moment what was.
        until(lambda: cluster.leader(COORDINATED) != victim, "another leader")  # noqa: B023
        until(cluster.is_whole, "all copies to be there")
    all_go_on(sides, "SIGCONT")
    for side in sides:
        side.assert_nothing_is_lost_or_doubled()


# -- two of three --------------------------------------------------------------------------------


class Appender:
    """One writer and what it was told of what it appended."""

    def __init__(self, settings: KafkaSettings, writer: str) -> None:
        self._settings = settings
        self._writer = writer
        self._log = KafkaLog(settings, writer=writer)
        self._accepted: list[bytes] = []
        self.append(b"before")

    def append(self, value: bytes) -> None:
        self._log.append([NewRecord(EVENTS, 0, b"k", value)], 1.0)
        self._accepted.append(value)

    def is_refused(self) -> None:
        """Nothing is accepted, in bounded time, and what to look at is said."""
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"as many as min\.insync\.replicas"):
            self.append(b"during")
        assert time.monotonic() - started < 4 * PATIENCE_SECONDS
        with pytest.raises(UnavailableError, match="open a new log"):
            self.append(b"again")

    def goes_on(self) -> None:
        self._log.close()
        self._log = KafkaLog(self._settings, writer=self._writer)
        self.append(b"after")
        found = [record.value for record in whole(self._log, 0)]
        assert [value for value in found if value != b"during"] == self._accepted
        assert found.count(b"during") <= 1
        self._log.close()


def test_below_the_copies_that_are_needed_nothing_is_accepted_until_they_are_back(
    cluster: PrivateCluster,
) -> None:
    def all_at_once(act: Callable[[Appender], None], appenders: list[Appender]) -> None:
        with ThreadPoolExecutor(len(appenders)) as pool:
            list(pool.map(act, appenders))

    strict = [Appender(topics(cluster, client, copies=3), "") for client in KAFKA_CLIENTS]
    usual = [
        Appender(topics(cluster, client), writer)
        for client, writer in product(KAFKA_CLIENTS, ("", "w"))
    ]
    first, second = cluster.brokers[:2]
    first.send(signal.SIGKILL)
    try:
        until(lambda: not cluster.is_whole(), "the copies of a dead broker to count no more")
        all_at_once(Appender.is_refused, strict)
        second.send(signal.SIGKILL)
        all_at_once(Appender.is_refused, usual)
    finally:
        for broker in (first, second):
            broker.stop()  # The second one, where it was not reached.
            broker.launch()
        first.await_answer()
        second.await_answer()
    until(cluster.is_whole, "all copies to be there")
    all_at_once(Appender.goes_on, strict + usual)
