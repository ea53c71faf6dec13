"""The key's columns of a PostgreSQL table: how keys are written, put in order, and looked for.

A key is text, but in the table it is put in order and looked for as what its type is, so that an
index helps. Where values of a type are equal though their texts are not (intervals, a collation
that is not deterministic), keys are two where their texts are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import psycopg
from psycopg import sql

from validator.stores.port import Key
from validator.stores.postgresql_digests import key_as_text
from validator.stores.text_values import NUMBER_FORM

_BY_TEXT = ("interval", "citext", "jsonb")
_BYTES_OF_INTEGER = {"smallint": 2, "integer": 4, "bigint": 8}
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_BOOLEANS = frozenset({"true", "t", "false", "f"})


class KeyColumns:
    """The key's columns; expressions are of the table under the name ``t``.

    Parameters
    ----------
    names: In the order in which keys are given.
    types: Column -> type as declared.
    loose: Columns whose collation takes different texts for one.
    """

    def __init__(
        self, names: Sequence[str], types: Mapping[str, str], loose: frozenset[str]
    ) -> None:
        self._types = [types[name] for name in names]
        self._casts = [sql.SQL(cast(Any, declared)) for declared in self._types]
        self._forms = [sql.SQL(_form(types[name], name in loose)) for name in names]
        columns = [sql.Identifier("t", name) for name in names]
        self.places = self._formed(columns)
        """What rows are put in order by."""
        self.texts = [key_as_text(name, types[name]) for name in names]
        """Each column as text: the same for keys that are equal."""
        self.are_there = sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT NULL").format(column) for column in columns
        )

    def _formed(self, expressions: Sequence[sql.Composable]) -> sql.Composed:
        return sql.SQL(", ").join(
            form.format(expression)
            for form, expression in zip(self._forms, expressions, strict=True)
        )

    def after(self) -> sql.Composed:
        """Return the condition that a row comes after a key, whose parts are $1, $2, ..."""
        parts = [
            sql.SQL("${}::{}").format(sql.SQL(cast(Any, str(number))), declared)
            for number, declared in enumerate(self._casts, 1)
        ]
        return sql.SQL("({}) > ({})").format(self.places, self._formed(parts))

    def among(self) -> sql.Composed:
        """Return the condition that a row's key is one of those in the arrays $1, $2, ..."""
        names = [sql.Identifier("wanted", f"k{n}") for n in range(1, len(self._casts) + 1)]
        return sql.SQL("({}) IN (SELECT {} FROM {})").format(
            self.places, self._formed(names), self._arrays()
        )

    def _arrays(self) -> sql.Composed:
        arrays = sql.SQL(", ").join(
            sql.SQL("${}::{}[]").format(sql.SQL(cast(Any, str(number))), declared)
            for number, declared in enumerate(self._casts, 1)
        )
        names = [sql.Identifier(f"k{n}") for n in range(1, len(self._casts) + 1)]
        return sql.SQL("unnest({}) AS wanted ({})").format(arrays, sql.SQL(", ").join(names))

    def plausible(self, keys: Sequence[Key]) -> list[Key]:
        """Return the keys that their types can hold, as far as this is told without the server."""
        return [key for key in keys if all(map(_may_hold, self._types, key))]

    def readable(self, connection: psycopg.Connection[Any], keys: Sequence[Key]) -> list[Key]:
        """Return the keys that their types can hold, by asking the server: twice a key at most."""
        query = sql.SQL("SELECT count(*) FROM {}").format(self._arrays())
        try:
            psycopg.RawCursor(connection).execute(query, arrays_of(keys))
        except psycopg.DataError:
            if len(keys) == 1:
                return []
            half = len(keys) // 2
            return [
                *self.readable(connection, keys[:half]),
                *self.readable(connection, keys[half:]),
            ]
        return list(keys)


def arrays_of(keys: Sequence[Key]) -> list[list[str]]:
    """Return an array for each column of the key."""
    return [list(part) for part in zip(*keys, strict=True)]


def _form(declared: str, is_loose: bool) -> str:
    if declared.startswith(_BY_TEXT):
        return '{}::text COLLATE "C"'
    return '{} COLLATE "C"' if is_loose else "{}"


def _may_hold(declared: str, text: str) -> bool:
    """Say whether a type can hold a key; True where only the server knows.

    >>> _may_hold("integer", "12"), _may_hold("smallint", "40000"), _may_hold("bigint", "k1")
    (True, False, False)
    >>> _may_hold("text", "a\\0b"), _may_hold("numeric(10,2)", "1.5"), _may_hold("date", "x")
    (False, True, True)
    """
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        return False
    size = _BYTES_OF_INTEGER.get(declared)
    if size is not None:
        end = 1 << (8 * size - 1)
        return _INTEGER.fullmatch(text) is not None and -end <= int(text) < end
    if declared == "uuid":
        return _UUID.fullmatch(text) is not None
    if declared == "boolean":
        return text.lower() in _BOOLEANS
    if declared.startswith("numeric"):
        is_name = text.lower().lstrip("+-") in ("nan", "infinity", "inf")
        return is_name or NUMBER_FORM.fullmatch(text) is not None
    return True
