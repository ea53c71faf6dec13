"""Is what a store has what the log says? By meaning, where one of them knows more kinds of value.

The rules are those of `validator.compare.row_equality`, with the log as a store of JSON whose texts
stand for what the column's type makes of them: ``"5.10"`` is 5.1 in a numeric column, and
``"2026-01-01T01:00:00+01:00"`` is midnight in one of moments. What has only a few ways to be
written (booleans, UUIDs, padded texts) is told by their hashes. Of what has any number of them,
only versions whose values are still known can be recognised.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any

from validator.attached.cast_texts import is_readable, is_same_cast
from validator.compare.row_equality import TEXT, Equality, Kinds
from validator.stores.json_text import decode_json
from validator.stores.text_values import Kind, moment_of, read_as

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_TRUE, _FALSE = ("t", "true"), ("f", "false")
_CAST_TRUE = ("t", "tr", "tru", "true", "y", "ye", "yes", "on")
_CAST_FALSE = ("f", "fa", "fal", "fals", "false", "n", "no", "of", "off")
"""As PostgreSQL reads them."""
_LISTED = frozenset({"text", "boolean"})
"""Kinds of which all ways to be written are known."""


class Meaning:
    """What the values of one store mean.

    Parameters
    ----------
    is_text: Everything there is text, so that 5 and "5" cannot be told apart.
    """

    def __init__(self, *, is_text: bool) -> None:
        self._is_text = is_text
        self._kinds = Kinds()
        self._equality = Equality(None, TEXT, self._kinds)

    def declare(self, knows: frozenset[Kind], declared: Mapping[str, Kind]) -> None:
        """Take what the store can tell apart, and the kinds of fields whose columns have one."""
        kinds = Kinds(knows, declared)
        if kinds != self._kinds:
            self._kinds, self._equality = kinds, Equality(None, TEXT, kinds)

    def readings(self, field: str, value: Any) -> list[Any]:
        """Return all that a stored value may mean and that can be listed, itself first.

        >>> Meaning(is_text=True).readings("f", "5"), Meaning(is_text=True).readings("f", "1")
        (['5', 5], ['1', 1, True])
        """
        kind, knows = self._kinds.declared.get(field), self._kinds.knows
        found = [value]
        if isinstance(value, str):
            if self._is_text:
                found += _of_text(value)
            elif "json" not in knows and value[:1] in ("[", "{"):
                found.append(read_as("json", value))
            if _UUID.fullmatch(value):
                plain = value.replace("-", "")
                forms = [value, value.upper(), plain, plain.upper()]
                found += [*forms[1:], *(f"{{{form}}}" for form in forms if kind == "text")]
            if kind == "text" and value.endswith(" "):
                found.append(value.rstrip(" "))  # As char(n) pads it.
        elif isinstance(value, bool):
            if kind == "boolean":
                found += [
                    form for text in (_CAST_TRUE if value else _CAST_FALSE) for form in _cases(text)
                ]
                found += ["1" if value else "0"]
        elif isinstance(value, int) and value in (0, 1) and "boolean" not in knows:
            found.append(bool(value))
        return found

    def same(self, field: str, logged: Any, stored: Any) -> bool:
        """Say whether a value of the log is the stored one, which none of its readings is."""
        if logged is None or stored is None:
            return False
        kind = self._kinds.declared.get(field)
        if not self._is_text and kind is not None and is_same_cast(kind, logged, stored):
            return True
        if not isinstance(logged, str | list):
            return False
        if self._is_text:
            moment = moment_of(stored) if isinstance(stored, str) else None
            return moment is not None and isinstance(logged, str) and moment_of(logged) == moment
        if kind is None or kind in _LISTED:
            return False
        if self._equality.same(field, logged, stored):
            return True
        return kind == "moment" and isinstance(logged, str) and _wall_clock(logged) == stored

    def is_blurred(self, field: str, logged: Iterable[Any], stored: Any) -> bool:
        """Say whether a value that none of these is may be one that the log wrote otherwise.

        Versions of which only hashes are known cannot be recognised then.
        """
        if self._is_text:
            return isinstance(stored, str) and moment_of(stored) is not None
        kind = self._kinds.declared.get(field)
        if kind is None or kind in _LISTED:
            return False
        return any(isinstance(v, str | list) and _read(kind, v) != v for v in logged)

    def is_unread(self, field: str, logged: Any, stored: Any) -> bool:
        """Say whether nobody can say if a column of the store makes this of a value of the log."""
        kind = self._kinds.declared.get(field)
        if self._is_text or kind is None or logged is None or stored is None:
            return False
        return not is_readable(kind, logged, stored)


def _read(kind: Kind, value: Any) -> Any:
    if isinstance(value, list):
        return [_read(kind.removesuffix("[]"), one) for one in value]
    return read_as(kind, value) if isinstance(value, str) else value


def _cases(text: str) -> list[str]:
    return [text, text.upper(), text.capitalize()]


def _of_text(text: str) -> list[Any]:
    """Return what a text stands for where all is text."""
    lower = text.lower()
    if lower in _TRUE or lower in _FALSE:
        return [lower in _TRUE]
    if text in ("None", ""):
        return [None]
    if text in ("nan", "inf", "-inf"):
        return [float(text)]
    try:
        found = [decode_json(text.encode())]
    except ValueError:
        number = read_as("number", text)
        return [] if isinstance(number, str) else [number]
    return [*found, text == "1"] if text in ("0", "1") else found


def _wall_clock(text: str) -> str | None:
    """Return a moment as a column without time zones takes it: what the offset says is lost."""
    if moment_of(text) is None:
        return None
    return dt.datetime.fromisoformat(text).replace(tzinfo=None).isoformat()
