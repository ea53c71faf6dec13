"""What every log does, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.log_kafka import KafkaLog
from pipeline.log_memory import MemoryLog
from pipeline.log_sqlite import SqliteLog
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.errors import ConfigurationError, StorageError
from synchroscope.ports import (
    CONTROL_TOPICS,
    DEAD_LETTERS,
    EVENTS,
    FINDINGS,
    REPORTS,
    REQUESTS,
    STATE,
    Batch,
    Log,
    NewRecord,
    Record,
)
from tests.contract.killing import acknowledged_when_killed
from tests.topics import KAFKA_CLIENTS, new_topics

OpenLog = Callable[..., Log]


@pytest.fixture(params=["memory", "sqlite", *KAFKA_CLIENTS])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    with ExitStack() as to_close:
        yield opener(request.param, tmp_path, to_close)


@pytest.fixture
def log(open_log: OpenLog) -> Log:
    return open_log()


@pytest.fixture(params=["memory", "sqlite"])
def open_dense_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    """Opens a log whose offsets have no gaps and whose retention counts records."""
    with ExitStack() as to_close:
        yield opener(request.param, tmp_path, to_close)


@pytest.fixture
def dense_log(open_dense_log: OpenLog) -> Log:
    return open_dense_log()


def opener(kind: str, folder: Path, to_close: ExitStack) -> OpenLog:
    def make(partitions: int = 2, **settings: dict[str, int]) -> Log:
        if kind == "memory":
            return MemoryLog({EVENTS: partitions}, **settings)
        if kind == "sqlite":
            database = to_close.enter_context(closing(SqliteDatabase(folder / "data.db")))
            return SqliteLog(database, {EVENTS: partitions}, **settings)
        # The hardest way to use it: transactions leave gaps in the offsets.
        topics = new_topics(kind, to_close, partitions=partitions)
        return to_close.enter_context(closing(KafkaLog(topics, writer="w")))

    return make


def everything(log: Log, topic: str = EVENTS, partition: int = 0) -> list[Record]:
    """Return all records up to the head, which reading on reaches."""
    position, found = 0, []
    head = log.head(topic, partition)
    while position < head:
        batch = log.read(topic, partition, position, 1_000)
        found += batch.records
        position = batch.position
    return found


def new(value: str, topic: str = EVENTS, partition: int = 0, key: str = "k") -> NewRecord:
    return NewRecord(topic, partition, key.encode(), value.encode())


def values(records: Batch | list[Record]) -> list[str]:
    found = records.records if isinstance(records, Batch) else records
    return [record.value.decode() for record in found]


def offsets(batch: Batch) -> list[int]:
    return [record.offset for record in batch.records]


def test_a_topic_has_the_partitions_it_was_made_with(open_log: OpenLog) -> None:
    assert open_log(partitions=3).partitions(EVENTS) == 3


@pytest.mark.parametrize("topic", CONTROL_TOPICS)
def test_a_control_topic_is_there_and_has_one_partition(log: Log, topic: str) -> None:
    assert log.partitions(topic) == 1
    assert log.head(topic, 0) == 0


def test_what_was_appended_is_read_as_it_was(log: Log) -> None:
    headers = (("a", b"\x00\xff"), ("a", b"second"), ("ü", b""))
    log.append([NewRecord(EVENTS, 1, b"\x00key", b"\xffvalue", headers)], 1234.5)
    record = everything(log, EVENTS, 1)[0]
    assert record == Record(0, b"\x00key", b"\xffvalue", headers, 1234.5)
    assert record.header("a") == b"\x00\xff"
    assert record.header("absent") is None


def test_records_are_in_the_order_of_their_appends_and_offsets_grow_from_zero(log: Log) -> None:
    log.append([new("a"), new("b", partition=1), new("c")], 1.0)
    log.append([new("d"), new("e", partition=1)], 2.0)
    first, second = everything(log), everything(log, EVENTS, 1)
    assert (values(first), values(second)) == (["a", "c", "d"], ["b", "e"])
    for records in (first, second):
        numbers = [record.offset for record in records]
        assert numbers[0] == 0
        assert numbers == sorted(set(numbers))


def test_offsets_of_a_dense_log_have_no_gaps(dense_log: Log) -> None:
    log = dense_log
    log.append([new("a"), new("b", partition=1), new("c")], 1.0)
    log.append([new("d"), new("e", partition=1)], 2.0)
    first, second = log.read(EVENTS, 0, 0, 10), log.read(EVENTS, 1, 0, 10)
    assert (offsets(first), values(first)) == ([0, 1, 2], ["a", "c", "d"])
    assert (offsets(second), values(second)) == ([0, 1], ["b", "e"])


def test_the_head_of_a_dense_log_is_the_offset_that_the_next_record_gets(dense_log: Log) -> None:
    assert dense_log.head(EVENTS, 0) == 0
    dense_log.append([new("a"), new("b")], 1.0)
    assert (dense_log.head(EVENTS, 0), dense_log.head(EVENTS, 1)) == (2, 0)


def test_the_head_is_beyond_what_was_appended_and_before_what_will_be(log: Log) -> None:
    assert log.head(EVENTS, 0) == 0
    log.append([new("a"), new("b")], 1.0)
    head = log.head(EVENTS, 0)
    assert everything(log)[-1].offset < head
    assert log.head(EVENTS, 1) == 0
    log.append([new("c")], 1.0)
    assert everything(log)[-1].offset >= head


def test_a_read_stops_at_its_limit_and_the_next_goes_on_from_its_position(log: Log) -> None:
    log.append([new(str(number)) for number in range(5)], 1.0)
    first = log.read(EVENTS, 0, 0, 3)
    assert (values(first), first.position) == (["0", "1", "2"], first.records[-1].offset + 1)
    second = log.read(EVENTS, 0, first.position, 3)
    assert values(second) == ["3", "4"]


def test_reading_on_reaches_the_head(log: Log) -> None:
    for number in range(3):
        log.append([new(str(number))], 1.0)
    position, head = 0, log.head(EVENTS, 0)
    for _ in range(1_000_000):
        position = log.read(EVENTS, 0, position, 2).position
        if position == head:
            break
    assert position == head
    assert log.read(EVENTS, 0, position, 2) == Batch([], head)


@pytest.mark.parametrize("beyond", [0, 1, 99, 2**62])
def test_at_or_beyond_the_head_the_batch_is_empty_and_stays_there(log: Log, beyond: int) -> None:
    log.append([new("a"), new("b")], 1.0)
    position = log.head(EVENTS, 0) + beyond
    batch = log.read(EVENTS, 0, position, 10)
    assert (list(batch.records), batch.position) == ([], position)


def test_a_limit_of_zero_reads_nothing_and_stays(log: Log) -> None:
    log.append([new("a")], 1.0)
    assert log.read(EVENTS, 0, 0, 0).position == 0


def test_a_position_before_the_first_record_reads_from_the_first(log: Log) -> None:
    log.append([new("a")], 1.0)
    assert values(log.read(EVENTS, 0, -5, 10)) == ["a"]
    assert log.read(EVENTS, 1, -5, 10).position == 0


def test_a_read_moves_no_position(log: Log) -> None:
    log.append([new("a")], 1.0, consumer="c", positions={(EVENTS, 0): 7})
    assert log.read(EVENTS, 0, 0, 10).records == log.read(EVENTS, 0, 0, 10).records
    assert log.positions("c") == {(EVENTS, 0): 7}


def test_a_consumer_that_never_stored_a_position_stands_nowhere(log: Log) -> None:
    assert log.positions("nobody") == {}


def test_positions_belong_to_their_consumer_and_those_not_named_stay(log: Log) -> None:
    log.append([], 1.0, consumer="a", positions={(EVENTS, 0): 5, ("store.events", 0): 9})
    log.append([], 1.0, consumer="b", positions={(EVENTS, 0): 1})
    log.append([], 1.0, consumer="a", positions={(EVENTS, 0): 6})
    assert log.positions("a") == {(EVENTS, 0): 6, ("store.events", 0): 9}
    assert log.positions("b") == {(EVENTS, 0): 1}


def test_the_positions_handed_out_are_a_copy(log: Log) -> None:
    log.append([], 1.0, consumer="a", positions={(EVENTS, 0): 5})
    log.positions("a")[EVENTS, 0] = 99
    assert log.positions("a") == {(EVENTS, 0): 5}


def test_an_append_of_nothing_does_nothing(log: Log) -> None:
    log.append([], 1.0)
    log.append([], 1.0, consumer="a", positions={})
    assert log.positions("a") == {}


@pytest.mark.parametrize("wrong", [new("x", topic="no.topic"), new("x", partition=2)])
def test_an_append_with_an_impossible_record_writes_nothing(log: Log, wrong: NewRecord) -> None:
    with pytest.raises(ConfigurationError):
        log.append([new("a"), wrong], 1.0, consumer="c", positions={(EVENTS, 0): 1})
    assert log.head(EVENTS, 0) == 0
    assert values(everything(log)) == []
    assert log.positions("c") == {}


@pytest.mark.parametrize(("consumer", "position"), [("", 1), ("c", -1)])
def test_an_append_with_impossible_positions_writes_nothing(
    log: Log, consumer: str, position: int
) -> None:
    with pytest.raises(ConfigurationError):
        log.append([new("a")], 1.0, consumer=consumer, positions={(EVENTS, 0): position})
    assert log.head(EVENTS, 0) == 0


def test_an_unknown_topic_or_partition_is_an_error_that_says_what_there_is(log: Log) -> None:
    with pytest.raises(ConfigurationError, match=EVENTS):
        log.partitions("no.topic")
    with pytest.raises(ConfigurationError, match="2 partitions"):
        log.read(EVENTS, 2, 0, 1)
    with pytest.raises(ConfigurationError, match="2 partitions"):
        log.head(EVENTS, -1)


@pytest.mark.parametrize("topic", [STATE, FINDINGS])
def test_latest_is_the_newest_record_of_its_key(log: Log, topic: str) -> None:
    assert log.latest(topic, b"a") is None
    log.append([new("1", topic, key="a"), new("2", topic, key="b"), new("3", topic, key="a")], 5.0)
    assert log.latest(topic, b"a") == Record(2, b"a", b"3", (), 5.0)
    head = log.head(topic, 0)
    log.append([new("4", topic, key="b")], 6.0)
    assert log.latest(topic, b"b") == Record(head, b"b", b"4", (), 6.0)
    assert log.latest(topic, b"absent") is None


@pytest.mark.parametrize("topic", [STATE, FINDINGS])
def test_a_record_without_a_value_takes_its_key_off(log: Log, topic: str) -> None:
    log.append([new("1", topic, key="a"), new("2", topic, key="b")], 5.0)
    log.append([new("", topic, key="a")], 6.0)
    assert log.latest(topic, b"a") is None
    assert log.latest(topic, b"b") is not None
    log.append([new("3", topic, key="a")], 7.0)
    again = log.latest(topic, b"a")
    assert again is not None
    assert again.value == b"3"


def test_the_same_key_in_two_topics_is_two_keys(log: Log) -> None:
    log.append([new("1", STATE), new("2", FINDINGS)], 1.0)
    state, finding = log.latest(STATE, b"k"), log.latest(FINDINGS, b"k")
    assert state is not None
    assert finding is not None
    assert (state.value, finding.value) == (b"1", b"2")


def test_findings_keep_all_records_of_a_key(log: Log) -> None:
    log.append([new("1", FINDINGS), new("2", FINDINGS)], 1.0)
    assert values(everything(log, FINDINGS)) == ["1", "2"]


def test_a_superseded_state_is_passed_over_and_its_offset_is_not_used_again(log: Log) -> None:
    log.append([new("1", STATE, key="a"), new("2", STATE, key="b"), new("3", STATE, key="a")], 1.0)
    assert values(everything(log, STATE))[-2:] == ["2", "3"]
    head = log.head(STATE, 0)
    log.append([new("4", STATE, key="b")], 1.0)
    assert offsets(log.read(STATE, 0, head, 10)) == [head]


def test_positions_are_no_records_that_a_reader_sees(log: Log) -> None:
    log.append([new("a", STATE)], 1.0, consumer="c", positions={(EVENTS, 0): 7})
    log.append([new("b", STATE)], 1.0, consumer="c", positions={(EVENTS, 0): 8})
    assert values(everything(log, STATE))[-1:] == ["b"]
    assert set(values(everything(log, STATE))) <= {"a", "b"}


def test_latest_of_a_topic_that_is_not_compacted_is_an_error(log: Log) -> None:
    with pytest.raises(ConfigurationError, match="not compacted"):
        log.latest(EVENTS, b"k")


def test_a_bounded_topic_keeps_its_newest_records_and_their_offsets(
    open_dense_log: OpenLog,
) -> None:
    log = open_dense_log(retention_records={REPORTS: 16})
    for number in range(100):
        log.append([new(str(number), REPORTS)], 1.0)
        kept = offsets(log.read(REPORTS, 0, 0, 1_000))
        assert kept == list(range(kept[0], number + 1))
        assert min(number + 1, 16) <= len(kept) <= 18
    assert log.head(REPORTS, 0) == 100


def test_below_the_retained_range_a_read_begins_at_the_first_kept(open_dense_log: OpenLog) -> None:
    log = open_dense_log(retention_records={REQUESTS: 2})
    log.append([new(str(number), REQUESTS) for number in range(10)], 1.0)
    batch = log.read(REQUESTS, 0, 3, 1)
    assert (values(batch), batch.position) == (["8"], 9)


def test_retention_leaves_other_topics_alone(open_dense_log: OpenLog) -> None:
    log = open_dense_log(retention_records={REPORTS: 1})
    log.append([new(str(n), topic) for topic in (REPORTS, DEAD_LETTERS) for n in range(9)], 1.0)
    assert len(log.read(DEAD_LETTERS, 0, 0, 99).records) == 9
    assert len(log.read(REPORTS, 0, 0, 99).records) == 1


@pytest.mark.parametrize("wrong", [{"no.topic": 5}, {REPORTS: 0}, {STATE: 5}])
def test_an_impossible_retention_is_refused(open_dense_log: OpenLog, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        open_dense_log(retention_records=wrong)


def test_an_impossible_number_of_partitions_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 partition or more"):
        MemoryLog({EVENTS: 0})
    with pytest.raises(ConfigurationError, match="control topic"):
        MemoryLog({REPORTS: 2})


# -- what outlives the process -----------------------------------------------------------------


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        log = SqliteLog(database, {EVENTS: 2})
        log.append([new("a"), new("s", STATE)], 1.0, consumer="c", positions={(EVENTS, 0): 1})
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        log = SqliteLog(database, {})
        assert log.partitions(EVENTS) == 2
        assert values(log.read(EVENTS, 0, 0, 10)) == ["a"]
        assert log.positions("c") == {(EVENTS, 0): 1}
        assert log.latest(STATE, b"k") == Record(0, b"k", b"s", (), 1.0)


def test_another_number_of_partitions_is_refused_for_life(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        SqliteLog(database, {EVENTS: 2})
        with pytest.raises(ConfigurationError, match="has 2 partitions for life, not 4"):
            SqliteLog(database, {EVENTS: 4})


def test_a_failure_after_the_records_takes_them_back(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        log = SqliteLog(database, {EVENTS: 1})
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON log_positions "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        with pytest.raises(StorageError, match="refused"):
            log.append([new("a")], 1.0, consumer="c", positions={(EVENTS, 0): 1})
        assert log.head(EVENTS, 0) == 0
        log.append([new("b")], 1.0)
        assert [(r.offset, r.value) for r in log.read(EVENTS, 0, 0, 9).records] == [(0, b"b")]


def test_a_reader_beside_the_writer_sees_what_is_committed_and_cannot_write(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        log = SqliteLog(database, {EVENTS: 1})
        with closing(SqliteDatabase(tmp_path / "data.db", exclusive=False)) as beside:
            reader = SqliteLog(beside, {})
            log.append([new("a")], 1.0)
            assert values(reader.read(EVENTS, 0, 0, 10)) == ["a"]
            with pytest.raises(StorageError, match="cannot be written"):
                reader.append([new("b")], 1.0)


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path: Path) -> None:
    program = """
        import itertools, sys
        from pathlib import Path
        from pipeline.log_sqlite import SqliteLog
        from pipeline.sqlite_database import SqliteDatabase
        from synchroscope.ports import EVENTS, NewRecord
        log = SqliteLog(SqliteDatabase(Path(sys.argv[1]) / "data.db"), {EVENTS: 2})
        for number in itertools.count():
            value = str(number).encode()
            records = [NewRecord(EVENTS, partition, b"k", value) for partition in (0, 1, 1)]
            log.append(records, 1.0, consumer="c", positions={("source", 0): number})
            print(number, flush=True)
    """
    acknowledged = acknowledged_when_killed(program, tmp_path, 30)
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        log = SqliteLog(database, {EVENTS: 2})
        last = log.positions("c")["source", 0]
        assert last >= acknowledged
        expected = [str(number) for number in range(last + 1)]
        assert values(log.read(EVENTS, 0, 0, 99_999)) == expected
        assert values(log.read(EVENTS, 1, 0, 99_999))[::2] == expected
        assert (log.head(EVENTS, 0), log.head(EVENTS, 1)) == (last + 1, 2 * last + 2)


# -- memory and SQLite agree -------------------------------------------------------------------

PLACES = st.sampled_from([(EVENTS, 0), (EVENTS, 1), (STATE, 0), (FINDINGS, 0), (REPORTS, 0)])
RECORDS = st.builds(
    lambda place, key, value: NewRecord(*place, key, value),
    PLACES,
    st.sampled_from([b"a", b"b", b""]),
    st.binary(max_size=3),
)
APPENDS = st.tuples(
    st.lists(RECORDS, max_size=6), st.dictionaries(PLACES, st.integers(0, 9), max_size=2)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(APPENDS, max_size=12), st.integers(-1, 30), st.integers(0, 9))
def test_memory_and_sqlite_agree(
    appends: list[tuple[list[NewRecord], dict[tuple[str, int], int]]], position: int, limit: int
) -> None:
    retention = {REPORTS: 3}
    with closing(SqliteDatabase(":memory:")) as database:
        logs: list[Log] = [
            MemoryLog({EVENTS: 2}, retention_records=retention),
            SqliteLog(database, {EVENTS: 2}, retention_records=retention),
        ]
        for log in logs:
            for number, (records, positions) in enumerate(appends):
                log.append(records, float(number), consumer="c", positions=positions)
        memory, sqlite = (
            [
                log.positions("c"),
                [log.latest(topic, key) for topic in (STATE, FINDINGS) for key in (b"a", b"")],
                [
                    (log.head(*place), log.read(*place, position, limit), log.read(*place, 0, 99))
                    for place in ((EVENTS, 0), (EVENTS, 1), (STATE, 0), (FINDINGS, 0), (REPORTS, 0))
                ],
            ]
            for log in logs
        )
    assert memory == sqlite
