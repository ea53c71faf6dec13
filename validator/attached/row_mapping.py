"""From a store's rows to items and back, as the file says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from synchroscope.errors import ConfigurationError, InvalidEventError
from validator.attached.history import Entry, FieldHistory, Item, value_hash
from validator.attached.meaning import Meaning
from validator.attached.paths import MISSING, compile_path
from validator.stores.port import DamagedRow, Key, Row, key_text
from validator.stores.text_values import Kind

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
        self._meaning = Meaning(is_text=mapping.is_text)
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

    def subject_kind(self, kinds: Sequence[Kind]) -> Kind:
        """Return of the kinds of the key's columns that of the subject's."""
        return kinds[self._subject]

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

    def declare(self, knows: frozenset[Kind], columns: Mapping[str, Kind]) -> None:
        """Take what the store can tell apart, and of which kinds its columns are."""
        declared = dict(columns)
        if isinstance(self._mapping.fields, dict):
            named = self._mapping.fields.items()
            declared = {field: columns[source] for field, source in named if source in columns}
        self._meaning.declare(knows, declared)

    def hashes(self, value: Any, field: str = "") -> frozenset[int]:
        """Return the hashes of all that a stored value may mean, as far as they can be listed.

        >>> reader = RowReader(RowMapping(subject="s", is_text=True), ("s",))
        >>> value_hash(5) in reader.hashes("5"), value_hash(True) in reader.hashes("True")
        (True, True)
        """
        found = set()
        for meaning in self._meaning.readings(field, value):
            try:
                found.add(value_hash(meaning))
            except InvalidEventError:  # What no log can hold, such as a lone surrogate.
                continue
        return frozenset(found)

    def means(self, field: str, logged: Any, stored: Any) -> bool:
        """Say whether a stored value is one of the log's that the store writes otherwise."""
        return self._meaning.same(field, logged, stored)

    def is_unread(
        self, field: str, history: FieldHistory | None, offsets: Collection[int], value: Any
    ) -> bool:
        """Say whether a stored value may be what the column makes of one of these versions.

        It may where the version's text cannot be read as what the column is of.
        """
        return history is not None and any(
            self._meaning.is_unread(field, version.value, value)
            for version in history.recent
            if version.offset in offsets
        )

    def versions_of(
        self, field: str, history: FieldHistory | None, entries: list[Entry], value: Any
    ) -> tuple[list[Entry], list[int], bool]:
        """Return the entries, where among them a stored value is, and whether others are left out.

        Those are left out of which nobody can say whether they are it.
        """
        hashes = self.hashes(value, field)
        recent = [] if history is None or value is None else history.recent
        # What is written alike means the same, in versions too of which only the hash is known.
        hashes |= {value_hash(v.value) for v in recent if self._meaning.same(field, v.value, value)}
        matching = [at for at, entry in enumerate(entries) if entry.value_hash in hashes]
        is_cut = (
            not matching
            and history is not None
            and history.older != b""
            and self._meaning.is_blurred(field, [v.value for v in recent], value)
        )
        if is_cut:
            known = {version.offset for version in recent}
            entries = [entry for entry in entries if entry.offset in known]
        return entries, matching, is_cut


def _getter(source: str) -> Callable[[Row], Any]:
    if source.startswith("$"):
        return compile_path(source)
    return lambda row: row.get(source, MISSING)


def _whole(value: Any) -> int | None:
    text = None if value is None or isinstance(value, float | dict | list) else key_text(value)
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None
