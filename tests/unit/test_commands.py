from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import (
    Accepted,
    CommandSide,
    Conflicted,
    Outcome,
    Refused,
    Repeated,
    retry_on_conflict,
)
from pipeline.event_store import AggregateState, Append, EventStore, fold
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.expiry import NAMESPACE
from pipeline.invariants import ContextTypeRules, FieldRule
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.errors import ConflictError, StorageError
from synchroscope.event import (
    EXPIRED,
    MAXIMUM_EVENT_BYTES,
    ContextDelta,
    ContextEvent,
    PropagationRules,
    Source,
    Update,
    encode_event,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEY = ("risk", "user:1")
RULES = {"risk": ContextTypeRules({"level": FieldRule(kind="number", maximum=100.0)}, open=True)}


def make(
    number: int,
    values: dict[str, Any] | None = None,
    *,
    at: float = 0.0,
    user: str = "1",
    context_type: str = "risk",
    ttl: int | None = None,
    targets: tuple[str, ...] | None = None,
    **more: Any,
) -> ContextEvent:
    return ContextEvent(
        event_id=uuid.UUID(int=number),
        timestamp=START + dt.timedelta(seconds=at),
        event_type="context.updated",
        source=Source("model", "one"),
        context_delta=ContextDelta(
            updates={name: Update(value) for name, value in (values or {"level": 1}).items()},
            user_id=user,
        ),
        propagation_rules=PropagationRules(ttl=ttl, target_models=targets),
        context_type=context_type,
        **more,
    )


def submit(side: CommandSide, *events: ContextEvent | bytes, **how: Any) -> list[Outcome]:
    with side.batch(0.0) as batch:
        return [batch.submit(event, **how) for event in events]


def stored(store: EventStore) -> list[ContextEvent]:
    return [entry.event for entry in store.read(0, 1_000_000)]


def seconds(event: ContextEvent) -> float:
    return (event.timestamp - START).total_seconds()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore()
        return
    database = SqliteDatabase(":memory:")
    yield SqliteEventStore(database)
    database.close()


# -- what is accepted ---------------------------------------------------------------------------


def test_an_accepted_event_states_the_truth_about_what_it_replaces(store: EventStore) -> None:
    side = CommandSide(store, RULES)
    first = make(1, {"level": 1, "name": "a"}, targets=("x", "y"))
    forged = {"level": Update(2, previous=99, previous_targets=("z",)), "new": Update(3)}
    second = make(2)
    second = ContextEvent(
        **{
            **{name: getattr(second, name) for name in second.__struct_fields__},
            "context_delta": ContextDelta(forged, user_id="1"),
        }
    )
    _, outcome = submit(side, first, second)
    assert isinstance(outcome, Accepted)
    assert outcome.event.sequence == 2
    assert outcome.event.correlation_id == str(second.event_id)
    assert outcome.event.context_delta.updates == {
        "level": Update(2, previous=1, previous_targets=("x", "y")),
        "new": Update(3),
    }
    assert stored(store)[1] == outcome.event


def test_a_correlation_id_of_the_producer_is_kept(store: EventStore) -> None:
    submit(CommandSide(store), make(1, correlation_id="order-7"))
    assert stored(store)[0].correlation_id == "order-7"


def test_bytes_and_typed_events_are_decided_alike() -> None:
    one, other = MemoryEventStore(), MemoryEventStore()
    event = make(1, {"level": 1, "list": (1, 2.0, {"a": None})})
    assert submit(CommandSide(one), event) == submit(CommandSide(other), encode_event(event))
    assert stored(one) == stored(other)


def test_what_a_producer_does_to_its_objects_later_changes_nothing(store: EventStore) -> None:
    side = CommandSide(store)
    basket = {"lines": [1]}
    submit(side, make(1, {"basket": basket}))
    basket["lines"].append(2)
    with side.batch(0.0) as batch:
        assert batch.values(*KEY) == {"basket": {"lines": [1]}}


def test_a_batch_sees_its_own_writes_and_the_store_only_sees_the_commit(store: EventStore) -> None:
    side = CommandSide(store)
    with side.batch(5.0) as batch:
        assert batch.state(KEY) == AggregateState()
        batch.submit(make(1, {"level": 7}))
        assert batch.values(*KEY) == {"level": 7}
        assert store.count() == 0
        batch.track("file", "a:1")
        batch.count("rows", 2)
        batch.count("rows")
    assert store.read(0, 9)[0].recorded == 5.0
    assert (store.tracking("file"), store.counter("rows")) == ("a:1", 3)


def test_an_event_id_is_taken_once(store: EventStore) -> None:
    side = CommandSide(store)
    again = Repeated(str(uuid.UUID(int=1)))
    assert submit(side, make(1), make(1, {"level": 2}))[1] == again
    assert submit(side, make(1)) == [again]
    assert submit(CommandSide(store), make(1)) == [again]
    assert (store.count(), store.counter("events_repeated")) == (1, 3)
    assert store.dead_letter_counts() == {}


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"{", "malformed JSON"),
        (b"\xff\xfe", "malformed JSON"),
        (b"{}", "schema violation"),
        (b" " * (MAXIMUM_EVENT_BYTES + 1), "too large"),
        (make(1, {"level": 101}), "out of range"),
        (encode_event(make(1, {"level": "x"})), "wrong kind"),
        (make(1, {"other": float("nan")}), "value out of range"),
        (make(1, {"other": 2**64}), "value out of range"),
        (make(1, {"other": b"bytes"}), "schema violation"),
        (make(1, {"other": "\ud800"}), "malformed JSON"),
        (make(1, {"other": "x" * MAXIMUM_EVENT_BYTES}), "too large"),
        (make(1, user=""), "schema violation"),
        (make(1, context_type="\ud800"), "schema violation"),
        (make(1, sequence=0), "schema violation"),
        (
            encode_event(make(1)).replace(b"2026-01-01T00:00:00Z", b"9999-12-31T23:59:59-12:00"),
            "timestamp out of range",
        ),
        (encode_event(make(1)).replace(b"00:00:00Z", b"00:00:00"), "schema violation"),
    ],
)
def test_bad_input_becomes_a_dead_letter(
    store: EventStore, event: ContextEvent | bytes, reason: str
) -> None:
    (outcome,) = submit(CommandSide(store, RULES), event, source="test")
    assert isinstance(outcome, Refused)
    assert outcome.reason == reason
    (letter,) = store.read_dead_letters(0, 9)
    assert (letter.letter.reason, letter.letter.source) == (reason, "test")
    assert letter.letter.detail
    if isinstance(event, bytes) and len(event) < MAXIMUM_EVENT_BYTES:
        assert letter.letter.data == event
    assert 0 < len(letter.letter.data) <= MAXIMUM_EVENT_BYTES
    assert store.count() == 0


