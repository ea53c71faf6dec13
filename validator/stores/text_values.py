"""What does a text stand for? The value that a store which knows the kind would have given.

Where one store knows moments, bytes or numbers and the other one writes them as text, the text is
read as what it stands for, and the values are compared. A text that stands for nothing of the kind
stays a text.

=========== ==================================================== ===================================
kind        is read from                                         and is then
=========== ==================================================== ===================================
boolean     ``t``, ``true``, ``f``, ``false``; 0 and 1           a boolean
number      ``1.50``, ``1e3``, ``NaN``, ``-Infinity``            int, float, or digits
moment      ISO 8601, with T or a space; without offset: UTC     ISO 8601 in UTC
time        ISO 8601                                             ISO 8601
bytes       hexadecimal, with ``\\x`` before it or not           hexadecimal
interval    ISO 8601 (``P1DT2H``), ``1 day 02:00:00``            months, days and microseconds
json        JSON                                                 the value
KIND[]      ``{1,2}`` as PostgreSQL writes it, or JSON           a list
text        (stands for itself)                                  itself
=========== ==================================================== ===================================
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

import msgspec

Kind = str
"""One of those above."""
EVERYWHERE = frozenset({"moment", "time", "bytes", "interval"})
"""Kinds that JSON has not: every store writes them as text."""
JSON_KINDS = frozenset({"boolean", "number", "json"})
"""Kinds that a store of JSON tells from text."""
PADDED = "padded"
"""Kind of a key that is filled up with spaces, which do not count."""
LONGEST_EXPONENT = 400
"""A number of more places is left as it is written."""
_MICROSECOND_DIGITS = 6
NUMBER_FORM = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)
_NO_NUMBERS = {"nan": "nan", "infinity": "inf", "inf": "inf"}
_FRACTION = re.compile(r"[.,](\d+)")
_HEXADECIMAL = re.compile(r"(?:\\x)?((?:[0-9a-fA-F]{2})*)", re.ASCII)
_ISO_INTERVAL = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)W)?(?:(-?\d+)D)?"
    r"(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?\d+(?:\.\d{1,6})?)S)?)?",
    re.ASCII,
)
_WORD_INTERVAL = re.compile(
    r"(?:([+-]?\d+) years?)? ?(?:([+-]?\d+) mons?)? ?(?:([+-]?\d+) days?)? ?"
    r"(?:([+-]?)(\d+):(\d\d):(\d\d(?:\.\d{1,6})?))?",
    re.ASCII,
)


class Declaring(Protocol):
    """A store whose columns have types."""

    def kinds(self) -> Mapping[str, Kind]:
        """Return the kinds of the columns that have one; text is one."""
        ...


class DeclaringKeys(Protocol):
    """A store whose key columns have types."""

    def key_kinds(self) -> Sequence[Kind]:
        """Return the kinds of the key's columns, in order; text is one, and so is `PADDED`."""
        ...


class Knowing(Protocol):
    """A store whose values tell other kinds apart than JSON's."""

    knows: frozenset[Kind]


def read_as(kind: Kind, text: str) -> Any:
    """Return what a text stands for in a column of a kind; itself where it is nothing of it.

    >>> read_as("number", "1.50"), read_as("boolean", "t"), read_as("bytes", r"\\x00FF")
    (1.5, True, '00ff')
    >>> read_as("moment", "2026-01-01 01:00:00+01"), read_as("moment", "infinity")
    ('2026-01-01T00:00:00+00:00', 'infinity')
    >>> read_as("interval", "1 day 02:00:00") == read_as("interval", "P1DT2H")
    True
    >>> read_as("number[]", '{1,NULL,{2.50,"x"}}'), read_as("json", '{"a": 1}')
    ([1.0, None, [2.5, 'x']], {'a': 1})
    """
    if kind.endswith("[]"):
        return _list(kind.removesuffix("[]"), text)
    read = _READERS.get(kind)
    return text if read is None else read(text)


