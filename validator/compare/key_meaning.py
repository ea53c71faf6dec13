"""Are two keys the same? As text, or by what they mean where one store declares the key's type.

A boolean in PostgreSQL is ``true``, and ``t`` in an export; a moment has another offset there. Both
are brought to one form then, by which rows are joined; rows are asked for as their store writes
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from validator.compare.row_equality import has_bits
from validator.stores.port import Key
from validator.stores.text_values import PADDED, Kind, read_as

_FORMED = frozenset({"boolean", "number", "moment", "time", "bytes", "interval", PADDED})
_BITS = {"1": "true", "0": "false"}
_BIT_OF = {form: bit for bit, form in _BITS.items()}
_EXACT_END = 2.0**63


class KeyMeaning:
    """How the keys of two stores are brought to one form.

    Parameters
    ----------
    declared: The kinds of the key's columns, left and right; None where keys have no types.
    knows: Which kinds each side's values are told apart by.
    """

    def __init__(
        self,
        declared: tuple[Sequence[Kind] | None, Sequence[Kind] | None],
        knows: tuple[frozenset[Kind], frozenset[Kind]],
    ) -> None:
        left, right = declared
        if left is None or right is None:
            kinds = left or right or []
        else:  # Two types that are not of one kind are compared as texts.
            kinds = [one if one == two else "text" for one, two in zip(left, right, strict=True)]
        self._kinds = kinds
        self.is_plain = not _FORMED.intersection(kinds)
        """Whether every key is its own form."""
        self._have_bits = [has_bits(known) for known in knows]
        self._have_bytes = ["bytes" in known for known in knows]

    def form(self, key: Key, side: int) -> Key:
        """Return the form of a key, which is the same for keys that mean the same."""
        if self.is_plain:
            return key
        bits = _BITS if self._have_bits[side] else {}
        return tuple(
            _form(bits.get(part, part) if kind == "boolean" else part, kind)
            for part, kind in zip(key, self._kinds, strict=True)
        )

    def asked(self, form: Key, side: int) -> Key:
        """Return how a side is likely to write a key that it has not shown."""
        return tuple(
            "\\x" + part
            if kind == "bytes" and self._have_bytes[side]
            else _BIT_OF.get(part, part)
            if kind == "boolean" and self._have_bits[side]
            else part
            for part, kind in zip(form, self._kinds or ["text"] * len(form), strict=True)
        )


def _form(text: str, kind: Kind) -> str:
    """Return the form of a key's part.

    >>> [_form(text, "number") for text in ("5", "5.00", "-0", "1E20", "007", "x")]
    ['5', '5', '0', '1e+20', '7', 'x']
    >>> _form("t", "boolean"), _form("ab  ", PADDED), _form("2026-01-01 01:00+01", "moment")
    ('true', 'ab', '2026-01-01T00:00:00+00:00')
    """
    if kind not in _FORMED:
        return text
    if kind == PADDED:
        return text.rstrip(" ")
    if kind == "number" and text.isascii() and text.isdigit() and text[0] != "0":
        return text if len(text) < len("1000000000000000000") else str(_reduced(text))
    value = read_as(kind, text)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(_reduced(value))


def _reduced(value: float | str) -> float | str:
    number = read_as("number", value) if isinstance(value, str) else value
    if isinstance(number, float) and number.is_integer() and abs(number) < _EXACT_END:
        return int(number)
    return number


AS_TEXT = KeyMeaning((None, None), (frozenset(), frozenset()))
