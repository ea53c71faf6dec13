"""What the replica storage in PostgreSQL does beside the contract: plain SQL, damage, slices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.postgresql_database import PostgresqlDatabase
from pipeline.storage_postgresql import SCAN_SLICE_RECORDS, PostgresqlStorage
from synchroscope.digest import aggregate_hash
from synchroscope.errors import StorageError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, ReplicaStorage
from tests.contract.killing import acknowledged_when_killed
from tests.contract.test_event_store_postgresql import rows_read
from tests.contract.test_replica_storage import (
    COMMITS,
    PLACE,
    RISK,
    chunk,
    keep,
    record,
    told,
)
from tests.postgresql import postgresql_schema, schema_name
from tests.servers import postgresql_dsn

REPLICA = "scorer@1"


@pytest.fixture
def database() -> Iterator[PostgresqlDatabase]:
    with postgresql_schema() as database:
        yield database


@pytest.fixture
def storage(database: PostgresqlDatabase) -> PostgresqlStorage:
    return PostgresqlStorage(database, REPLICA)


def run(database: PostgresqlDatabase, statement: str, *parameters: Any) -> None:
    with database.transaction() as cursor:
        cursor.execute(statement.encode(), parameters or None)


def subjects(storage: ReplicaStorage, partition: int = 0) -> list[str]:
    return [one.subject for bucket in (0, 1) for one in storage.scan(partition, bucket, 1)]


def test_everything_is_there_for_another_process() -> None:
    with schema_name() as schema:
        with closing(PostgresqlDatabase(postgresql_dsn(), schema)) as database:
            storage = PostgresqlStorage(database, REPLICA)
            storage.begin("life")
            storage.commit({RISK: record(RISK, a=1)}, 0, b"state", chunk(0))
            storage.close()
            storage.close()
        with closing(PostgresqlDatabase(postgresql_dsn(), schema)) as database:
            storage = PostgresqlStorage(database, REPLICA)
            assert storage.incarnation() == "life"
            assert storage.get(RISK) == record(RISK, a=1)
            assert storage.partition_state(0) == b"state"
            assert storage.journal(0, 0) == [chunk(0)]


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path: Path) -> None:
    with schema_name() as schema:
        program = f"""
            import itertools
            from pipeline.postgresql_database import PostgresqlDatabase
            from pipeline.storage_postgresql import PostgresqlStorage
            from tests.contract.test_replica_storage import PLACE, RISK, chunk, record
            database = PostgresqlDatabase({postgresql_dsn()!r}, {schema!r})
            storage = PostgresqlStorage(database, {REPLICA!r})
            storage.begin("life")
            for number in itertools.count():
                records = {{key: record(key, number, a=number) for key in (RISK, PLACE)}}
                storage.commit(records, 0, str(number).encode(), chunk(number), number - 9)
                print(number, flush=True)
        """
        acknowledged = acknowledged_when_killed(program, tmp_path, 30)
        with closing(PostgresqlDatabase(postgresql_dsn(), schema)) as database:
            storage = PostgresqlStorage(database, REPLICA)
            assert storage.incarnation() == "life"
            # The server may still be at what it was sent last; nobody else may write before that.
            run(database, "SELECT 1 FROM replica_partitions FOR UPDATE")
            last = int(storage.partition_state(0) or b"-1")
            assert last >= acknowledged
            for key in (RISK, PLACE):
                assert storage.get(key) == record(key, last, a=last)
            assert storage.journal(0, 0) == [chunk(number) for number in range(last - 9, last + 1)]


def test_anybody_can_read_facts_by_sql(
    database: PostgresqlDatabase, storage: PostgresqlStorage
) -> None:
    keep(storage, record(RISK, 7, risk="high", limit=2.5))
    assert database.query(
        "SELECT fields -> 'risk' ->> 0, (fields -> 'limit' ->> 0)::float8, sequence, partition "
        "FROM replica_aggregates WHERE replica = 'scorer@1' AND context_type = 'financial' "
        "AND subject = 'user:1'"
    ) == [("high", 2.5, 7, 0)]


@pytest.mark.parametrize("text", ["a\0b", "\0", "\1\1", "\\0", "ü\U0001f600", '"', "x" * 256])
def test_any_text_is_kept_as_it_was(storage: PostgresqlStorage, text: str) -> None:
    key = (text, text)
    stored = record(key, 1, 0, **{text: [text, {text: text}]})
    storage.begin(text)
    keep(storage, stored)
    assert storage.incarnation() == text
    storage.prefetch([key])
    assert storage.get(key) == stored
    storage.prefetch([])
    assert storage.get(key) == stored
    assert [*storage.scan(0, 0, 1), *storage.scan(0, 1, 1)] == [stored]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("fields", "1"),
        ("fields", "[]"),
        ("fields", '{"a": 1}'),
        ("fields", '{"a": [1]}'),
        ("fields", '{"a": [1, null]}'),
        ("fields", '{"a": [1, 1.5]}'),
        ("fields", '{"a": ["\\ud800", 1]}'),
        ("fields", '{"a": [18446744073709551615, 1]}'),
        ("fields", '{"a": [1e999, 1]}'),
        ("fields", '{"a": [' + "[" * 5_000 + "]" * 5_000 + ", 1]}"),
        ("missing", "{NULL}"),
        ("missing", "{{1,2},{3,4}}"),
    ],
)
def test_what_cannot_be_read_is_absent_and_no_crash(
    database: PostgresqlDatabase, storage: PostgresqlStorage, column: str, value: str
) -> None:
    keep(storage, record(RISK, a=1), record(("financial", "user:2"), a=1))
    kind = "json" if column == "fields" else "bigint[]"
    run(
        database,
        f"UPDATE replica_aggregates SET {column} = %s::{kind} WHERE subject = 'user:1'",
        value,
    )
    assert storage.get(RISK) is None
    storage.prefetch([RISK])
    assert storage.get(RISK) is None
    assert subjects(storage) == ["user:2"]
    keep(storage, record(RISK, a=2))
    assert storage.get(RISK) == record(RISK, a=2)


def test_an_aggregate_under_a_wrong_hash_is_in_no_bucket_until_a_sweep_came_by(
    database: PostgresqlDatabase, storage: PostgresqlStorage
) -> None:
    keep(storage, record(RISK, a=1), record(PLACE, a=1))
    run(
        database,
        "UPDATE replica_aggregates SET hash = %s WHERE context_type = 'financial'",
        aggregate_hash(*PLACE).to_bytes(8, "big"),
    )
    assert subjects(storage) == [PLACE[1]]
    assert storage.sweep(0, b"", 10).mended == 1
    assert sorted(subjects(storage)) == sorted([RISK[1], PLACE[1]])


def test_a_bucket_larger_than_a_slice_is_scanned_whole_and_in_order(
    storage: PostgresqlStorage,
) -> None:
    everyone = [("t", str(number)) for number in range(2 * SCAN_SLICE_RECORDS + 300)]
    keep(storage, *(record(key) for key in everyone))
    halves = [[one.subject for one in storage.scan(0, bucket, 1)] for bucket in (0, 1)]
    assert max(map(len, halves)) > SCAN_SLICE_RECORDS
    expected = sorted(everyone, key=lambda key: aggregate_hash(*key))
    assert halves[0] + halves[1] == [subject for _, subject in expected]


def test_a_slice_may_end_exactly_with_its_bucket(storage: PostgresqlStorage) -> None:
    low = [
        ("t", str(n))
        for n in range(5 * SCAN_SLICE_RECORDS)
        if not aggregate_hash("t", str(n)) >> 63
    ]
    keep(storage, *(record(key) for key in low[:SCAN_SLICE_RECORDS]))
    assert len(list(storage.scan(0, 0, 1))) == SCAN_SLICE_RECORDS


def test_a_refused_commit_leaves_nothing_and_may_be_tried_again(
    database: PostgresqlDatabase, storage: PostgresqlStorage
) -> None:
    storage.commit({RISK: record(RISK, a=1)}, 0, b"before", chunk(0))
    run(
        database,
        "CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE 'refused'; END $$;"
        "CREATE TRIGGER hook BEFORE INSERT ON replica_journal FOR EACH ROW EXECUTE FUNCTION hook()",
    )
    with pytest.raises(StorageError, match="refused"):
        storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"after", chunk(1))
    assert storage.get(RISK) == record(RISK, a=1)
    run(database, "DROP TRIGGER hook ON replica_journal")
    storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"after", chunk(1))
    assert storage.partition_state(0) == b"after"
    assert storage.journal(0, 0) == [chunk(0), chunk(1)]


def test_a_new_life_waits_for_a_commit_that_is_under_way(
    database: PostgresqlDatabase, storage: PostgresqlStorage
) -> None:
    storage.begin("first")
    with closing(PostgresqlDatabase(postgresql_dsn(), database.schema)) as second:
        other = PostgresqlStorage(second, REPLICA)
        other.incarnation()
        [(process,)] = second.query("SELECT pg_backend_pid()")
        begun = threading.Thread(target=other.begin, args=("second",))
        with database.transaction() as cursor:
            cursor.execute(
                "SELECT replica_commit(%s, 'first', 0, 0, 7, 'state', '{financial}', '{user:1}', "
                "'{0}', '{x}', '{1}', ARRAY['{}'], ARRAY['{}'], NULL, NULL, NULL, 0)",
                (REPLICA,),
            )
            assert cursor.fetchall() == [(True,)]
            begun.start()
            limit = time.monotonic() + 10
            is_waiting = False
            while begun.is_alive() and not is_waiting and time.monotonic() < limit:
                cursor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (process,))
                is_waiting = cursor.fetchall() == [(True,)]
        begun.join()
        assert is_waiting
        assert (other.incarnation(), other.partition_state(0)) == ("second", None)
        assert database.query("SELECT * FROM replica_aggregates") == []


# -- memory and PostgreSQL agree ---------------------------------------------------------------


@pytest.fixture(scope="module")
def used() -> Iterator[PostgresqlDatabase]:
    with postgresql_schema() as database:
        yield database


@settings(max_examples=40, deadline=None)
@given(commits=st.lists(COMMITS, max_size=10), begin_at=st.integers(0, 20))
def test_memory_and_postgresql_agree(
    used: PostgresqlDatabase, commits: list[Any], begin_at: int
) -> None:
    for table in ("lives", "aggregates", "partitions", "journal"):
        run(used, f"DELETE FROM replica_{table}")
    storages: list[ReplicaStorage] = [MemoryStorage(), PostgresqlStorage(used, REPLICA)]
    for storage in storages:
        for number, (values, partition, state, has_chunk, floor) in enumerate(commits):
            if number == begin_at:
                storage.begin("again")
            # An aggregate stays in its partition, as it does in a log.
            records = {key: record(key, number, len(key[1]) % 2, a=v) for key, v in values.items()}
            keys: list[AggregateKey] = list(records)
            storage.prefetch(keys)
            one = chunk(number) if has_chunk else None
            storage.commit(records, partition, state, one, floor)
    assert told(storages[0]) == told(storages[1])


# -- what it costs -----------------------------------------------------------------------------


def test_a_prefetch_reads_what_it_asks_for_however_much_is_stored(
    database: PostgresqlDatabase, storage: PostgresqlStorage
) -> None:
    if int(database.query("SELECT current_setting('server_version_num')")[0][0]) < 150_000:
        pytest.skip("statistics are exact from PostgreSQL 15 on")
    everyone: list[AggregateKey] = [("financial", f"user:{number}") for number in range(3_000)]
    for number in range(10):
        keep(storage, record(everyone[0], number, a=1))
        storage.prefetch(everyone[:20])
        # The plans are made now, for a table of next to nothing.
        run(database, "ANALYZE replica_aggregates")
    keep(storage, *(record(key, a=1) for key in everyone))
    before = rows_read(database)
    storage.prefetch(everyone[:20])
    assert storage.get(everyone[19]) == record(everyone[19], a=1)
    storage.prefetch([])
    assert storage.get(everyone[19]) == record(everyone[19], a=1)
    keep(storage, *(record(key, 2, a=2) for key in everyone[:20]))
    assert rows_read(database) - before < 500
