"""The relay: what it publishes after it, or another one, was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from pipeline.commands import CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.relay import POSITION_SECONDS, STORE_POSITION, Relay
from synchroscope.errors import ConfigurationError, UnavailableError
from synchroscope.ports import DEAD_LETTERS, EVENTS, STATE, Batch, NewRecord, TopicPartition
from tests.builders import event

PARTITIONS = 3
NOW = 1_000.0


class PartialLog(MemoryLog):
    """Stores a first part of each partition's records and then fails, when it is told to."""

    def __init__(self) -> None:
        super().__init__({EVENTS: PARTITIONS})
        self.kept: int | None = None

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        if self.kept is None:
            super().append(records, now, consumer=consumer, positions=positions)
            return
        stored: dict[TopicPartition, int] = {}
        for record in records:
            place = record.topic, record.partition
            if stored.setdefault(place, 0) < self.kept * (1 + record.partition):
                stored[place] += 1
                super().append([record], now)
        raise UnavailableError("log", "went away")


def filled(events: int) -> MemoryEventStore:
    store = MemoryEventStore()
    with CommandSide(store).batch(NOW) as batch:
        for number in range(events):
            made = event(None, {"limit": number}, number=number, user=str(number % 17))
            batch.submit(msgspec.json.encode(made))
            if number % 5 == 0:
                batch.submit(b"nonsense %d" % number)
    return store


def published(log: MemoryLog) -> list[list[int]]:
    """Return the store positions in each partition."""
    return [
        [int(r.header(STORE_POSITION) or b"0") for r in log.read(EVENTS, p, 0, 10_000).records]
        for p in range(PARTITIONS)
    ]


def drain(relay: Relay) -> None:
    while relay.step(NOW).consumed:
        pass


def assert_whole(log: MemoryLog, store: MemoryEventStore) -> None:
    parts = published(log)
    assert all(part == sorted(set(part)) for part in parts)
    assert sorted(place for part in parts for place in part) == list(range(1, store.count() + 1))
    letters = [record.value for record in log.read(DEAD_LETTERS, 0, 0, 10_000).records]
    assert letters == [stored.letter.data for stored in store.read_dead_letters(0, 10_000)]


def test_what_a_failed_append_left_of_each_partition_is_not_published_again() -> None:
    for kept in range(6):
        store, log = filled(100), PartialLog()
        Relay(store, log, batch_records=30).step(NOW)
        failing = Relay(store, log, batch_records=30)
        log.kept = kept
        with pytest.raises(UnavailableError):
            drain(failing)
        log.kept = None
        drain(Relay(store, log, batch_records=30))
        assert_whole(log, store)


def test_a_relay_that_takes_over_goes_on_where_the_log_ends_not_where_it_was_noted() -> None:
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    drain(Relay(store, log, batch_records=7))
    assert log.positions("relay")["store.events", 0] < store.count()
    drain(Relay(store, log, batch_records=7))
    assert_whole(log, store)


def test_the_position_is_stored_with_the_first_batch_that_has_one_and_then_from_time_to_time() -> (
    None
):
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    relay, stored = Relay(store, log, batch_records=5), []
    for tenth in range(10):
        relay.step(NOW + tenth * POSITION_SECONDS / 4)
        stored.append(log.positions("relay").get(("store.events", 0), 0))
    assert stored == [0, 5, 5, 5, 5, 25, 25, 25, 25, 45]


def test_a_forged_position_makes_no_relay_pass_over_an_event() -> None:
    store, log = filled(40), MemoryLog({EVENTS: PARTITIONS})
    Relay(store, log, batch_records=10).step(NOW)
    for partition in range(PARTITIONS):
        forged = NewRecord(EVENTS, partition, b"k", b"{}", ((STORE_POSITION, b"39"),))
        log.append([forged], NOW)
    drain(Relay(store, log, batch_records=10))
    positions = {place for part in published(log) for place in part}
    assert positions == set(range(1, 41))


def test_a_relay_that_was_thought_dead_repeats_and_never_reorders_what_leads_on() -> None:
    store, log = filled(90), MemoryLog({EVENTS: PARTITIONS})
    paused = Relay(store, log, batch_records=20)
    paused.step(NOW)
    drain(Relay(store, log, batch_records=20))
    paused.step(NOW)  # It goes on with what it had in mind.
    for part in published(log):
        leading: list[int] = []
        for place in part:
            if not leading or place > leading[-1]:
                leading.append(place)
        assert leading == sorted(set(part))
    assert sum(map(len, published(log))) > store.count()


# -- what the log has lost -----------------------------------------------------------------------


def stand_in(log: MemoryLog, kept: Mapping[int, int | None]) -> PartialLog:
    """Return a log made anew: what a relay stored, and the first `kept` records a partition."""
    made = PartialLog()
    made.append([], NOW, consumer="relay", positions=log.positions("relay"))
    for partition in range(PARTITIONS):
        for record in log.read(EVENTS, partition, 0, 10_000).records[: kept.get(partition)]:
            new = NewRecord(EVENTS, partition, record.key, record.value, record.headers)
            MemoryLog.append(made, [new], NOW)
    return made


def published_whole() -> tuple[MemoryEventStore, PartialLog]:
    """Return a store, and a log that a relay which has told its position is through with."""
    store, log = filled(90), PartialLog()
    relay = Relay(store, log, batch_records=20)
    for number in range(10):
        relay.look_at_heads()
        relay.step(NOW + number)
    return store, log


