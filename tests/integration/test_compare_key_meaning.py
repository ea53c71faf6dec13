"""Keys that are written otherwise and mean the same are one key."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis

from synchroscope.errors import ConfigurationError
from tests.postgresql import empty_schema, execute
from tests.redis import redis_prefix
from tests.servers import postgresql_dsn, redis_url
from validator.compare.comparing import Comparison
from validator.stores.opening import open_store

KEYS = {
    "boolean": "i = 1",
    "numeric(10,2)": "i / 2.0",
    "numeric": "i * 1e20",
    "char(5)": "'k' || i",
    "interval": "i * interval '1 day -2 h'",
    "timestamptz": "timestamptz '2026-01-01 00:00+00' + i * interval '1 h'",
    "timestamp": "timestamp '2026-01-01 00:00' + i * interval '0.5 s'",
    "timetz": "timetz '10:00+02' + i * interval '1 min'",
    "time": "time '10:00' + i * interval '1 ms'",
    "date": "date '2026-01-01' + i",
    "bytea": "int4send(i)",
    "smallint": "i",
    "int": "-i",
    "bigint": "i * 1000000000000",
    "real": "i / 3.0",
    "float8": "i * 1e20 / 3",
    "uuid": "md5(i::text)::uuid",
    "text": "'0' || i",
    "varchar(9)": "'k ' || i",
    "inet": "inet '10.0.0.0' + i",
}


@pytest.fixture
def schema() -> Iterator[str]:
    with empty_schema() as name:
        yield name


def uri(schema: str, table: str) -> str:
    return f"{postgresql_dsn()}?table={schema}.{table}"


def exported(schema: str, table: str, path: Path, zone: str = "UTC") -> str:
    """Export a table as `\\copy` does in a session of some time zone."""
    with (
        psycopg.connect(postgresql_dsn(), options=f"-c timezone={zone}") as connection,
        path.open("wb") as file,
        connection.cursor().copy(
            f"COPY {schema}.{table} TO STDOUT (FORMAT csv, HEADER)".encode()
        ) as copy,
    ):
        file.writelines(copy)
    return f"csv:{path}"


def compare(left: str, right: str, *key: str) -> list[str]:
    columns = key or ("id",)
    comparison = Comparison(lambda: open_store(left, columns), lambda: open_store(right, columns))
    return sorted(difference.kind for difference in comparison.run())


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("declared", KEYS)
def test_a_table_is_the_same_as_its_own_export_whatever_its_key(
    declared: str, zone: str, schema: str, tmp_path: Path
) -> None:
    rows = 2 if declared == "boolean" else 40
    execute(f"CREATE TABLE {schema}.a (id {declared} PRIMARY KEY, n int, v text)")
    execute(
        f"INSERT INTO {schema}.a SELECT {KEYS[declared]}, i, 'x' FROM generate_series(1, {rows}) i"
    )
    csv = exported(schema, "a", tmp_path / "a.csv", zone)

    assert compare(uri(schema, "a"), csv) == []
    assert compare(csv, uri(schema, "a")) == []

    execute(f"UPDATE {schema}.a SET v = 'y' WHERE n = 1")
    execute(f"DELETE FROM {schema}.a WHERE n = 2")
    assert compare(uri(schema, "a"), csv) == ["changed", "extra"]
    assert compare(csv, uri(schema, "a")) == ["changed", "missing"]


def test_a_row_that_comes_later_is_found_however_its_key_is_written(
    schema: str, tmp_path: Path
) -> None:
    for declared in ("bytea", "boolean", "interval", "timestamptz", "numeric(10,2)"):
        execute(f"CREATE TABLE {schema}.a (id {declared} PRIMARY KEY, n int, v text)")
        execute(
            f"INSERT INTO {schema}.a SELECT {KEYS[declared]}, i, 'x' FROM generate_series(1, 2) i"
        )
        csv = exported(schema, "a", tmp_path / "a.csv", "Asia/Kolkata")
        execute(f"CREATE TABLE {schema}.late AS SELECT * FROM {schema}.a WHERE n = 1")
        execute(f"DELETE FROM {schema}.a WHERE n = 1")
        calls = 0

        def come_late(seconds: float) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                execute(f"INSERT INTO {schema}.a SELECT * FROM {schema}.late")

        comparison = Comparison(
            lambda: open_store(uri(schema, "a"), ["id"]),
            lambda: open_store(csv, ["id"]),  # noqa: B023
            settle_seconds=5.0,
            sleep=come_late,
        )
        assert list(comparison.run()) == [], declared
        assert comparison.summary.cleared == 1
        execute(f"DROP TABLE {schema}.a, {schema}.late")


def test_two_keys_that_mean_the_same_are_two_rows_of_one_key(schema: str, tmp_path: Path) -> None:
    execute(f"CREATE TABLE {schema}.a AS SELECT 1.5::numeric AS id, 'x' AS v")
    path = tmp_path / "a.csv"
    path.write_text("id,v\n1.50,x\n1.5,x\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="two rows with the key"):
        compare(uri(schema, "a"), f"csv:{path}")
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:
        for key in ("1.50", "1.5"):
            client.hset(f"{{{prefix}}}:{key}", mapping={"v": "x"})
        with pytest.raises(ConfigurationError, match="two rows with the key"):
            compare(uri(schema, "a"), f"{redis_url()}?match=%7B{prefix}%7D:*")


def test_a_row_is_told_by_the_key_as_it_is_written(schema: str, tmp_path: Path) -> None:
    execute(f"CREATE TABLE {schema}.a (id timestamptz PRIMARY KEY, v text)")
    execute(f"INSERT INTO {schema}.a VALUES ('2026-01-01 00:00Z', 'x'), ('2026-01-02 00:00Z', 'x')")
    path = tmp_path / "a.csv"
    path.write_text("id,v\n2026-01-01T01:00+01:00,y\n2026-01-03T01:00+01:00,x\n", encoding="utf-8")
    comparison = Comparison(
        lambda: open_store(uri(schema, "a"), ["id"]), lambda: open_store(f"csv:{path}", ["id"])
    )
    assert sorted(difference.key[0] for difference in comparison.run()) == [
        "2026-01-01 00:00:00+00",
        "2026-01-02 00:00:00+00",
        "2026-01-03T01:00+01:00",
    ]


@pytest.mark.parametrize(
    ("left", "right", "differing"),
    [
        ("char(5)", "char(9)", 0),
        ("int", "numeric(10,2)", 0),
        ("real", "float8", 0),
        ("int", "text", 0),
    ],
)
def test_keys_of_two_types_are_compared_by_their_kind(
    left: str, right: str, differing: int, schema: str
) -> None:
    for table, declared in (("a", left), ("b", right)):
        execute(f"CREATE TABLE {schema}.{table} (id {declared} PRIMARY KEY, v text)")
        execute(f"INSERT INTO {schema}.{table} SELECT i, 'x' FROM generate_series(1, 9) i")
    assert len(compare(uri(schema, "a"), uri(schema, "b"))) == differing


def test_booleans_and_bytes_are_the_keys_that_sqlite_has_for_them(
    schema: str, tmp_path: Path
) -> None:
    execute(f"CREATE TABLE {schema}.a (t bool, b bytea, v text, PRIMARY KEY (t, b))")
    execute(f"""INSERT INTO {schema}.a VALUES (true, '\\x00ff', 'x'), (false, '\\x61', 'y')""")
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE a (t, b, v)")
        connection.execute("INSERT INTO a VALUES (1, x'00ff', 'x'), (0, x'61', 'z')")
    store = f"sqlite://{quote(str(path))}?table=a"
    assert compare(uri(schema, "a"), store, "t", "b") == ["changed"]
