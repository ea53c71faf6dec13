"""Digests of a PostgreSQL table, summed in the database: only buckets that differ leave it.

One read-only snapshot. The buckets' digests are kept in a setting of the transaction, not in a
table: nothing is written, so it works on a standby and without any right but SELECT. Hashes are
PostgreSQL's own (``hash_record_extended``), which are the same on servers of the same kind only; a
probe of known values is part of the dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from synchroscope.errors import SynchroscopeError
from validator.stores.digesting import SUM_BYTES
from validator.stores.port import Key, key_text

ROW_SEED, KEY_SEED = 7_046_029_254, 1_181_783_497
WORK_MEMORY = "64MB"
_KEPT = "synchroscope.buckets"
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


def _hashed(name: str, kind: str) -> sql.Composed:
    column = sql.Identifier("t", name)
    if kind == "int8":
        return sql.SQL("{}::int8").format(column)
    if kind in ("text", "written"):
        return sql.SQL('{}::text COLLATE "C"').format(column)
    return sql.SQL("{}").format(column)


class PostgresqlDigests:
    """The `BucketDigests` port on one table, in one transaction.

    Parameters
    ----------
    connection: Is this object's own; closed with it.
    table, types: The table, and column -> type as declared.
    key_columns, columns: What identifies a row, and what is compared.
    failure: What an error of the driver means.
    """

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        table: sql.Identifier,
        types: Mapping[str, str],
        key_columns: Sequence[str],
        columns: Sequence[str],
        failure: Callable[[psycopg.Error], SynchroscopeError],
    ) -> None:
        self._connection = connection
        self._failure = failure
        self._table = table
        self._key_columns = key_columns
        kinds = {name: _kind(types[name]) for name in (*key_columns, *columns)}
        self._kinds = kinds
        keys = [_hashed(name, kinds[name]) for name in key_columns]
        rest = [_hashed(name, kinds[name]) for name in columns]
        self._key_hash = sql.SQL("hash_record_extended(ROW({}), {})").format(
            sql.SQL(", ").join(keys), sql.Literal(KEY_SEED)
        )
        self._row_hash = sql.SQL("hash_record_extended(ROW({}), {})").format(
            sql.SQL(", ").join([*keys, *rest]), sql.Literal(ROW_SEED)
        )
        self._are_keys = sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", name)) for name in key_columns
        )
        self._bits = (0, 0)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name, value in (
            ("work_mem", WORK_MEMORY),
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
            self.close()
            raise self._failure(error) from error

    def _row(self, query: Any, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        with self._translated():
            row = self._connection.execute(query, parameters or None, binary=True).fetchone()
        assert row is not None
        return row

    def dialect(self) -> str:
        """Return the kinds of the columns, and what known values hash to."""
        return repr((list(self._kinds.items()), self._row(_PROBE)))

    def estimate(self) -> int:
        """Return the planner's count; 0 for a table that was never analyzed and is small."""
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} AS t").format(self._table)
        return int(self._row(query)[0][0]["Plan"]["Plan Rows"])

    def sum_up(self, bucket_bits: int, group_bits: int) -> bytes:
        """Read all rows, keep the buckets' digests in the transaction, return the groups'."""
        self._bits = bucket_bits, group_bits
        query = sql.SQL("""
            WITH hashed AS (
                SELECT {key_hash} & {mask} AS bucket, {row_hash} AS hash
                FROM {table} AS t WHERE {are_keys}
            ), summed AS MATERIALIZED (
                SELECT bucket, (sum(hash) % {modulus})::int8 AS sum, count(*) AS rows
                FROM hashed GROUP BY bucket
            ), dense AS MATERIALIZED (
                SELECT n AS bucket, coalesce(sum, 0) AS sum, coalesce(rows, 0) AS rows
                FROM generate_series(0, {mask}) AS n LEFT JOIN summed ON bucket = n
            ), kept AS (
                SELECT set_config({name}, encode(string_agg(
                    int8send(sum) || int4send(rows::int4), '' ORDER BY bucket), 'hex'), true) AS all
                FROM dense
            ), grouped AS (
                SELECT bucket >> {shift} AS number, (sum(sum) % {modulus})::int8 AS sum,
                    sum(rows) AS rows
                FROM dense GROUP BY 1
            )
            SELECT length((SELECT "all" FROM kept)),
                string_agg(int8send(sum) || int4send(rows::int4), '' ORDER BY number)
            FROM grouped
        """).format(
            key_hash=self._key_hash,
            row_hash=self._row_hash,
            mask=sql.Literal((1 << bucket_bits) - 1),
            table=self._table,
            are_keys=self._are_keys,
            modulus=sql.Literal(_MODULUS),
            name=sql.Literal(_KEPT),
            shift=sql.Literal(bucket_bits - group_bits),
        )
        return bytes(self._row(query)[1])

    def buckets(self, groups: Sequence[int]) -> bytes:
        """Return the digests of all buckets of these groups, from what was kept."""
        bucket_bits, group_bits = self._bits
        size = SUM_BYTES << (bucket_bits - group_bits)
        (data,) = self._row(
            """
            WITH kept AS MATERIALIZED (SELECT decode(current_setting(%s), 'hex') AS data)
            SELECT string_agg(substring(data FROM number * %s + 1 FOR %s), '' ORDER BY place)
            FROM kept, unnest(%s::int[]) WITH ORDINALITY AS asked (number, place)
            """,
            (_KEPT, size, size, list(groups)),
        )
        return bytes(data or b"")

    def rows(self, buckets: Sequence[int]) -> Iterator[tuple[Key, bytes]]:
        """Return key and hash of all rows in these buckets, by one more reading of the table."""
        mask = (1 << self._bits[0]) - 1
        keys = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier("t", name)) for name in self._key_columns
        )
        query = sql.SQL(
            "COPY (SELECT {keys}, {row_hash} FROM {table} AS t WHERE {are_keys} AND "
            "{key_hash} & {mask} = ANY ({wanted})) TO STDOUT (FORMAT binary)"
        ).format(
            keys=keys,
            row_hash=self._row_hash,
            table=self._table,
            are_keys=self._are_keys,
            key_hash=self._key_hash,
            mask=sql.Literal(mask),
            wanted=sql.Literal(list(buckets)),
        )
        with self._translated(), self._connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([*(["text"] * len(self._key_columns)), "int8"])
            for *parts, digest in copy.rows():
                key = tuple(key_text(part) for part in parts)
                yield key, digest.to_bytes(8, "big", signed=True)

    def close(self) -> None:
        """End the transaction and the connection."""
        self._connection.close()
