"""Keys of PostgreSQL tables: of any name, any type and any number, each of them once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from synchroscope.errors import ConfigurationError, UnavailableError
from tests.foreign_places import walk
from tests.postgresql import empty_schema, execute
from tests.servers import postgresql_dsn
from tests.silent_proxy import SilentProxy
from validator.compare import comparing
from validator.compare.comparing import Comparison
from validator.stores import postgresql
from validator.stores.opening import open_store


@pytest.fixture
def schema() -> Iterator[str]:
    with empty_schema() as name:
        yield name


def uri(schema: str, table: str) -> str:
    return f"{postgresql_dsn()}?table={quote(f'{schema}.{table}')}"


def compare(left: str, right: str, key: str = "id") -> list[tuple[str, str]]:
    comparison = Comparison(lambda: open_store(left, [key]), lambda: open_store(right, [key]))
    return sorted((", ".join(d.key), d.kind) for d in comparison.run())


@pytest.mark.parametrize("declared", ["int", "text", "numeric", "float8", "interval"])
@pytest.mark.parametrize("border", [1, 2, 4, 9])
def test_two_rows_of_one_key_are_an_error_also_on_a_pages_border(
    declared: str, border: int, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "i * interval '1 day'" if declared == "interval" else f"i::{declared}"
    execute(f"CREATE TABLE {schema}.a (id {declared}, v text)")
    execute(f"INSERT INTO {schema}.a SELECT {made}, 'v' FROM generate_series(1, 9) i")
    execute(f"CREATE TABLE {schema}.b AS SELECT * FROM {schema}.a")
    execute(f"INSERT INTO {schema}.a SELECT {made}, 'w' FROM generate_series({border}, {border}) i")
    with closing(open_store(uri(schema, "b"), ["id"])) as store:
        keys = [key for (key,), _ in walk(store)]
    path = tmp_path / "b.csv"
    path.write_text("id,v\n" + "".join(f"{key},v\n" for key in keys), encoding="utf-8")
    monkeypatch.setattr(comparing, "PAGE_ROWS", border)

    with pytest.raises(ConfigurationError, match="two rows with the key"):
        compare(uri(schema, "a"), f"csv:{path}")
    assert compare(uri(schema, "b"), f"csv:{path}") == []


@pytest.mark.parametrize("name", ["growth%", "%s", "100%%", "%(x)s", "$1", "{}", 'a"%b'])
def test_names_may_have_any_signs(name: str, schema: str, tmp_path: Path) -> None:
    for table, value in (("a", 7), (name, 8)):
        query = sql.SQL("CREATE TABLE {} AS SELECT i AS {}, {} AS {} FROM generate_series(1, 3) i")
        with psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
            connection.execute(
                query.format(
                    sql.Identifier(schema, table),
                    sql.Identifier(name),
                    sql.SQL("CASE i WHEN 2 THEN {} ELSE 0 END").format(value),
                    sql.Identifier(f"{name} too"),
                )
            )
    path = tmp_path / "b.csv"
    written = name.replace('"', '""')
    path.write_text(f'"{written}","{written} too"\n1,0\n2,8\n3,0\n', encoding="utf-8")
    other = '"' + written + '"'

    assert compare(uri(schema, "a"), uri(schema, other), name) == [("2", "changed")]
    assert compare(uri(schema, "a"), f"csv:{path}", name) == [("2", "changed")]
    with closing(open_store(uri(schema, other), [name])) as store:
        assert len(walk(store, 1)) == 3


def test_a_question_that_cannot_be_asked_is_no_server_that_is_away(schema: str) -> None:
    def misuse(connection: Any) -> None:
        connection.execute("SELECT %d", [1])

    execute(f"CREATE TABLE {schema}.a (id int)")
    with (
        closing(postgresql.PostgresqlStore(uri(schema, "a"), ["id"])) as store,
        pytest.raises(ConfigurationError, match="cannot be asked"),
    ):
        store._do(misuse)


@pytest.mark.parametrize("declared", ["int", "smallint", "uuid", "date", "inet", "bool", "numeric"])
def test_keys_that_the_type_cannot_hold_are_absent_and_cost_no_connection(
    declared: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "date": "2026-01-01",
        "inet": "10.0.0.1/8",
        "bool": "true",
    }
    key = keys.get(declared, "5")
    execute(f"CREATE TABLE {schema}.a (id {declared} PRIMARY KEY, v text)")
    execute(f"INSERT INTO {schema}.a VALUES ('{key}', 'x')")
    connect, connections = psycopg.connect, []

    def counted(*arguments: Any, **options: Any) -> Any:
        connections.append(connect(*arguments, **options))
        return connections[-1]

    monkeypatch.setattr(psycopg, "connect", counted)
    odd = [(f"k{n}",) for n in range(500)] + [("a\0b",), ("\ud800",), ("99999999999999999999x",)]
    with closing(open_store(uri(schema, "a"), ["id"])) as store:
        began = time.monotonic()
        assert store.fetch([*odd, (key,)]) == {(key,): {"v": "x"}}
        assert store.fetch(odd) == {}
        assert time.monotonic() - began < 10
    assert len(connections) == 1


def test_a_column_that_cannot_be_calculated_is_an_error_and_no_absent_row(schema: str) -> None:
    execute(
        f"CREATE VIEW {schema}.a AS SELECT i AS id, 1 / (i - 2) AS v FROM generate_series(1, 3) i"
    )
    execute(
        f"CREATE VIEW {schema}.b AS SELECT i AS id, ('x' || i)::int AS v "
        "FROM generate_series(1, 3) i"
    )
    for table in "ab":
        with (
            closing(open_store(uri(schema, table), ["id"])) as store,
            pytest.raises(ConfigurationError),
        ):
            store.fetch([("1",), ("2",)])


def test_keys_under_a_collation_that_is_not_deterministic_are_told_apart(
    schema: str, tmp_path: Path
) -> None:
    execute(
        f"CREATE COLLATION {schema}.ci (provider = icu, locale = 'und-u-ks-level2', "
        "deterministic = false)"
    )
    for table, rows in {
        "a": "('a', 'x'), ('b', 'V'), ('c', 'same')",
        "b": "('A', 'x'), ('b', 'v'), ('c', 'same')",
        "both": "('a', 'x'), ('A', 'x')",
    }.items():
        columns = f"(id text COLLATE {schema}.ci, v text COLLATE {schema}.ci)"
        execute(f"CREATE TABLE {schema}.{table} {columns}")
        execute(f"INSERT INTO {schema}.{table} VALUES {rows}")
    path = tmp_path / "b.csv"
    path.write_text("id,v\nA,x\nb,v\nc,same\n", encoding="utf-8")
    must = [("A", "extra"), ("a", "missing"), ("b", "changed")]

    assert compare(uri(schema, "a"), uri(schema, "b")) == must
    assert compare(uri(schema, "a"), f"csv:{path}") == must
    assert compare(uri(schema, "b"), f"csv:{path}") == []
    with closing(open_store(uri(schema, "both"), ["id"])) as store:
        assert sorted(walk(store, 1)) == [(("A",), {"v": "x"}), (("a",), {"v": "x"})]
        assert sorted(store.fetch([("a",), ("A",)])) == [("A",), ("a",)]


def test_intervals_that_are_as_long_are_two_keys(schema: str) -> None:
    execute(f"CREATE TABLE {schema}.a (id interval, v text)")
    execute(f"INSERT INTO {schema}.a VALUES ('1 mon', 'x'), ('30 days', 'y'), ('720:00', 'z')")
    with closing(open_store(uri(schema, "a"), ["id"])) as store:
        rows = walk(store, 1)
        assert len(rows) == 3
        assert store.fetch([key for key, _ in rows]) == dict(rows)


def test_minus_zero_is_the_key_zero(schema: str) -> None:
    execute(f"CREATE TABLE {schema}.a (id float8 PRIMARY KEY, v text)")
    execute(f"INSERT INTO {schema}.a VALUES ('-0', 'x'), (0.1, 'y')")
    execute(f"CREATE TABLE {schema}.b AS SELECT abs(id) AS id, v || '!' AS v FROM {schema}.a")
    assert compare(uri(schema, "a"), uri(schema, "b")) == [("0", "changed"), ("0.1", "changed")]


def test_numbers_in_json_beyond_every_float_are_told_apart(schema: str) -> None:
    for table, numbers in {
        "a": ("1e400", "1e4000", "1e-3"),
        "b": ("1e401", "1e4001", "1.0e-3"),
    }.items():
        execute(f"CREATE TABLE {schema}.{table} (id int PRIMARY KEY, v json)")
        for number, value in enumerate(numbers):
            execute(f"INSERT INTO {schema}.{table} VALUES ({number}, '{value}')")
    assert compare(uri(schema, "a"), uri(schema, "b")) == [("0", "changed"), ("1", "changed")]


@pytest.mark.parametrize("act", ["scan", "fetch", "digests"])
def test_a_server_that_falls_silent_is_away_once_the_time_is_over(
    act: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(f"CREATE TABLE {schema}.a AS SELECT 1 AS id, 2 AS v")
    monkeypatch.setattr(postgresql, "GRACE_SECONDS", -59.0)
    asked = {
        "scan": lambda store: store.scan(None, 10),
        "fetch": lambda store: store.fetch([("1",)]),
        "digests": lambda store: store.digests(),
    }
    with SilentProxy(postgresql_dsn()) as proxy:
        store = open_store(proxy.uri + uri(schema, "a").removeprefix(postgresql_dsn()), ["id"])
        with closing(store):
            assert store.columns() == ["v"]
            proxy.fall_silent()
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="no answer within 1 s"):
                asked[act](store)
            assert time.monotonic() - began < 10
            proxy.speak()
            assert store.fetch([("1",)]) == {("1",): {"v": 2}}


@pytest.mark.parametrize("declared", ["int[]", "list"])
def test_an_array_is_refused_as_a_key_at_once(declared: str, schema: str) -> None:
    execute(f"CREATE DOMAIN {schema}.list AS int[]")
    kind = f"{schema}.list" if declared == "list" else declared
    for name in "ab":
        execute(f"CREATE TABLE {schema}.{name} (id {kind} PRIMARY KEY, v int)")
    with pytest.raises(ConfigurationError, match="'id' is an array"):
        compare(uri(schema, "a"), uri(schema, "b"))