def plain_number(number: Decimal) -> Any:
    """Return a decimal as float where one is written like it, or else as int, or its digits.

    >>> plain_number(Decimal("1.50")), plain_number(Decimal("5.000")), plain_number(Decimal("NaN"))
    (1.5, 5.0, nan)
    >>> plain_number(Decimal("9007199254740993.10"))
    '9007199254740993.1'
    """
    if not number.is_finite():
        return float("nan") if number.is_nan() else float(number)
    near = float(number)
    if Decimal(repr(near)) == number:
        return near
    # Not `normalize`, which rounds to the digits of the context.
    digits = format(number, "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return int(digits) if "." not in digits and -(2**63) <= number < 2**64 else digits


def moment_of(text: str) -> dt.datetime | None:
    """Return the moment that a text is; None where it is none, or one of more than microseconds."""
    # Not what is only a date, or digits that could be read as one.
    if len(text) < len("2026-01-01 00:00") or text[4] != "-" or text[7] != "-":
        return None
    fraction = _FRACTION.search(text)
    if fraction is not None and fraction[1][_MICROSECOND_DIGITS:].strip("0"):
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
        return moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None


def _boolean(text: str) -> Any:
    return {"t": True, "true": True, "f": False, "false": False}.get(text.lower(), text)


def _number(text: str) -> Any:
    if NUMBER_FORM.fullmatch(text) is not None:
        number = Decimal(text)
        return text if abs(number.adjusted()) > LONGEST_EXPONENT else plain_number(number)
    name = _NO_NUMBERS.get(text.lower().lstrip("+-"))
    return text if name is None else float(f"{'-' if text[0] == '-' else ''}{name}")


def _moment(text: str) -> Any:
    moment = moment_of(text)
    return text if moment is None else moment.isoformat()


def _time(text: str) -> Any:
    fraction = _FRACTION.search(text)
    if ":" not in text or (fraction and fraction[1][_MICROSECOND_DIGITS:].strip("0")):
        return text
    try:
        return dt.time.fromisoformat(text).isoformat()
    except ValueError:
        return text


def _bytes(text: str) -> Any:
    found = _HEXADECIMAL.fullmatch(text)
    return text if found is None else found[1].lower()


def _interval(text: str) -> Any:
    if text.startswith("P"):
        found = _ISO_INTERVAL.fullmatch(text)
        if found is None or text[-1] in "PT":
            return text
        years, months, weeks, days, hours, minutes = (int(part or 0) for part in found.groups()[:6])
        seconds = Decimal(found[7] or 0)
        days += 7 * weeks
    else:
        found = _WORD_INTERVAL.fullmatch(text)
        if found is None or not text:
            return text
        years, months, days = (int(part or 0) for part in found.groups()[:3])
        sign = -1 if found[4] == "-" else 1
        hours, minutes = sign * int(found[5] or 0), sign * int(found[6] or 0)
        seconds = sign * Decimal(found[7] or 0)
    microseconds = (hours * 60 + minutes) * 60_000_000 + int(seconds * 1_000_000)
    return f"{12 * years + months} months {days} days {microseconds} us"


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


_READERS: Mapping[Kind, Callable[[str], Any]] = {
    "boolean": _boolean,
    "number": _number,
    "moment": _moment,
    "time": _time,
    "bytes": _bytes,
    "interval": _interval,
    "json": _json,
}
_ARRAY_PART = re.compile(r'([{},])|"((?:[^"\\]|\\.)*)"|([^{},"\s][^{},"]*)', re.DOTALL)


def _list(kind: Kind, text: str) -> Any:
    if text.startswith("["):
        found = _json(text)
        return found if isinstance(found, list) else text
    try:
        return _array(kind, text) if text.startswith("{") else text
    except (ValueError, IndexError):
        return text


def _array(kind: Kind, text: str) -> list[Any]:
    """Return a list of what PostgreSQL's array literal has; raises where it is none."""
    outer: list[Any] = []
    stack, place, may_begin = [outer], 0, True
    while place < len(text):
        part = _ARRAY_PART.match(text, place)
        if part is None or (len(stack) == 1 and outer):
            raise ValueError(text)
        place, (sign, quoted, bare) = part.end(), part.groups()
        if sign == ",":
            if may_begin or len(stack) == 1:
                raise ValueError(text)
            may_begin = True
        elif sign == "}":
            if len(stack) == 1 or (may_begin and stack[-1]):
                raise ValueError(text)
            stack.pop()
            may_begin = False
        elif not may_begin:
            raise ValueError(text)
        elif sign == "{":
            inner: list[Any] = []
            stack[-1].append(inner)
            stack.append(inner)
        else:
            if len(stack) == 1:
                raise ValueError(text)
            may_begin = False
            is_nothing = quoted is None and bare.upper() == "NULL"
            value = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if bare is None else bare
            stack[-1].append(None if is_nothing else read_as(kind, value))
    if len(stack) != 1:
        raise ValueError(text)
    return outer[0] if outer else []
