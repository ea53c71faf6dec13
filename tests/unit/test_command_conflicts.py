"""Two writers of one aggregate: the slower one gets the conflict and then the truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.commands import Accepted, CommandSide, Conflicted, Outcome, retry_on_conflict
from pipeline.event_store import EventStore
from pipeline.event_store_memory import MemoryEventStore
from pipeline.invariants import ContextTypeRules, FieldRule
from synchroscope.errors import ConflictError
from tests.command_world import KEY, make, store, stored, submit

__all__ = ["store"]


@pytest.mark.parametrize(
    ("sequence", "expected", "is_accepted"),
    [
        (None, None, True),
        (None, 1, True),
        (None, 0, False),
        (None, 2, False),
        (2, None, True),
        (1, None, False),
        (3, None, False),
        (2, 1, True),
        (2, 0, False),
        (3, 1, False),
    ],
)
def test_an_event_may_state_where_its_aggregate_must_stand(
    store: EventStore, sequence: int | None, expected: int | None, is_accepted: bool
) -> None:
    side = CommandSide(store)
    submit(side, make(1, {"level": 5}))
    (outcome,) = submit(side, make(2, sequence=sequence), expected_sequence=expected)
    if is_accepted:
        assert isinstance(outcome, Accepted)
        return
    assert isinstance(outcome, Conflicted)
    assert (outcome.error.actual, outcome.error.state) == (1, {"level": 5})
    assert (store.count(), store.dead_letter_counts()) == (1, {})


def test_nothing_is_written_when_the_batch_fails(store: EventStore) -> None:
    side = CommandSide(store)
    submit(side, make(1, {"level": 1}, ttl=10))
    with pytest.raises(ZeroDivisionError), side.batch(0.0) as batch:
        batch.submit(make(2, {"level": 2}, at=20))
        batch.refuse("r", "d", "s", b"")
        batch.track("file", "a:1")
        raise ZeroDivisionError
    assert (store.count(), store.dead_letter_counts(), store.tracking("file")) == (1, {}, None)
    submit(side, make(2, {"level": 2}, at=9))
    assert [event.event_type for event in stored(store)] == ["context.updated"] * 2


def test_the_slower_of_two_writers_gets_the_conflict_and_then_the_truth(store: EventStore) -> None:
    one, other = CommandSide(store), CommandSide(store)
    submit(one, make(1, {"level": 1}))
    submit(other, make(2, {"level": 2}))
    with pytest.raises(ConflictError) as conflict:
        submit(one, make(3, {"level": 3}))
    assert conflict.value.state == {"level": 2}
    (outcome,) = submit(one, make(3, {"level": 3}))
    assert isinstance(outcome, Accepted)
    assert outcome.event.context_delta.updates["level"].previous == 2


def test_a_cache_behind_another_writer_makes_no_false_conflict(store: EventStore) -> None:
    one, other = CommandSide(store), CommandSide(store)
    submit(one, make(1))
    submit(other, make(2))
    assert isinstance(submit(one, make(3), expected_sequence=2)[0], Accepted)


def test_a_refusal_on_a_state_that_was_overtaken_is_not_written(store: EventStore) -> None:
    steps = {"stage": FieldRule(transitions={"a": ("b",), "b": ("c",)})}
    rules = {"risk": ContextTypeRules(steps)}
    one, other = CommandSide(store, rules), CommandSide(store, rules)
    submit(one, make(1, {"stage": "a"}))
    submit(other, make(2, {"stage": "b"}))
    third = make(3, {"stage": "c"})
    with pytest.raises(ConflictError):
        submit(one, third)
    assert isinstance(submit(one, third)[0], Accepted)
    assert store.dead_letter_counts() == {}


def test_retries_add_up_what_both_writers_want(store: EventStore) -> None:
    one, other = CommandSide(store), CommandSide(store)
    numbers = iter(range(1, 100))

    def add(side: CommandSide, interrupt: Callable[[], object]) -> Callable[[], Outcome]:
        def decide() -> Outcome:
            with side.batch(0.0) as batch:
                state = batch.state(KEY)
                level = state.values().get("level", 0) + 10
                interrupt()
                outcome = batch.submit(
                    make(next(numbers), {"level": level}), expected_sequence=state.sequence
                )
                if isinstance(outcome, Conflicted):
                    raise outcome.error
            return outcome

        return decide

    interruptions = iter([True, True, False])

    def interrupt() -> None:
        if next(interruptions):
            retry_on_conflict(1, add(other, lambda: None))

    retry_on_conflict(3, add(one, interrupt))
    assert store.state(KEY).values() == {"level": 30}


def test_retries_are_bounded_and_the_last_conflict_is_raised() -> None:
    tries: list[int] = []

    def decide() -> None:
        tries.append(1)
        raise ConflictError("a", "b", expected=0, actual=len(tries), state={})

    with pytest.raises(ConflictError) as conflict:
        retry_on_conflict(4, decide)
    assert (len(tries), conflict.value.actual) == (4, 4)


def test_a_batch_is_used_inside_its_with_only() -> None:
    side = CommandSide(MemoryEventStore())
    with side.batch(0.0) as batch, pytest.raises(RuntimeError), side.batch(0.0):
        pass
    for use in (
        lambda: batch.submit(make(1)),
        lambda: batch.refuse("r", "d", "s", b""),
        lambda: batch.track("a", "b"),
        lambda: batch.count("a"),
        lambda: batch.expire(0.0),
    ):
        with pytest.raises(RuntimeError):
            use()
