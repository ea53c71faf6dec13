"""However events are cut into batches, the command side stores the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import CommandSide
from pipeline.event_store import AggregateState, Append, EventStore, fold
from pipeline.event_store_memory import MemoryEventStore
from synchroscope.errors import StorageError
from synchroscope.event import EXPIRED
from tests.command_world import RULES, make, seconds, stored, submit

FIELDS = ("a", "b", "level")
commands: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    number=st.integers(1, 40),
    at=st.integers(0, 30),
    user=st.sampled_from("123"),
    context_type=st.sampled_from(["risk", "age"]),
    ttl=st.none() | st.integers(1, 12),
    values=st.dictionaries(
        st.sampled_from(FIELDS), st.none() | st.integers(98, 101), min_size=1, max_size=3
    ),
    targets=st.none() | st.lists(st.sampled_from("xy"), max_size=2).map(tuple),
    sequence=st.none() | st.integers(1, 6),
)


def run(
    submissions: Sequence[dict[str, Any]],
    cuts: Sequence[int],
    side_of: Callable[[EventStore], CommandSide],
) -> MemoryEventStore:
    """Submit all, with a new batch at each cut, and a new command side at every other one."""
    store = MemoryEventStore()
    side = side_of(store)
    bounds = [0, *sorted(cut % (len(submissions) + 1) for cut in cuts), len(submissions)]
    for count, (start, end) in enumerate(pairwise(bounds)):
        if count % 2:
            side = side_of(store)
        submit(side, *(make(**submission) for submission in submissions[start:end]))
    return store


@given(st.lists(commands, max_size=40), st.lists(st.integers(0, 99), max_size=12), st.data())
def test_batches_restarts_and_bounds_do_not_change_what_is_stored(
    submissions: list[dict[str, Any]], cuts: list[int], data: st.DataObject
) -> None:
    window, cache = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    whole = run(submissions, [], lambda store: CommandSide(store, RULES))
    parts = run(
        submissions,
        cuts,
        lambda store: CommandSide(store, RULES, cache_size=cache, expiry_window=window),
    )
    assert stored(parts) == stored(whole)
    assert parts.dead_letter_counts() == whole.dead_letter_counts()
    assert parts.counter("events_repeated") == whole.counter("events_repeated")


@given(st.lists(commands, max_size=40), st.lists(st.integers(0, 99), max_size=5))
def test_the_state_is_the_fold_of_the_events_and_each_event_states_its_previous(
    submissions: list[dict[str, Any]], cuts: list[int]
) -> None:
    store = run(submissions, cuts, lambda store: CommandSide(store, RULES))
    states: dict[tuple[str, str], AggregateState] = {}
    for event in stored(store):
        key = (event.context_type, event.subject)
        before = states.get(key, AggregateState())
        assert event.sequence == before.sequence + 1
        for name, update in event.context_delta.updates.items():
            field = before.fields.get(name)
            assert update.previous == (None if field is None else field.value)
            assert update.previous_targets == (None if field is None else field.targets)
        states[key] = fold(before, event)
    assert {key: store.state(key) for key in states} == states


Change = tuple[str, float, str, str, dict[str, Any]]


def naive(submissions: Sequence[dict[str, Any]]) -> list[Change]:
    """Return what must be stored, found by looking at every value before every event."""
    made: list[Change] = []
    held: dict[tuple[str, str], dict[str, tuple[Any, float | None]]] = {}
    sequences: dict[tuple[str, str], int] = {}
    numbers: set[int] = set()
    clock = float("-inf")

    def record(kind: str, at: float, key: tuple[str, str], values: dict[str, Any]) -> None:
        sequences[key] = sequences.get(key, 0) + 1
        made.append((kind, at, *key, values))

    for each in submissions:
        if each["number"] in numbers:
            continue
        until = max(clock, each["at"])
        while past := [
            (due, key)
            for key, fields in held.items()
            for _, due in fields.values()
            if due is not None and due <= until
        ]:
            due, key = min(past)
            gone = [name for name, field in held[key].items() if field[1] == due]
            for name in gone:
                del held[key][name]
            record(EXPIRED, due, key, dict.fromkeys(gone))
            clock = max(clock, due)
        key = (each["context_type"], f"user:{each['user']}")
        is_expected = each["sequence"] in (None, sequences.get(key, 0) + 1)
        level = each["values"].get("level")
        if not is_expected or (key[0] == "risk" and level is not None and level > 100):
            continue
        for name, value in each["values"].items():
            held.setdefault(key, {}).pop(name, None)
            if value is not None:
                ttl = each["ttl"]
                held[key][name] = (value, None if ttl is None else each["at"] + ttl)
        numbers.add(each["number"])
        clock = max(clock, each["at"])
        record("context.updated", each["at"], key, each["values"])
    return made


@given(st.lists(commands, max_size=40))
def test_what_is_stored_is_what_a_naive_look_at_all_values_says(
    submissions: list[dict[str, Any]],
) -> None:
    store = run(submissions, [], lambda store: CommandSide(store, RULES, expiry_window=1))
    found = [
        (
            event.event_type,
            seconds(event),
            event.context_type,
            event.subject,
            {name: update.current for name, update in event.context_delta.updates.items()},
        )
        for event in stored(store)
    ]
    assert found == naive(submissions)


class FailingStore(MemoryEventStore):
    """Fails the appends that its plan says, before or after they are stored."""

    def __init__(self, plan: Iterator[str]) -> None:
        super().__init__()
        self._plan = plan

    def append(self, write: Append, now: float) -> None:
        step = next(self._plan, "")
        if step == "before":
            raise StorageError("the disk is full")
        super().append(write, now)
        if step == "after":
            raise StorageError("the answer was lost")


@given(
    st.lists(commands, min_size=1, max_size=20),
    st.lists(st.sampled_from(["", "before", "after"]), max_size=20),
)
def test_submitting_again_after_a_failed_append_loses_and_doubles_nothing(
    submissions: list[dict[str, Any]], plan: list[str]
) -> None:
    submissions = [{**each, "sequence": None, "number": n} for n, each in enumerate(submissions)]
    store = FailingStore(iter(plan))
    side = CommandSide(store)
    for submission in submissions:
        for _ in range(len(plan) + 1):
            try:
                submit(side, make(**submission))
                break
            except StorageError:
                continue
    whole = run(submissions, [], CommandSide)
    assert stored(store) == stored(whole)
