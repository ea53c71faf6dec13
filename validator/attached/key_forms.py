"""How a key column that has a type writes a key: ``007`` as 7, a UUID in lower case."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import UUID

from validator.compare.key_meaning import KeyMeaning
from validator.stores.text_values import NUMBER_FORM, PADDED, Kind, moment_of

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_UUID = re.compile(r"[{]?[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}[}]?", re.ASCII)

_ZONE = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)$", re.ASCII)
_BOOLEANS = frozenset({"t", "true", "f", "false"})
_LIKE_NUMBER = re.compile(r"[+-]?(0[xob])?[0-9a-f_.]*[0-9][0-9a-f_.+-]*", re.ASCII)
PLAIN: Kind = "text"
"""Kind of a key whose column is of texts, or of UUIDs, or not known."""
KNOWN = ("number", "boolean", "moment", "time", PADDED)
CASTING = frozenset({*KNOWN, "bytes", "interval"})
"""Kinds of keys that a column may write otherwise than the log."""
_MEANINGS = {
    kind: KeyMeaning(([kind], None), (frozenset(), frozenset())) for kind in sorted(CASTING)
}


def key_form(kind: Kind, text: str) -> str:
    """Return the form of a key in a column of a kind: the same for keys that are one there.

    >>> key_form("number", "1.50"), key_form("boolean", "t"), key_form("text", "007")
    ('1.5', 'true', '7')
    >>> key_form("moment", "2026-01-01 00:00:00+00")
    '2026-01-01T00:00:00+00:00'
    """
    if kind not in CASTING:
        return plain_key(text)
    return _MEANINGS[kind].form((text if kind == PADDED else text.strip(),), 0)[0]


def other_forms(text: str) -> Iterator[tuple[Kind, str]]:
    """Return the kinds whose columns may write a key otherwise, and its form there."""
    for kind in (PLAIN, *KNOWN):
        form = key_form(kind, text)
        if form != text and (kind != "moment" or _ZONE.search(text)):
            yield kind, form


def is_key_readable(kind: Kind, text: str) -> bool:
    """Say whether it is known what a column of a kind makes of a key, or that it takes it not.

    >>> [is_key_readable("number", text) for text in ("1.50", "k1", " 7 ", "0x1f")]
    [True, True, False, False]
    >>> is_key_readable("moment", "2026-01-01T00:00:00"), is_key_readable("boolean", "yes")
    (False, False)
    """
    if kind == "number":
        like = _LIKE_NUMBER.fullmatch(text.strip().lower())
        return NUMBER_FORM.fullmatch(text) is not None or like is None
    if kind == "boolean":
        return text.lower() in _BOOLEANS
    if kind == "moment":
        return moment_of(text) is not None and _ZONE.search(text) is not None
    return kind not in CASTING or kind == PADDED


def is_key_told(kind: Kind, text: str) -> bool:
    """Say whether a row's key shows that no key of the log is it: a whole number, or a text."""
    return kind not in CASTING or kind == PADDED or bool(_WHOLE.fullmatch(text))


def plain_key(text: str) -> str:
    """Return a key as a column of numbers or UUIDs would write it; itself where none could.

    >>> plain_key("007"), plain_key("-0"), plain_key("7a"), plain_key("")
    ('7', '0', '7a', '')
    >>> plain_key("A0EEBC999C0B4EF8BB6D6BB9BD380A11")
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'
    """
    if _WHOLE.fullmatch(text) is not None:
        return str(int(text))
    return str(UUID(text)) if _UUID.fullmatch(text) is not None else text
