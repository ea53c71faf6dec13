"""A replica whose storage is away or full waits by itself; what all share is raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from chaos.remote_storage import SharedStorage, StorageServer
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from service.lag import Lag, lag_of
from service.stations import Station
from synchroscope.errors import (
    ConfigurationError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Batch, NewRecord, ReplicaStorage
from synchroscope.replica import Replica
from tests.builders import VIEW, record

AWAY = UnavailableError("redis one:6379/0", "connection refused")
FULL = StorageError("redis one:6379/0: out of memory: raise maxmemory")
OWNED = {0: 1}


class Fallible(SharedStorage):
    """A storage that can be away, or full: then it is read, and nothing is written."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.server, place.reached, lambda: None)
        self._place = place

    def partition_state(self, partition: int) -> bytes | None:
        self._place.reached()
        return super().partition_state(partition)

    def commit(self, *arguments: Any, **named: Any) -> None:
        if self._place.full is not None:
            self._place.attempts += 1
            raise self._place.full
        super().commit(*arguments, **named)


class Place:
    """Where a replica's facts live."""

    def __init__(self) -> None:
        self.server = StorageServer()
        self.away: SynchroscopeError | None = None
        self.full: SynchroscopeError | None = None
        self.attempts = 0

    def reached(self) -> None:
        if self.away is not None:
            raise self.away

    def open(self) -> ReplicaStorage:
        self.reached()
        return Fallible(self)


class BrokenLog(MemoryLog):
    """A log that can break."""

    error: SynchroscopeError | None = None

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        if self.error is not None:
            raise self.error
        return super().read(topic, partition, position, limit)


class Hall:
    """Some stations on one log, with a clock of their own."""

    def __init__(self, names: tuple[str, ...] = ("scorer@1", "scorer@2")) -> None:
        self.log = BrokenLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.places = {name: Place() for name in names}
        self.now = 1_000.0
        self.built = 0
        self.stations = {name: self._station(name) for name in names}

    def _station(self, name: str) -> Station:
        def build(storage: ReplicaStorage) -> tuple[Projector, None]:
            self.built += 1
            replica = Replica(name, VIEW, storage, incarnation="i", bits=4)
            return Projector(replica, self.log, shared=True, scrub_interval_seconds=None), None

        return Station(name, f"projector/{name}", self.places[name].open, build)

    def write(self) -> None:
        head = self.log.head(EVENTS, 0)
        one = record(head, head + 1, {"limit": head})
        self.log.append([NewRecord(EVENTS, 0, one.key, one.value)], self.now)

    def run(self, seconds: float, owned: Mapping[int, int] = OWNED) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            for station in self.stations.values():
                station.step(owned, self.now)

    def positions(self) -> list[int | None]:
        heads = {0: self.log.head(EVENTS, 0)}

        def lag(number: int, position: int, now: float) -> Lag:
            return lag_of(self.log, number, position, heads[number], now)

        works = [s.work(heads, lag, self.now) for s in self.stations.values()]
        return [work.positions.get(0) for work in works]


def goes_away(place: Place) -> None:
    place.away = AWAY


def gets_full(place: Place) -> None:
    place.full = FULL


@pytest.mark.parametrize(("happens", "why"), [(goes_away, AWAY), (gets_full, FULL)])
def test_the_others_go_on_and_the_one_says_why_it_waits_and_catches_up(
    happens: Callable[[Place], None], why: SynchroscopeError
) -> None:
    hall = Hall()
    hall.write()
    hall.run(2.0)
    assert hall.positions() == [1, 1]
    first, second = hall.stations.values()
    assert [s.health().state for s in (first, second)] == ["running", "running"]
    happens(hall.places["scorer@1"])
    hall.write()
    hall.run(40.0)
    assert hall.positions() == [1, 2]
    assert (first.health().state, first.health().circuit) in [
        ("waiting", "open"),
        ("waiting", "half-open"),
    ]
    assert first.waiting == first.health().reason == str(why)
    assert "redis one:6379/0" in first.waiting
    assert (second.health().state, second.health().restarts, second.waiting) == ("running", 0, "")
    hall.places["scorer@1"].away = hall.places["scorer@1"].full = None
    hall.run(6.0)
    assert hall.positions() == [2, 2]
    assert (first.health().state, first.health().circuit, first.waiting) == (
        "running",
        "closed",
        "",
    )


def test_a_storage_that_can_only_be_read_ends_no_row_of_failures_and_waits_grow() -> None:
    hall = Hall(("scorer@1",))
    place, station = hall.places["scorer@1"], hall.stations["scorer@1"]
    place.full = FULL
    hall.write()
    hall.run(30.0)
    # 0.2, 0.2, 1, 2, 4 and then 5 s between attempts.
    assert 9 <= place.attempts <= 11
    assert station.health().restarts == place.attempts
    before = place.attempts
    hall.run(30.0)
    assert 5 <= place.attempts - before <= 6


def test_partitions_that_come_and_go_end_no_row_of_failures() -> None:
    hall = Hall(("scorer@1",))
    place, station = hall.places["scorer@1"], hall.stations["scorer@1"]
    place.full = FULL
    hall.write()
    for term in range(1, 20):
        hall.run(1.0, {0: term})
        hall.run(1.0, {})
    assert station.health().state == "waiting"
    assert place.attempts <= 12


def test_a_storage_that_is_away_from_the_start_keeps_nobody_waiting() -> None:
    hall = Hall()
    hall.places["scorer@1"].away = AWAY
    hall.write()
    hall.run(10.0)
    assert hall.positions() == [None, 1]
    assert hall.stations["scorer@1"].health().reason == str(AWAY)
    hall.places["scorer@1"].away = None
    hall.run(6.0)
    assert hall.positions() == [1, 1]


def test_a_storage_that_was_emptied_is_begun_anew_at_once() -> None:
    hall = Hall()
    hall.write()
    hall.run(2.0)
    other = SharedStorage(hall.places["scorer@1"].server, lambda: None, lambda: None)
    other.incarnation()
    other.begin("another")
    hall.run(2.0)
    assert hall.positions() == [1, 1]
    health = hall.stations["scorer@1"].health()
    assert (health.state, health.restarts, health.circuit) == ("running", 1, "closed")
    assert hall.stations["scorer@2"].health().restarts == 0


def test_what_the_log_says_is_raised_for_all() -> None:
    hall = Hall()
    hall.run(1.0)
    hall.log.error = UnavailableError("kafka one:9092", "gone")
    with pytest.raises(UnavailableError, match="kafka"):
        hall.run(1.0)
    assert [station.waiting for station in hall.stations.values()] == ["", ""]


def test_a_wrong_setting_is_raised() -> None:
    hall = Hall()
    hall.places["scorer@1"].away = ConfigurationError("check user and password")
    with pytest.raises(ConfigurationError, match="password"):
        hall.run(1.0)
