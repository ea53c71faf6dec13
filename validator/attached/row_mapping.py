"""From a store's rows to items and back, as the file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from synchroscope.errors import ConfigurationError, InvalidEventError
from validator.attached.history import Item, value_hash
from validator.attached.paths import MISSING, compile_path
from validator.stores.json_text import decode_json
from validator.stores.port import DamagedRow, Key, Row, key_text

EVERY_FIELD = "*"


class RowMapping(Struct, frozen=True, kw_only=True):
    """Where an item's facts stand in a store's rows; one row holds one item.

    Parameters
    ----------
    subject: The key column that names the subject.
    type: The context type of every row; or, where `type_column` is set, what is left empty.
    type_column: The key column that names the context type.
    fields: Field -> column, or JSON path (``$.a.b``) in the row; ``"*"``: every column is a field.
    ignore: Columns that are no fields, with ``"*"``.
    offset: Column with the offset of the last event that was applied to the row.
    version: Column with the subject's own version, as the record mapping's `version` has it.
    is_text: Values are stored as text, so that 5 and "5" cannot be told apart.
    """

    subject: str
    type: str = ""
    type_column: str = ""
    fields: dict[str, str] | str = EVERY_FIELD
    ignore: frozenset[str] = frozenset()
    offset: str = ""
    version: str = ""
    is_text: bool = False


class SeenRow(Struct, frozen=True):
    """What a store has of an item: field -> value; no row at all has no fields.

    ``is_damaged``: it is there, and cannot be read.
    """

    fields: Mapping[str, Any]
    is_there: bool = True
    offset: int | None = None
    version: int | None = None
    is_damaged: bool = False


ABSENT_ROW = SeenRow({}, is_there=False)


class RowReader:
    """Finds items in rows.

    Parameters
    ----------
    mapping: Where facts stand.
    key_columns: As the store has them.
    """

    def __init__(self, mapping: RowMapping, key_columns: tuple[str, ...]) -> None:
        self._mapping = mapping
        self._columns = key_columns
        self.is_text = mapping.is_text
        self.is_exact = bool(mapping.offset or mapping.version)
        for name in (mapping.subject, mapping.type_column):
            if name and name not in key_columns:
                raise ConfigurationError(
                    f"{name!r} is no key column of the store; they are {', '.join(key_columns)}"
                )
        left = set(key_columns) - {mapping.subject, mapping.type_column}
        if left:
            raise ConfigurationError(
                f"the key column {', '.join(sorted(left))} is neither subject nor type_column"
            )
        self._subject = key_columns.index(mapping.subject)
        self._type = key_columns.index(mapping.type_column) if mapping.type_column else -1
        self._named: dict[str, Callable[[Row], Any]] = {}
        if isinstance(mapping.fields, dict):
            self._named = {field: _getter(source) for field, source in mapping.fields.items()}
        self._not_fields = mapping.ignore | {mapping.offset, mapping.version} | set(key_columns)

    def key_of(self, context_type: str, subject: str) -> Key | None:
        """Return the row's key; None where the store has no such items."""
        if self._type < 0 and context_type != self._mapping.type:
            return None
        named = {self._mapping.subject: subject, self._mapping.type_column: context_type}
        return tuple(named[column] for column in self._columns)

    def name_of(self, key: Key) -> tuple[str, str]:
        """Return (context type, subject) of a row's key."""
        context_type = self._mapping.type if self._type < 0 else key[self._type]
        return context_type, key[self._subject]

    def fields_of(self, item: Item | None, seen: SeenRow) -> list[str]:
        """Return the fields to compare: those of the log that the store has, and what it has."""
        if self._named:
            return list(self._named)
        return list(dict.fromkeys([*(item.fields if item is not None else ()), *seen.fields]))

    def read(self, row: Row | None) -> SeenRow:
        """Return what a row says; None: there is none."""
        if row is None:
            return ABSENT_ROW
        if isinstance(row, DamagedRow):
            return SeenRow({}, is_damaged=True)
        if self._named:
            found = {field: get(row) for field, get in self._named.items()}
            fields = {name: value for name, value in found.items() if value is not MISSING}
        else:
            fields = {name: value for name, value in row.items() if name not in self._not_fields}
        return SeenRow(
            {name: value for name, value in fields.items() if value is not None},
            True,
            _whole(row.get(self._mapping.offset)),
            _whole(row.get(self._mapping.version)),
        )

    def hashes(self, value: Any) -> frozenset[int]:
        """Return the hashes of all that a stored value may mean.

        >>> reader = RowReader(RowMapping(subject="s", is_text=True), ("s",))
        >>> value_hash(5) in reader.hashes("5"), value_hash(True) in reader.hashes("True")
        (True, True)
        """
        meanings = [value]
        if self._mapping.is_text and isinstance(value, str):
            meanings += _meanings(value)
        found = set()
        for meaning in meanings:
            try:
                found.add(value_hash(meaning))
            except InvalidEventError:  # What no log can hold, such as a lone surrogate.
                continue
        return frozenset(found)


def _meanings(text: str) -> list[Any]:
    if text in ("True", "False"):
        return [text == "True"]
    if text in ("None", ""):
        return [None]
    if text in ("nan", "inf", "-inf"):
        return [float(text)]
    try:
        return [decode_json(text.encode())]
    except ValueError:
        return []


def _getter(source: str) -> Callable[[Row], Any]:
    if source.startswith("$"):
        return compile_path(source)
    return lambda row: row.get(source, MISSING)


def _whole(value: Any) -> int | None:
    text = None if value is None or isinstance(value, float | dict | list) else key_text(value)
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None
