"""One schema in PostgreSQL for several stores: transactions, migrations, errors with a remedy."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pipeline import postgresql_database
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.postgresql_database import MIGRATIONS, PostgresqlDatabase, escaped, unescaped
from pipeline.postgresql_tables import EVENT_STORE, FUNCTIONS, REPLICAS, WHAT_IS_THERE
from pipeline.storage_postgresql import PostgresqlStorage
from synchroscope.errors import ConfigurationError, StorageError, UnavailableError
from tests.postgresql import postgresql_schema, schema_name
from tests.servers import postgresql_dsn


@pytest.fixture
def database() -> Iterator[PostgresqlDatabase]:
    with postgresql_schema() as database:
        run(database, "CREATE TABLE t(x integer UNIQUE)")
        yield database


def run(database: PostgresqlDatabase, statement: str) -> None:
    with database.transaction() as cursor:
        cursor.execute(statement.encode())


def add(database: PostgresqlDatabase, *numbers: int) -> None:
    with database.transaction() as cursor:
        for number in numbers:
            cursor.execute("INSERT INTO t VALUES(%s)", (number,))


def rows(database: PostgresqlDatabase) -> list[int]:
    return [row[0] for row in database.query("SELECT x FROM t ORDER BY x")]


# -- transactions ------------------------------------------------------------------------------


def test_a_transaction_is_stored_when_its_block_ends(database: PostgresqlDatabase) -> None:
    add(database, 1, 2)
    with closing(PostgresqlDatabase(postgresql_dsn(), database.schema)) as other:
        assert rows(other) == [1, 2]


def test_a_transaction_whose_block_raises_stores_nothing(database: PostgresqlDatabase) -> None:
    with pytest.raises(KeyboardInterrupt), database.transaction() as cursor:
        cursor.execute("INSERT INTO t VALUES(1)")
        raise KeyboardInterrupt
    assert rows(database) == []
    add(database, 2)
    assert rows(database) == [2]


def test_transactions_do_not_nest(database: PostgresqlDatabase) -> None:
    with (
        pytest.raises(StorageError, match="do not nest"),
        database.transaction(),
        database.transaction(),
    ):
        pass
    add(database, 1)


def test_a_contradiction_is_a_storage_error_with_its_cause(database: PostgresqlDatabase) -> None:
    with pytest.raises(StorageError, match=r"contradicts.*\(x\)=\(1\)") as caught:
        add(database, 1, 1)
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)
    assert rows(database) == []


def test_a_statement_that_takes_too_long_is_given_up(database: PostgresqlDatabase) -> None:
    run(database, "SET statement_timeout = 20")
    with pytest.raises(UnavailableError, match="statement timeout"):
        database.query("SELECT pg_sleep(20)")
    assert rows(database) == []


def test_a_mistake_of_ours_is_not_taken_for_a_lost_server(database: PostgresqlDatabase) -> None:
    with pytest.raises(StorageError, match="NUL"):
        database.query("SELECT %s::text", ("\0",))
    with pytest.raises(StorageError, match="placeholder"):
        database.query("SELECT %s", (1, 2))


def test_tables_that_are_gone_are_told_with_a_remedy(database: PostgresqlDatabase) -> None:
    run(database, f"DROP SCHEMA {database.schema} CASCADE")
    with pytest.raises(StorageError, match="the tables are gone: run `synchroscope prepare"):
        PostgresqlEventStore(database).count()


def test_the_tables_that_are_asked_for_are_those_that_there_are() -> None:
    with postgresql_schema() as database:
        found = database.query(WHAT_IS_THERE, (database.schema, database.schema))
        tables = {name for name, column in found if column is not None}
        columns = {pair for pair in found if pair[1] is not None}
        functions = {name for name, column in found if column is None}
    wanted = {**EVENT_STORE, **REPLICAS}
    assert tables == {*wanted, "migrations"}
    assert {pair for pair in columns if pair[0] != "migrations"} == {
        (table, column) for table, names in wanted.items() for column in names
    }
    assert functions == set(FUNCTIONS)


def reopened(database: PostgresqlDatabase, *, migrate: bool = True) -> PostgresqlDatabase:
    return PostgresqlDatabase(postgresql_dsn(), database.schema, migrate=migrate)


@pytest.mark.parametrize("table", EVENT_STORE)
def test_a_table_of_the_event_store_that_is_gone_is_a_loss_and_not_made_anew(
    database: PostgresqlDatabase, table: str
) -> None:
    run(database, f"DROP TABLE {table}")
    for migrate in (False, True):
        with pytest.raises(ConfigurationError, match=f"table {table} is gone: what the event"):
            reopened(database, migrate=migrate)
    assert database.query("SELECT to_regclass(%s)::text", (table,)) == [(None,)]


@pytest.mark.parametrize("table", [*REPLICAS, "make_partitions", "append", "replica_commit"])
def test_what_comes_from_the_log_or_from_here_is_made_anew(
    database: PostgresqlDatabase, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = PostgresqlStorage(database, "scorer@1")
    storage.incarnation()
    storage.begin("life")
    kind = "TABLE" if table in REPLICAS else "FUNCTION"
    run(database, f"DROP {kind} {table}")
    with pytest.raises(ConfigurationError, match=rf"{table} is gone: run `synchroscope prepare"):
        reopened(database, migrate=False)
    with closing(reopened(database)) as other:
        reopened(database, migrate=False).close()
        life = PostgresqlStorage(other, "scorer@1").incarnation()
    keeps_life = kind == "FUNCTION" or table == "replica_journal"
    assert life == ("life" if keeps_life else None)
    assert f"{table} is gone: made anew" in caplog.text


@pytest.mark.parametrize(
    ("table", "column", "remedy"),
    [
        ("events", "correlation_id", "restore the schema from a backup"),
        ("replica_journal", "data", "drop that table and run"),
    ],
)
def test_a_column_that_is_gone_is_named_with_a_remedy(
    database: PostgresqlDatabase, table: str, column: str, remedy: str
) -> None:
    run(database, f"ALTER TABLE {table} DROP COLUMN {column}")
    for migrate in (False, True):
        with pytest.raises(
            ConfigurationError, match=rf"column {column} of {table} is gone: .*{remedy}"
        ):
            reopened(database, migrate=migrate)
    with pytest.raises(StorageError, match="a column is gone: `synchroscope prepare"):
        database.query(f"SELECT {column} FROM {table}")


def test_a_closed_database_opens_again_when_it_is_used(database: PostgresqlDatabase) -> None:
    add(database, 1)
    database.close()
    database.close()
    assert rows(database) == [1]


@pytest.mark.parametrize("text", ["", "\0", "\1", "\2", "\0\1\2\1\1\0\0", "ü"])
def test_escaped_text_comes_back(text: str) -> None:
    assert unescaped(escaped(text)) == text
    assert "\0" not in escaped(text)


# -- migrations --------------------------------------------------------------------------------


def test_the_stores_share_a_schema_which_is_made_when_absent() -> None:
    with schema_name() as schema:
        for _ in range(2):
            with closing(PostgresqlDatabase(postgresql_dsn(), schema)) as database:
                assert PostgresqlEventStore(database).count() == 0
                assert PostgresqlStorage(database, "scorer@1").incarnation() is None


def test_many_that_start_at_once_make_the_tables_once() -> None:
    with schema_name() as schema:
        start = threading.Barrier(6)
        failures: list[BaseException] = []

        def connect() -> None:
            start.wait(10)
            try:
                PostgresqlDatabase(postgresql_dsn(), schema).close()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=connect) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with closing(PostgresqlDatabase(postgresql_dsn(), schema, migrate=False)) as database:
            names = [path.stem for path in sorted(MIGRATIONS.glob("*.sql"))]
            applied = database.query("SELECT title FROM migrations ORDER BY number")
            assert applied == [(name,) for name in names]


def test_tables_that_are_not_up_to_date_are_refused_where_none_may_be_made() -> None:
    with schema_name() as schema:
        with pytest.raises(ConfigurationError, match="not up to date: run `synchroscope prepare"):
            PostgresqlDatabase(postgresql_dsn(), schema, migrate=False)
        PostgresqlDatabase(postgresql_dsn(), schema).close()
        PostgresqlDatabase(postgresql_dsn(), schema, migrate=False).close()


def test_a_release_with_one_more_migration_applies_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MIGRATIONS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "9999_more.sql").write_text("CREATE TABLE more(x integer);")
    with postgresql_schema() as old:
        PostgresqlStorage(old, "scorer@1").begin("kept")
        monkeypatch.setattr(postgresql_database, "MIGRATIONS", tmp_path)
        with closing(PostgresqlDatabase(postgresql_dsn(), old.schema)) as new:
            assert new.query("SELECT * FROM more") == []
            assert PostgresqlStorage(new, "scorer@1").incarnation() == "kept"


def test_a_migration_that_fails_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MIGRATIONS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "9999_bad.sql").write_text("CREATE TABLE more(x integer); SELECT 1/0;")
    with postgresql_schema() as database:
        monkeypatch.setattr(postgresql_database, "MIGRATIONS", tmp_path)
        with pytest.raises(StorageError, match="division by zero"):
            PostgresqlDatabase(postgresql_dsn(), database.schema)
        assert database.query("SELECT to_regclass('more')::text") == [(None,)]


def test_tables_of_a_newer_release_are_refused_and_left_alone(database: PostgresqlDatabase) -> None:
    run(database, "INSERT INTO migrations VALUES(9999, 'newer', 'x')")
    run(database, "DELETE FROM migrations WHERE number = 1")
    with pytest.raises(ConfigurationError, match=r"newer release \(migration 9999\)"):
        PostgresqlDatabase(postgresql_dsn(), database.schema)
    assert database.query("SELECT count(*) FROM migrations WHERE number = 1") == [(0,)]


def test_tables_of_another_making_are_refused(database: PostgresqlDatabase) -> None:
    run(database, "UPDATE migrations SET checksum = 'other' WHERE number = 1")
    with pytest.raises(ConfigurationError, match=r"migration 1 of schema .* is not the one"):
        PostgresqlDatabase(postgresql_dsn(), database.schema)


# -- settings that are wrong -------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["", "With-Dash", "a b", 'a"; DROP', "1a", "a" * 64, "pg_x"])
def test_a_schema_that_is_no_plain_name_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        PostgresqlDatabase("postgresql://nobody@127.0.0.1:1/x", schema)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://sync:pass/word@127.0.0.1:1/postgres",
        "postgresql://sync:p@ssword@127.0.0.1:1/postgres",
        "postgresql://sync:pass%word@127.0.0.1:1/postgres",
        "host=127.0.0.1 port=1 password=pass word",
        "nonsense password",
    ],
)
def test_a_dsn_that_cannot_be_read_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="write postgresql://user:password@host") as caught:
        PostgresqlDatabase(dsn)
    told = str(caught.value).replace("password", "")
    assert "pass" not in told
    assert "word" not in told
    assert caught.value.__context__ is None or caught.value.__suppress_context__
