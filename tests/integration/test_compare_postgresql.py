"""Tables in PostgreSQL: the buckets that differ are read alone, and lag is no difference."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import redis
from click.testing import CliRunner

from service.cli import cli
from synchroscope.errors import ConfigurationError
from tests.compared_tables import ROWS, compare, fill, schema, uri
from tests.postgresql import execute
from tests.redis import redis_prefix
from tests.servers import postgresql_dsn, redis_url
from validator.compare.comparing import Comparison
from validator.stores.opening import open_store

__all__ = ["schema"]


def spoil(schema: str, table: str, rng: random.Random) -> dict[str, tuple[str, list[str]]]:
    """Change, delete and add some rows; return what was done."""
    must: dict[str, tuple[str, list[str]]] = {}
    numbers = rng.sample(range(2, 2 * ROWS, 2), 60)
    changes = {
        "v": "v || 'x'",
        "n": "n + 0.0000000001",
        "at": "at + interval '1 us'",
        "f": "f + 1",
        "j": """j || '{"b": null}'""",
        "t": "CASE WHEN t IS NULL THEN true END",
        "p": "point(p[0], 2)",
    }
    for number in numbers[:40]:
        names = sorted(rng.sample(sorted(changes), 2), key=list(changes).index)
        done = ", ".join(f"{name} = {changes[name]}" for name in names)
        execute(f"UPDATE {schema}.{table} SET {done} WHERE id::text = '{number}'")
        must[str(number)] = ("changed", names)
    for number in numbers[40:50]:
        execute(f"DELETE FROM {schema}.{table} WHERE id::text = '{number}'")
        must[str(number)] = ("missing", [])
    for number in numbers[50:]:
        execute(
            f"INSERT INTO {schema}.{table} SELECT (id::text::int + 1)::text::{TYPES[table]}, v, n, "
            f"at, f, j, t, p FROM {schema}.{table} WHERE id::text = '{number}'"
        )
        must[str(number + 1)] = ("extra", [])
    return must


TYPES = {"b": "bigint", "i": "integer", "s": "text", "u": "varchar(20)"}


@pytest.mark.parametrize(
    ("left", "right", "method"),
    [
        ("bigint", "b", "bucket digests"),
        ("bigint", "i", "bucket digests"),
        ("text", "s", "bucket digests"),
        ("text", "u", "bucket digests"),
        ("bigint", "s", "all rows"),
    ],
)
def test_exactly_the_rows_that_differ_are_named(
    left: str, right: str, method: str, schema: str
) -> None:
    fill(schema, "a", left)
    fill(schema, right, TYPES[right])
    differences, summary = compare(schema, right=right)
    assert differences == []
    assert summary.method == method
    assert summary.exit_code == 0

    must = spoil(schema, right, random.Random(method + right))
    differences, summary = compare(schema, right=right)

    assert {d.key[0]: (d.kind, list(d.columns)) for d in differences} == must
    assert summary.exit_code == 1
    assert list(summary.rows) == [ROWS, ROWS]
    if method == "bucket digests":
        assert 0 < summary.buckets_differing <= 60


def test_values_that_are_written_otherwise_are_the_same(schema: str) -> None:
    execute(f"CREATE TABLE {schema}.a (id int, n numeric(9, 2), f float8, j jsonb, v char(9))")
    execute(f"CREATE TABLE {schema}.b (id bigint, n numeric, f float8, j jsonb, v text)")
    execute(f"""INSERT INTO {schema}.a VALUES (1, 1.5, '-0', '{{"a": 1.0, "b": 2}}', 'x')""")
    execute(f"""INSERT INTO {schema}.b VALUES (1, 1.50, 0, '{{"b": 2, "a": 1}}', 'x')""")

    differences, summary = compare(schema)
    assert [(d.key, d.columns) for d in differences] == [(("1",), ["v"])]  # char(9) is padded.
    assert summary.method == "all rows"

    for table in "ab":
        execute(f"ALTER TABLE {schema}.{table} DROP COLUMN v")
    differences, summary = compare(schema)
    assert differences == []
    assert summary.method == "bucket digests"


def test_nothing_is_written_and_the_right_to_read_is_enough(schema: str) -> None:
    fill(schema, "a", "bigint")
    fill(schema, "b", "bigint")
    execute(f"CREATE ROLE {schema} LOGIN CONNECTION LIMIT 8")
    try:
        execute(f"GRANT USAGE ON SCHEMA {schema} TO {schema}")
        execute(f"GRANT SELECT ON {schema}.a, {schema}.b TO {schema}")
        execute(f"ALTER ROLE {schema} SET default_transaction_read_only = on")
        address = psycopg.conninfo.conninfo_to_dict(postgresql_dsn())
        host = f"postgresql://{schema}@{address['host']}:{address['port']}/{address['dbname']}"
        result = CliRunner().invoke(
            cli,
            ["compare", f"{host}?table={schema}.a", f"{host}?table={schema}.b", "--key", "id"],
        )
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    finally:
        execute(f"DROP OWNED BY {schema}")
        execute(f"DROP ROLE {schema}")


def test_two_rows_of_one_key_are_an_error_where_they_are_seen(schema: str) -> None:
    for table in "ab":
        execute(f"CREATE TABLE {schema}.{table} (id int NOT NULL, v int)")
        execute(f"INSERT INTO {schema}.{table} VALUES (1, 1), (1, 2)")
    execute(f"INSERT INTO {schema}.a VALUES (1, 3)")
    with pytest.raises(ConfigurationError, match="two rows with the key 1"):
        compare(schema)


def test_rows_without_a_key_are_counted_and_leave_it_undecided(schema: str) -> None:
    for table in "ab":
        execute(f"CREATE TABLE {schema}.{table} (id int, v int)")
        execute(f"INSERT INTO {schema}.{table} VALUES (1, 1), (NULL, 2)")

    _, summary = compare(schema)

    assert (summary.keyless, summary.exit_code) == ([1, 1], 3)


KINDS = {
    "j": ("jsonb", """'{"b": [1, 2.50, "x"], "a": null}'"""),
    "js": ("json", """'{"b":[1,2.50,"x"],   "a":null}'"""),
    "by": ("bytea", """'\\x01ff'"""),
    "ar": ("int[]", "'{{1,2},{3,NULL}}'"),
    "nu": ("numeric(38, 18)[]", "'{1.5,2}'"),
    "ta": ("text[]", """'{a,"NULL",NULL,"b \\\\ \\"c\\"",""}'"""),
    "ma": ("timestamptz[]", "'{2026-01-01 00:00:00.5+01}'"),
    "iv": ("interval", "'1 year -2 mons 3 days -04:05:06.7'"),
    "ok": ("boolean", "true"),
    "n": ("numeric(38, 18)", "12345678901234567890.1"),
    "nn": ("numeric", "'NaN'"),
    "f": ("float8", "'-Infinity'"),
    "f4": ("real", "0.1"),
    "tz": ("timestamptz", "'2026-01-01 00:00:00.5+01'"),
    "ts": ("timestamp", "'2026-01-01 00:00:00.5'"),
    "d": ("date", "'2026-01-01'"),
    "ti": ("time", "'10:00:00.5'"),
    "tt": ("timetz", "'10:00:00+02'"),
    "u": ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"),
    "r": ("tstzrange", "'[2026-01-01 00:00+00,)'"),
    "p": ("point", "'(1,2)'"),
    "x": ("text", "'007'"),
}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_a_table_is_the_same_as_its_own_export(zone: str, schema: str, tmp_path: Path) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in KINDS.items())
    literals = ", ".join(value for _, value in KINDS.values())
    path = tmp_path / "export.csv"
    with psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {schema}.a (id int PRIMARY KEY, {columns})".encode())
        connection.execute(f"INSERT INTO {schema}.a VALUES (1, {literals})".encode())
        connection.execute(f"INSERT INTO {schema}.a VALUES (2)".encode())
        connection.execute(f"SET timezone = '{zone}'".encode())
        export = f"COPY {schema}.a TO STDOUT (FORMAT csv, HEADER)".encode()
        with path.open("wb") as file, connection.cursor().copy(export) as copy:
            file.writelines(copy)

    columns_wrong = set() if zone == "UTC" else {"r"}  # The text of a range, in another zone.
    assert export_differs(schema, path) <= columns_wrong
    for name, (kind, value) in KINDS.items():
        execute(f"UPDATE {schema}.a SET {name} = NULL WHERE id = 1")
        assert name in export_differs(schema, path), name
        execute(f"UPDATE {schema}.a SET {name} = {value}::{kind} WHERE id = 1")


def export_differs(schema: str, path: Path) -> set[str]:
    comparison = Comparison(
        lambda: open_store(uri(schema, "a"), ["id"]), lambda: open_store(f"csv:{path}", ["id"])
    )
    return {name for difference in comparison.run() for name in difference.columns}


@pytest.mark.parametrize("kind", ["hash", "json"])
def test_json_booleans_and_moments_are_the_same_in_redis_however_they_are_written(
    kind: str, schema: str
) -> None:
    execute(f"CREATE TABLE {schema}.a (id int PRIMARY KEY, j jsonb, at timestamptz, t bool)")
    execute(
        f"""INSERT INTO {schema}.a SELECT i, '{{"a": [1, 2], "b": "x"}}', '2026-01-01 00:00+01', """
        "true FROM generate_series(1, 9) i"
    )
    rows: dict[int, dict[str, Any]] = {
        n: {"j": {"b": "x", "a": [1.0, 2]}, "at": "2025-12-31T23:00:00Z", "t": True}
        for n in range(1, 10)
    }
    rows[3]["j"] = {"b": "x", "a": [1, 3]}
    rows[4]["at"] = "2025-12-31T23:00:01Z"
    rows[5]["t"] = False
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:
        for number, row in rows.items():
            if kind == "json":
                client.set(f"{{{prefix}}}:{number}", json.dumps(row))
            else:
                fields: Any = {"j": json.dumps(row["j"], indent=3), "at": row["at"]}
                client.hset(
                    f"{{{prefix}}}:{number}", mapping={**fields, "t": str(row["t"]).lower()}
                )
        name = quote(f"{{{prefix}}}:", safe="")
        comparison = Comparison(
            lambda: open_store(uri(schema, "a"), ["id"]),
            lambda: open_store(f"{redis_url()}?match={name}*&value={kind}", ["id"]),
        )
        differing = {d.key[0]: list(d.columns) for d in comparison.run()}

    assert differing == {"3": ["j"], "4": ["at"], "5": ["t"]}
    assert comparison.summary.candidates == 3  # The digests of the others are equal.


def test_json_booleans_and_moments_are_the_same_in_sqlite_however_they_are_written(
    schema: str, tmp_path: Path
) -> None:
    execute(f"CREATE TABLE {schema}.a (id int PRIMARY KEY, j jsonb, at timestamptz, t bool)")
    execute(
        f"""INSERT INTO {schema}.a SELECT i, '{{"a": 1, "b": 2}}', '2026-01-01 00:00+01', i = 1 """
        "FROM generate_series(1, 5) i"
    )
    path = tmp_path / "b.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE b (id INTEGER PRIMARY KEY, j, at, t BOOLEAN)")
        rows = [[n, '{"b":2,"a":1}', "2025-12-31T23:00:00Z", n == 1] for n in range(1, 6)]
        rows[2][3] = True
        connection.executemany("INSERT INTO b VALUES (?, ?, ?, ?)", rows)
    comparison = Comparison(
        lambda: open_store(uri(schema, "a"), ["id"]),
        lambda: open_store(f"sqlite://{path}?table=b", ["id"]),
    )

    assert [(d.key, list(d.columns)) for d in comparison.run()] == [(("3",), ["t"])]


def test_decimals_of_more_digits_than_python_counts_with_are_told_apart(schema: str) -> None:
    for table, last in (("a", 1), ("b", 2)):
        execute(f"CREATE TABLE {schema}.{table} (id int PRIMARY KEY, v numeric)")
        execute(f"INSERT INTO {schema}.{table} VALUES (1, 1.{'0' * 40}{last}), (2, 1.50)")

    differences, summary = compare(schema)

    assert [d.key for d in differences] == [("1",)]
    assert summary.method == "bucket digests"


ODD = {
    "timestamptz": [
        "infinity",
        "-infinity",
        "0044-03-15 00:00:00+00 BC",
        "10000-01-01 00:00:00+00",
    ],
    "timestamp": ["infinity", "-infinity", "0044-03-15 00:00:00 BC", "294276-12-31 00:00:00"],
    "date": ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"],
    "time": ["24:00:00"],
    "timetz": ["24:00:00+00", "10:00:00+15:59:59"],
    "timestamptz[]": ['{infinity,"2026-01-01 00:00:00+00"}'],
}


@pytest.mark.parametrize("other", ["table", "export"])
def test_moments_that_python_has_not_are_compared_like_others(
    other: str, schema: str, tmp_path: Path
) -> None:
    names = {kind: f"c{number}" for number, kind in enumerate(ODD)}
    columns = ", ".join(f"{name} {kind}" for kind, name in names.items())
    values = [(kind, value) for kind, odd in ODD.items() for value in odd]
    for table in "ab":
        execute(f"CREATE TABLE {schema}.{table} (id int PRIMARY KEY, {columns})")
        for number, (kind, value) in enumerate(values):
            column = names[kind]
            execute(f"INSERT INTO {schema}.{table} (id, {column}) VALUES ({number}, '{value}')")
            execute(f"INSERT INTO {schema}.{table} (id) VALUES ({number + 100})")
    path = tmp_path / "b.csv"

    def differing() -> set[tuple[str, str]]:
        with psycopg.connect(postgresql_dsn()) as connection:
            connection.execute("SET timezone = 'UTC'")
            query = f"COPY {schema}.b TO STDOUT (FORMAT csv, HEADER)".encode()
            with path.open("wb") as file, connection.cursor().copy(query) as copy:
                file.writelines(copy)
        right = uri(schema, "b") if other == "table" else f"csv:{path}"
        comparison = Comparison(
            lambda: open_store(uri(schema, "a"), ["id"]), lambda: open_store(right, ["id"])
        )
        return {(d.key[0], d.kind) for d in comparison.run()}

    assert differing() == set()
    for number, (kind, value) in enumerate(values):
        changed = f"SET {names[kind]} = '{value}' WHERE id = {number + 100}"
        execute(f"UPDATE {schema}.b {changed}")
    assert differing() == {(str(number + 100), "changed") for number in range(len(values))}


@pytest.mark.parametrize("kind", ["timestamptz", "interval", "bytea", "float8", "date"])
def test_keys_are_written_alike_whatever_the_servers_settings(kind: str, schema: str) -> None:
    keys = {
        "timestamptz": "'2026-01-01 00:00+00'::timestamptz + i * interval '1 h'",
        "interval": "i * interval '1 day 3 h'",
        "bytea": "int4send(i)",
        "float8": "i / 3.0",
        "date": "'2026-01-01'::date + i",
    }
    for table in "ab":
        execute(f"CREATE TABLE {schema}.{table} (id {kind} PRIMARY KEY, v int)")
        execute(
            f"INSERT INTO {schema}.{table} SELECT {keys[kind]}, i FROM generate_series(1, 40) i"
        )
    execute(f"UPDATE {schema}.b SET v = 0 WHERE v IN (7, 9)")
    options = quote(
        "-c timezone=Asia/Kolkata -c datestyle=german -c intervalstyle=postgres "
        "-c bytea_output=escape -c extra_float_digits=-5"
    )
    comparison = Comparison(
        lambda: open_store(uri(schema, "a") + f"&options={options}", ["id"]),
        lambda: open_store(uri(schema, "b"), ["id"]),
    )

    assert [(d.kind, list(d.columns)) for d in comparison.run()] == [("changed", ["v"])] * 2


class Replication:
    """Updates a table, and does the same to another one `lag_seconds` later, until stopped."""

    def __init__(self, schema: str, rate: float, lag_seconds: float, keys: int) -> None:
        self._schema, self._rate, self._lag_seconds, self._keys = schema, rate, lag_seconds, keys
        self._stopped = threading.Event()
        self._done = threading.Thread(target=self._run)
        self.updates = 0

    def _run(self) -> None:
        rng = random.Random(7)
        waiting: deque[tuple[float, bytes]] = deque()
        with closing(psycopg.connect(postgresql_dsn(), autocommit=True)) as connection:
            following = time.monotonic()
            while not self._stopped.is_set() or waiting:
                now = time.monotonic()
                while waiting and waiting[0][0] <= now:
                    connection.execute(waiting.popleft()[1])
                if self._stopped.is_set() or now < following:
                    time.sleep(0.0005)
                    continue
                following += 1 / self._rate
                self.updates += 1
                key, value = 2 * rng.randint(1, self._keys), rng.random()
                change = f"SET v = '{value}', n = {value} WHERE id = {key}"
                if rng.random() < 0.1:  # It leaves, and comes back with a later update.
                    change = ""
                for table in "ab":
                    query = f"UPDATE {self._schema}.{table} {change}"
                    if not change:
                        query = f"DELETE FROM {self._schema}.{table} WHERE id = {key}"
                    if table == "a":
                        connection.execute(query.encode())
                    else:
                        waiting.append((time.monotonic() + self._lag_seconds, query.encode()))

    def __enter__(self) -> Replication:
        self._done.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._done.join()


def test_tables_a_second_apart_under_updates_do_not_differ_but_what_was_lost_does(
    schema: str,
) -> None:
    fill(schema, "a", "bigint")
    fill(schema, "b", "bigint")
    execute(f"ANALYZE {schema}.a, {schema}.b")
    arguments = ["compare", uri(schema, "a"), uri(schema, "b"), "--key", "id", "--output", "json"]
    with Replication(schema, rate=500.0, lag_seconds=1.0, keys=ROWS * 9 // 10) as replication:
        for _ in range(3):
            result = CliRunner().invoke(cli, [*arguments, "--settle", "4"])
            assert (result.stdout, result.exit_code) == ("", 0), result.stderr
        assert "only lagged" in result.stderr
        lost = [2 * (ROWS - number) for number in range(3)]
        execute(f"UPDATE {schema}.b SET v = 'lost' WHERE id = {lost[0]}")
        execute(f"DELETE FROM {schema}.b WHERE id = {lost[1]}")
        execute(f"DELETE FROM {schema}.a WHERE id = {lost[2]}")
        result = CliRunner().invoke(cli, [*arguments, "--settle", "4"])

    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"key": str(lost[2]), "kind": "extra", "columns": []},
        {"key": str(lost[1]), "kind": "missing", "columns": []},
        {"key": str(lost[0]), "kind": "changed", "columns": ["v"]},
    ]
    assert replication.updates > 200  # A busy machine does not reach the rate.


@pytest.mark.parametrize(
    ("kind", "value", "other", "text"),
    [
        ("bytea", "'ab'", "text", "'6162'"),
        ("bytea", "'ab'", "text", r"'\x6162'"),
        ("bytea", "'ab'", "jsonb", "'\"6162\"'"),
        ("bytea[]", "ARRAY['ab'::bytea]", "text[]", "ARRAY['6162']"),
        ("timestamptz", "'2026-01-01 00:00+00'", "text", "'2026-01-01T01:00:00+01:00'"),
        ("timestamptz", "'2026-01-01 00:00+00'", "text", "'2026-01-01T00:00:00+00:00'"),
        ("interval", "'1 day'", "text", "'P1D'"),
    ],
)
def test_a_text_is_taken_for_no_kind_that_its_database_knows(
    kind: str, value: str, other: str, text: str, schema: str
) -> None:
    execute(f"CREATE TABLE {schema}.a (id int PRIMARY KEY, v {kind})")
    execute(f"INSERT INTO {schema}.a VALUES (1, {value}), (2, NULL)")
    execute(f"CREATE TABLE {schema}.b (id int PRIMARY KEY, v {other})")
    execute(f"INSERT INTO {schema}.b VALUES (1, {text}), (2, NULL)")

    for left, right in ("ab", "ba"):
        comparison = Comparison(
            lambda left=left: open_store(uri(schema, left), ["id"]),  # type: ignore[misc]
            lambda right=right: open_store(uri(schema, right), ["id"]),  # type: ignore[misc]
        )
        assert [(d.key, d.columns) for d in comparison.run()] == [(("1",), ["v"])]


def test_moments_of_two_types_are_the_same(schema: str) -> None:
    execute(f"CREATE TABLE {schema}.a (id int PRIMARY KEY, v timestamptz)")
    execute(f"CREATE TABLE {schema}.b (id int PRIMARY KEY, v timestamp)")
    for name in "ab":
        execute(f"INSERT INTO {schema}.{name} VALUES (1, '2026-01-01 00:00:00+00')")
    comparison = Comparison(
        lambda: open_store(uri(schema, "a"), ["id"]), lambda: open_store(uri(schema, "b"), ["id"])
    )
    assert list(comparison.run()) == []


def test_bytes_are_the_same_in_sqlite_and_no_text_there(schema: str, tmp_path: Path) -> None:
    execute(f"CREATE TABLE {schema}.a (id int PRIMARY KEY, v bytea)")
    execute(f"INSERT INTO {schema}.a VALUES (1, 'ab'), (2, 'ab')")
    path = tmp_path / "b.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE b (id INTEGER PRIMARY KEY, v)")
        connection.executemany("INSERT INTO b VALUES (?, ?)", [(1, b"ab"), (2, "6162")])
    comparison = Comparison(
        lambda: open_store(uri(schema, "a"), ["id"]),
        lambda: open_store(f"sqlite://{path}?table=b", ["id"]),
    )
    assert [(d.key, d.columns) for d in comparison.run()] == [(("2",), ["v"])]
