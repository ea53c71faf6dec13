"""What folding in batches remembers between batches: canonical bytes, and which views see a field.

All of it can be computed anew at any time; `Plan.forget` drops it where it grew too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from struct import Struct
from types import NoneType
from typing import Any

from synchroscope.canonical import encode
from synchroscope.event import check_value
from synchroscope.view import View

MAXIMUM_KNOWN = 8_192
"""Values of a type, and fields and target models together, that are remembered; a batch may add
as many as it has."""
MAXIMUM_KNOWN_BYTES = 64
"""Longer values are encoded each time, so that what is remembered stays small."""

#: The canonical bytes of an integer that needs so many bytes behind its head.
_TWO_BYTES, _FOUR_BYTES, _EIGHT_BYTES = (Struct(form).pack for form in (">BH", ">BI", ">BQ"))

NOWHERE = 0
"""The number of the group that has no view."""

Targets = tuple[str, ...] | None
Models = tuple[str, ...]


class Groups:
    """Groups of views, by number; what is seen by the same views can be summed together."""

    def __init__(self) -> None:
        self.models: list[Models] = [()]
        self.asked = 0
        """How often a number was asked for: so many entries others remember, at most."""
        self._numbers: dict[Models, int] = {(): NOWHERE}

    def number(self, models: Models) -> int:
        """Return the number of the group of these views."""
        self.asked += 1
        number = self._numbers.setdefault(models, len(self.models))
        if number == len(self.models):
            self.models.append(models)
        return number


class Field(dict[Targets, int]):
    """A field of a context type that some view has: target models -> group of views that see it.

    ``head`` and ``name`` are the canonical bytes of its facts before and after the subject.
    """

    def __init__(self, head: bytes, name: str, models: Models, groups: Groups) -> None:
        self.head = head
        self.name = encode(name)
        self._models = models
        self._groups = groups

    def __missing__(self, targets: Targets) -> int:
        models = self._models
        if targets is not None:
            models = tuple([model for model in models if model in targets])
        number = self[targets] = self._groups.number(models)
        return number


class Kind(dict[str, Field | None]):
    """A context type: name of a field -> `Field`, None for one that no view has.

    ``head`` are an aggregate's canonical bytes before the subject, ``group`` the views that have
    the type.
    """

    def __init__(self, name: str, views: Sequence[View], groups: Groups) -> None:
        self.head = b"\x82" + encode(name)
        self._fact_head = b"\x84" + encode(name)
        self._wanted = {view.model: view.fields[name] for view in views if name in view.fields}
        self._groups = groups
        self.group = groups.number(tuple(self._wanted))

    def __missing__(self, name: str) -> Field | None:
        models = [model for model, names in self._wanted.items() if not names or name in names]
        field = Field(self._fact_head, name, tuple(models), self._groups) if models else None
        self[name] = field
        self._groups.asked += 1
        return field


class Kinds(dict[str, Kind]):
    """Context types by name; those that no view has are all one."""

    def __init__(self, views: Sequence[View], groups: Groups) -> None:
        names = {name for view in views for name in view.fields}
        super().__init__({name: Kind(name, views, groups) for name in names})
        self._others = Kind("", (), groups)

    def __missing__(self, name: str) -> Kind:
        return self._others


class Written(dict[Any, bytes]):
    """Values of one type -> canonical bytes; raises `InvalidEventError` for what is unsound."""

    def __missing__(self, value: Any) -> bytes:
        check_value(value, "$")
        written = encode(value)
        if len(written) <= MAXIMUM_KNOWN_BYTES:
            self[value] = written
        return written


class WrittenIntegers(Written):
    """The same for integers, which most numbers that come only once are."""

    def __missing__(self, value: int) -> bytes:
        if 0x100 <= value < 0x10000:
            written = self[value] = _TWO_BYTES(0x19, value)
        elif 0x10000 <= value < 0x100000000:
            written = self[value] = _FOUR_BYTES(0x1A, value)
        elif 0x100000000 <= value < 0x8000000000000000:
            written = self[value] = _EIGHT_BYTES(0x1B, value)
        else:
            written = super().__missing__(value)
        return written


class WrittenFloats(Written):
    """The same for floats."""

    def __missing__(self, value: float) -> bytes:
        if not isfinite(value):
            return super().__missing__(value)
        written = self[value] = encode(value)
        return written


class Unremembered:
    """The same for lists and objects, which cannot be looked up."""

    def __getitem__(self, value: Any) -> bytes:
        check_value(value, "$")
        return encode(value)


class TextHeads(dict[int, bytes]):
    """Length of a text's bytes -> what stands before them in the canonical bytes of a longer text.

    Parameters
    ----------
    prefix: What the longer text begins with.
    """

    def __init__(self, prefix: bytes = b"") -> None:
        self._prefix = prefix

    def __missing__(self, length: int) -> bytes:
        whole = encode("x" * (len(self._prefix) + length))
        head = whole[: len(whole) - len(self._prefix) - length] + self._prefix
        if length <= MAXIMUM_KNOWN:
            self[length] = head
        return head


class Plan:
    """Everything that is remembered.

    ``written`` has, by type, what gives a value's canonical bytes.
    """

    # Numbers that are equal have the same bytes, True and 1 have not: so each type has its own.
    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self.text_heads = TextHeads()
        self.user_heads = TextHeads(b"user:")
        self._remembered: dict[type, Written] = {
            str: Written(),
            int: WrittenIntegers(),
            float: WrittenFloats(),
            bool: Written(),
            NoneType: Written(),
        }
        self.written: dict[type, Written | Unremembered] = {
            **self._remembered,
            list: Unremembered(),
            dict: Unremembered(),
        }
        self._divide()

    def _divide(self) -> None:
        self.groups = Groups()
        self.kinds = Kinds(self._views, self.groups)

    def forget(self) -> None:
        """Drop what grew too much."""
        if self.groups.asked > MAXIMUM_KNOWN:
            self._divide()
        for written in self._remembered.values():
            if len(written) > MAXIMUM_KNOWN:
                written.clear()
