"""Rows of a CSV file with a header line.

``csv:PATH`` or ``csv:///PATH``, ``?delimiter=;`` for another one than the comma (``tab`` for tabs).
Every value is text; an empty one may be nothing. The file is read from its beginning to its end, so
it is for exports, not for stores at work. What is fetched a second time comes from an index
(`csv_index`), so that many rows in portions cost no reading of the file each.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from synchroscope.errors import ConfigurationError
from validator.stores.csv_index import CsvIndex
from validator.stores.port import Key, Page, Row

LONGEST_FIELD = 16 << 20
_FORM = "write csv:PATH or csv:///PATH, perhaps with ?delimiter=;"
_NAMED = {"tab": "\t", "": ","}


class CsvStore:
    """The `ForeignStore` port on a CSV file (RFC 4180, UTF-8).

    Parameters
    ----------
    uri: See the module.
    key_columns: What identifies a row. Two rows with one key are an error where they are seen.
    columns: Only these; None: all but the key's.
    """

    is_typed = False
    finds_what_it_shows = True
    shows_rows_once = True
    """A walk shows no row twice: a key that comes again is another row."""

    def __init__(
        self, uri: str, key_columns: Sequence[str], columns: Sequence[str] | None = None
    ) -> None:
        parts = urlsplit(uri)
        options = parse_qs(parts.query, keep_blank_values=True)
        if parts.netloc or not parts.path or set(options) - {"delimiter"}:
            raise ConfigurationError(f"the CSV URI {uri!r} names no file: {_FORM}")
        if not key_columns:
            raise ConfigurationError("a CSV file needs key columns")
        written = options.get("delimiter", [""])[0]
        self._delimiter = _NAMED.get(written, written)
        if len(self._delimiter) != 1:
            raise ConfigurationError(f"the delimiter {written!r} is not one character: {_FORM}")
        self._path = Path(unquote(parts.path))
        self.name = f"csv:{self._path}"
        self.key_columns = tuple(key_columns)
        csv.field_size_limit(LONGEST_FIELD)
        with self._lines() as lines:
            header = next(lines, [])
        self._header = self._checked(header, columns)
        others = [name for name in header if name not in key_columns]
        self._columns = others if columns is None else list(columns)
        self._stamp = self._stat()
        self._was_fetched = False
        self._index: CsvIndex | None = None
        self._walk: tuple[int, Any] | None = None

    def _checked(self, header: list[str], wanted: Sequence[str] | None) -> list[str]:
        doubled = {name for name in header if header.count(name) > 1}
        if not header or doubled:
            what = f"names {', '.join(sorted(doubled))} twice" if doubled else "is missing"
            raise ConfigurationError(f"{self.name}: the header line {what}")
        for name in (*self.key_columns, *(wanted or ())):
            if name not in header:
                near = get_close_matches(name, header, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(header)}"
                raise ConfigurationError(f"{self.name} has no column {name!r}: {hint}")
        return header

    @contextmanager
    def _lines(self) -> Iterator[Iterator[list[str]]]:
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                yield self._parsed(csv.reader(file, delimiter=self._delimiter, strict=True))
        except FileNotFoundError:
            raise ConfigurationError(f"{self.name}: no such file") from None
        except OSError as error:
            raise ConfigurationError(f"{self.name}: {error.strerror}") from error

    def _parsed(self, reader: Any) -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise ConfigurationError(
                f"{self.name}, line {reader.line_num}: {error}: is it CSV with the delimiter "
                f"{self._delimiter!r}?"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{self.name}, after line {reader.line_num}: not UTF-8 ({error.reason})"
            ) from error

    def _rows(self) -> Iterator[tuple[Key, Row]]:
        if self._stat() != self._stamp:
            raise self._changed()
        keys = [self._header.index(name) for name in self.key_columns]
        with self._lines() as lines:
            next(lines, None)
            for number, values in enumerate(lines, 1):
                if not values:
                    continue
                if len(values) != len(self._header):
                    raise ConfigurationError(
                        f"{self.name}, row {number} after the header: {len(values)} values, the "
                        f"header has {len(self._header)}"
                    )
                named = dict(zip(self._header, values, strict=True))
                key = tuple(values[place] for place in keys)
                yield key, {name: named[name] for name in self._columns}

    def _changed(self) -> ConfigurationError:
        return ConfigurationError(f"{self.name} was changed while it was being compared")

    def _stat(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigurationError(f"{self.name}: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size

    def columns(self) -> list[str] | None:
        """Return the columns beside the key."""
        return list(self._columns)

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page in the order of the file."""
        start = 0 if cursor is None else int(json.loads(cursor))
        known = self._walk
        if known is None or known[0] != start:
            rows = self._rows()
            for _ in range(start):
                next(rows, None)
        else:
            rows = known[1]
        found: list[tuple[Key, Row]] = []
        for pair in rows:
            found.append(pair)
            if len(found) >= max(limit, 1):
                break
        if len({key for key, _ in found}) < len(found):
            raise self._not_unique([key for key, _ in found])
        self._walk = (start + len(found), rows)
        is_last = len(found) < max(limit, 1)
        return Page(found, None if is_last else json.dumps(start + len(found)))

    def _not_unique(self, keys: Sequence[Key]) -> ConfigurationError:
        seen: set[Key] = set()
        twice = next((key for key in keys if key in seen or seen.add(key)), ())  # type: ignore[func-returns-value]
        return ConfigurationError(
            f"{self.name} has two rows with the key {', '.join(twice)}: name more key columns"
        )

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys: by one reading of the file, and then by an index."""
        wanted = set(keys)
        if not wanted:
            return {}
        if self._was_fetched:
            return self._indexed().fetch([key for key in wanted if _is_text(key)])
        self._was_fetched = True
        found: dict[Key, Row] = {}
        for key, row in self._rows():
            if key in wanted:
                if key in found:
                    raise self._not_unique([key, key])
                found[key] = row
        return found

    def _indexed(self) -> CsvIndex:
        if self._index is None:
            self._index = CsvIndex(self.name, self._rows())
        elif self._stat() != self._stamp:
            raise self._changed()
        if self._index.twice is not None:
            raise self._not_unique([self._index.twice] * 2)
        return self._index

    def close(self) -> None:
        """Release the file."""
        self._walk = None
        if self._index is not None:
            self._index.close()


def _is_text(key: Key) -> bool:
    """Say whether a key is UTF-8, as all of the file is."""
    return not any("\ud800" <= sign <= "\udfff" for part in key for sign in part)
