"""Rows of a table or view in PostgreSQL.

``postgresql://user@host:port/db?table=[schema.]T``: the other parameters are libpq's, and so are
the PG* variables of the environment. A name that holds a dot is quoted: ``table="we.ird"``. A table
is walked in the order of its key, page by page, so an index on the key keeps a page cheap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from synchroscope.errors import ConfigurationError, UnavailableError
from validator.stores.port import Key, Page, Row, key_text
from validator.stores.postgresql_digests import PostgresqlDigests
from validator.stores.postgresql_errors import answering, check_parameters, failure
from validator.stores.postgresql_keys import KeyColumns, arrays_of
from validator.stores.postgresql_values import KNOWS, is_padded, kind_of, plain, prepare
from validator.stores.text_values import PADDED, Kind
from validator.stores.uri import check_uri, name_parts

CONNECT_SECONDS = 5
ANSWER_MILLISECONDS = 60_000
GRACE_SECONDS = 5.0
"""So much longer a server that does not end a statement itself is waited for."""
_KEEPALIVES: Mapping[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}
"""libpq's, where the URI does not say otherwise: a host that is gone is noticed."""
_FORM = "write postgresql://user@host:port/db?table=[schema.]table"
_Answer = TypeVar("_Answer")


def _longest_answer_seconds() -> float:
    return ANSWER_MILLISECONDS / 1000 + GRACE_SECONDS


