"""Digests of a PostgreSQL table, summed in the database: only buckets that differ leave it.

In one read-only snapshot, with no right but SELECT, so that a standby will do. Hashes are
PostgreSQL's own, which are the same on servers of the same kind only; what known values hash to is
part of the dialect. Each column is hashed with a seed of its own, and the row's hash is the one of
all of them with the key's hash as its seed: values that change places between two columns, or
between two rows, show, and no expression stands in the query more often than it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from synchroscope.errors import SynchroscopeError
from validator.stores.digesting import Buckets, Sums
from validator.stores.port import Key, key_text

SEED = 1_181_783_497
WORK_MEMORY = "64MB"
_MODULUS = 2**63
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_TEXT = frozenset({"text", "character varying", "name"})
_AS_IT_IS = frozenset(
    {
        "numeric",
        "real",
        "double precision",
        "boolean",
        "uuid",
        "bytea",
        "jsonb",
        "date",
        "time without time zone",
        "timestamp without time zone",
        "timestamp with time zone",
    }
)
_FUNCTIONS = {
    "int8": "hashint8extended",
    "text": "hashtextextended",
    "written": "hashtextextended",
    "uuid": "uuid_hash_extended",
    "numeric": "hash_numeric_extended",
    "double precision": "hashfloat8extended",
    "jsonb": "jsonb_hash_extended",
    "timestamp without time zone": "timestamp_hash_extended",
    "timestamp with time zone": "timestamp_hash_extended",
}
"""Kind -> the function that hashes it; others are hashed as a record of one column, more slowly."""
_PROBE = """
    SELECT hash_record_extended(ROW(1::int8, 'a'::text, 1.5::numeric, 1.5::float8, true,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '\\x01'::bytea, '{"a": [1]}'::jsonb,
        '2026-01-01'::date, '2026-01-01 00:00+00'::timestamptz, 'a'::text COLLATE "C"), 1)
