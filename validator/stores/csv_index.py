"""Where a file's rows are found by key, once it was asked for some more than once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from synchroscope.errors import StorageError
from validator.stores.port import Key, Row

KEYS_PER_QUERY = 200


class CsvIndex:
    """Rows by key, in a temporary file of SQLite's that goes with the connection.

    Parameters
    ----------
    name: The store's, for messages.
    rows: All rows.
    """

    def __init__(self, name: str, rows: Iterable[tuple[Key, Row]]) -> None:
        self._name = name
        # Without a name it is a temporary file, which is deleted however this ends.
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self.twice: Key | None = None
        """A key that has two rows."""
        try:
            self._fill(rows)
        except sqlite3.OperationalError as error:
            raise self._full(error) from error

    def _fill(self, rows: Iterable[tuple[Key, Row]]) -> None:
        self._file.execute("CREATE TABLE rows (key BLOB NOT NULL, row BLOB NOT NULL)")
        self._file.execute("BEGIN")
        encode = msgspec.msgpack.encode
        self._file.executemany(
            "INSERT INTO rows VALUES (?, ?)", ((encode(key), encode(row)) for key, row in rows)
        )
        self._file.execute("COMMIT")
        self._file.execute("CREATE INDEX by_key ON rows (key)")
        found = self._file.execute(
            "SELECT key FROM rows GROUP BY key HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if found is not None:
            self.twice = msgspec.msgpack.decode(found[0], type=tuple[str, ...])

    def fetch(self, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return the rows of these keys; those that are absent are left out."""
        found: dict[Key, Row] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            wanted = [msgspec.msgpack.encode(key) for key in keys[start : start + KEYS_PER_QUERY]]
            marks = ", ".join("?" * len(wanted))
            try:
                rows = self._file.execute(f"SELECT * FROM rows WHERE key IN ({marks})", wanted)
                for key, row in rows:
                    named = msgspec.msgpack.decode(key, type=tuple[str, ...])
                    found[named] = msgspec.msgpack.decode(row, type=dict[str, str])
            except sqlite3.OperationalError as error:
                raise self._full(error) from error
        return found

    def _full(self, error: sqlite3.Error) -> StorageError:
        return StorageError(
            f"{self._name}: its index cannot be written ({error}): set TMPDIR to a folder with "
            "more room"
        )

    def close(self) -> None:
        """Give the file up."""
        self._file.close()
