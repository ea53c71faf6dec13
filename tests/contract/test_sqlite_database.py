"""One SQLite file for several stores: transactions, its lock, errors that say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_sqlite import SqliteLog
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.errors import StorageError
from synchroscope.ports import EVENTS
from tests.contract.killing import acknowledged_when_killed


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        database.execute("CREATE TABLE t(x INTEGER UNIQUE)")
        yield database


def rows(database: SqliteDatabase) -> list[int]:
    return [row[0] for row in database.execute("SELECT x FROM t ORDER BY x")]


def test_a_transaction_is_stored_when_its_block_ends(database: SqliteDatabase) -> None:
    with database.transaction():
        database.execute_many("INSERT INTO t VALUES(?)", [(1,), (2,)])
    assert rows(database) == [1, 2]


def test_a_transaction_whose_block_raises_stores_nothing(database: SqliteDatabase) -> None:
    with pytest.raises(KeyboardInterrupt), database.transaction():
        database.execute("INSERT INTO t VALUES(1)")
        raise KeyboardInterrupt
    assert rows(database) == []
    with database.transaction():
        database.execute("INSERT INTO t VALUES(2)")
    assert rows(database) == [2]


def test_transactions_do_not_nest(database: SqliteDatabase) -> None:
    with (
        pytest.raises(StorageError, match="do not nest"),
        database.transaction(),
        database.transaction(),
    ):
        pass


def test_the_log_and_the_event_store_share_a_file(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "shared.db")) as database:
        SqliteLog(database, {EVENTS: 1})
        SqliteEventStore(database)
    with closing(SqliteDatabase(tmp_path / "shared.db")) as database:
        assert SqliteEventStore(database).count() == 0
        assert SqliteLog(database, {}).partitions(EVENTS) == 1


def test_tables_of_a_newer_release_are_refused(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "data.db")) as database:
        SqliteEventStore(database)
        database.execute("UPDATE schema_versions SET version = 99")
        with pytest.raises(StorageError, match="version 99, of a newer release"):
            SqliteEventStore(database)


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first = SqliteDatabase(tmp_path / "data.db")
    with pytest.raises(StorageError, match="in use by another writer"):
        SqliteDatabase(tmp_path / "data.db")
    first.close()
    first.close()
    SqliteDatabase(tmp_path / "data.db").close()


def test_the_lock_of_a_killed_writer_is_gone(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from pipeline.sqlite_database import SqliteDatabase
        from synchroscope.errors import StorageError
        database = SqliteDatabase(Path(sys.argv[1]) / "data.db")
        print(0, flush=True)
        try:
            SqliteDatabase(Path(sys.argv[1]) / "data.db")
        except StorageError:
            print(1, flush=True)
        sys.stdin.read()
    """
    assert acknowledged_when_killed(program, tmp_path, 2) == 1
    SqliteDatabase(tmp_path / "data.db").close()


def test_a_file_that_is_no_database_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, whatever its name\n" * 100)
    with pytest.raises(StorageError, match=r"notes\.txt: it is not a SQLite database"):
        SqliteDatabase(path)
    with pytest.raises(StorageError, match="is not a SQLite database"):
        SqliteDatabase(path)


def test_a_folder_that_does_not_exist_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="check that the folder exists"):
        SqliteDatabase(tmp_path / "absent" / "data.db")
    with pytest.raises(StorageError, match="start its writer first"):
        SqliteDatabase(tmp_path / "data.db", exclusive=False)


def test_a_folder_in_place_of_the_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "data.db").mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        SqliteDatabase(tmp_path / "data.db")


def test_a_full_disk_is_told_and_nothing_is_half_written(database: SqliteDatabase) -> None:
    database.execute("CREATE TABLE big(x BLOB)")
    database.execute("PRAGMA max_page_count = 20")
    with pytest.raises(StorageError, match="free some space"), database.transaction():
        database.execute("INSERT INTO t VALUES(1)")
        database.execute("INSERT INTO big VALUES(zeroblob(1000000))")
    assert rows(database) == []
    with database.transaction():
        database.execute("INSERT INTO t VALUES(2)")
    assert rows(database) == [2]


def test_a_foreign_write_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sqlite_database.BUSY_TIMEOUT_SECONDS", 0.01)
    with (
        closing(SqliteDatabase(tmp_path / "data.db")) as database,
        closing(sqlite3.connect(tmp_path / "data.db", isolation_level=None)) as foreign,
    ):
        foreign.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(StorageError, match="another process is writing"),
            database.transaction(),
        ):
            pass


def test_a_contradiction_is_a_storage_error_with_its_cause(database: SqliteDatabase) -> None:
    with pytest.raises(StorageError, match="contradicts") as caught, database.transaction():
        database.execute_many("INSERT INTO t VALUES(?)", [(1,), (1,)])
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert rows(database) == []