"""


def _kind(declared: str) -> str:
    """Return what a declared type is hashed as: one word for types whose values hash alike.

    >>> [_kind(name) for name in ("integer", "character varying(9)", "numeric(10,2)", "point")]
    ['int8', 'text', 'numeric', 'written']
    """
    base = declared.partition("(")[0].strip()
    rest = declared.partition(")")[2].strip()
    if base in _WHOLE:
        return "int8"
    if base in _TEXT and not rest:
        return "text"
    full = f"{base} {rest}".strip()
    return full if full in _AS_IT_IS else "written"


def _hashed(name: str, kind: str, seed: sql.Composable) -> sql.Composed:
    """Return the hash of a column with a seed; NULL where the column is NULL."""
    column: sql.Composable = sql.Identifier("t", name)
    if kind == "int8":
        column = sql.SQL("{}::int8").format(column)
    elif kind in ("text", "written"):
        column = sql.SQL('{}::text COLLATE "C"').format(column)
    elif kind == "timestamp with time zone":
        column = sql.SQL("{}::timestamp").format(column)  # In UTC, as the transaction has it.
    if kind in _FUNCTIONS:
        return sql.SQL("{}({}, {})").format(sql.SQL(_FUNCTIONS[kind]), column, seed)
    record = sql.SQL("hash_record_extended(ROW({0}), {1})").format(column, seed)
    return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(column, record)


class PostgresqlDigests:
    """The `BucketDigests` port on one table, in one transaction.

    Parameters
    ----------
    connection: Is this object's own until it is closed.
    table, types: The table, and column -> type as declared.
    key_columns, columns: What identifies a row, and what is compared.
    failure: What an error of the driver means.
    release: Takes the connection back.
    """

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        table: sql.Identifier,
        types: Mapping[str, str],
        key_columns: Sequence[str],
        columns: Sequence[str],
        failure: Callable[[psycopg.Error], SynchroscopeError],
        release: Callable[[psycopg.Connection[tuple[Any, ...]]], None],
    ) -> None:
        self._connection = connection
        self._failure = failure
        self._release = release
        self._table = table
        self._key_columns = key_columns
        kinds = {name: _kind(types[name]) for name in (*key_columns, *columns)}
        self._kinds = kinds
        key_hash: sql.Composable = sql.Literal(SEED)
        for name in key_columns:
            key_hash = _hashed(name, kinds[name], key_hash)
        self._key_hash = key_hash
        hashes: list[sql.Composable] = [sql.Literal(0)]
        for number, name in enumerate(columns, 1):
            seed = sql.Literal(number)
            hashes.append(
                sql.SQL("coalesce({}, {})").format(_hashed(name, kinds[name], seed), seed)
            )
        self._row_hash = sql.SQL("hashint8extended({}, {})").format(
            sql.SQL(" # ").join(hashes), key_hash
        )
        self._are_keys = sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", name)) for name in key_columns
        )
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name, value in (
            ("work_mem", WORK_MEMORY),
            ("jit", "off"),
            # The planner takes every row for a bucket of its own, and would sort them all.
            ("enable_sort", "off"),
            ("statement_timeout", "0"),
            ("timezone", "UTC"),
            ("datestyle", "ISO, YMD"),
            ("intervalstyle", "iso_8601"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "1"),
        ):
            connection.execute("SELECT set_config(%s, %s, true)", (name, value))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            self._connection.close()
            raise self._failure(error) from error

    def _row(self, query: Any, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        with self._translated():
            row = self._connection.execute(query, parameters or None, binary=True).fetchone()
        assert row is not None
        return row

    def dialect(self) -> str:
        """Return the kinds of the columns, and what known values hash to."""
        try:
            found = self._connection.execute(_PROBE).fetchone()
        except psycopg.errors.UndefinedFunction:
            return f"none: {self!r}"  # A server before version 14.
        except psycopg.Error as error:
            self._connection.close()
            raise self._failure(error) from error
        return repr((list(self._kinds.items()), found))

    def estimate(self) -> int:
        """Return the planner's count; 0 for a table that was never analyzed and is small."""
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} AS t").format(self._table)
        return int(self._row(query)[0][0]["Plan"]["Plan Rows"])

    def sums(self, within: Buckets, bits: int) -> Sums:
        """Return the buckets' digests, by one reading of the table."""
        query = sql.SQL("""
            WITH summed AS (
                SELECT {key_hash} & {mask} AS bucket, sum({row_hash}) AS sum, count(*) AS rows
                FROM {table} AS t WHERE {condition} GROUP BY 1
            )
            SELECT string_agg(int4send(bucket::int4) || int8send((sum % {modulus})::int8), ''),
                sum(rows)::int8
            FROM summed
        """).format(
            key_hash=self._key_hash,
            row_hash=self._row_hash,
            mask=sql.Literal((1 << bits) - 1),
            table=self._table,
            condition=self._condition(within),
            modulus=sql.Literal(_MODULUS),
        )
        data, rows = self._row(query)
        return Sums(bytes(data or b""), int(rows or 0))

    def _condition(self, within: Buckets) -> sql.Composable:
        if within.numbers is None:
            return self._are_keys
        return sql.SQL("{} AND {} & {} IN (SELECT unnest({}::int8[]))").format(
            self._are_keys,
            self._key_hash,
            sql.Literal((1 << within.bits) - 1),
            sql.Literal(list(within.numbers)),
        )

    def rows(self, within: Buckets) -> Iterator[tuple[Key, bytes]]:
        """Return key and hash of all rows in these buckets, by one reading of the table."""
        keys = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier("t", name)) for name in self._key_columns
        )
        query = sql.SQL(
            "COPY (SELECT {}, {} FROM {} AS t WHERE {}) TO STDOUT (FORMAT binary)"
        ).format(keys, self._row_hash, self._table, self._condition(within))
        with self._translated(), self._connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([*(["text"] * len(self._key_columns)), "int8"])
            for *parts, digest in copy.rows():
                key = tuple(key_text(part) for part in parts)
                yield key, digest.to_bytes(8, "big", signed=True)

    def close(self) -> None:
        """End the transaction."""
        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()
            return
        self._release(self._connection)