LOSSES = {
    "all": dict.fromkeys(range(PARTITIONS), 0),
    "a partition": {1: 0},
    "the end of one": {2: 3},
    "ends of all": {0: 2, 1: 5, 2: 1},
    "nothing of the events": {},
}


@pytest.mark.parametrize("kept", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("crash", range(5))
def test_what_a_log_made_anew_lacks_is_published_again_and_nothing_twice(
    kept: Mapping[int, int | None], crash: int
) -> None:
    store, log = published_whole()
    anew = stand_in(log, kept)
    anew.kept = crash if crash < 4 else None
    for _ in range(2):  # One after the other dies over it.
        try:
            drain(Relay(store, anew, batch_records=10))
        except UnavailableError:
            continue
    anew.kept = None
    drain(Relay(store, anew, batch_records=10))
    assert_whole(anew, store)


def test_records_that_retention_took_are_not_published_again() -> None:
    store, log = published_whole()
    read, before = log.read, published(log)
    heads = [log.head(EVENTS, number) for number in range(PARTITIONS)]
    log.read = lambda topic, number, place, limit: (  # type: ignore[method-assign]
        Batch([], heads[number]) if topic == EVENTS else read(topic, number, place, limit)
    )
    relay = Relay(store, log, batch_records=10)
    assert relay.position >= 80
    log.read = read  # type: ignore[method-assign]
    assert published(log) == before


def test_a_loss_that_later_events_stand_behind_is_refused_with_the_remedy() -> None:
    store, log = published_whole()
    anew = stand_in(log, {0: 0})
    running = Relay(store, log)
    last = log.read(EVENTS, 0, 0, 10_000).records[-1]
    with CommandSide(store).batch(NOW) as batch:
        for number in range(90, 140):
            made = event(None, {"limit": number}, number=number, user=str(number % 17))
            batch.submit(msgspec.json.encode(made))
    running._log = anew
    running.step(NOW)
    with pytest.raises(ConfigurationError, match="synchroscope prepare"):
        running.look_at_heads()
    assert anew.head(EVENTS, 0) < last.offset + 1
    with pytest.raises(ConfigurationError, match="had come to"):
        Relay(store, anew)


# -- a store that was put back to an older copy ----------------------------------------------------


def submit(store: MemoryEventStore, first: int, events: int) -> None:
    with CommandSide(store).batch(NOW) as batch:
        for number in range(first, first + events):
            made = event(None, {"limit": number}, number=number, user=str(number % 17))
            batch.submit(msgspec.json.encode(made))


@pytest.mark.parametrize("later", [0, 5, 200], ids=str)
def test_an_older_copy_of_the_store_is_refused_by_a_relay_that_starts(later: int) -> None:
    store, older, log = filled(60), filled(40), MemoryLog({EVENTS: PARTITIONS})
    relay = Relay(store, log, batch_records=7)
    for tenth in range(30):
        relay.step(NOW + tenth)
    submit(older, 1_000, later)
    with pytest.raises(ConfigurationError, match="put back to an older copy"):
        Relay(older, log, batch_records=7)
    drain(Relay(store, log, batch_records=7))
    assert_whole(log, store)


@pytest.mark.parametrize("later", [0, 5, 200], ids=str)
def test_an_older_copy_under_a_running_relay_is_seen_when_it_looks(later: int) -> None:
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    relay = Relay(store, log, batch_records=7)
    drain(relay)
    relay.look_at_heads()
    older = filled(40)
    submit(older, 1_000, later)
    vars(store).update(vars(older))
    with pytest.raises(ConfigurationError, match="put back to an older copy"):
        relay.look_at_heads()


def test_a_record_that_somebody_altered_is_no_older_copy() -> None:
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    relay = Relay(store, log, batch_records=7)
    for tenth in range(30):
        relay.step(NOW + tenth)
    newest = log.read(EVENTS, 1, log.head(EVENTS, 1) - 1, 1).records[0]
    changed = NewRecord(EVENTS, 1, newest.key, newest.value + b" ", newest.headers)
    log.append([changed], NOW)
    drain(Relay(store, log, batch_records=7))


# -- how far is noted, and what others note --------------------------------------------------------


def noted(log: MemoryLog, position: int) -> None:
    log.append([], NOW, consumer="relay", positions={("store.events", 0): position})


def test_the_newest_batch_is_noted_while_there_is_nothing_to_do() -> None:
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    relay = Relay(store, log, batch_records=7)
    drain(relay)
    assert log.positions("relay")["store.events", 0] < 60
    relay.note(NOW)
    assert log.positions("relay")["store.events", 0] == 60
    head = log.head(STATE, 0)
    relay.note(NOW)
    assert log.head(STATE, 0) == head
    older = filled(58)
    submit(older, 1_000, 50)  # Only its last two events are others.
    with pytest.raises(ConfigurationError, match="put back to an older copy"):
        Relay(older, log, batch_records=7)


def test_a_position_beyond_what_the_log_has_makes_no_relay_pass_over_an_event() -> None:
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    drain(Relay(store, log, batch_records=7))
    submit(store, 1_000, 30)
    noted(log, 85)
    drain(Relay(store, log, batch_records=7))
    assert_whole(log, store)


def test_a_position_beyond_what_the_store_has_is_refused() -> None:
    store, log = filled(60), MemoryLog({EVENTS: PARTITIONS})
    drain(Relay(store, log, batch_records=7))
    noted(log, 999_999_999)
    with pytest.raises(ConfigurationError, match="position 999999999"):
        Relay(store, log, batch_records=7)