def test_a_naive_time_of_a_typed_event_is_refused(store: EventStore) -> None:
    event = make(1)
    naive = ContextEvent(
        **{
            **{name: getattr(event, name) for name in event.__struct_fields__},
            "timestamp": START.replace(tzinfo=None),
        }
    )
    assert isinstance(submit(CommandSide(store), naive)[0], Refused)


def test_a_refused_event_names_its_own_source_when_none_is_given(store: EventStore) -> None:
    submit(CommandSide(store, RULES), make(1, {"level": 101}))
    assert store.read_dead_letters(0, 9)[0].letter.source == "model/one"


def test_input_that_is_no_event_can_be_refused_with_any_text(store: EventStore) -> None:
    with CommandSide(store).batch(0.0) as batch:
        batch.refuse("broken\ud800", "d" * 9_999, "file:1", b"x" * (MAXIMUM_EVENT_BYTES + 1))
    (letter,) = store.read_dead_letters(0, 9)
    assert letter.letter.reason == "broken\\ud800"
    assert len(letter.letter.detail) == 1_000
    assert len(letter.letter.data) == MAXIMUM_EVENT_BYTES


def test_a_closed_rule_set_refuses_other_context_types(store: EventStore) -> None:
    side = CommandSide(store, RULES, closed=True)
    outcome = submit(side, make(1), make(2, context_type="else"))[1]
    assert isinstance(outcome, Refused)
    assert outcome.reason == "unknown context type"


# -- optimistic concurrency ---------------------------------------------------------------------


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


# -- expiry -------------------------------------------------------------------------------------


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


# -- laws ---------------------------------------------------------------------------------------

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


def test_an_event_of_another_language_is_stored_as_it_was_meant(store: EventStore) -> None:
    text = {
        "eventId": "6F9619FF-8B86-D011-B42D-00C04FC964FF",
        "timestamp": "2026-01-01T01:00:00+01:00",
        "eventType": "context.updated",
        "source": {"modelId": "m", "instanceId": "i"},
        "contextDelta": {"sessionId": "s", "updates": {"x": {"previous": 1, "current": [1, "é"]}}},
    }
    (outcome,) = submit(CommandSide(store), json.dumps(text).encode())
    assert isinstance(outcome, Accepted)
    assert outcome.event.subject == "session:s"
    assert outcome.event.context_delta.updates == {"x": Update([1, "é"])}
    assert store.contains(["6f9619ff-8b86-d011-b42d-00c04fc964ff"])


class CountingStore(MemoryEventStore):
    """Counts how often it is asked for IDs."""

    asked = 0

    def contains(self, event_ids: Sequence[str]) -> set[str]:
        self.asked += 1
        return super().contains(event_ids)


def test_many_are_decided_on_as_one_after_the_other_and_the_store_is_asked_once() -> None:
    earlier, again = make(number=1), make(number=2)
    many = [earlier, again, b"no event", again, make(number=3, sequence=9), make(number=4)]
    taken = []
    for together in (True, False):
        store = CountingStore()
        side = CommandSide(store)
        submit(side, earlier)
        asked = store.asked
        with side.batch(2.0) as batch:
            outcomes = (
                batch.submit_all(many, source="s")
                if together
                else [batch.submit(one, source="s") for one in many]
            )
        kinds = [type(outcome).__name__ for outcome in outcomes]
        assert kinds == ["Repeated", "Accepted", "Refused", "Repeated", "Conflicted", "Accepted"]
        taken.append((stored(store), store.read_dead_letters(0, 9), store.counter("repeated")))
        assert store.asked - asked == (1 if together else 4)
    assert taken[0] == taken[1]
