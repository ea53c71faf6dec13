"""What happened to a row that is wrong: the kind of finding, the cause in words, and since when."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from validator.attached.comparison import FieldLook, Look
from validator.attached.history import ROW, Item, value_hash
from validator.attached.rounding import is_rounded
from validator.finding import Kind

NOT_APPLIED = "event not applied"
DELETE_NOT_APPLIED = "delete not applied"
OLDER_WRITE = "older version over a newer one"
DELETED = "deleted behind the pipeline's back"
EXTRA_ROW = "row that the log does not have"
BIT_FLIP = "bit flip"
TRUNCATED = "truncated"
DAMAGED = "cannot be read"
CHANGED_TYPE = "changed type"
ROUNDED = "rounded to fewer digits"
OTHER_WRITE = "written behind the pipeline's back"
NOT_AT_OFFSET = "not the value of the stored offset"
UNKNOWN_VALUE = "no version that is still known"
REVERSIONS = frozenset({OLDER_WRITE, DELETED, NOT_AT_OFFSET})
MAYBE_REVERTED = REVERSIONS | {NOT_APPLIED, DELETE_NOT_APPLIED}

_WRITERS: tuple[tuple[Kind, str], ...] = (("foreign", OTHER_WRITE), ("unexplained", UNKNOWN_VALUE))
_ALSO_OLD_VALUES: tuple[tuple[Kind, str], ...] = (
    ("reordered", OLDER_WRITE),
    ("stale", NOT_AT_OFFSET),
)


class Cause(Struct, frozen=True):
    """One thing that happened to an item; ``first_bad`` is the event from which on it is wrong."""

    kind: Kind
    text: str
    fields: Sequence[FieldLook]
    first_bad: int | None


def causes(item: Item | None, found: Look, *, is_text: bool) -> list[Cause]:
    """Return what happened to the item's wrong fields, those of one cause together."""
    grouped: dict[tuple[Kind, str], list[FieldLook]] = {}
    for field in found.wrong:
        grouped.setdefault(_cause(item, field, is_text), []).append(field)
    for writer in _WRITERS:
        if writer in grouped:
            # Whoever wrote what the log never said most likely wrote the rest of it too.
            for other in _ALSO_OLD_VALUES:
                grouped[writer] += grouped.pop(other, [])
    return [
        Cause(kind, text, fields, _first_bad(kind, fields))
        for (kind, text), fields in grouped.items()
    ]


def _first_bad(kind: Kind, fields: Sequence[FieldLook]) -> int | None:
    if kind not in ("missed", "reordered"):
        return None
    return min((f.following for f in fields if f.following is not None), default=None)


def _cause(item: Item | None, field: FieldLook, is_text: bool) -> tuple[Kind, str]:
    if field.state == "behind":
        return _behind(field)
    if field.is_damaged:
        return "corrupted", DAMAGED
    if item is None or field.name == ROW:
        return "foreign", EXTRA_ROW
    if field.seen is None:
        return "foreign", DELETED
    if field.is_of_another_version and field.matched is not None:
        return "stale", NOT_AT_OFFSET
    values = item.fields[field.name].values() if field.name in item.fields else []
    for value in values:
        damage = near_miss(value, field.seen, is_text=is_text)
        if damage:
            return "corrupted", damage
    return ("unexplained", UNKNOWN_VALUE) if field.is_cut else ("foreign", OTHER_WRITE)


def _behind(field: FieldLook) -> tuple[Kind, str]:
    # Where all is text an empty one is what was before the first event: nothing.
    is_gone = field.seen is None or (field.seen == "" and field.matched == -1)
    if field.is_reverted:
        return ("foreign", DELETED) if is_gone else ("reordered", OLDER_WRITE)
    if is_gone and field.changes_behind > 1 and not field.is_deletion:
        # Each of several events would have brought the row back.
        return "foreign", DELETED
    return "missed", DELETE_NOT_APPLIED if field.is_deletion else NOT_APPLIED


def near_miss(right: Any, seen: Any, *, is_text: bool) -> str:
    """Return what kind of damage makes one value of the other; empty where none does.

    >>> near_miss("conservative", "conservatmve", is_text=False)
    'bit flip'
    >>> near_miss("conservative", "conser", is_text=False), near_miss(5, "5", is_text=False)
    ('truncated', 'changed type')
    >>> near_miss(8, 9, is_text=False), near_miss("low", "high", is_text=False)
    ('bit flip', '')
    >>> near_miss(5.126, 5.13, is_text=False), near_miss("5.126", 5.12, is_text=False)
    ('rounded to fewer digits', 'rounded to fewer digits')
    """
    if right is None or seen is None:
        return ""
    if is_rounded(right, seen):
        return ROUNDED
    if not is_text and type(right) is not type(seen):
        is_number = isinstance(right, int | float) and isinstance(seen, int | float)
        if not is_number or isinstance(right, bool) or isinstance(seen, bool):
            return CHANGED_TYPE if _same_meaning(right, seen) else ""
    if is_text:
        right, seen = _as_text(right), _as_text(seen)
    if isinstance(right, str) and isinstance(seen, str):
        return _text_damage(right.encode(errors="replace"), seen.encode(errors="replace"))
    if isinstance(right, int | float) and isinstance(seen, int | float):
        return BIT_FLIP if _is_number_flip(right, seen) else ""
    return ""


def _text_damage(right: bytes, seen: bytes) -> str:
    if len(right) == len(seen):
        different = [a ^ b for a, b in zip(right, seen, strict=True) if a != b]
        if len(different) == 1 and different[0].bit_count() == 1:
            return BIT_FLIP
        return ""
    return TRUNCATED if len(seen) < len(right) and right.startswith(seen) else ""


def _is_number_flip(right: float, seen: float) -> bool:
    if isinstance(right, int) and isinstance(seen, int):
        difference = (right ^ seen) & (2**64 - 1)
        if difference.bit_count() == 1:
            return True
    try:
        bits = [struct.unpack(">Q", struct.pack(">d", number))[0] for number in (right, seen)]
    except OverflowError:
        return False
    flipped: int = bits[0] ^ bits[1]
    return flipped.bit_count() == 1


def _same_meaning(right: Any, seen: Any) -> bool:
    if isinstance(right, str | int | float | bool) and isinstance(seen, str | int | float | bool):
        return _as_text(right).casefold() == _as_text(seen).casefold() or (
            not isinstance(right, str) and not isinstance(seen, str) and value_hash(right) == seen
        )
    return False


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
