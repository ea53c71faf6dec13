"""What the log on Kafka does beyond the contract: fencing, transactions, gaps, many readers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from pipeline.kafka_client import open_client
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import check_topics, delete_topics, ensure_topics, wanted_topics
from pipeline.log_kafka import KafkaLog
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.ports import EVENTS, FINDINGS, STATE, NewRecord, Record
from tests.contract.killing import acknowledged_when_killed
from tests.topics import kafka_settings, new_topics
from tests.waiting import until

WAIT_SECONDS = 20.0
OpenLog = Callable[..., KafkaLog]


@pytest.fixture
def kafka(client: str, to_close: ExitStack) -> KafkaSettings:
    """Settings under which there are new topics."""
    return new_topics(client, to_close)


@pytest.fixture
def open_log(kafka: KafkaSettings, to_close: ExitStack) -> OpenLog:
    def make(settings: KafkaSettings = kafka, **more: object) -> KafkaLog:
        return to_close.enter_context(closing(KafkaLog(settings, **more)))  # type: ignore[arg-type]

    return make


def new(value: str, topic: str = EVENTS, partition: int = 0, key: str = "k") -> NewRecord:
    return NewRecord(topic, partition, key.encode(), value.encode())


def values(records: list[Record]) -> list[str]:
    return [record.value.decode() for record in records]


def everything(log: KafkaLog, topic: str = EVENTS, partition: int = 0) -> list[Record]:
    position, found = 0, list[Record]()
    head = log.head(topic, partition)
    while position < head:
        batch = log.read(topic, partition, position, 1_000)
        found += batch.records
        position = batch.position
    return found


# -- who writes ----------------------------------------------------------------------------------


def test_whoever_opens_a_writers_name_fences_its_earlier_holder(open_log: OpenLog) -> None:
    first = open_log(writer="w")
    first.append([new("1")], 1.0, consumer="c", positions={(EVENTS, 0): 1})
    second = open_log(writer="w")
    for _ in range(2):
        with pytest.raises(FencedError, match="another process"):
            first.append([new("2"), new("2", STATE)], 1.0, consumer="c", positions={(EVENTS, 0): 2})
    second.append([new("3")], 1.0)
    assert values(everything(second)) == ["1", "3"]
    assert everything(second, STATE) == []
    assert second.positions("c") == {(EVENTS, 0): 1}


def test_other_names_are_not_fenced(open_log: OpenLog) -> None:
    first, second = open_log(writer="a"), open_log(writer="b")
    first.append([new("1")], 1.0)
    second.append([new("2")], 1.0)
    first.append([new("3")], 1.0)
    assert values(everything(second)) == ["1", "2", "3"]


def test_a_successor_sees_all_that_was_committed_before_it(open_log: OpenLog) -> None:
    for number in range(5):
        log = open_log(writer="w")
        if number:
            last = log.latest(STATE, b"k")
            assert last is not None
            assert last.value == str(number - 1).encode()
            assert log.positions("c") == {("source", 0): number - 1}
        records = [new(str(number), STATE), new(str(number), FINDINGS)]
        log.append(records, 1.0, consumer="c", positions={("source", 0): number})


def test_what_a_fenced_writer_left_open_is_taken_back(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    open_log(writer="w").append([new("before")], 1.0)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"{kafka.name}.w"}
    )
    producer.init_transactions(WAIT_SECONDS)
    producer.begin_transaction()
    producer.produce(kafka.topic(EVENTS), b"never", partition=0)
    producer.flush(WAIT_SECONDS)
    reader = open_log()
    assert values(everything(reader)) == ["before"]
    successor = open_log(writer="w")
    successor.append([new("after")], 1.0)
    assert values(everything(successor)) == ["before", "after"]
    until(lambda: values(everything(reader)) == ["before", "after"], "both records")


def test_an_open_transaction_hides_what_is_behind_it_and_a_lookup_waits_for_it(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log()
    log.append([new("before", STATE)], 1.0)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"{kafka.name}.other"}
    )
    producer.init_transactions(WAIT_SECONDS)
    producer.begin_transaction()
    producer.produce(kafka.topic(STATE), b"open", b"other", partition=0)
    producer.flush(WAIT_SECONDS)
    open_log().append([new("behind", STATE)], 1.0)
    reader = open_log()
    assert reader.head(STATE, 0) == 1
    assert values(everything(reader, STATE)) == ["before"]
    found: list[Record | None] = []
    lookup = threading.Thread(target=lambda: found.append(reader.latest(STATE, b"k")))
    lookup.start()
    lookup.join(0.3)
    assert found == []
    producer.abort_transaction(WAIT_SECONDS)
    lookup.join(WAIT_SECONDS)
    assert found[0] is not None
    assert found[0].value == b"behind"
    assert values(everything(reader, STATE)) == ["before", "behind"]


@pytest.mark.parametrize(
    "value",
    [b"", None, b"garbage", b'[["\xff",0,1]]', b"[" * 100_000, b'[["context.events",0,-1]]'],
)
def test_positions_that_cannot_be_decoded_are_not_known_and_can_be_stored_again(
    kafka: KafkaSettings,
    open_log: OpenLog,
    value: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_log().append([], 1.0, consumer="c", positions={(EVENTS, 0): 7})
    assert open_log().positions("c") == {(EVENTS, 0): 7}
    other = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    other.produce(kafka.topic(STATE), value, b"positions/c", partition=0)
    other.flush(WAIT_SECONDS)
    log = open_log()
    assert (log.positions("c"), log.positions("c")) == ({}, {})
    warnings = [text for text in caplog.messages if "'positions/c' cannot be decoded" in text]
    assert len(warnings) == (1 if value else 0)
    log.append([], 2.0, consumer="c", positions={(EVENTS, 1): 3})
    assert open_log().positions("c") == {(EVENTS, 1): 3}


def test_a_partition_that_cannot_be_stopped_is_an_error_of_our_own(to_close: ExitStack) -> None:
    settings = new_topics("confluent", to_close)
    client = to_close.enter_context(closing(open_client(settings)))
    reader = to_close.enter_context(closing(client.reader(wait_milliseconds=10)))
    place = settings.topic(EVENTS), 0
    reader.start(place, 0)
    reader._consumer.unassign()  # type: ignore[attr-defined]
    with pytest.raises(SynchroscopeError, match="reading"):
        reader.stop(place)


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(
    kafka: KafkaSettings, open_log: OpenLog, tmp_path: Path
) -> None:
    (tmp_path / "kafka.json").write_bytes(msgspec.json.encode(kafka))
    program = """
        import itertools, sys
        from pathlib import Path
        import msgspec
        from pipeline.kafka_settings import KafkaSettings
        from pipeline.log_kafka import KafkaLog
        from synchroscope.ports import EVENTS, STATE, NewRecord
        stored = (Path(sys.argv[1]) / "kafka.json").read_bytes()
        log = KafkaLog(msgspec.json.decode(stored, type=KafkaSettings), writer="w")
        for number in itertools.count():
            value = str(number).encode()
            records = [NewRecord(EVENTS, partition, b"k", value) for partition in (0, 1, 1)]
            records.append(NewRecord(STATE, 0, b"k", value))
            log.append(records, 1.0, consumer="c", positions={("source", 0): number})
            print(number, flush=True)
    """
    acknowledged = acknowledged_when_killed(program, tmp_path, 10)
    log = open_log(writer="w")
    last = log.positions("c")["source", 0]
    assert last >= acknowledged
    expected = [str(number) for number in range(last + 1)]
    assert values(everything(log)) == expected
    assert values(everything(log, EVENTS, 1))[::2] == expected
    state = log.latest(STATE, b"k")
    assert state is not None
    assert state.value == str(last).encode()


def test_without_transactions_offsets_are_dense_and_everything_is_there(open_log: OpenLog) -> None:
    log = open_log(writer="w", atomic=False)
    records = [new(str(number), partition=number % 2) for number in range(2_000)]
    log.append(records, 1.0, consumer="c", positions={("source", 0): 7})
    for partition in (0, 1):
        found = everything(log, EVENTS, partition)
        assert [record.offset for record in found] == list(range(1_000))
        assert values(found) == [str(number) for number in range(partition, 2_000, 2)]
    assert log.positions("c") == {("source", 0): 7}


def test_a_record_that_is_too_large_is_refused_before_anything_is_sent(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log(replace(kafka, message_bytes=300_000))
    with pytest.raises(ConfigurationError, match="message_bytes allows 300000"):
        log.append([new("a"), new("x" * 300_001)], 1.0)
    log.append([new("b")], 1.0)
    assert values(everything(log)) == ["b"]


def test_a_record_of_the_largest_size_is_stored_and_read(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log(writer="w")
    large = "x" * (kafka.message_bytes - 1)
    log.append([new("a"), new(large), new("b")], 1.0)
    assert values(everything(log)) == ["a", large, "b"]


def test_after_a_failed_append_the_log_appends_no_more_but_reads(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log(replace(kafka, request_timeout_seconds=2.0))
    log.append([new("a")], 1.0)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.delete_topics([kafka.topic(FINDINGS)])[kafka.topic(FINDINGS)].result()
    with pytest.raises((ConfigurationError, UnavailableError)):
        log.append([new("b", FINDINGS)], 1.0)
    with pytest.raises(UnavailableError, match="open a new log"):
        log.append([new("c")], 1.0)
    assert values(everything(log)) == ["a"]


def test_what_is_posted_is_stored_in_order_and_before_what_is_appended_later(
    open_log: OpenLog,
) -> None:
    log = open_log()
    for number in range(5):
        log.post([new(str(number))], 1.0)
    log.append([new("last")], 2.0)  # Returns when all of them are acknowledged.
    assert values(everything(log)) == ["0", "1", "2", "3", "4", "last"]


def test_what_is_posted_arrives_without_another_call(open_log: OpenLog) -> None:
    log, reader = open_log(), open_log()
    log.post([new("a")], 1.0)
    until(lambda: values(everything(reader)) == ["a"], "the record")


def test_a_log_that_appends_in_transactions_posts_in_one(open_log: OpenLog) -> None:
    log = open_log(writer="w")
    log.post([new("a"), new("b")], 1.0)
    assert values(everything(open_log())) == ["a", "b"]


def test_what_keeps_a_posted_record_from_being_stored_the_next_call_raises(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log(replace(kafka, request_timeout_seconds=2.0))
    log.append([new("a")], 1.0)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.delete_topics([kafka.topic(FINDINGS)])[kafka.topic(FINDINGS)].result()
    with pytest.raises((ConfigurationError, UnavailableError)):
        log.post([new("b", FINDINGS)], 1.0)
        log.post([new("c")], 1.0)
    with pytest.raises(UnavailableError, match="open a new log"):
        log.post([new("d")], 1.0)
    assert values(everything(log)) == ["a"]


# -- who reads -----------------------------------------------------------------------------------


def test_readers_far_apart_each_read_all_in_order(kafka: KafkaSettings, open_log: OpenLog) -> None:
    small = replace(kafka, window_records=50)
    log = open_log(small, writer="w")
    for start in range(0, 1_000, 100):
        log.append([new(str(number)) for number in range(start, start + 100)], 1.0)
    head = log.head(EVENTS, 0)
    readers = [(0, list[str]()) for _ in range(5)]
    for turn in range(1_000_000):
        if all(position == head for position, _ in readers):
            break
        # Reader n reads n + 1 times as much a turn, so that they drift apart.
        for number, (position, found) in enumerate(readers):
            batch = log.read(EVENTS, 0, position, 7 * (number + 1))
            found += values(list(batch.records))
            readers[number] = batch.position, found
        assert turn < 100_000
    expected = [str(number) for number in range(1_000)]
    assert [found == expected for _, found in readers] == [True] * 5


def test_reading_backwards_is_sure_at_every_step(kafka: KafkaSettings, open_log: OpenLog) -> None:
    log = open_log(replace(kafka, window_records=20), writer="w")
    for number in range(60):
        log.append([new(str(number))], 1.0)
    offsets = [record.offset for record in everything(log)]
    for number in reversed(range(60)):
        assert values(list(log.read(EVENTS, 0, offsets[number], 1).records)) == [str(number)]


def test_a_partition_that_nobody_reads_on_does_not_grow_in_memory_nor_hold_up_the_others(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log(replace(kafka, window_records=100, window_bytes=10_000))
    log.append([new("x" * 100) for _ in range(20_000)], 1.0)
    assert log.read(EVENTS, 0, 0, 1).position == 1
    for number in range(20):
        log.append([new(str(number), partition=1)], 1.0)
        until(lambda: log.head(EVENTS, 1) > number, "the head")  # noqa: B023
        assert values(list(log.read(EVENTS, 1, number, 5).records)) == [str(number)]
    assert log.known_head(EVENTS, 0) < 20_000
    assert len(everything(log)) == 20_000


def test_another_process_sees_what_was_appended_without_asking_for_the_head(
    open_log: OpenLog,
) -> None:
    writer, reader = open_log(writer="w"), open_log()
    position = reader.read(EVENTS, 0, 0, 10).position
    found: list[str] = []
    for number in range(3):
        writer.append([new(str(number))], 1.0)

        def read(expected: int = number + 1) -> bool:
            nonlocal position
            batch = reader.read(EVENTS, 0, position, 10)
            found.extend(values(list(batch.records)))
            position = batch.position
            return len(found) == expected

        until(read, "what was committed")
    head = reader.head(EVENTS, 0)

    def reaches_the_head() -> bool:
        nonlocal position
        position = reader.read(EVENTS, 0, position, 10).position
        return position == head

    until(reaches_the_head, "the head")
    assert found == ["0", "1", "2"]


def test_waiting_ends_with_the_next_record_and_not_before(open_log: OpenLog) -> None:
    log, other = open_log(), open_log()
    position = log.read(EVENTS, 0, 0, 10).position
    log.wait(0.5)
    started = time.monotonic()
    log.wait(0.5)
    assert time.monotonic() - started > 0.4
    other.append([new("warm", partition=1)], 1.0)
    timer = threading.Timer(0.2, other.append, ([new("a")], 1.0))
    timer.start()
    started = time.monotonic()
    found: list[str] = []
    while not found and time.monotonic() - started < WAIT_SECONDS:
        log.wait(WAIT_SECONDS)
        found = values(list(log.read(EVENTS, 0, position, 10).records))
    timer.join()
    assert found == ["a"]
    assert time.monotonic() - started < WAIT_SECONDS / 2


def test_what_retention_dropped_is_passed_over_by_new_readers_and_by_those_it_overtook(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log(replace(kafka, window_records=100))
    log.append([new(str(number)) for number in range(20_000)], 1.0)
    position = log.read(EVENTS, 0, 0, 100).position
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    place = Place(kafka.topic(EVENTS), 0, 19_990)
    admin.delete_records([place])[place].result()
    assert values(list(open_log().read(EVENTS, 0, 3, 1).records)) == ["19990"]
    found: list[str] = []
    while position < 20_000:
        batch = log.read(EVENTS, 0, position, 1_000)
        assert batch.records or batch.position > position
        found += values(list(batch.records))
        position = batch.position
    assert found[-10:] == [str(number) for number in range(19_990, 20_000)]


def test_a_log_that_lost_everything_is_read_from_its_head_on(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    log = open_log()
    log.append([new(str(number)) for number in range(10)], 1.0)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    place = Place(kafka.topic(EVENTS), 0, 10)
    admin.delete_records([place])[place].result()
    batch = open_log().read(EVENTS, 0, 0, 5)
    assert (list(batch.records), batch.position) == ([], 10)


# -- topics --------------------------------------------------------------------------------------


def test_topics_are_created_once_even_by_several_at_once(client: str, to_close: ExitStack) -> None:
    settings = kafka_settings(client)
    to_close.callback(delete_topics, settings)
    threads = [threading.Thread(target=ensure_topics, args=(settings,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ensure_topics(settings) == []
    assert check_topics(settings) == []
    with closing(KafkaLog(settings)) as log:
        assert log.partitions(EVENTS) == 2


def test_a_topic_that_is_made_anew_has_another_id(client: str, to_close: ExitStack) -> None:
    settings = kafka_settings(client)
    to_close.callback(delete_topics, settings)
    ensure_topics(settings)
    with closing(open_client(settings)) as kafka:
        name = f"{settings.topic_prefix}{EVENTS}"
        first = kafka.topic_id(name)
        assert first
        assert kafka.topic_id(name) == first
        kafka.delete_topics([name])
        until(lambda: kafka.topic_id(name) is None, "the topic is gone", WAIT_SECONDS)
        ensure_topics(settings)
        until(lambda: kafka.topic_id(name) is not None, "it is there again", WAIT_SECONDS)
        assert kafka.topic_id(name) != first


def test_topics_that_deviate_are_named_with_what_to_do(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    assert check_topics(kafka) == []
    other = replace(kafka, partitions=3, message_bytes=8_000_000)
    found = check_topics(other)
    assert any("2 partitions, kafka partitions is 3" in sentence for sentence in found)
    assert sum("max.message.bytes" in sentence for sentence in found) == len(wanted_topics(kafka))
    with pytest.raises(ConfigurationError, match="set kafka partitions to 2"):
        open_log(other)


def test_missing_topics_are_named_with_the_command_that_creates_them(
    kafka: KafkaSettings, open_log: OpenLog
) -> None:
    other = replace(kafka, topic_prefix="nobody-made-these.")
    with pytest.raises(ConfigurationError, match=r"nobody-made-these\.sync\.state is missing"):
        open_log(other)
    assert all("synchroscope prepare" in sentence for sentence in check_topics(other))
    assert len(check_topics(other)) == len(wanted_topics(other))
