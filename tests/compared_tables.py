"""Two tables in PostgreSQL that are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgresql import empty_schema, execute
from tests.servers import postgresql_dsn
from validator.compare.comparing import Comparison, Difference, Summary
from validator.stores.opening import open_store

ROWS = 3_000
COLUMNS = "v text, n numeric, at timestamptz, f float8, j jsonb, t bool, p point"


@pytest.fixture
def schema() -> Iterator[str]:
    with empty_schema() as name:
        yield name


def fill(schema: str, name: str, key: str, columns: str = COLUMNS) -> None:
    execute(f"CREATE TABLE {schema}.{name} (id {key} PRIMARY KEY, {columns})")
    execute(
        f"INSERT INTO {schema}.{name} SELECT i::text::{key}, 'text ' || i, i / 7.0, "
        "'2026-01-01'::timestamptz + i * interval '1 s', i / 3.0, jsonb_build_object('a', i), "
        f"CASE i % 3 WHEN 0 THEN true WHEN 1 THEN false END, point(i, 1) "
        f"FROM generate_series(2, {2 * ROWS}, 2) i"
    )


def uri(schema: str, table: str) -> str:
    return f"{postgresql_dsn()}?table={schema}.{table}"


def compare(
    schema: str, left: str = "a", right: str = "b", key: str = "id", **options: Any
) -> tuple[list[Difference], Summary]:
    comparison = Comparison(
        lambda: open_store(uri(schema, left), [key]),
        lambda: open_store(uri(schema, right), [key]),
        **options,
    )
    return list(comparison.run()), comparison.summary
