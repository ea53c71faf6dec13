"""Rows of a table or view in a SQLite file, which is opened for reading only.

``sqlite:///PATH?table=T``; an absolute PATH may keep its own slash, which makes four. A table is
walked in the order of its key, page by page, so an index on the key keeps a page cheap. A column
has whatever type each of its values has.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from synchroscope.errors import ConfigurationError, UnavailableError
from validator.stores.file_identity import FileIdentity
from validator.stores.port import Bytes, Key, Page, Row, key_text
from validator.stores.uri import name_parts

BUSY_SECONDS = 5.0
KEYS_PER_QUERY = 200
BYTES_SIGN = "\\x"
"""Stands before a key's bytes, as in PostgreSQL, so that they are no text of digits."""
_LONGEST_INTEGER = 20
_SMALLEST, _END = -(1 << 63), 1 << 63
_FORM = "write sqlite:///path/to/file?table=T"


class SqliteStore:
    """The `ForeignStore` port on SQLite.

    Parameters
    ----------
    uri: See the module.
    key_columns: What identifies a row. Two rows with one key are an error where they are seen.
    columns: Only these; None: all but the key's.
    """

    is_typed = True
    finds_what_it_shows = True
    shows_rows_once = True
    knows = frozenset({"number", "bytes"})
    """Not booleans, which it writes as 0 and 1."""
    marks_bytes = False

    def __init__(
        self, uri: str, key_columns: Sequence[str], columns: Sequence[str] | None = None
    ) -> None:
        parts = urlsplit(uri)
        options = parse_qs(parts.query)
        if parts.netloc or set(options) != {"table"} or len(options["table"]) != 1:
            raise ConfigurationError(f"the SQLite URI names a file and one table: {_FORM}")
        if not key_columns:
            raise ConfigurationError("a SQLite table needs key columns")
        name = unquote(parts.path)
        # With two slashes it is the same file, but SQLite would take tmp of //tmp for a server.
        path = Path("/" + name.lstrip("/") if name.startswith("//") else name)
        table = options["table"][0]
        if table[0] == table[-1] == '"' and (parts_of := name_parts(table)):
            table = parts_of[0]  # Quoted as in SQL, as PostgreSQL needs it where it holds a dot.
        self.name = f"sqlite://{path}?table={table}"
        self.key_columns = tuple(key_columns)
        self._table = _quoted(table)
        if not path.is_file():
            raise ConfigurationError(f"{self.name}: no such file")
        self._path = path
        self._connect()
        try:
            self._columns = self._describe(table, columns)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        try:
            self._file = FileIdentity(self._path)
            self._connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=BUSY_SECONDS
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"{self.name}: cannot be opened ({error})") from error

    def _describe(self, table: str, wanted: Sequence[str] | None) -> list[str]:
        rows = self._query("SELECT name FROM pragma_table_xinfo(?)", [table])
        names = [str(name) for (name,) in rows]
        if not names:
            raise ConfigurationError(f"{self.name}: there is no such table or view")
        for name in (*self.key_columns, *(wanted or ())):
            if name not in names:
                near = get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
                raise ConfigurationError(f"{self.name} has no column {name!r}: {hint}")
        others = [name for name in names if name not in self.key_columns]
        return others if wanted is None else list(wanted)

    def _query(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        if not self._file.is_same():  # Another file has its name, or none.
            self.close()
            self._connect()
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise UnavailableError(self.name, f"{error}: somebody is writing") from error
            raise ConfigurationError(f"{self.name}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(f"{self.name}: {error}: is it a SQLite file?") from error

    def keyless(self) -> int:
        """Return how many rows have NULL in a column of the key."""
        missing = " OR ".join(f"{_quoted(name)} IS NULL" for name in self.key_columns)
        return int(self._query(f"SELECT count(*) FROM {self._table} WHERE {missing}", [])[0][0])

    def columns(self) -> list[str] | None:
        """Return the columns beside the key."""
        return list(self._columns)

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page in the order of the key; NULLs are no keys."""
        keys = [_quoted(name) for name in self.key_columns]
        # Two keys that the column's collation takes for one are two: 'a' and 'A' under NOCASE.
        places = ", ".join(f"{key}, {key} COLLATE BINARY" for key in keys)
        conditions = [f"{key} IS NOT NULL" for key in keys]
        parameters: list[Any] = []
        if cursor is not None:
            conditions.append(f"({places}) > ({', '.join('?' * (2 * len(keys)))})")
            parameters += [part for part in _read_cursor(cursor) for _ in range(2)]
        size = max(limit, 1)
        rows = self._query(
            f"SELECT {self._selected()} FROM {self._table} WHERE {' AND '.join(conditions)} "
            f"ORDER BY {places} LIMIT ?",
            [*parameters, size + 1],  # One more: the row of the last one's key, if there is any.
        )
        pairs = [self._pair(row) for row in rows]
        if len({key for key, _ in pairs}) < len(pairs):
            raise self._not_unique([key for key, _ in pairs])
        is_last = len(rows) <= size
        following = None if is_last else _written_cursor(rows[size - 1][: len(keys)])
        return Page(pairs[:size], following)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys as of now."""
        wanted = list(dict.fromkeys(keys))
        found: dict[Key, Row] = {}
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            found.update(self._fetch(wanted[start : start + KEYS_PER_QUERY]))
        return found

    def _fetch(self, keys: Sequence[Key]) -> dict[Key, Row]:
        conditions, parameters = [], []
        for key in keys:
            parts = []
            for name, text in zip(self.key_columns, key, strict=True):
                values = _values(text)
                parts.append(f"{_quoted(name)} IN ({', '.join('?' * len(values))})")
                parameters += values
            conditions.append(" AND ".join(parts))
        rows = self._query(
            f"SELECT {self._selected()} FROM {self._table} WHERE {' OR '.join(conditions)}",
            parameters,
        )
        wanted = set(keys)
        pairs = [pair for pair in map(self._pair, rows) if pair[0] in wanted]
        found = dict(pairs)
        if len(found) < len(pairs):
            raise self._not_unique([key for key, _ in pairs])
        return found

    def _not_unique(self, keys: Sequence[Key]) -> ConfigurationError:
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        return ConfigurationError(
            f"{self.name} has two rows with the key {', '.join(twice)}: name more key columns"
        )

    def _selected(self) -> str:
        return ", ".join(map(_quoted, (*self.key_columns, *self._columns)))

    def _pair(self, row: tuple[Any, ...]) -> tuple[Key, Row]:
        size = len(self.key_columns)
        values = [self._plain(value) if isinstance(value, bytes) else value for value in row[size:]]
        return tuple(map(_key_part, row[:size])), dict(zip(self._columns, values, strict=True))

    def _plain(self, data: bytes) -> str:
        return Bytes(data.hex()) if self.marks_bytes else data.hex()

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


def _key_part(value: Any) -> str:
    r"""Return a key's value as text: 5.0 is 5, as SQLite has it, and bytes are hexadecimal.

    >>> _key_part(5.0), _key_part(1e20), _key_part(b"ab")
    ('5', '1e+20', '\\x6162')
    """
    if isinstance(value, bytes):
        return BYTES_SIGN + value.hex()
    if isinstance(value, float) and value.is_integer() and _SMALLEST <= value < _END:
        return str(int(value))
    return key_text(value)


def _values(text: str) -> list[Any]:
    r"""Return all values that a key's text may be of: a column without a type tells 5 from '5'.

    >>> _values("5"), _values("05"), _values("1.5"), _values("inf"), _values("\\x6162")
    (['5', 5], ['05'], ['1.5', 1.5], ['inf', inf], ['\\x6162', b'ab'])
    """
    values: list[Any] = [text]
    try:
        if text.isascii() and text.removeprefix("-").isdigit() and len(text) <= _LONGEST_INTEGER:
            values += [int(text)] if _SMALLEST <= int(text) < _END else []
        elif text.startswith(BYTES_SIGN):
            values.append(bytes.fromhex(text.removeprefix(BYTES_SIGN)))
        else:
            values.append(float(text))
    except ValueError:
        return values
    return [text, *(value for value in values[1:] if _key_part(value) == text)]


def _written_cursor(values: Sequence[Any]) -> str:
    return json.dumps([[v.hex()] if isinstance(v, bytes) else v for v in values])


def _read_cursor(text: str) -> list[Any]:
    return [bytes.fromhex(v[0]) if isinstance(v, list) else v for v in json.loads(text)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
