"""What every event store does, whatever it is made of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event_store import (
    AggregateState,
    Append,
    DeadLetter,
    EventStore,
    StoredDeadLetter,
    StoredEvent,
    fold,
)
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.digest import aggregate_hash
from synchroscope.errors import ConflictError, StorageError
from synchroscope.event import (
    UPDATED,
    ContextDelta,
    ContextEvent,
    PropagationRules,
    Source,
    Update,
    encode_event,
)
from synchroscope.ports import AggregateKey
from synchroscope.tally import StoredRow
from tests.contract.killing import acknowledged_when_killed
from tests.postgresql import postgresql_schema

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
RISK: AggregateKey = ("financial", "user:1")
PLACE: AggregateKey = ("geographic", "user:1")
NOBODY: AggregateKey = ("financial", "user:nobody")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    with ExitStack() as open_files:
        if request.param == "memory":
            yield MemoryEventStore()
        elif request.param == "postgresql":
            yield PostgresqlEventStore(open_files.enter_context(postgresql_schema()))
        else:
            database = open_files.enter_context(closing(SqliteDatabase(tmp_path / "data.db")))
            yield SqliteEventStore(database)


def event(
    number: int,
    sequence: int | None,
    key: AggregateKey = RISK,
    *,
    ttl: int | None = None,
    at: dt.datetime | None = None,
    correlation_id: str | None = None,
    **current: Any,
) -> ContextEvent:
    return ContextEvent(
        UUID(int=number),
        at or START + dt.timedelta(seconds=number),
        UPDATED,
        Source("model", "instance"),
        ContextDelta({k: Update(v) for k, v in current.items()}, user_id=key[1].split(":")[1]),
        PropagationRules(ttl=ttl, target_models=("scorer",)),
        context_type=key[0],
        sequence=sequence,
        correlation_id=correlation_id,
    )


def write_of(store: EventStore, *events: ContextEvent, **rest: Any) -> Append:
    """What the command side would write: the states after the events, and what it saw before."""
    states: dict[AggregateKey, AggregateState] = {}
    expected: dict[AggregateKey, int] = {}
    for one in events:
        key = (one.context_type, one.subject)
        before = states.get(key) or store.state(key)
        expected.setdefault(key, before.sequence)
        states[key] = fold(before, one)
    return Append(events, states, expected, **rest)


def add(store: EventStore, *events: ContextEvent, **rest: Any) -> None:
    store.append(write_of(store, *events, **rest), 1_000.5)


def positions(events: list[StoredEvent]) -> list[int]:
    return [stored.position for stored in events]


def everything(store: EventStore) -> list[Any]:
    """All that can be asked of a store, to compare one with another or before with after."""
    return [
        store.read(0, 999),
        store.read_dead_letters(0, 999),
        store.dead_letter_counts(),
        [store.aggregates(bucket, 2) for bucket in range(4)],
        [(store.state(key), store.history(key)) for key in (RISK, PLACE, NOBODY)],
        [store.due(until, 999) for until in (0.0, 1.767e9, 9e9)],
        (store.tracking("s"), store.counter("n"), store.count(), store.newest_timestamp()),
    ]


def test_a_new_store_is_empty(store: EventStore) -> None:
    assert store.state(RISK) == AggregateState()
    assert store.state(RISK).sequence == 0
    assert (store.read(0, 10), store.history(RISK), store.due(9e9, 10)) == ([], [], [])
    assert (store.count(), store.counter("n"), store.tracking("s")) == (0, 0, None)
    assert (store.newest_timestamp(), store.dead_letter_counts()) == (None, {})
    assert store.aggregates(0, 1) == []
    assert store.contains(["x"]) == set()


def test_an_event_is_read_as_it_was_appended(store: EventStore) -> None:
    one = event(1, 1, risk={"level": [1, 2.5, None, "ü"]}, ttl=300, correlation_id="c")
    add(store, one)
    assert store.read(0, 10) == [StoredEvent(1, one, 1_000.5)]


def test_positions_are_given_in_commit_order_from_one_without_gaps(store: EventStore) -> None:
    add(store, event(1, 1, a=1), event(2, 1, PLACE, a=1))
    add(store, event(3, 2, a=2))
    stored = store.read(0, 10)
    assert positions(stored) == [1, 2, 3]
    assert [one.event.event_id.int for one in stored] == [1, 2, 3]


def test_a_read_begins_after_a_position_and_stops_at_its_limit(store: EventStore) -> None:
    add(store, *(event(number, number, a=number) for number in range(1, 6)))
    assert positions(store.read(2, 2)) == [3, 4]
    assert positions(store.read(4, 99)) == [5]
    assert store.read(5, 99) == store.read(99, 99) == store.read(0, 0) == []


def test_rows_are_the_events_as_the_bytes_that_were_appended(store: EventStore) -> None:
    one, two = event(1, 1, risk={"level": [1, 2.5, None, "ü"]}, ttl=300), event(2, 2, a=2)
    add(store, one)
    add(store, two)
    first, second = (StoredRow(n, 1_000.5, encode_event(e)) for n, e in ((1, one), (2, two)))
    assert store.rows(0, 10) == [first, second]
    assert store.rows(1, 1) == [second]
    assert store.rows(2, 9) == store.rows(0, 0) == []


def test_the_state_is_the_one_that_was_written(store: EventStore) -> None:
    first, second = event(1, 1, a=1, b="x", ttl=60), event(2, 2, a=None, c=[1])
    add(store, first, second, event(3, 1, PLACE, a=3))
    state = store.state(RISK)
    assert state == fold(fold(AggregateState(), first), second)
    assert state.values() == {"b": "x", "c": [1]}
    assert state.sequence == 2
    assert state.fields["b"].targets == ("scorer",)


def test_an_unexpected_sequence_is_a_conflict_and_nothing_is_written(store: EventStore) -> None:
    add(store, event(1, 1, a=1), event(2, 1, PLACE, a=1))
    before = everything(store)
    write = Append(
        events=[event(3, 2, PLACE, a=2), event(4, 1, a=2)],
        states={RISK: AggregateState(1), PLACE: AggregateState(2)},
        expected={PLACE: 1, RISK: 0},
        dead_letters=[DeadLetter("r", "d", "s", b"")],
        tracking={"s": "9"},
        counters={"n": 1},
    )
    with pytest.raises(ConflictError):
        store.append(write, 2.0)
    assert everything(store) == before


def test_a_conflict_carries_the_current_state(store: EventStore) -> None:
    add(store, event(1, 1, a=1, b=None), event(2, 2, a="now"))
    with pytest.raises(ConflictError) as caught:
        store.append(Append([event(3, 2, a=5)], {}, {RISK: 1}), 2.0)
    conflict = caught.value
    assert (conflict.context_type, conflict.subject) == RISK
    assert (conflict.expected, conflict.actual, conflict.state) == (1, 2, {"a": "now"})


def test_an_aggregate_that_does_not_exist_is_expected_at_zero(store: EventStore) -> None:
    with pytest.raises(ConflictError) as caught:
        store.append(Append([event(1, 2, a=1)], {}, {RISK: 1}), 1.0)
    assert (caught.value.actual, caught.value.state) == (0, {})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (event(1, 2, a=9), "stored already"),
        (event(9, 1, a=9), "stored already"),
        (event(9, None, a=9), "has no sequence"),
    ],
    ids=["a repeated event ID", "a repeated sequence", "no sequence"],
)
def test_an_impossible_event_is_refused_and_nothing_is_written(
    store: EventStore, wrong: ContextEvent, reason: str
) -> None:
    add(store, event(1, 1, a=1))
    before = everything(store)
    write = Append([event(8, 1, PLACE, a=1), wrong], {PLACE: AggregateState(1)}, tracking={"s": ""})
    with pytest.raises(StorageError, match=reason):
        store.append(write, 2.0)
    assert everything(store) == before


def test_an_event_id_twice_in_one_append_is_refused(store: EventStore) -> None:
    with pytest.raises(StorageError, match="stored already"):
        store.append(Append([event(1, 1, a=1), event(1, 2, a=2)]), 1.0)
    assert store.count() == 0


def test_a_refused_append_leaves_no_gap(store: EventStore) -> None:
    add(store, event(1, 1, a=1), dead_letters=[DeadLetter("r", "d", "s", b"")])
    for _ in range(3):
        with pytest.raises(StorageError):
            store.append(Append([event(2, 2, a=2), event(1, 3, a=3)]), 2.0)
    add(store, event(2, 2, a=2), dead_letters=[DeadLetter("r", "d", "s", b"")])
    assert positions(store.read(0, 10)) == [1, 2]
    assert [letter.position for letter in store.read_dead_letters(0, 10)] == [1, 2]


def test_the_state_as_of_a_sequence_is_the_one_after_it(store: EventStore) -> None:
    events = [event(number, number, a=number, **{f"f{number}": True}) for number in (1, 2, 3)]
    add(store, *events)
    assert store.state_as_of(RISK, sequence=2) == fold(fold(AggregateState(), events[0]), events[1])
    assert store.state_as_of(RISK, sequence=0) == AggregateState()
    assert store.state_as_of(RISK, sequence=99) == store.state_as_of(RISK) == store.state(RISK)
    assert store.state_as_of(NOBODY, sequence=1) == AggregateState()


def test_the_state_as_of_a_time_includes_the_event_of_that_very_time(store: EventStore) -> None:
    microsecond = dt.timedelta(microseconds=1)
    add(store, event(1, 1, a=1), event(2, 2, a=2))
    second = START + dt.timedelta(seconds=2)
    assert store.state_as_of(RISK, time=second).values() == {"a": 2}
    assert store.state_as_of(RISK, time=second - microsecond).values() == {"a": 1}
    assert store.state_as_of(RISK, time=START) == AggregateState()


def test_an_event_stamped_later_than_the_time_does_not_count(store: EventStore) -> None:
    late, early = START + dt.timedelta(hours=1), START
    add(store, event(1, 1, a="late", at=late), event(2, 2, b="early", at=early))
    assert store.state_as_of(RISK, time=early).values() == {"b": "early"}
    assert store.state_as_of(RISK, time=late, sequence=1).values() == {"a": "late"}


def test_contains_tells_which_of_many_ids_are_there(store: EventStore) -> None:
    add(store, *(event(number, number, a=1) for number in range(1, 1_500)))
    asked = [str(UUID(int=number)) for number in range(1, 3_000)] + ["no uuid", "'; --"]
    assert store.contains(asked) == {str(UUID(int=number)) for number in range(1, 1_500)}
    assert store.contains([]) == set()


def test_history_is_one_aggregate_up_to_and_including_a_position(store: EventStore) -> None:
    add(store, event(1, 1, a=1), event(2, 1, PLACE, a=1), event(3, 2, a=2), event(4, 3, a=3))
    assert positions(store.history(RISK)) == [1, 3, 4]
    assert positions(store.history(RISK, until=3)) == [1, 3]
    assert positions(store.history(RISK, until=2)) == [1]
    assert positions(store.history(PLACE)) == [2]
    assert store.history(RISK, until=0) == []


def test_buckets_divide_the_aggregates_by_their_hash_and_order_them(store: EventStore) -> None:
    keys = [("financial", f"user:{number}") for number in range(200)]
    add(store, *(event(number + 1, 1, key, a=1) for number, key in enumerate(keys)))
    for bits in (1, 4, 8):
        for bucket in range(1 << bits):
            inside = [key for key in keys if aggregate_hash(*key) >> (64 - bits) == bucket]
            found = store.aggregates(bucket, bits)
            assert found == sorted(inside, key=lambda key: aggregate_hash(*key))


def test_many_aggregates_and_buckets_are_read_as_each_of_them_is(store: EventStore) -> None:
    keys = [("financial", f"user:{number}") for number in range(600)]
    add(store, *(event(number + 1, 1, key, a=1) for number, key in enumerate(keys)))
    add(store, *(event(number + 601, 2, key, a=2) for number, key in enumerate(keys[::2])))
    for until in (None, 0, 300, 601, 750):
        histories = store.histories([*keys, NOBODY, keys[0]], until)
        assert histories == {key: store.history(key, until) for key in [*keys, NOBODY]}
    assert store.histories([]) == {}
    for bits in (1, 4, 12):
        buckets = [*range(0, 1 << bits, 3), 0]
        found = store.aggregates_in(buckets, bits)
        each = [key for bucket in set(buckets) for key in store.aggregates(bucket, bits)]
        assert sorted(found) == sorted(each)
    assert store.aggregates_in([], 4) == []


def test_values_are_due_in_order_of_time_then_aggregate_then_field(store: EventStore) -> None:
    at = START.timestamp()
    add(
        store,
        event(1, 1, b=1, a=1, ttl=100, at=START),
        event(2, 1, PLACE, z=1, ttl=50, at=START),
        event(3, 2, PLACE, y=1, ttl=100, at=START),
        event(4, 3, PLACE, x=1, at=START),
    )
    expected = [
        (at + 50, PLACE, "z"),
        (at + 100, RISK, "a"),
        (at + 100, RISK, "b"),
        (at + 100, PLACE, "y"),
    ]
    assert store.due(at + 100, 99) == expected
    assert [store.due(at + 100, limit) for limit in range(4)] == [expected[:n] for n in range(4)]
    assert store.due(at + 99.9, 99) == expected[:1]
    assert store.due(at + 49.9, 99) == []


def test_a_value_that_was_removed_or_renewed_is_no_longer_due(store: EventStore) -> None:
    at = START.timestamp()
    add(store, event(1, 1, a=1, b=1, c=1, ttl=10, at=START))
    add(store, event(2, 2, a=None, at=START), event(3, 3, b=2, at=START))
    assert store.due(at + 10, 99) == [(at + 10, RISK, "c")]
    add(store, event(4, 4, c=2, ttl=60, at=START))
    assert store.due(at + 10, 99) == []
    assert store.due(at + 60, 99) == [(at + 60, RISK, "c")]


def test_dead_letters_are_kept_in_order_and_counted_by_reason(store: EventStore) -> None:
    letters = [DeadLetter(reason, "why", "file.csv", b"\x00\xff") for reason in ("a", "b", "a")]
    store.append(Append(dead_letters=letters[:2]), 5.0)
    store.append(Append(dead_letters=letters[2:]), 6.0)
    assert store.read_dead_letters(1, 10) == [
        StoredDeadLetter(2, letters[1], 5.0),
        StoredDeadLetter(3, letters[2], 6.0),
    ]
    assert [stored.position for stored in store.read_dead_letters(0, 1)] == [1]
    assert store.read_dead_letters(3, 10) == []
    assert store.dead_letter_counts() == {"a": 2, "b": 1}


def test_a_dead_letter_of_unspeakable_text_is_kept(store: EventStore) -> None:
    store.append(Append(dead_letters=[DeadLetter("malformed", "\ud800", "s", b"\xff")]), 5.0)
    assert store.read_dead_letters(0, 10)[0].letter.data == b"\xff"


def test_tracking_is_replaced_and_counters_are_added_up(store: EventStore) -> None:
    add(store, event(1, 1, a=1), tracking={"s": "10", "t": "x"}, counters={"n": 3})
    add(store, event(2, 2, a=2), tracking={"s": "20"}, counters={"n": 4, "m": 1})
    assert (store.tracking("s"), store.tracking("t"), store.tracking("u")) == ("20", "x", None)
    assert (store.counter("n"), store.counter("m"), store.counter("o")) == (7, 1, 0)


def test_a_counter_may_bear_any_name(store: EventStore) -> None:
    add(store, event(1, 1, a=1), counters={"newest timestamp in microseconds": 5})
    assert store.newest_timestamp() == START + dt.timedelta(seconds=1)


def test_the_newest_timestamp_is_the_latest_not_the_last(store: EventStore) -> None:
    newest = dt.datetime(9_999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    zone = dt.timezone(dt.timedelta(hours=5))
    add(store, event(1, 1, a=1, at=START.astimezone(zone)))
    assert store.newest_timestamp() == START
    add(store, event(2, 2, a=1, at=newest), event(3, 3, a=1, at=START))
    assert store.newest_timestamp() == newest
    assert store.count() == 3


# -- what outlives the process -----------------------------------------------------------------


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        store = SqliteEventStore(database)
        letters = [DeadLetter("r", "d", "s", b"")]
        add(store, event(1, 1, a=1, ttl=5), dead_letters=letters, tracking={"s": "1"})
        before = everything(store)
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        store = SqliteEventStore(database)
        assert everything(store) == before
        add(store, event(2, 2, a=2))
        assert positions(store.read(0, 9)) == [1, 2]


def test_a_failure_after_the_events_takes_them_back_and_leaves_no_gap(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        store = SqliteEventStore(database)
        add(store, event(1, 1, a=1))
        before = everything(store)
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON counters "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        with pytest.raises(StorageError, match="refused"):
            add(store, event(2, 2, a=2), event(3, 3, a=3), tracking={"s": "x"}, counters={"n": 1})
        assert everything(store) == before
        database.execute("DROP TRIGGER refuse")
        add(store, event(2, 2, a=2))
        assert positions(store.read(0, 9)) == [1, 2]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE events SET data = x'ff7b'", "event 1"),
        ("UPDATE aggregates SET state = x'c1'", "the state of"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, statement: str, what: str) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        store = SqliteEventStore(database)
        add(store, event(1, 1, a=1))
        database.execute(statement)
        with pytest.raises(StorageError, match=f"{what}.* is damaged"):
            store.state(RISK)
            store.read(0, 1)


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path: Path) -> None:
    program = """
        import itertools, sys
        from pathlib import Path
        from pipeline.event_store import Append
        from pipeline.event_store_sqlite import SqliteEventStore
        from pipeline.sqlite_database import SqliteDatabase
        from tests.contract.test_event_store import PLACE, RISK, add, event
        store = SqliteEventStore(SqliteDatabase(Path(sys.argv[1]) / "data.db"))
        for number in itertools.count():
            first = 2 * number + 1
            add(
                store,
                event(first, number + 1, RISK, a=number),
                event(first + 1, number + 1, PLACE, a=number),
                tracking={"s": str(number)},
                counters={"n": 1},
            )
            print(number, flush=True)
    """
    acknowledged = acknowledged_when_killed(program, tmp_path, 30)
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        store = SqliteEventStore(database)
        last = int(store.tracking("s") or -1)
        assert last >= acknowledged
        assert store.counter("n") == last + 1
        assert positions(store.read(0, 99_999)) == list(range(1, 2 * last + 3))
        for key in (RISK, PLACE):
            assert store.state(key).sequence == last + 1
            assert store.state(key).values() == {"a": last}


# -- memory and SQLite agree -------------------------------------------------------------------

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=2)
STEPS = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from([RISK, PLACE]),
        st.integers(-1, 1),
        st.dictionaries(st.sampled_from("ab"), VALUES, min_size=1),
        st.none() | st.integers(1, 50),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_memory_and_sqlite_agree(steps: list[tuple[int, AggregateKey, int, Any, Any]]) -> None:
    with closing(SqliteDatabase(":memory:")) as database:
        stores: list[EventStore] = [MemoryEventStore(), SqliteEventStore(database)]
        outcomes: list[list[Any]] = []
        for store in stores:
            outcomes.append([[outcome(store, *step) for step in steps], everything(store)])
        assert outcomes[0] == outcomes[1]


def outcome(
    store: EventStore, number: int, key: AggregateKey, error: int, current: Any, ttl: Any
) -> str:
    """Try one event, possibly with a repeated ID or from a stale reading."""
    seen = store.state(key).sequence + error
    one = event(number, max(seen, 0) + 1, key, ttl=ttl, **current)
    write = Append([one], {key: fold(store.state(key), one)}, {key: seen}, counters={"n": 1})
    try:
        store.append(write, float(number))
    except (ConflictError, StorageError) as refusal:
        return type(refusal).__name__
    return "stored"
