"""Digests of a PostgreSQL table, summed in the database: only buckets that differ leave it.

In one read-only snapshot, with no right but SELECT, so that a standby will do. Hashes are
PostgreSQL's own, which are the same on servers of the same kind only; what known values hash to is
part of the dialect. Each column is hashed with the key's hash as part of its seed: values that
change places between two columns, or between two rows, show.

PostgreSQL's own hashes of 8-byte numbers and times fold them into 4 bytes first, that of numeric
leaves out the sign and adds the magnitude without mixing, and that of jsonb rests on it; that of a
float does not mix in the seed where it is 0. For these an expression is hashed that loses nothing
(`_EXPRESSIONS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import sql

from synchroscope.errors import UnavailableError
from validator.stores.digesting import NUMBER_BYTES, SUM_BYTES, Buckets, Sums
from validator.stores.port import Key, key_text
from validator.stores.postgresql_errors import answering, failure

SEED = 1_181_783_497
WORK_MEMORY = "64MB"
LONGEST_SECONDS, LONGEST_SECONDS_PER_ROW = 3_600.0, 100e-6
"""So long an answer may take, and more where there are more rows. A view's rows may be costly."""
END_SECONDS = 10.0
_MODULUS = 2 ** (8 * SUM_BYTES)
_ALIAS = "synchroscope key hash"
_KEY_HASH = sql.Identifier("t", _ALIAS)
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
# PostgreSQL's hash of the number 0 is the seed itself, which the key's hash in the sum would undo.
_OF_FLOAT = "(hashfloat8extended({}, {{seed}}) # hashint4extended(1, {{seed}}))"
_EXPRESSIONS = {
    # Both halves of the number, each of which the hash takes whole.
    "int8": (
        "(hashint8extended({column}::int8 >> 32, {seed})"
        " # hashint8extended({column}::int8 & 4294967295, {seed} # 4294967296))"
    ),
    "text": 'hashtextextended({column}::text COLLATE "C", {seed})',
    "written": 'hashtextextended({column}::text COLLATE "C", {seed})',
    # Equal values of another scale inside a document are told apart; a second look clears them.
    "jsonb": 'hashtextextended({column}::text COLLATE "C", {seed})',
    "numeric": 'hashtextextended(trim_scale({column})::text COLLATE "C", {seed})',
    "uuid": "uuid_hash_extended({column}, {seed})",
    "real": _OF_FLOAT.format("{column}::float8"),
    "double precision": _OF_FLOAT.format("{column}"),
    "time without time zone": _OF_FLOAT.format("date_part('epoch', {column})"),
    # Microseconds stay apart in a double for two centuries; beyond, in what the time's hash folds.
    "timestamp without time zone": (
        "(hashfloat8extended(date_part('epoch', {column}), {seed})"
        " # timestamp_hash_extended({column}, {seed} # 4294967296))"
    ),
    "timestamp with time zone": (
        "(hashfloat8extended(date_part('epoch', {column}), {seed})"
        " # timestamp_hash_extended({column}::timestamp, {seed} # 4294967296))"
    ),
}
"""Kind -> what hashes it; NULL for NULL. Others are hashed as a record of one column."""
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
    column = sql.Identifier("t", name)
    expression = _EXPRESSIONS.get(kind)
    if expression is not None:
        return sql.SQL(expression).format(column=column, seed=seed)
    return sql.SQL(
        "CASE WHEN {column} IS NOT NULL THEN hash_record_extended(ROW({column}), {seed}) END"
    ).format(column=column, seed=seed)


_KEY_TEXTS = {
    "inet": "concat({})",  # As it is exported; the cast adds /32.
    "numeric": "trim_scale({})::text",
    "real": "({} + 0::real)::text",  # -0 is 0.
    "double precision": "({} + 0::float8)::text",
}


def key_as_text(name: str, declared: str) -> sql.Composed:
    """Return a key's column as text: the same for keys that are equal, whatever their scale."""
    form = _KEY_TEXTS.get(declared) or _KEY_TEXTS.get(_kind(declared), "{}::text")
    return sql.SQL(cast(Any, form)).format(sql.Identifier("t", name))