class PostgresqlStore:
    """The `ForeignStore` port on PostgreSQL; opens its connection when it is first needed.

    Parameters
    ----------
    uri: See the module.
    key_columns: What identifies a row. Two rows with one key are an error where they are seen.
    columns: Only these; None: all but the key's.
    """

    is_typed = True
    finds_what_it_shows = True
    shows_rows_once = True
    knows = KNOWS

    def __init__(
        self, uri: str, key_columns: Sequence[str], columns: Sequence[str] | None = None
    ) -> None:
        if not key_columns:
            raise ConfigurationError("a PostgreSQL table needs key columns")
        check_uri(uri)
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
        options = parse_qsl(parts.query, keep_blank_values=True)
        tables = [name_parts(value) for name, value in options if name == "table"]
        if len(tables) != 1 or tables[0] is None:
            raise ConfigurationError(f"the PostgreSQL URI must name one table: {_FORM}")
        rest = [(name, value) for name, value in options if name != "table"]
        check_parameters([name for name, _ in rest])
        self._dsn = urlunsplit(parts._replace(query=urlencode(rest, quote_via=quote)))
        try:
            given = conninfo_to_dict(self._dsn)
        except psycopg.Error:
            # What the parser says may show a piece of the password.
            raise ConfigurationError(f"the PostgreSQL URI cannot be read: {_FORM}") from None
        self._keepalives: dict[str, Any] = {
            n: value for n, value in _KEEPALIVES.items() if n not in given
        }
        self._table = sql.Identifier(*tables[0])
        written = next(value for name, value in options if name == "table")
        self.name = f"postgresql://{parts.hostname or ''}{port}{parts.path}?table={written}"
        self.key_columns = tuple(key_columns)
        self._wanted = None if columns is None else list(columns)
        self._columns: list[str] = []
        self._types: dict[str, str] = {}
        self._is_key_complete = False
        self._keys: KeyColumns | None = None
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lent: psycopg.Connection[tuple[Any, ...]] | None = None

    # -- the connection --------------------------------------------------------------------------

    def digests(self) -> PostgresqlDigests:
        """Begin a snapshot in which buckets of rows are summed; the connection goes with it."""

        def begin(connection: psycopg.Connection[tuple[Any, ...]]) -> PostgresqlDigests:
            self._lent, self._connection = (
                connection,
                None,
            )  # Another one is opened if there is more to ask meanwhile.
            return PostgresqlDigests(
                connection,
                self._table,
                self._types,
                self.key_columns,
                self._columns,
                self.name,
                self._take_back,
            )

        return self._do(begin)

    def _take_back(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        if self._connection is None:
            self._connection = connection
        else:
            connection.close()

    def keyless(self) -> int:
        """Return how many rows have NULL in a column of the key."""
        missing = sql.SQL(" OR ").join(
            sql.SQL("{} IS NULL").format(sql.Identifier("t", name)) for name in self.key_columns
        )
        query = sql.SQL("SELECT count(*) FROM {} AS t WHERE {}").format(self._table, missing)

        def count(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
            row = None if self._is_key_complete else connection.execute(query).fetchone()
            return 0 if row is None else int(row[0])

        return self._do(count)

    def _do(self, act: Callable[[psycopg.Connection[tuple[Any, ...]]], _Answer]) -> _Answer:
        """Do it on an open connection, and translate what it raises."""
        try:
            if self._connection is None:
                self._connection = self._open()
            with answering(self.name, self._connection, _longest_answer_seconds()):
                return act(self._connection)
        except UnavailableError:
            self.close()
            raise
        except psycopg.Error as error:
            self.close()
            raise failure(self.name, error) from error

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="synchroscope",
            **self._keepalives,
        )
        try:
            with answering(self.name, connection, _longest_answer_seconds()):
                connection.execute("SET default_transaction_read_only = on")
                prepare(connection)
                connection.execute(f"SET statement_timeout = {ANSWER_MILLISECONDS}")
                self._describe(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _describe(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        place = self._table.as_string(connection)
        rows = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull, "
            "coalesce((to_jsonb(c) ->> 'collisdeterministic')::bool, true), typcategory = 'A' "
            "FROM pg_attribute LEFT JOIN pg_collation AS c ON c.oid = attcollation "
            "JOIN pg_type ON pg_type.oid = atttypid "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (place,),
        ).fetchall()
        types = self._types = {str(name): str(kind) for name, kind, *_ in rows}
        for name in (*self.key_columns, *(self._wanted or ())):
            if name not in types:
                near = get_close_matches(name, types, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(types)}"
                raise ConfigurationError(f"{self.name} has no column {name!r}: {hint}")
        for name, kind, _, _, is_array in rows:
            if is_array and name in self.key_columns:
                raise ConfigurationError(
                    f"{self.name}: {name!r} is an array ({kind}), which is no key: name other key "
                    "columns, or a view's with array_to_string"
                )
        loose = frozenset(str(name) for name, _, _, is_exact, _ in rows if not is_exact)
        self._keys = KeyColumns(self.key_columns, types, loose)
        filled = {str(name) for name, _, is_filled, *_ in rows if is_filled}
        self._is_key_complete = filled.issuperset(self.key_columns)
        others = [name for name in types if name not in self.key_columns]
        self._columns = others if self._wanted is None else self._wanted

    def kinds(self) -> dict[str, Kind]:
        """Return what the columns beside the key were declared as."""
        self._do(lambda connection: None)
        return {name: kind_of(self._types[name]) for name in self._columns}

    def key_kinds(self) -> Sequence[Kind]:
        """Return what the key's columns were declared as."""
        self._do(lambda connection: None)
        types = [self._types[name] for name in self.key_columns]
        return [PADDED if is_padded(declared) else kind_of(declared) for declared in types]

    # -- reading ---------------------------------------------------------------------------------

    def columns(self) -> list[str] | None:
        """Return the columns beside the key."""
        self._do(lambda connection: None)
        return list(self._columns)

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page in the order of the key; NULLs are no keys."""
        size = max(limit, 1)
        # One more: the row of the last one's key, if there is any.
        rows = self._do(lambda connection: self._select_page(connection, cursor, size + 1))
        pairs = [self._pair(row) for row in rows]
        for (key, _), (following, _) in pairwise(pairs):
            if key == following:
                raise self._not_unique(key)
        return Page(pairs[:size], json.dumps(pairs[size - 1][0]) if len(pairs) > size else None)

    def _not_unique(self, key: Key) -> ConfigurationError:
        return ConfigurationError(
            f"{self.name} has two rows with the key {', '.join(key)}: name more key columns"
        )

    def _select_page(
        self, connection: psycopg.Connection[tuple[Any, ...]], cursor: str | None, rows: int
    ) -> list[tuple[Any, ...]]:
        assert self._keys is not None
        conditions = [self._keys.are_there]
        if cursor is not None:
            conditions.append(self._keys.after())
        query = sql.SQL("SELECT {} FROM {} AS t WHERE {} ORDER BY {} LIMIT {}").format(
            self._selected(self._keys),
            self._table,
            sql.SQL(" AND ").join(conditions),
            self._keys.places,
            sql.Literal(rows),
        )
        parameters = None if cursor is None else json.loads(cursor)
        # Not the usual placeholders, to which a % in a name would be one.
        return psycopg.RawCursor(connection).execute(query, parameters).fetchall()

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys as of now; what the key's type cannot hold is absent."""
        wanted = list(dict.fromkeys(keys))
        found: dict[Key, Row] = {}
        for row in self._do(lambda connection: self._select(connection, wanted)):
            key, values = self._pair(row)
            if key in found:
                raise self._not_unique(key)
            found[key] = values
        return found

    def _select(
        self, connection: psycopg.Connection[tuple[Any, ...]], keys: Sequence[Key]
    ) -> list[tuple[Any, ...]]:
        assert self._keys is not None
        keys = self._keys.plausible(keys)
        query = sql.SQL("SELECT {} FROM {} AS t WHERE {}").format(
            self._selected(self._keys), self._table, self._keys.among()
        )
        cursor = psycopg.RawCursor(connection)
        try:
            return cursor.execute(query, arrays_of(keys)).fetchall() if keys else []
        except psycopg.DataError:
            readable = self._keys.readable(connection, keys)
            if len(readable) == len(keys):
                raise  # It is no key, but a column that is calculated.
        return cursor.execute(query, arrays_of(readable)).fetchall() if readable else []

    def _selected(self, keys: KeyColumns) -> sql.Composed:
        # The key as the database writes it: what is given back is then read as the same key.
        return sql.SQL(", ").join([*keys.texts, *(sql.Identifier("t", n) for n in self._columns)])

    def _pair(self, row: tuple[Any, ...]) -> tuple[Key, Row]:
        size = len(self.key_columns)
        key = tuple(key_text(value) for value in row[:size])
        return key, dict(zip(self._columns, map(plain, row[size:]), strict=True))

    def interrupt(self) -> None:
        """Cancel what the server is doing for this object."""
        for connection in (self._connection, self._lent):
            if connection is not None and not connection.closed:
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CONNECT_SECONDS)

    def close(self) -> None:
        """Release the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
