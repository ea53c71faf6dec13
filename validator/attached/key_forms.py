"""How a key column that has a type writes a key: ``007`` as 7, a UUID in lower case."""

from __future__ import annotations

import re
from uuid import UUID

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_UUID = re.compile(r"[{]?[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}[}]?", re.ASCII)


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