class PostgresqlDigests:
    """The `BucketDigests` port on one table, in one transaction.

    Parameters
    ----------
    connection: Is this object's own until it is closed.
    table, types: The table, and column -> type as declared.
    key_columns, columns: What identifies a row, and what is compared.
    name: The store's, for messages.
    release: Takes the connection back.
    """

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        table: sql.Identifier,
        types: Mapping[str, str],
        key_columns: Sequence[str],
        columns: Sequence[str],
        name: str,
        release: Callable[[psycopg.Connection[tuple[Any, ...]]], None],
    ) -> None:
        self._connection = connection
        self._name = name
        self._longest_seconds = LONGEST_SECONDS
        self._release = release
        self._table = table
        self._key_count = len(key_columns)
        kinds = {name: _kind(types[name]) for name in (*key_columns, *columns)}
        self._kinds = kinds
        key_hash = sql.SQL(" # ").join(
            _hashed(name, kinds[name], sql.SQL("{}::int8").format(sql.Literal(SEED + number)))
            for number, name in enumerate(key_columns)
        )
        self._are_keys = sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", name)) for name in key_columns
        )
        used = [sql.Identifier("t", name) for name in dict.fromkeys((*key_columns, *columns))]
        # So that the key's hash is computed once a row: OFFSET keeps the planner from copying it.
        self._source = sql.SQL("(SELECT {}, {} AS {} FROM {} AS t WHERE {} OFFSET 0) AS t").format(
            sql.SQL(", ").join(used), key_hash, sql.Identifier(_ALIAS), table, self._are_keys
        )
        hashes: list[sql.Composable] = [_KEY_HASH]
        for number, name in enumerate(columns, 1):
            seed = sql.SQL("({} # {})").format(_KEY_HASH, sql.Literal(number))
            hashed = _hashed(name, kinds[name], seed)
            hashes.append(sql.SQL("coalesce({}, {})").format(hashed, sql.Literal(number)))
        self._row_hash = sql.SQL(" # ").join(hashes)
        self._key_texts = [key_as_text(name, types[name]) for name in key_columns]
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
            with answering(self._name, self._connection, self._longest_seconds):
                yield
        except UnavailableError:
            self._connection.close()
            raise
        except psycopg.Error as error:
            self._connection.close()
            raise failure(self._name, error) from error

    def _row(self, query: Any, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        with self._translated():
            row = self._connection.execute(query, parameters or None, binary=True).fetchone()
        assert row is not None
        return row

    def dialect(self) -> str:
        """Return the kinds of the columns, and what known values hash to."""
        with self._translated():
            try:
                found = self._connection.execute(_PROBE).fetchone()
            except psycopg.errors.UndefinedFunction:
                return f"none: {self!r}"  # A server before version 14.
        return repr((list(self._kinds.items()), found))

    def estimate(self) -> int:
        """Return the planner's count; 0 for a table that was never analyzed and is small."""
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} AS t").format(self._table)
        rows = int(self._row(query)[0][0]["Plan"]["Plan Rows"])
        self._longest_seconds = LONGEST_SECONDS + rows * LONGEST_SECONDS_PER_ROW
        return rows

    def sums(self, within: Buckets, bits: int) -> Sums:
        """Return the buckets' digests, by one reading of the table."""
        query = sql.SQL("""
            WITH summed AS (
                SELECT {key_hash} & {mask} AS bucket, sum({row_hash}) AS sum, count(*) AS rows
                FROM {source} WHERE {condition} GROUP BY 1
            )
            SELECT string_agg(
                    substring(int4send(bucket::int4) FROM {number})
                        || substring(int8send((sum % {modulus})::int8) FROM {rest}), ''
                ),
                sum(rows)::int8
            FROM summed
        """).format(
            key_hash=_KEY_HASH,
            row_hash=self._row_hash,
            mask=sql.Literal((1 << bits) - 1),
            source=self._source,
            condition=self._condition(within),
            modulus=sql.Literal(_MODULUS),
            number=sql.Literal(5 - NUMBER_BYTES),
            # A remainder has the sum's sign; without its first byte it is the one from 0 on.
            rest=sql.Literal(9 - SUM_BYTES),
        )
        data, rows = self._row(query)
        return Sums(bytes(data or b""), int(rows or 0))

    def _condition(self, within: Buckets) -> sql.Composable:
        if within.numbers is None:
            return sql.SQL("true")
        return sql.SQL("{} & {} IN (SELECT unnest({}::int8[]))").format(
            _KEY_HASH,
            sql.Literal((1 << within.bits) - 1),
            sql.Literal(list(within.numbers)),
        )

    def rows(self, within: Buckets) -> Iterator[tuple[Key, bytes]]:
        """Return key and hash of all rows in these buckets, by one reading of the table."""
        query = sql.SQL("COPY (SELECT {}, {} FROM {} WHERE {}) TO STDOUT (FORMAT binary)").format(
            sql.SQL(", ").join(self._key_texts),
            self._row_hash,
            self._source,
            self._condition(within),
        )
        with self._translated(), self._connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([*(["text"] * self._key_count), "int8"])
            for *parts, digest in copy.rows():
                key = tuple(key_text(part) for part in parts)
                yield key, digest.to_bytes(8, "big", signed=True)

    def close(self) -> None:
        """End the transaction."""
        try:
            with answering(self._name, self._connection, END_SECONDS):
                self._connection.execute("ROLLBACK")
        except (psycopg.Error, UnavailableError):
            self._connection.close()
            return
        self._release(self._connection)
