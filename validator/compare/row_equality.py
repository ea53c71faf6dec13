"""Are two rows of two stores the same? By value, not by how a store writes it.

Stores know different kinds of value: CSV and hashes in Redis text only, SQLite text and numbers,
JSON booleans, lists and objects as well, PostgreSQL what a column was declared as. Where only one
of two stores knows a kind, what the other one has is compared as what it may stand for. What both
know is compared as it is: "1" and true are not 1 between two stores of JSON.

Each value has a *form*; values of equal forms are the same. Where a column's kind is declared the
reverse holds too; elsewhere a text may be the same as a value of another form, as the forms of all
the ways to write 1.5 cannot be one, if "1.50" and "1.5" are to be two texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from msgspec import Struct
from xxhash import xxh3_128_digest

from synchroscope.errors import InvalidEventError
from validator.stores.port import Bytes, DamagedRow, Row
from validator.stores.text_values import EVERYWHERE, JSON_KINDS, Kind, moment_of, read_as
from validator.value_form import encode_value

Side = Literal[0, 1]
"""0: left, 1: right."""
SIDES: Sequence[Side] = (0, 1)
_UNREADABLE = b"unreadable left", b"unreadable right"
_MARK = "\0"
_TRUE, _FALSE = frozenset({"true", "t"}), frozenset({"false", "f"})


class Kinds(Struct, frozen=True):
    """What a store can tell apart.

    Parameters
    ----------
    knows: Kinds whose values are no text there; none: everything is text.
    declared: Column -> kind, where columns have one.
    marks_bytes: Whether bytes are `Bytes` there, though it may know text only.
    """

    knows: frozenset[Kind] = JSON_KINDS
    declared: Mapping[str, Kind] = {}
    marks_bytes: bool = False

    @property
    def tells_bytes(self) -> bool:
        """Whether bytes that are no text are told from one."""
        return "bytes" in self.knows or (self.marks_bytes and not self.knows)


TYPED, TEXT = Kinds(), Kinds(frozenset())


class Equality:
    """How rows are held against each other.

    Parameters
    ----------
    columns: The columns that count; None: whatever a row has.
    left, right: What the stores can tell apart.
    """

    def __init__(
        self, columns: Sequence[str] | None, left: Kinds = TYPED, right: Kinds = TYPED
    ) -> None:
        self.columns = columns
        self._sides = (left, right)
        self.encoded_bytes = [0, 0]
        """So much of each side was encoded so far, about as much as was read."""
        self._is_blind = not (left.knows and right.knows)
        self._marks_bytes = (_marks_bytes(left, right), _marks_bytes(right, left))
        self._own = (_told_apart(left, right), _told_apart(right, left))
        """Columns whose values are of a kind that no text of the other side is taken for."""
        kinds = dict(left.declared)
        for name, kind in right.declared.items():
            if kinds.get(name, "text") == "text":
                kinds[name] = kind
        self._kinds = {name: kind for name, kind in kinds.items() if kind != "text"}

    def digest(self, row: Row, side: Side) -> bytes:
        """Return 128 bits that are the same for rows that are written alike.

        Rows of equal digests are the same; those of others may be, which `differing` tells. That of
        a row that cannot be read is no row's of the other side.
        """
        if isinstance(row, DamagedRow):
            return _UNREADABLE[side]
        form = self._form
        if self.columns is None:
            names = sorted(name for name, value in row.items() if not self._is_nothing(value))
            parts = [part for name in names for part in (name, form(name, row[name], side))]
        else:
            parts = [form(name, row.get(name), side) for name in self.columns]
        data = _encoded(parts)
        self.encoded_bytes[side] += len(data)
        return xxh3_128_digest(data)

    def differing(self, left: Row, right: Row) -> list[str]:
        """Return the columns in which two rows differ, in order."""
        names = sorted({*left, *right}) if self.columns is None else self.columns
        return [name for name in names if not self.same(name, left.get(name), right.get(name))]

    def value_digest(self, column: str, value: Any, side: Side) -> bytes:
        """Return 128 bits of one value, as `digest` does of a row."""
        return xxh3_128_digest(_encoded([self._form(column, value, side)]))

    def same(self, column: str, left: Any, right: Any) -> bool:
        """Say whether two values of a column are the same."""
        mine, other = _encoded(self._form(column, left, 0)), _encoded(self._form(column, right, 1))
        self.encoded_bytes[0] += len(mine)
        self.encoded_bytes[1] += len(other)
        if mine == other or (
            isinstance(left, Bytes) and left == right and type(left) is type(right)
        ):
            return True
        if self._is_blind and isinstance(left, str) and isinstance(right, str):
            return _same_moment(left, right)
        is_read = column in self._kinds
        return _means(left, right, self._sides[0].knows, is_read=is_read) or _means(
            right, left, self._sides[1].knows, is_read=is_read
        )

    def _is_nothing(self, value: Any) -> bool:
        return value is None or (self._is_blind and value == "")

    def _form(self, column: str, value: Any, side: Side) -> Any:
        """Return a value as it goes into the digest."""
        if self._is_nothing(value):
            return "" if self._is_blind else None
        own, other = self._own[side], self._own[1 - side]
        if column in own:
            return _marked(own[column], _read(own[column], value, self._sides[side].knows))
        kind = self._kinds.get(column)
        if isinstance(value, Bytes | list | dict):
            is_marked = self._marks_bytes[side] and (kind != "bytes" or column in other)
            value = _told(value, is_marked=is_marked)
        if column in other:
            return value
        if kind is not None:
            form = _read(kind, value, self._sides[side].knows)
            return "" if form is None and self._is_blind else form
        if self._is_blind:
            return _as_text(value)
        is_bit = isinstance(value, bool) and has_bits(self._sides[1 - side].knows)
        return int(value) if is_bit else value


def _means(written: Any, value: Any, knows: frozenset[Kind], *, is_read: bool) -> bool:
    """Say whether a store that knows less may write a value so; `is_read`: it was read already."""
    if isinstance(value, bool) and isinstance(written, int) and not isinstance(written, bool):
        return has_bits(knows) and written == value
    if is_read or not isinstance(written, str) or isinstance(value, str):
        return False
    if value is None:
        return not knows and written == ""
    if isinstance(value, bool):
        return "boolean" not in knows and written.lower() in (_TRUE if value else _FALSE)
    if isinstance(value, int | float):
        return "number" not in knows and _is_number(written, value)
    return "json" not in knows and _encoded(read_as("json", written)) == _encoded(value)


def has_bits(knows: frozenset[Kind]) -> bool:
    """Say whether a store has 0 and 1 for want of booleans."""
    return "number" in knows and "boolean" not in knows


def _as_text(value: Any) -> Any:
    """Return a value as a store that knows text only most often has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        # A large one is the integer that its shortest form says.
        return str(int(value) if abs(value) < 2**63 else int(Decimal(repr(value))))
    return str(value) if isinstance(value, int | float) else value


