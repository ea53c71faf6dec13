"""Buckets that the server hashes: no two tables that differ have the same sums."""

from __future__ import annotations

import pytest

from tests.compared_tables import compare, schema, uri
from tests.postgresql import execute
from validator.compare.comparing import Comparison
from validator.stores.opening import open_store

__all__ = ["schema"]

FOLDED = {
    "negated": ("bigint", "-i", "-i & 4294967295"),
    "a bit further up": ("bigint", "i", "i::bigint << 32"),
    "both halves": ("bigint", "i", "(i::bigint << 32) # (i::bigint << 33) # i"),
    "sign": ("numeric", "i", "-i"),
    "magnitude": ("numeric", "i", "i * 10000"),
    "sign within": ("jsonb", "jsonb_build_object('a', i)", "jsonb_build_object('a', -i)"),
    "list within": ("jsonb", "jsonb_build_array(i, 1)", "jsonb_build_array(1, i)"),
    "moment": (
        "timestamptz",
        "'2000-01-01 00:00Z'::timestamptz + i * interval '1 us'",
        "'2000-01-01 00:00Z'::timestamptz + (i # 1) * interval '1 us' + interval '4294.967296 s'",
    ),
    "far moment": (
        "timestamp",
        "'9000-01-01'::timestamp + i * interval '1 us'",
        "'9000-01-01'::timestamp + (i + 1) * interval '1 us'",
    ),
    "time": (
        "time",
        "'00:00'::time + i * interval '1 us'",
        "'01:11:34.967296'::time + (i # 1) * interval '1 us'",
    ),
    "float": ("float8", "i * 4294967296.0", "i * 4294967297.0"),
    "bytes": ("bytea", "int8send(i)", "int8send(i::bigint << 32)"),
    "endless": ("timestamptz", "'infinity'::timestamptz", "'-infinity'::timestamptz"),
    "not a number": ("float8", "'NaN'::float8", "i"),
    "nothing": ("bigint", "NULL", "1"),
}


@pytest.mark.parametrize("case", FOLDED)
def test_values_that_the_server_hashes_alike_or_nearly_so_differ(schema: str, case: str) -> None:
    declared, left, right = FOLDED[case]
    for table, value in (("a", left), ("b", right), ("c", left)):
        execute(f"CREATE TABLE {schema}.{table} (id int PRIMARY KEY, v {declared})")
        execute(f"INSERT INTO {schema}.{table} SELECT i, {value} FROM generate_series(2, 301) i")

    found, summary = compare(schema, settle_seconds=0.0)
    same, _ = compare(schema, right="c", settle_seconds=0.0)

    assert summary.method == "bucket digests"
    assert {(one.key, one.kind) for one in found} == {((str(n),), "changed") for n in range(2, 302)}
    assert same == []


@pytest.mark.parametrize("declared", ["bigint", "numeric(30,4)"])
def test_keys_that_the_server_hashes_alike_are_two(schema: str, declared: str) -> None:
    for table, key in (("a", "-i"), ("b", "-i & 4294967295"), ("c", "-i")):
        execute(f"CREATE TABLE {schema}.{table} (id {declared} PRIMARY KEY, v text)")
        execute(
            f"INSERT INTO {schema}.{table} SELECT {key}, 'same' "
            "FROM generate_series(1::bigint, 40) i"
        )

    found, _ = compare(schema, settle_seconds=0.0)

    missing = {(str(-n), "missing") for n in range(1, 41)}
    extra = {(str(2**32 - n), "extra") for n in range(1, 41)}
    assert {(one.key[0], one.kind) for one in found} == missing | extra
    assert compare(schema, right="c", settle_seconds=0.0)[0] == []


def test_keys_of_another_scale_are_the_same_keys(schema: str) -> None:
    for table, declared in (("a", "numeric(10,1)"), ("b", "numeric(12,3)")):
        execute(f"CREATE TABLE {schema}.{table} (id {declared} PRIMARY KEY, v int)")
        execute(f"INSERT INTO {schema}.{table} SELECT i / 2.0, i FROM generate_series(1, 200) i")
    execute(f"UPDATE {schema}.b SET v = -1 WHERE id = 7.5")

    found, _ = compare(schema, settle_seconds=0.0)

    assert [(one.key, one.kind) for one in found] == [(("7.5",), "changed")]


def test_two_parts_of_a_key_are_not_mixed_up(schema: str) -> None:
    for table, parts in (("a", "i, 1000 - i"), ("b", "1000 - i, i")):
        execute(f"CREATE TABLE {schema}.{table} (p bigint, q bigint, v int, PRIMARY KEY (p, q))")
        execute(f"INSERT INTO {schema}.{table} SELECT {parts}, 1 FROM generate_series(1, 100) i")
    comparison = Comparison(
        lambda: open_store(uri(schema, "a"), ["p", "q"]),
        lambda: open_store(uri(schema, "b"), ["p", "q"]),
        settle_seconds=0.0,
    )

    kinds = [one.kind for one in comparison.run()]

    assert (kinds.count("missing"), kinds.count("extra")) == (100, 100)


ZEROS = {
    "double precision": "0",
    "real": "0",
    "time": "'00:00'",
    "bigint": "0",
    "smallint": "0",
    "numeric": "0",
    "boolean": "false",
    "date": "'2000-01-01'",
    "timestamp": "'2000-01-01'",
    "timestamptz": "'1970-01-01 00:00+00'",
    "uuid": "'00000000-0000-0000-0000-000000000000'",
    "bytea": "''",
    "text": "''",
    "jsonb": "'0'",
    "interval": "'0'",
    "point": "'0,0'",
}


@pytest.mark.parametrize("declared", ZEROS)
def test_nothing_and_zero_change_places_in_every_row(declared: str, schema: str) -> None:
    zero = f"{ZEROS[declared]}::{declared}"
    for name, values in {"a": f"{zero}, NULL", "b": f"NULL, {zero}"}.items():
        execute(f"CREATE TABLE {schema}.{name} (id bigint PRIMARY KEY, c {declared}, d {declared})")
        execute(f"INSERT INTO {schema}.{name} SELECT i, {values} FROM generate_series(1, 2000) i")
    found, summary = compare(schema)
    assert summary.method == "bucket digests"
    assert len(found) == 2_000
    assert {tuple(one.columns) for one in found} == {("c", "d")}


@pytest.mark.parametrize("declared", ZEROS)
def test_a_missing_and_an_extra_row_of_a_zero_do_not_cancel(declared: str, schema: str) -> None:
    zero = f"{ZEROS[declared]}::{declared}"
    for name, first in {"a": 1, "b": 101}.items():
        execute(f"CREATE TABLE {schema}.{name} (id bigint PRIMARY KEY, c {declared})")
        execute(
            f"INSERT INTO {schema}.{name} SELECT i, {zero} "
            f"FROM generate_series({first}, {first + 4_999}) i"
        )
    found, _ = compare(schema)
    assert {one.key for one in found} == {(str(i),) for i in (*range(1, 101), *range(5_001, 5_101))}
