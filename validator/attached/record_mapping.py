"""From a record of somebody else's topic to the change that it makes, as the mapping says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from synchroscope.errors import ConfigurationError, InvalidEventError
from synchroscope.ports import Record
from validator.attached.paths import (
    MISSING,
    Opened,
    compile_path,
    compile_source,
    compile_wildcard,
)
from validator.stores.json_text import decode_json
from validator.stores.port import key_text
from validator.value_form import encode_value

MAXIMUM_NAME_BYTES = 1_024
NO_CANONICAL_VALUE = "no canonical value"
NO_JSON, NOT_UNDERSTOOD = "no JSON", "not understood"


class DeleteMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records delete a subject, beside tombstones: those with one of these values there."""

    path: str
    values: list[str]


class RecordMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a record says what changes.

    Sources are ``$…`` (a JSON path in the value), ``key``, ``key.$…``, ``header.NAME``,
    ``timestamp``, or a constant.

    Parameters
    ----------
    subject: Source of whom the record is about.
    type: Source of the context type.
    fields: Field -> source; or a path that ends in ``.*``, whose matches are the fields.
    value: With ``.*``: where in a match the value is.
    mode: ``merge``: fields that are not named stay. ``replace``: the record is all there is.
    delete: Which records delete the subject, beside those without a value.
    version: Source of the subject's own version, where stores keep one.
    only: Records that are meant, where the topic holds others too: a source and the values allowed.
    unreadable: ``unknown``: what cannot be read leaves the verdict UNKNOWN. ``skip``: whoever fills
        the stores passes over such records too, so they count as none.
    """

    subject: str
    type: str = "context"
    fields: dict[str, str] | str = "$.*"
    value: str = "$"
    mode: Literal["merge", "replace"] = "merge"
    delete: DeleteMapping | None = None
    version: str = ""
    only: DeleteMapping | None = None
    unreadable: Literal["unknown", "skip"] = "unknown"


class Change(Struct, frozen=True):
    """What one record does: ``fields`` with None for what it removes; ``is_delete``: everything.

    ``unreadable``: fields that it changes to nobody can say what. ``is_unreadable``: all may be.
    """

    context_type: str
    subject: str
    fields: Mapping[str, Any]
    is_delete: bool
    is_replacement: bool
    offset: int
    timestamp: float
    version: int | None = None
    unreadable: tuple[str, ...] = ()
    is_unreadable: bool = False


class Unreadable(Struct, frozen=True):
    """A record of which no change could be made: ``reason`` is one of a few.

    ``change``: where its subject could be read, what is not known any more. ``is_deletion``: it
    deletes a subject that it does not name where the mapping says.
    """

    reason: str
    detail: str
    change: Change | None = None
    is_deletion: bool = False


class RecordReader:
    """Turns records into changes."""

    def __init__(self, mapping: RecordMapping) -> None:
        self._mapping = mapping
        self.accepts_unreadable = mapping.unreadable == "skip"
        self.names_fields = mapping.fields != {}
        self._subject = compile_source(mapping.subject)
        self._type = compile_source(mapping.type)
        self._fields = _fields(mapping)
        self._version = compile_source(mapping.version) if mapping.version else None
        self._delete = _condition(mapping.delete)
        self._only = _condition(mapping.only)

    def read(self, record: Record) -> Change | Unreadable | None:
        """Return the change, why there is none, or None where the record is not meant."""
        try:
            return self._read(record)
        except Exception as error:  # Nothing that somebody sends may end the fold.
            return self._of_whom(record, NOT_UNDERSTOOD, f"{type(error).__name__}: {error}")

    def _read(self, record: Record) -> Change | Unreadable | None:
        value: Any = MISSING
        if record.value:
            try:
                value = decode_json(record.value)
            except ValueError as error:
                return self._of_whom(record, NO_JSON, str(error))
        opened = Opened(record, value)
        if self._only is not None and not self._only(opened):
            return None
        name = self._name(opened)
        if isinstance(name, Unreadable):
            return name
        context_type, subject = name
        is_delete = value is MISSING or value is None
        is_delete = is_delete or (self._delete is not None and self._delete(opened))
        fields: dict[str, Any] = {}
        unreadable: tuple[str, ...] = ()
        is_unreadable = False
        if not is_delete:
            fields = self._fields(opened)
            if not _is_canonical(fields):
                bad = [name for name, item in fields.items() if not _is_canonical({name: item})]
                fields = {name: item for name, item in fields.items() if name not in bad}
                unreadable = tuple(name for name in bad if _is_canonical(name))
                is_unreadable = len(unreadable) < len(bad)
        return Change(
            context_type,
            subject,
            fields,
            is_delete,
            self._mapping.mode == "replace",
            record.offset,
            record.timestamp,
            self._version_of(opened),
            unreadable,
            is_unreadable,
        )

    def _name(self, opened: Opened) -> tuple[str, str] | Unreadable:
        """Return context type and subject."""
        subject, context_type = self._subject(opened), self._type(opened)
        for name, found in (("subject", subject), ("type", context_type)):
            if found is MISSING or found is None or isinstance(found, dict | list):
                detail = f"{getattr(self._mapping, name)} is not there"
                if not opened.record.value:
                    return Unreadable(f"deletion without a {name}", detail, is_deletion=True)
                return Unreadable(f"no {name}", detail)
        subject, context_type = key_text(subject), key_text(context_type)
        if not subject or len(subject) + len(context_type) > MAXIMUM_NAME_BYTES:
            return Unreadable("no subject", "it is empty, or longer than 1,024 characters")
        if not _is_canonical([subject, context_type]):
            return Unreadable("no subject", "it is no Unicode text")
        return context_type, subject

    def _of_whom(self, record: Record, reason: str, detail: str) -> Unreadable:
        """Say whose record it is, where the key or a header tells."""
        name = self._name(Opened(record, MISSING))
        if isinstance(name, Unreadable):
            return Unreadable(reason, detail)
        change = Change(
            *name, {}, False, False, record.offset, record.timestamp, is_unreadable=True
        )
        return Unreadable(reason, detail, change)

    def _version_of(self, opened: Opened) -> int | None:
        found = None if self._version is None else self._version(opened)
        return found if isinstance(found, int) and not isinstance(found, bool) else None


def _is_canonical(value: Any) -> bool:
    try:
        encode_value(value)
    except InvalidEventError:
        return False
    return True


def _fields(mapping: RecordMapping) -> Callable[[Opened], dict[str, Any]]:
    if isinstance(mapping.fields, str):
        if not mapping.fields.endswith("*"):
            raise ConfigurationError(
                f"record fields: {mapping.fields!r} names no fields; end the path with .*, or give "
                "a mapping of fields to paths"
            )
        matches, inner = compile_wildcard(mapping.fields), compile_path(mapping.value)

        def all_fields(opened: Opened) -> dict[str, Any]:
            found = {name: inner(value) for name, value in matches(opened.value)}
            return {name: value for name, value in found.items() if value is not MISSING}

        return all_fields
    sources = {name: compile_source(source) for name, source in mapping.fields.items()}

    def named_fields(opened: Opened) -> dict[str, Any]:
        found = {name: find(opened) for name, find in sources.items()}
        return {name: value for name, value in found.items() if value is not MISSING}

    return named_fields


def _condition(mapping: DeleteMapping | None) -> Callable[[Opened], bool] | None:
    if mapping is None:
        return None
    find, values = compile_source(mapping.path), frozenset(mapping.values)

    def holds(opened: Opened) -> bool:
        found = find(opened)
        return found is not MISSING and found is not None and key_text(found) in values

    return holds
