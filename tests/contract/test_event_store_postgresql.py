"""What the event store in PostgreSQL does beside the contract: many writers, partitions, damage."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings

from pipeline.event_store import AggregateState, Append, DeadLetter, EventStore, fold
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.postgresql_database import PostgresqlDatabase
from synchroscope.errors import ConflictError, StorageError
from synchroscope.ports import AggregateKey
from tests.contract.killing import acknowledged_when_killed
from tests.contract.test_event_store import (
    PLACE,
    RISK,
    START,
    STEPS,
    add,
    event,
    everything,
    outcome,
    positions,
)
from tests.postgresql import postgresql_schema, schema_name
from tests.servers import postgresql_dsn

LETTER = DeadLetter("r", "d", "s", b"")


@pytest.fixture
def database() -> Iterator[PostgresqlDatabase]:
    with postgresql_schema() as database:
        yield database


def another(database: PostgresqlDatabase) -> PostgresqlDatabase:
    return PostgresqlDatabase(postgresql_dsn(), database.schema)


def run(database: PostgresqlDatabase, statement: str) -> None:
    with database.transaction() as cursor:
        cursor.execute(statement.encode())


def before_counters(database: PostgresqlDatabase, statements: str) -> None:
    """Do something in every transaction, after its events and before its end."""
    run(
        database,
        f"CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statements} END $$;"
        "CREATE TRIGGER hook BEFORE INSERT ON counters FOR EACH ROW EXECUTE FUNCTION hook()",
    )


def partition_names(database: PostgresqlDatabase) -> list[str]:
    rows = database.query(
        "SELECT inhrelid::regclass::text FROM pg_inherits "
        "WHERE inhparent = 'events'::regclass ORDER BY 1"
    )
    return [row[0] for row in rows]


# -- many at once ------------------------------------------------------------------------------


def test_a_reader_that_goes_on_after_its_last_position_misses_nothing_of_many_writers(
    database: PostgresqlDatabase,
) -> None:
    writers, appends = 4, 40
    # Transactions of different length: what began earlier would often end later.
    before_counters(database, "PERFORM pg_sleep(random() * 0.01); RETURN new;")
    written: list[int] = []
    failures: list[BaseException] = []

    def write(number: int) -> None:
        rng = random.Random(number)
        key: AggregateKey = ("financial", f"user:{number}")
        sequence = 0
        try:
            with closing(another(database)) as mine:
                store = PostgresqlEventStore(mine)
                for _ in range(appends):
                    events = [
                        event(number * 100_000 + sequence + n + 1, sequence + n + 1, key, a=n)
                        for n in range(rng.randint(1, 5))
                    ]
                    add(store, *events, dead_letters=[LETTER], counters={f"n{number}": 1})
                    sequence += len(events)
        except BaseException as error:
            failures.append(error)
        written.append(sequence)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    letters: list[int] = []
    store = PostgresqlEventStore(database)
    while True:
        are_done = not any(thread.is_alive() for thread in threads)
        new = positions(store.read(seen[-1] if seen else 0, 7))
        seen += new
        found = store.read_dead_letters(letters[-1] if letters else 0, 7)
        letters += [letter.position for letter in found]
        if are_done and not new and not found:
            break
    assert failures == []
    assert seen == list(range(1, sum(written) + 1))
    assert letters == list(range(1, writers * appends + 1))
    assert [store.counter(f"n{number}") for number in range(writers)] == [appends] * writers


def test_of_writers_that_expect_the_same_exactly_one_is_stored(
    database: PostgresqlDatabase,
) -> None:
    rounds, writers = 15, 4
    start = threading.Barrier(writers)
    outcomes: list[list[str]] = [[] for _ in range(writers)]

    def write(number: int) -> None:
        with closing(another(database)) as mine:
            store = PostgresqlEventStore(mine)
            for turn in range(rounds):
                one = event(number * 1_000 + turn + 1, turn + 1, a=number)
                start.wait(20)
                try:
                    store.append(
                        Append([one], {RISK: fold(store.state(RISK), one)}, {RISK: turn}), 1.0
                    )
                except ConflictError as conflict:
                    assert (conflict.actual, len(conflict.state)) == (turn + 1, 1)
                    outcomes[number].append("conflict")
                else:
                    outcomes[number].append("stored")
                start.wait(20)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in zip(*outcomes, strict=True):
        assert sorted(turn) == ["conflict"] * (writers - 1) + ["stored"]
    store = PostgresqlEventStore(database)
    assert positions(store.history(RISK)) == list(range(1, rounds + 1))
    assert store.state(RISK).sequence == rounds


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path: Path) -> None:
    with schema_name() as schema:
        program = f"""
            import itertools
            from pipeline.event_store_postgresql import PostgresqlEventStore
            from pipeline.postgresql_database import PostgresqlDatabase
            from tests.contract.test_event_store import PLACE, RISK, add, event
            store = PostgresqlEventStore(PostgresqlDatabase({postgresql_dsn()!r}, {schema!r}))
            for number in itertools.count():
                first = 2 * number + 1
                add(
                    store,
                    event(first, number + 1, RISK, a=number),
                    event(first + 1, number + 1, PLACE, a=number),
                    tracking={{"s": str(number)}},
                    counters={{"n": 1}},
                )
                print(number, flush=True)
        """
        acknowledged = acknowledged_when_killed(program, tmp_path, 30)
        with closing(PostgresqlDatabase(postgresql_dsn(), schema)) as database:
            store = PostgresqlEventStore(database)
            # The server may still be at what it was sent last; it answers this one after that.
            store.append(Append(counters={"m": 1}), 1.0)
            last = int(store.tracking("s") or -1)
            assert last >= acknowledged
            assert store.counter("n") == last + 1
            assert positions(store.read(0, 99_999)) == list(range(1, 2 * last + 3))
            for key in (RISK, PLACE):
                assert store.state(key).sequence == last + 1
                assert store.state(key).values() == {"a": last}


# -- partitions --------------------------------------------------------------------------------


@pytest.fixture
def small(database: PostgresqlDatabase) -> PostgresqlEventStore:
    """A store with ten positions a partition."""
    run(database, "UPDATE marks SET value = 10 WHERE name = 'positions per partition'")
    return PostgresqlEventStore(database)


def test_a_store_goes_on_from_partition_to_partition(
    database: PostgresqlDatabase, small: PostgresqlEventStore
) -> None:
    memory = MemoryEventStore()
    for store in (memory, small):
        add(store, *(event(number, number, a=number) for number in range(1, 36)))
        add(store, event(36, 36, a=36), event(37, 1, PLACE, a=1))
    assert everything(small) == everything(memory)
    assert partition_names(database) == [f"events_00000{number}" for number in range(4)]


def test_the_next_partition_is_there_before_it_is_needed(
    database: PostgresqlDatabase, small: PostgresqlEventStore
) -> None:
    add(small, *(event(number, number, a=number) for number in range(1, 9)))
    assert partition_names(database) == ["events_000000"]
    add(small, event(9, 9, a=9))
    assert partition_names(database) == ["events_000000", "events_000001"]


@pytest.mark.parametrize("wrong", [event(1, 99, a=9), event(99, 1, a=9)], ids=["ID", "sequence"])
def test_what_another_partition_holds_is_refused(small: PostgresqlEventStore, wrong: Any) -> None:
    add(small, *(event(number, number, a=number) for number in range(1, 26)))
    before = everything(small)
    with pytest.raises(StorageError, match="stored already"):
        small.append(Append([event(50, 50, PLACE, a=1), wrong]), 2.0)
    assert everything(small) == before


@pytest.mark.parametrize("wrong", [event(1, 99, a=9), event(99, 1, a=9)], ids=["ID", "sequence"])
def test_a_repeat_within_an_append_is_refused_where_partitions_meet(
    small: PostgresqlEventStore, wrong: Any
) -> None:
    events = [event(number, number, a=number) for number in range(1, 16)]
    with pytest.raises(StorageError, match="stored already"):
        small.append(Append([*events, wrong]), 2.0)
    assert small.count() == 0


def test_a_long_reader_does_not_hold_up_a_new_partition(
    database: PostgresqlDatabase, small: PostgresqlEventStore
) -> None:
    add(small, event(1, 1, a=1))
    with closing(another(database)) as reader, reader.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM events")
        run(database, "SET statement_timeout = 2000")
        add(small, *(event(number, number, a=number) for number in range(2, 16)))
    assert positions(small.read(0, 99)) == list(range(1, 16))


# -- refusals and damage -----------------------------------------------------------------------


def test_a_failure_after_the_events_takes_them_back_and_leaves_no_gap(
    database: PostgresqlDatabase,
) -> None:
    store = PostgresqlEventStore(database)
    add(store, event(1, 1, a=1))
    before = everything(store)
    before_counters(database, "RAISE 'refused';")
    with pytest.raises(StorageError, match="refused"):
        add(store, event(2, 2, a=2), event(3, 3, a=3), tracking={"s": "x"}, counters={"n": 1})
    assert everything(store) == before
    run(database, "DROP TRIGGER hook ON counters")
    add(store, event(2, 2, a=2))
    assert positions(store.read(0, 9)) == [1, 2]


def test_a_conflict_is_told_before_a_repeat(database: PostgresqlDatabase) -> None:
    store = PostgresqlEventStore(database)
    add(store, event(1, 1, a=1))
    with pytest.raises(ConflictError):
        store.append(Append([event(1, 1, a=1), event(1, 1, a=1)], {}, {RISK: 0}), 2.0)


def test_the_first_of_several_conflicts_is_told(database: PostgresqlDatabase) -> None:
    store = PostgresqlEventStore(database)
    add(store, event(1, 1, a=1), event(2, 1, PLACE, b=1))
    with pytest.raises(ConflictError) as caught:
        store.append(Append(expected={("financial", "user:2"): 0, PLACE: 5, RISK: 5}), 2.0)
    assert (caught.value.context_type, caught.value.state) == ("geographic", {"b": 1})


@pytest.mark.parametrize("column", ["event_id", "sequence"])
def test_the_indexes_refuse_a_repeat_that_nobody_looked_for(
    database: PostgresqlDatabase, column: str
) -> None:
    add(PostgresqlEventStore(database), event(1, 1, a=1))
    other = {"event_id": "gen_random_uuid()", "sequence": "sequence + 1"}
    del other[column]
    [(unchanged, changed)] = other.items()
    with pytest.raises(StorageError, match="contradicts"):
        run(
            database,
            f"INSERT INTO events(position, context_type, subject, {column}, {unchanged}, "
            f"timestamp, recorded, data) SELECT 2, context_type, subject, {column}, {changed}, "
            "timestamp, recorded, data FROM events",
        )


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE events SET data = '\\xff7b'", "event 1"),
        ("UPDATE aggregates SET state = '\\xc1'", "the state of"),
    ],
)
def test_a_damaged_row_is_named(database: PostgresqlDatabase, statement: str, what: str) -> None:
    store = PostgresqlEventStore(database)
    add(store, event(1, 1, a=1))
    run(database, statement)
    with pytest.raises(StorageError, match=f"{what}.* is damaged"):
        store.state(RISK)
        store.read(0, 1)


@pytest.mark.parametrize("text", ["a\0b", "\0", "\1\1", "\1\0\2", "\\0", "ü\U0001f600"])
def test_any_text_is_kept_as_it_was(database: PostgresqlDatabase, text: str) -> None:
    memory = MemoryEventStore()
    store = PostgresqlEventStore(database)
    key = (text, f"user:{text}")
    letter = DeadLetter(text, text, text, text.encode())
    for one in (memory, store):
        add(
            one,
            event(1, 1, key, a=text, ttl=5, correlation_id=text),
            dead_letters=[letter],
            tracking={text: text},
            counters={text: 2},
        )
    for one in (memory, store):
        assert (one.tracking(text), one.counter(text)) == (text, 2)
        assert [*one.aggregates(0, 1), *one.aggregates(1, 1)] == [key]
        assert one.history(key) == one.read(0, 9) == memory.read(0, 9)
        with pytest.raises(ConflictError):
            one.append(Append(expected={key: 0}), 1.0)
    assert everything(store) == everything(memory)


def test_values_due_at_one_time_are_cut_off_in_the_same_order_as_in_memory(
    database: PostgresqlDatabase,
) -> None:
    subjects = ("\0", "\1", "\2", "\\", "a", "ü", "\U0001f600")
    memory, store = MemoryEventStore(), PostgresqlEventStore(database)
    for one in (memory, store):
        for number, subject in enumerate(subjects, 1):
            add(one, event(number, 1, ("t", f"user:{subject}"), a=1, ttl=10, at=START))
    for limit in range(len(subjects) + 1):
        assert store.due(9e9, limit) == memory.due(9e9, limit)


# -- memory and PostgreSQL agree ---------------------------------------------------------------


@pytest.fixture(scope="module")
def used() -> Iterator[PostgresqlDatabase]:
    with postgresql_schema() as database:
        yield database


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_memory_and_postgresql_agree(
    used: PostgresqlDatabase, steps: list[tuple[int, AggregateKey, int, Any, Any]]
) -> None:
    run(
        used,
        "DELETE FROM events; DELETE FROM aggregates; DELETE FROM tracking; DELETE FROM counters;"
        "UPDATE marks SET value = 0 WHERE name = 'events';"
        "DELETE FROM marks WHERE name LIKE 'newest%'",
    )
    stores: list[EventStore] = [MemoryEventStore(), PostgresqlEventStore(used)]
    outcomes: list[list[Any]] = []
    for store in stores:
        outcomes.append([[outcome(store, *step) for step in steps], everything(store)])
    assert outcomes[0] == outcomes[1]


# -- what it costs -----------------------------------------------------------------------------


def test_an_append_reads_what_it_asks_for_however_much_is_stored(
    database: PostgresqlDatabase,
) -> None:
    if int(database.query("SELECT current_setting('server_version_num')")[0][0]) < 150_000:
        pytest.skip("statistics are exact from PostgreSQL 15 on")
    store = PostgresqlEventStore(database)
    users: list[AggregateKey] = [("financial", f"user:n{number}") for number in range(3_000)]
    for number in range(10):
        add(store, event(10_000 + number, number + 1, a=1))
        # The plans are made now, for a table of next to nothing.
        run(database, "ANALYZE aggregates; ANALYZE events")
    store.append(
        Append(
            [event(number, 1, key, a=1) for number, key in enumerate(users)],
            {key: AggregateState(1) for key in users},
            dict.fromkeys(users, 0),
        ),
        1.0,
    )
    before = rows_read(database)
    few = users[:20]
    store.append(
        Append(
            [event(20_000 + number, 2, key, a=1) for number, key in enumerate(few)],
            {key: AggregateState(2) for key in few},
            dict.fromkeys(few, 1),
        ),
        1.0,
    )
    assert store.contains([str(UUID(int=20_000))]) == {str(UUID(int=20_000))}
    assert len(store.history(few[0], until=store.count())) == 2
    assert rows_read(database) - before < 1_000


def rows_read(database: PostgresqlDatabase) -> int:
    database.query("SELECT pg_stat_force_next_flush()")
    [(rows,)] = database.query(
        "SELECT (SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables "
        "WHERE schemaname = current_schema()) + (SELECT sum(idx_tup_read)::bigint "
        "FROM pg_stat_user_indexes WHERE schemaname = current_schema())"
    )
    total: int = rows
    return total
