"""How far readers are behind, and that what is not known is never 0."""

from __future__ import annotations

import pytest

from pipeline.kafka_settings import KafkaSettings
from pipeline.log_memory import MemoryLog
from service.board import ProcessRecord, ReaderWork, ReplicaWork
from service.lag import Lag, lag_of
from service.measuring import process_measurements, replica_lag_seconds
from synchroscope.ports import EVENTS, NewRecord

NOW = 1_000.0


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog({EVENTS: 2})
    made.append([NewRecord(EVENTS, 0, b"", b"1"), NewRecord(EVENTS, 0, b"", b"2")], NOW - 5)
    return made


@pytest.mark.parametrize(
    ("position", "expected"),
    [(0, Lag(2, 5.0)), (1, Lag(1, 5.0)), (2, Lag(0, 0.0)), (3, Lag(None, None))],
    ids=["nothing read", "some read", "all read", "beyond the head of a log made anew"],
)
def test_lag_is_known_up_to_the_head_and_not_beyond_it(
    log: MemoryLog, position: int, expected: Lag
) -> None:
    assert lag_of(log, 0, position, log.head(EVENTS, 0), NOW) == expected


@pytest.mark.parametrize(
    ("written_at", "seconds"),
    [(NOW, 0.001), (NOW + 0.5, 0.001), (NOW + 1_800, None), (-0.001, None), (0.0, None)],
    ids=["just now", "by a clock a little ahead", "by a clock far ahead", "no time", "no time, 0"],
)
def test_what_is_unread_is_never_no_lag(written_at: float, seconds: float | None) -> None:
    log = MemoryLog({EVENTS: 1})
    log.append([NewRecord(EVENTS, 0, b"", b"1")] * 1_000, written_at)
    assert lag_of(log, 0, 0, 1_000, NOW) == Lag(1_000, seconds)
    assert lag_of(log, 0, 1_000, 1_000, NOW) == Lag(0, 0.0)


def test_the_lag_of_a_group_is_absent_where_that_of_one_replica_is_not_known() -> None:
    nothing: tuple[list[int], float] = ([], 0.0)
    works = {
        "scorer@1": ReplicaWork(nothing, {0: 9, 1: 4}, {1: 0}, {1: 0.0}),
        "scorer@2": ReplicaWork(nothing, {0: 3, 1: 3}, {0: 0, 1: 1}, {0: 0.0, 1: 2.0}),
    }
    record = ProcessRecord("p", "projector", "c", NOW, NOW, [0, 1], works)
    settings = KafkaSettings(bootstrap_servers="localhost:1")
    made = process_measurements(None, [], [record], settings, {}, NOW, is_reporter=False)
    assert [(lag.partition, lag.events, lag.seconds) for lag in made.group_lags] == [(1, 1, 2.0)]
    heads = {0: 3, 1: 4}
    assert replica_lag_seconds([record], heads, NOW + 5.0) == {"scorer@2": 7.0}
    only = ReplicaWork(nothing, {0: 9, 1: 4}, {0: 0, 1: 0}, {0: 0.0, 1: 0.0})
    caught_up = ProcessRecord("p", "projector", "c", NOW, NOW, [0, 1], {"scorer@1": only})
    assert replica_lag_seconds([caught_up], {0: 9, 1: 4}, NOW + 5.0) == {"scorer@1": 0.0}
    # What came since it was told waits no longer than since then.
    assert replica_lag_seconds([caught_up], {0: 9, 1: 154}, NOW + 5.0) == {"scorer@1": 5.0}


def test_the_lag_of_the_validators_group_is_told_by_partition() -> None:
    reader = ReaderWork({0: 9, 1: 4, 2: 8}, {0: 3, 1: 0}, {0: 2.5, 1: 0.0})
    record = ProcessRecord("p", "validator", "c", NOW, NOW, [0, 1, 2], reader=reader)
    settings = KafkaSettings(bootstrap_servers="localhost:1", name="shop", topic_prefix="a.")
    made = process_measurements(None, [], [record], settings, {}, NOW, is_reporter=False)
    assert [
        (lag.group, lag.topic, lag.partition, lag.events, lag.seconds) for lag in made.group_lags
    ] == [
        ("shop.validator", "a.context.events", 0, 3, 2.5),
        ("shop.validator", "a.context.events", 1, 0, 0.0),
    ]
    assert replica_lag_seconds([record], {0: 12, 1: 4}, NOW) == {}
