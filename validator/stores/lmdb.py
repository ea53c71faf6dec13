"""Rows in an LMDB environment: one entry a row, its value a JSON or MessagePack object.

``lmdb:///PATH?key={user_id}&value=json&database=NAME``: ``key`` says how an entry's key is put
together from the key columns (default: the only one), ``value`` is ``json`` or ``msgpack``,
``database`` the named database (default: the unnamed one). It is opened for reading alone, and no
writer is kept waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import lmdb
import msgspec

from synchroscope.errors import ConfigurationError, StorageError, UnavailableError
from synchroscope.foreign import UNDECODABLE
from validator.stores.file_identity import FileIdentity
from validator.stores.json_text import decode_json
from validator.stores.key_template import KeyTemplate
from validator.stores.port import Bytes, DamagedRow, Key, Page, Row
from validator.stores.text_values import JSON_KINDS

_DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "json": decode_json,
    "msgpack": msgspec.msgpack.Decoder().decode,
}


class LmdbStore:
    """The `ForeignStore` port on LMDB.

    Parameters
    ----------
    uri: See the module.
    key_columns: In the order in which keys are to be given; none: the template's own.
    columns: Only these; None: all.
    """

    finds_what_it_shows = True
    marks_bytes = False

    def __init__(
        self, uri: str, key_columns: Sequence[str] = (), columns: Sequence[str] | None = None
    ) -> None:
        parts = urlsplit(uri)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.netloc or not parts.path:
            raise ConfigurationError("the LMDB URI names no path: write lmdb:///PATH")
        unknown = set(options) - {"key", "value", "database"}
        if unknown:
            raise ConfigurationError(
                f"the LMDB URI's {', '.join(sorted(unknown))} is not known: write "
                "lmdb:///PATH?key={user_id}&value=json&database=NAME"
            )
        if options.get("value", "json") not in _DECODERS:
            raise ConfigurationError("the LMDB URI's value must be json or msgpack")
        self._decode = _DECODERS[options.get("value", "json")]
        self.knows = JSON_KINDS | ({"bytes"} if options.get("value") == "msgpack" else set())
        if "key" not in options and len(key_columns) != 1:
            raise ConfigurationError("say what the keys' parts are: lmdb:///PATH?key={a}:{b}")
        self._template = KeyTemplate(options.get("key") or "{" + key_columns[0] + "}")
        self.key_columns: tuple[str, ...] = tuple(key_columns) or self._template.columns
        if set(self.key_columns) != set(self._template.columns):
            raise ConfigurationError(
                f"the LMDB URI's key names {', '.join(self._template.columns)}, but the key "
                f"columns are {', '.join(self.key_columns)}"
            )
        path = Path(unquote(parts.path))
        self.name = f"lmdb://{path}"
        self.is_typed = True
        self._wanted = None if columns is None else list(columns)
        self._keyless = 0
        if not path.exists():
            raise ConfigurationError(f"{self.name}: there is no such file or folder")
        self._path = path
        self._database_name = options.get("database")
        self._open()

    def _open(self) -> None:
        path = self._path
        try:
            self._file = FileIdentity(path / "data.mdb" if path.is_dir() else path)
            self._environment = lmdb.open(
                str(path), readonly=True, subdir=path.is_dir(), max_dbs=16, create=False
            )
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from error
        try:
            name = None if self._database_name is None else self._database_name.encode()
            self._database = self._environment.open_db(name, create=False)
        except lmdb.NotFoundError:
            self.close()
            raise ConfigurationError(f"{self.name} has no database {self._database_name}") from None
        except lmdb.Error as error:
            self.close()
            raise self._failure(error) from error

    def _check_file(self) -> None:
        """See that the file is there and whole: reading past its end would end the process."""
        if not self._file.is_same():
            self.close()
            self._open()
        pages = self._environment.info()["last_pgno"] + 1
        if self._file.size_bytes() < pages * self._environment.stat()["psize"]:
            raise StorageError(f"{self.name}: was cut off: put a whole copy in its place")

    def columns(self) -> list[str] | None:
        """Return the columns that were asked for; None: each row has its own."""
        return self._wanted

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page, in order of the keys' bytes."""
        rows: list[tuple[Key, Row]] = []
        last = b""
        if cursor is None:
            self._keyless = 0
        try:
            self._check_file()
            with self._environment.begin(db=self._database) as transaction:
                place = transaction.cursor()
                if cursor is None:
                    found = place.first()
                else:
                    after = bytes.fromhex(cursor)
                    found = place.set_range(after)
                    if found and place.key() == after:
                        found = place.next()
                passed = 0
                while found and passed < max(limit, 1):
                    passed += 1
                    last = place.key()
                    key = self._key_of(last)
                    if key is None:
                        self._keyless += 1
                    else:
                        rows.append((key, self._row(place.value())))
                    found = place.next()
        except lmdb.MapResizedError as error:
            raise self._grow(error) from error
        except lmdb.Error as error:
            raise self._failure(error) from error
        return Page(rows, last.hex() if found else None)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys, all of one moment."""
        rows: dict[Key, Row] = {}
        try:
            self._check_file()
            with self._environment.begin(db=self._database) as transaction:
                longest = self._environment.max_key_size()
                for key in keys:
                    name = self._name_of(key).encode()
                    # No entry has an empty key, or a longer one; the others are read all the same.
                    data = transaction.get(name) if 0 < len(name) <= longest else None
                    if data is not None:
                        rows[key] = self._row(data)
        except lmdb.MapResizedError as error:
            raise self._grow(error) from error
        except lmdb.Error as error:
            raise self._failure(error) from error
        return rows

    def _key_of(self, name: bytes) -> Key | None:
        try:
            values = self._template.parse(name.decode())
        except UnicodeDecodeError:
            return None
        return None if values is None else self._ordered(values)

    def keyless(self) -> int:
        """Return how many keys of the last walk are no UTF-8 or do not fit the template."""
        return self._keyless

    def readings(self, key: Key) -> list[Key]:
        """Return all keys that are written as this one is."""
        found = self._template.readings(self._name_of(key))
        return [self._ordered(values) for values in found]

    def _ordered(self, values: Key) -> Key:
        named = dict(zip(self._template.columns, values, strict=True))
        return tuple(named[column] for column in self.key_columns)

    def _name_of(self, key: Key) -> str:
        named = dict(zip(self.key_columns, key, strict=True))
        return self._template.fill(tuple(named[column] for column in self._template.columns))

    def _row(self, data: bytes) -> Row:
        try:
            row: Any = self._decode(data)
        except (*UNDECODABLE, ValueError):
            return DamagedRow()
        if not isinstance(row, dict):
            return DamagedRow()
        try:
            plain = _plain_object(row, Bytes if self.marks_bytes else str)
        except ValueError:
            return DamagedRow()
        if self._wanted is None:
            return plain
        return {name: plain[name] for name in self._wanted if name in plain}

    def _grow(self, error: lmdb.Error) -> UnavailableError:
        """The writer has made the map larger: take its size, and let the caller ask again."""
        self._environment.set_mapsize(0)
        return UnavailableError(self.name, f"was made larger by its writer ({error})")

    def _failure(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.name}: cannot be read ({error}): check that it is an LMDB environment, and "
            "that this user may read it and write its lock file"
        )

    def close(self) -> None:
        """Release the environment."""
        self._environment.close()


def _plain(value: Any, bytes_form: type[str]) -> Any:
    """Return what JSON could say as well: bytes in hexadecimal, moments as ISO 8601."""
    if isinstance(value, bytes):
        return bytes_form(value.hex())
    if isinstance(value, dict):
        return _plain_object(value, bytes_form)
    if isinstance(value, list):
        return [_plain(item, bytes_form) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _plain_object(value: dict[Any, Any], bytes_form: type[str]) -> dict[str, Any]:
    """Return an object with its names as texts; raises `ValueError` where two become one."""
    plain = {str(name): _plain(item, bytes_form) for name, item in value.items()}
    if len(plain) < len(value):
        raise ValueError("two names are one as text")
    return plain
