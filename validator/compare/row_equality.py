"""Are two rows of two stores the same? By value, not by how a store writes it.

Where a store knows text only (CSV, hashes in Redis), what the other one has is compared with what
the text may mean: ``5`` with "5", ``1.5`` with "1.50", true with "t", a moment with another way to
write it, and nothing with "".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from msgspec import Struct
from xxhash import xxh3_128_digest

from synchroscope.errors import InvalidEventError
from validator.stores.port import Row
from validator.value_form import encode_value

_TRUE, _FALSE = frozenset({"true", "t"}), frozenset({"false", "f"})


class Equality(Struct, frozen=True):
    """How rows are held against each other.

    Parameters
    ----------
    columns: The columns that count; None: whatever a row has.
    is_blind: Whether a store cannot tell 5 from "5".
    """

    columns: Sequence[str] | None
    is_blind: bool

    def digest(self, row: Row) -> bytes:
        """Return 128 bits that are the same for rows that are written alike.

        Rows of equal digests are the same; those of others may be, which `differing` tells.
        """
        if self.columns is None:
            names = sorted(name for name, value in row.items() if not self._is_nothing(value))
            parts = [part for name in names for part in (name, self._form(row[name]))]
        else:
            parts = [self._form(row.get(name)) for name in self.columns]
        return xxh3_128_digest(_encoded(parts))

    def differing(self, left: Row, right: Row) -> list[str]:
        """Return the columns in which two rows differ, in order."""
        names = sorted({*left, *right}) if self.columns is None else self.columns
        return [name for name in names if not self.same(left.get(name), right.get(name))]

    def value_digest(self, value: Any) -> bytes:
        """Return 128 bits of one value, as `digest` does of a row."""
        return xxh3_128_digest(_encoded([self._form(value)]))

    def same(self, left: Any, right: Any) -> bool:
        """Say whether two values are the same."""
        if _encoded(self._form(left)) == _encoded(self._form(right)):
            return True
        if not self.is_blind:
            return False
        if isinstance(left, str) and isinstance(right, str):
            return _same_moment(left, right)
        if isinstance(left, str) != isinstance(right, str):
            return _means(left, right) if isinstance(left, str) else _means(right, left)
        return False

    def _is_nothing(self, value: Any) -> bool:
        return value is None or (self.is_blind and value == "")

    def _form(self, value: Any) -> Any:
        """Return a value as it goes into the digest."""
        if not self.is_blind:
            return value
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float) and value.is_integer():
            # A large one is the integer that its shortest form says.
            return str(int(value) if abs(value) < 2**63 else int(Decimal(repr(value))))
        return str(value) if isinstance(value, int | float) else value


def _means(text: str, value: Any) -> bool:
    """Say whether a text is how somebody may write a value."""
    if value is None:
        return text == ""
    if isinstance(value, bool):
        return text.lower() in (_TRUE if value else _FALSE)
    if isinstance(value, int | float):
        try:
            return Decimal(text) == Decimal(str(value))
        except InvalidOperation:
            return False
    return False


def _same_moment(left: str, right: str) -> bool:
    moments = _moment(left), _moment(right)
    return None not in moments and moments[0] == moments[1]


def _moment(text: str) -> dt.datetime | None:
    # Not what is only a date, or digits that could be read as one.
    if len(text) < len("2026-01-01 00:00") or text[4] != "-" or text[7] != "-":
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


def _encoded(value: Any) -> bytes:
    try:
        return encode_value(value)
    except InvalidEventError:
        # Text that is no Unicode: no other store writes it alike.
        return b"\xff" + repr(value).encode("utf-8", "backslashreplace")
