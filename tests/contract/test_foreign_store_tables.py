"""Foreign stores on tables: PostgreSQL, SQLite and CSV files, with keys of any type."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from synchroscope.errors import ConfigurationError
from tests.foreign_places import walk
from tests.postgresql import schema_name
from tests.servers import postgresql_dsn
from validator.stores.opening import open_store


def test_a_postgresql_table_is_walked_and_fetched_by_keys_of_any_type() -> None:
    with schema_name() as schema, psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        place = f"{schema}.rows"
        connection.execute(f"CREATE TABLE {place} (day date, id int, v numeric)".encode())
        connection.execute(
            f"INSERT INTO {place} SELECT date '2026-01-01' + n % 3, n, n / 10.0 "
            "FROM generate_series(8, 30) n".encode()
        )
        uri = f"{postgresql_dsn()}?table={place}"
        with closing(open_store(uri, ["id"])) as store:
            assert [key for key, _ in walk(store, 4)] == [(str(n),) for n in range(8, 31)]
            assert store.fetch([("9",), ("no number",), ("31",)]) == {
                ("9",): {"day": "2026-01-01", "v": 0.9}
            }
            connection.execute(f"INSERT INTO {place} VALUES (now(), 8, 1)".encode())
            with pytest.raises(ConfigurationError, match="two rows with the key 8"):
                store.scan(None, 4)
        with closing(open_store(uri, ["day", "id"], ["v"])) as store:
            assert len(walk(store, 5)) == 24
            key = ("2026-01-01", "15")
            assert store.fetch([key, ("2026-01-02", "15")]) == {key: {"v": 1.5}}


def test_a_table_whose_name_has_dots_and_quotes_is_quoted_as_in_sql(tmp_path: Path) -> None:
    with schema_name() as schema, psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        path = tmp_path / "rows.db"
        for name in ("we.ird", 'a "b".c'):
            written = '"' + name.replace('"', '""') + '"'
            query = f"CREATE TABLE {schema}.{written} AS SELECT 1 AS id, 2 AS v".encode()
            connection.execute(query)
            with closing(sqlite3.connect(path)) as file, file:
                file.execute(f"CREATE TABLE {written} AS SELECT 1 AS id, 2 AS v")
            for uri in (
                f"{postgresql_dsn()}?table={quote(f'{schema}.{written}')}",
                f"sqlite://{path}?table={quote(written)}",
                f"sqlite://{path}?table={quote(name)}",
            ):
                with closing(open_store(uri, ["id"])) as store:
                    assert store.fetch([("1",)]) == {("1",): {"v": 2}}


def test_a_sqlite_table_is_walked_and_fetched_by_keys_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE rows (day TEXT, id INTEGER, v)")
        connection.executemany(
            "INSERT INTO rows VALUES (?, ?, ?)", [(f"d{n % 3}", n, n / 2) for n in range(8, 31)]
        )
        with closing(open_store(f"sqlite://{path}?table=rows", ["id"])) as store:
            assert [key for key, _ in walk(store, 4)] == [(str(n),) for n in range(8, 31)]
            assert store.fetch([("9",), ("no number",), ("31",), ("09",)]) == {
                ("9",): {"day": "d0", "v": 4.5}
            }
            connection.execute("INSERT INTO rows VALUES ('d9', 8, 1)")
            for act in (lambda: store.scan(None, 4), lambda: store.fetch([("8",)])):
                with pytest.raises(ConfigurationError, match="two rows with the key 8"):
                    act()
        with closing(open_store(f"sqlite://{path}?table=rows", ["day", "id"], ["v"])) as store:
            assert len(walk(store, 5)) == 24
            assert store.fetch([("d0", "15"), ("d1", "15")]) == {("d0", "15"): {"v": 7.5}}


def test_a_sqlite_key_is_found_whatever_its_type(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE rows (id, v)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", [(5, 1), ("6", 2), ("x", 3)])
    with closing(open_store(f"sqlite://{path}?table=rows", ["id"])) as store:
        found = dict(walk(store, 2))
        assert found == {("5",): {"v": 1}, ("6",): {"v": 2}, ("x",): {"v": 3}}
        assert store.fetch(found) == found


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the header line is missing"),
        (b"id,a,a\n", "names a twice"),
        (b"ids,a\n1,2\n", "did you mean 'ids'"),
        (b"id,a\n1,2\n3\n", "row 2 after the header: 1 values, the header has 2"),
        (b'id,a\n1,"2\n', "line 2: unexpected end of data"),
        (b"id,a\n1,\xff\n", "not UTF-8"),
        (b"id,a\n1,2\n1,3\n", "two rows with the key 1"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_named_with_its_place(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem):
        open_store(f"csv:{path}", ["id"]).scan(None, 10)


def test_a_csv_file_is_read_twice_however_often_rows_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    text = "".join(f'{n},k{n % 7},"a\n""{n}é"\r\n' for n in range(2_000))
    path.write_bytes(("id,kind,v\r\n" + text).encode())
    opened = 0
    open_path = Path.open

    def counted(self: Path, *arguments: Any, **options: Any) -> Any:
        nonlocal opened
        opened += self == path
        return open_path(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    with closing(open_store(f"csv:{path}", ["kind", "id"], ["v"])) as store:
        rows = dict(walk(store, 100))
        before = opened
        for start in range(0, 2_000, 50):
            keys = [(f"k{n % 7}", str(n)) for n in range(start, start + 50)]
            asked = [*keys, ("no", "row"), ("\ud800", "1")]
            assert store.fetch(asked) == {key: rows[key] for key in keys}
        assert opened == before + 2
        path.write_bytes(b"id,kind,v\n")
        with pytest.raises(ConfigurationError, match="was changed"):
            store.fetch([("k1", "1")])


def test_two_rows_of_a_csv_key_are_an_error_wherever_they_are_fetched(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,a\n1,2\n2,3\n1,4\n", encoding="utf-8")
    with closing(open_store(f"csv:{path}", ["id"])) as store:
        assert store.fetch([("2",)]) == {("2",): {"a": "3"}}
        with pytest.raises(ConfigurationError, match="two rows with the key 1"):
            store.fetch([("1",)])


def test_a_csv_file_that_changes_under_the_comparison_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,a\n1,2\n", encoding="utf-8")
    store = open_store(f"csv:{path}", ["id"])
    assert store.fetch([("1",)]) == {("1",): {"a": "2"}}
    path.write_text("id,a\n1,2\n3,4\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="was changed"):
        store.fetch([("1",)])


def test_a_sqlite_file_that_breaks_or_is_replaced_while_it_is_open_is_noticed(
    tmp_path: Path,
) -> None:
    def fill(name: str, value: int) -> Path:
        with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
            connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, v)")
            connection.executemany("INSERT INTO rows VALUES (?, ?)", [(n, value) for n in range(9)])
        return tmp_path / name

    file, other = fill("rows.db", 1), fill("other.db", 2)
    whole = file.read_bytes()
    with closing(open_store(f"sqlite://{file}?table=rows", ["id"])) as store:
        assert store.fetch([("5",)]) == {("5",): {"v": 1}}
        file.write_bytes(b"garbage " * 1_000)
        with pytest.raises(ConfigurationError, match="is it a SQLite file"):
            store.scan(None, 10)
        file.write_bytes(whole)
        assert len(walk(store)) == 9
        file.unlink()
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            store.scan(None, 10)
        other.rename(file)
        assert store.fetch([("5",)]) == {("5",): {"v": 2}}