def _read(kind: Kind, value: Any, knows: frozenset[Kind]) -> Any:
    """Return a value of a column of a kind, as it is where that store knows the kind."""
    if isinstance(value, str):
        basis = "json" if kind.endswith("[]") else kind
        return read_as(kind, value) if kind in EVERYWHERE or basis not in knows else value
    if kind == "boolean" and has_bits(knows) and value in (0, 1):
        return bool(value)
    if kind.endswith("[]") and isinstance(value, list):
        return [_read(kind if isinstance(v, list) else kind[:-2], v, knows) for v in value]
    return value


def _marks_bytes(side: Kinds, other: Kinds) -> bool:
    """Say whether bytes of a side are no text of the other one's."""
    return other.tells_bytes and ("bytes" in other.knows or not side.knows)


def _told_apart(side: Kinds, other: Kinds) -> dict[str, Kind]:
    """Return the columns that a side declared as a kind which JSON has not, and both know."""
    found = {}
    for name, kind in side.declared.items():
        base = kind.removesuffix("[]")
        is_list = base != kind
        if base in EVERYWHERE & other.knows and (not is_list or "json" in other.knows):
            found[name] = kind
    return found


def _marked(kind: Kind, value: Any) -> Any:
    """Return a value of a kind as no text is."""
    if isinstance(value, list):
        return [_marked(kind, one) for one in value]
    return value if value is None else [_MARK + kind.removesuffix("[]"), value]


def _told(value: Any, *, is_marked: bool) -> Any:
    """Return a value in which bytes are marked, or else texts."""
    if isinstance(value, Bytes):
        return [_MARK + "bytes", str(value)] if is_marked else str(value)
    if isinstance(value, dict):
        return {name: _told(one, is_marked=is_marked) for name, one in value.items()}
    return [_told(one, is_marked=is_marked) for one in value] if isinstance(value, list) else value


def _is_number(text: str, value: float) -> bool:
    if "_" in text or text != text.strip():
        return False  # Python reads these; nobody writes them.
    try:
        return Decimal(text) == Decimal(str(value))
    except InvalidOperation:
        return False


def _same_moment(left: str, right: str) -> bool:
    moment = moment_of(left)
    return moment is not None and moment == moment_of(right)


def _encoded(value: Any) -> bytes:
    try:
        return encode_value(value)
    except InvalidEventError:
        # Text that is no Unicode: no other store writes it alike.
        return b"\xff" + repr(value).encode("utf-8", "backslashreplace")
