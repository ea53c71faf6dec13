"""A value past its time is removed by an event of its own."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest

from pipeline.commands import CommandSide
from pipeline.event_store import EventStore
from pipeline.expiry import NAMESPACE
from synchroscope.event import EXPIRED, ContextDelta, ContextEvent, Source, Update
from tests.command_world import KEY, RULES, START, make, seconds, store, stored, submit

__all__ = ["store"]


def test_a_value_past_its_time_is_removed_by_an_event_before_the_next_one(
    store: EventStore,
) -> None:
    side = CommandSide(store)
    submit(side, make(1, {"a": 1, "b": 2}, ttl=10, targets=("x",), correlation_id="order-7"))
    submit(side, make(2, {"c": 3}, at=9.999))
    assert store.count() == 2
    submit(side, make(3, {"d": 4}, at=10))
    expired = stored(store)[2]
    assert expired == ContextEvent(
        event_id=uuid.uuid5(NAMESPACE, "expired/risk/user:1/3"),
        timestamp=START + dt.timedelta(seconds=10),
        event_type=EXPIRED,
        source=Source("synchroscope", "command-side"),
        context_delta=ContextDelta(
            updates={
                "a": Update(None, previous=1, previous_targets=("x",)),
                "b": Update(None, previous=2, previous_targets=("x",)),
            },
            user_id="1",
        ),
        context_type="risk",
        sequence=3,
        correlation_id="order-7",
        causation_id=str(uuid.UUID(int=1)),
    )
    assert store.state(KEY).values() == {"c": 3, "d": 4}


def test_a_value_written_again_gets_a_new_time(store: EventStore) -> None:
    side = CommandSide(store)
    submit(side, make(1, {"a": 1}, ttl=10), make(2, {"a": 2}, at=5, ttl=10))
    submit(side, make(3, {"b": 1}, at=14), make(4, {"a": 3}, at=14), make(5, {"b": 2}, at=99))
    assert [event.event_type for event in stored(store)] == ["context.updated"] * 5


def test_an_expiry_is_caused_by_the_newest_event_that_wrote_what_it_removes(
    store: EventStore,
) -> None:
    side = CommandSide(store)
    submit(side, make(1, {"a": 1}, ttl=10), make(2, {"b": 1}, at=6, ttl=4))
    submit(side, make(3, user="2", at=10))
    expired = stored(store)[2]
    assert expired.context_delta.updates.keys() == {"a", "b"}
    assert expired.causation_id == expired.correlation_id == str(uuid.UUID(int=2))


def test_values_expire_in_order_of_time_then_context_type_then_subject(store: EventStore) -> None:
    side = CommandSide(store)
    submit(
        side,
        make(1, user="2", ttl=5),
        make(2, user="1", ttl=5),
        make(3, user="1", ttl=5, context_type="age"),
        make(4, user="1", ttl=4),
        make(5, user="3", at=1, ttl=3),
    )
    submit(side, make(6, user="9", at=60))
    expired = [event for event in stored(store) if event.event_type == EXPIRED]
    assert [(seconds(e), e.context_type, e.subject) for e in expired] == [
        (4, "risk", "user:1"),
        (4, "risk", "user:3"),
        (5, "age", "user:1"),
        (5, "risk", "user:2"),
    ]


def test_an_idle_stream_is_expired_by_asking(store: EventStore) -> None:
    side = CommandSide(store)
    submit(side, make(1, ttl=10))
    with side.batch(0.0) as batch:
        assert batch.expire(START.timestamp() + 9) == 0
        assert batch.expire(START.timestamp() + 10) == 1
        assert batch.expire(float("inf")) == 0
        assert batch.values(*KEY) == {}


def test_a_refused_event_does_not_move_the_clock(store: EventStore) -> None:
    side = CommandSide(store, RULES)
    submit(side, make(1, {"level": 101}, at=1_000), make(2, ttl=10), make(3, {"x": 1}, at=5))
    assert [event.event_type for event in stored(store)] == ["context.updated"] * 2


def test_a_late_value_expires_before_the_next_event(store: EventStore) -> None:
    side = CommandSide(store)
    submit(side, make(1, at=100), make(2, at=5, user="2", ttl=1), make(3, at=50, user="3"))
    assert [(e.event_type, seconds(e)) for e in stored(store)][2:] == [
        (EXPIRED, 6),
        ("context.updated", 50),
    ]


def test_a_producer_that_takes_the_id_of_an_expiry_does_not_stop_it(store: EventStore) -> None:
    side = CommandSide(store)
    taken = uuid.uuid5(NAMESPACE, "expired/risk/user:1/2")
    submit(side, make(1, ttl=1), make(taken.int, user="2"))
    submit(side, make(3, user="3", at=9))
    assert [event.event_type for event in stored(store)].count(EXPIRED) == 1


def test_more_fields_than_an_event_holds_expire_with_several(store: EventStore) -> None:
    side = CommandSide(store)
    for number in range(3):
        fields = {f"f{number}-{i}": i for i in range(500)}
        submit(side, make(number + 1, fields, ttl=5))
    submit(side, make(9, user="2", at=9))
    expired = [e for e in stored(store) if e.event_type == EXPIRED]
    assert [len(e.context_delta.updates) for e in expired] == [1_000, 500]
    assert store.state(KEY).values() == {}


@pytest.mark.parametrize("batch_events", [1, 7, 1_000])
def test_the_memory_of_what_is_due_is_bounded(store: EventStore, batch_events: int) -> None:
    side = CommandSide(store, expiry_window=5, cache_size=3)
    events = [
        make(number + 1, user=f"u{number}", at=number / 1_000, ttl=50 - number % 40)
        for number in range(100)
    ]
    for start in range(0, len(events), batch_events):
        with side.batch(0.0) as batch:
            for event in events[start : start + batch_events]:
                batch.submit(event)
                assert len(side.schedule) <= 10
            if start + batch_events >= len(events):
                batch.submit(make(1_001, at=1_000))
    expired = [seconds(event) for event in stored(store) if event.event_type == EXPIRED]
    assert len(expired) == 100
    assert expired == sorted(expired)
