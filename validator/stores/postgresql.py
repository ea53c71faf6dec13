"""Rows of a table or view in PostgreSQL.

``postgresql://user@host:port/db?table=[schema.]T``: the other parameters are libpq's, and so are
the PG* variables of the environment. A name that holds a dot is quoted: ``table="we.ird"``. A table
is walked in the order of its key, page by page, so an index on the key keeps a page cheap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from synchroscope.errors import ConfigurationError, SynchroscopeError, UnavailableError
from validator.stores.port import Key, Page, Row, key_text
from validator.stores.postgresql_digests import PostgresqlDigests, key_as_text
from validator.stores.postgresql_values import KNOWS, kind_of, plain, prepare
from validator.stores.text_values import Kind
from validator.stores.uri import check_uri, name_parts

CONNECT_SECONDS = 5
ANSWER_MILLISECONDS = 60_000
_FORM = "write postgresql://user@host:port/db?table=[schema.]table"
_WRONG_SETTINGS = (
    "connection is bad: invalid",
    "invalid value for parameter",
    "unrecognized configuration parameter",
    "certificate",
    "does not support SSL",
)
"""What is said of a connection that was given a wrong setting, or is refused for want of one."""
_Answer = TypeVar("_Answer")


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
        _check_parameters([name for name, _ in rest])
        self._dsn = urlunsplit(parts._replace(query=urlencode(rest, quote_via=quote)))
        try:
            conninfo_to_dict(self._dsn)
        except psycopg.Error:
            # What the parser says may show a piece of the password.
            raise ConfigurationError(f"the PostgreSQL URI cannot be read: {_FORM}") from None
        self._table = sql.Identifier(*tables[0])
        written = next(value for name, value in options if name == "table")
        self.name = f"postgresql://{parts.hostname or ''}{port}{parts.path}?table={written}"
        self.key_columns = tuple(key_columns)
        self._wanted = None if columns is None else list(columns)
        self._columns: list[str] = []
        self._types: dict[str, str] = {}
        self._is_key_complete = False
        self._key_types: list[sql.SQL] = []
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
                self._failure,
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
            return act(self._connection)
        except psycopg.Error as error:
            self.close()
            raise self._failure(error) from error

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="synchroscope",
        )
        try:
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
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (place,),
        ).fetchall()
        types = self._types = {str(name): str(kind) for name, kind, _ in rows}
        for name in (*self.key_columns, *(self._wanted or ())):
            if name not in types:
                near = get_close_matches(name, types, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(types)}"
                raise ConfigurationError(f"{self.name} has no column {name!r}: {hint}")
        self._key_types = [sql.SQL(cast(Any, types[name])) for name in self.key_columns]
        filled = {str(name) for name, _, is_filled in rows if is_filled}
        self._is_key_complete = filled.issuperset(self.key_columns)
        others = [name for name in types if name not in self.key_columns]
        self._columns = others if self._wanted is None else self._wanted

    def _failure(self, error: psycopg.Error) -> SynchroscopeError:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        state = error.sqlstate or ""
        if state == "42P01" or state == "3F000":
            return ConfigurationError(f"{self.name}: {text}: name the table as [schema.]table")
        is_data = not state and isinstance(error, psycopg.DataError)  # Refused by the driver.
        if is_data or state[:2] in ("28", "3D", "42", "22", "0A"):
            return ConfigurationError(f"{self.name}: {text}: correct the URI, or the rights")
        if not state and ("password" in text or "no pg_hba.conf entry" in text):
            return ConfigurationError(
                f"{self.name}: the login was refused: check user and password"
            )
        if not state and any(sign in text for sign in _WRONG_SETTINGS):
            return ConfigurationError(f"{self.name}: {text}: correct the URI's parameters")
        if not state and "does not exist" in text:
            return ConfigurationError(f"{self.name}: the role or database does not exist")
        return UnavailableError(
            self.name, f"{text}: check that the server runs and the URI is right"
        )

    def kinds(self) -> dict[str, Kind]:
        """Return what the columns beside the key were declared as."""
        self._do(lambda connection: None)
        return {name: kind_of(self._types[name]) for name in self._columns}

    # -- reading ---------------------------------------------------------------------------------

    def columns(self) -> list[str] | None:
        """Return the columns beside the key."""
        self._do(lambda connection: None)
        return list(self._columns)

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page in the order of the key; NULLs are no keys."""
        rows = self._do(lambda connection: self._select_page(connection, cursor, limit))
        pairs = [self._pair(row) for row in rows]
        for (key, _), (following, _) in pairwise(pairs):
            if key == following:
                raise ConfigurationError(
                    f"{self.name} has two rows with the key {', '.join(key)}: name more key columns"
                )
        is_last = len(pairs) < limit
        return Page(pairs, None if is_last else json.dumps(pairs[-1][0]))

    def _select_page(
        self, connection: psycopg.Connection[tuple[Any, ...]], cursor: str | None, limit: int
    ) -> list[tuple[Any, ...]]:
        keys = self._names(self.key_columns)
        parameters: list[Any] = []
        conditions = [
            sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", n)) for n in self.key_columns
        ]
        if cursor is not None:
            after = sql.SQL(", ").join(sql.SQL("%s::{}").format(t) for t in self._key_types)
            conditions.append(sql.SQL("({}) > ({})").format(keys, after))
            parameters += json.loads(cursor)
        query = sql.SQL("SELECT {} FROM {} AS t WHERE {} ORDER BY {} LIMIT %s").format(
            self._selected(), self._table, sql.SQL(" AND ").join(conditions), keys
        )
        return connection.execute(query, [*parameters, max(limit, 1)]).fetchall()

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys as of now; what the key's type cannot hold is absent."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return {}
        try:
            return self._fetch(wanted)
        except ConfigurationError as error:
            if not isinstance(error.__cause__, psycopg.DataError):
                raise
        found: dict[Key, Row] = {}
        for key in wanted:
            try:
                found.update(self._fetch([key]))
            except ConfigurationError as error:
                if not isinstance(error.__cause__, psycopg.DataError):
                    raise
        return found

    def _fetch(self, keys: list[Key]) -> dict[Key, Row]:
        def select(connection: psycopg.Connection[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
            names = self._names(self.key_columns)
            arrays = sql.SQL(", ").join(sql.SQL("%s::{}[]").format(t) for t in self._key_types)
            query = sql.SQL(
                "SELECT {} FROM {} AS t WHERE ({}) IN (SELECT * FROM unnest({}))"
            ).format(self._selected(), self._table, names, arrays)
            return connection.execute(
                query, [list(part) for part in zip(*keys, strict=True)]
            ).fetchall()

        found: dict[Key, Row] = {}
        for row in self._do(select):
            key, values = self._pair(row)
            if key in found:
                raise ConfigurationError(
                    f"{self.name} has two rows with the key {', '.join(key)}: name more key columns"
                )
            found[key] = values
        return found

    def _selected(self) -> sql.Composed:
        # The key as the database writes it: what is given back is then read as the same key.
        keys = [key_as_text(name, self._types[name]) for name in self.key_columns]
        return sql.SQL(", ").join([*keys, *(sql.Identifier("t", n) for n in self._columns)])

    @staticmethod
    def _names(columns: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join([sql.Identifier("t", name) for name in columns])

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


def _check_parameters(names: Sequence[str]) -> None:
    known = [option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()]
    for name in names:
        if name not in known and name != "ssl":
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "what is not table must be libpq's"
            raise ConfigurationError(f"the PostgreSQL URI's {name!r} is no parameter: {hint}")
