"""What does a column make of a text of the log? As PostgreSQL casts it, which reads more than ISO.

What is not surely read here may nevertheless be cast rightly: of such a text nobody can say whether
a stored value is it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from ipaddress import ip_interface
from typing import Any

from validator.stores.text_values import Kind, moment_of, plain_number, read_as

_ZONE = re.compile(r"(Z|[+-]\d\d(:?\d\d(:?\d\d)?)?)$", re.ASCII)
_UTC_NAME = re.compile(r" ?(utc|gmt|zulu|z)$", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_BASIC = re.compile(r"(\d{4})(\d\d)(\d\d)(?=$|[T ])", re.ASCII)
_BASIC_TIME = re.compile(r"([T ]\d\d)(\d\d)(\d\d)", re.ASCII)
_UNITS = re.compile(r"([+-]?\d+) ?(second|minute|hour|day|week|month|year)s?", re.ASCII)
_HALF_DAYS = re.compile(r"P(\d+)\.5D", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5,7}", re.ASCII)
_BOUND = r"(?:[\d\s:.+\"-]|infinity)*"
_RANGE = re.compile(rf"empty|[\[(]{_BOUND},{_BOUND}[\])]|\{{[\[(].*[\])]\}}", re.ASCII)
_WHOLE_RANGE = re.compile(r"empty|\[-?\d+,-?\d+\)", re.ASCII)
_MONEY = re.compile(r"-?[$€£¥][\d.,]+")


def is_same_cast(kind: Kind, logged: Any, stored: Any) -> bool:
    """Say whether a column of a kind makes the stored value of one of the log.

    >>> is_same_cast("moment", "20260101T000000Z", "2026-01-01T00:00:00+00:00")
    True
    >>> is_same_cast("number", " 7 ", 7), is_same_cast("interval", "2 weeks", "P14D")
    (True, True)
    >>> is_same_cast("number", 12345678901234567890123, "12345678901234567890123")
    True
    >>> is_same_cast("text", "2026-01-01T00:00:00Z", "2026-01-01")
    True
    """
    if kind == "number" and not isinstance(logged, bool) and isinstance(logged, int | float):
        return isinstance(stored, str) and _is_number(logged, stored)
    if not isinstance(logged, str) or kind.endswith("[]"):
        return False
    if kind == "text":
        return isinstance(stored, str) and _is_same_form(logged, stored)
    value = _value(kind, logged, stored)
    known = read_as(kind, stored) if isinstance(stored, str) else stored
    if value is None or isinstance(value, bool) != isinstance(known, bool):
        return False
    return bool(value == known)


def is_readable(kind: Kind, logged: Any, stored: Any) -> bool:
    """Say whether it is known what a column makes of a value of the log.

    >>> is_readable("moment", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00")
    True
    >>> is_readable("moment", "2026-01-01", "2026-01-01T00:00:00+00:00")
    False
    >>> is_readable("text", "low", "high"), is_readable("text", "1.5", "$1.50")
    (True, False)
    """
    if isinstance(logged, list) and kind.endswith("[]"):
        return all(is_readable(kind if isinstance(v, list) else kind[:-2], v, None) for v in logged)
    if not isinstance(logged, str):
        return True
    if kind.endswith("[]"):
        return kind == "text[]" or isinstance(read_as(kind, logged), list)
    if kind == "text":
        return not isinstance(stored, str) or _is_form_readable(logged, stored)
    return kind not in _READERS or _value(kind, logged, stored) is not None


def _is_number(logged: float, stored: str) -> bool:
    """Say whether a number is the digits that a store gives where no float is written like them."""
    try:
        digits = Decimal(stored)
    except InvalidOperation:
        return False
    if plain_number(digits) != stored:
        return False
    return digits == logged if isinstance(logged, int) else float(digits) == logged


# -- columns of a kind -----------------------------------------------------------------------------


def _value(kind: Kind, text: str, stored: Any) -> Any:
    """Return what a column makes of a text; None: not known."""
    read = _READERS.get(kind)
    return None if read is None else read(text.strip(), stored)


def _number(text: str, stored: Any) -> Any:
    value = read_as("number", text)
    return None if value == text and not text.lstrip("+-").replace(".", "").isdigit() else value


def _boolean(text: str, stored: Any) -> Any:
    if text in ("0", "1"):
        return text == "1"
    value = read_as("boolean", text)
    if not isinstance(value, str):
        return value
    for word, meant in (("true", True), ("false", False), ("yes", True), ("no", False)):
        if text and word.startswith(text.lower()):
            return meant
    return {"on": True, "off": False, "of": False}.get(text.lower())


def _moment(text: str, stored: Any) -> Any:
    if text.lower().lstrip("+-") == "infinity":
        return text.lower().lstrip("+")
    text = _BASIC.sub(r"\1-\2-\3", text)
    text = _BASIC_TIME.sub(r"\1:\2:\3", text)
    text = _UTC_NAME.sub("+00:00", text) if ":" in text else text
    is_date = _DATE.fullmatch(text) is not None
    # A text without an offset is of the time zone of whoever wrote it.
    has_zone = not is_date and _ZONE.search(text) is not None
    if not has_zone and isinstance(stored, str) and _ZONE.search(stored[10:]) is not None:
        return None
    moment = moment_of(f"{text}T00:00:00" if is_date else text)
    return None if moment is None else moment.isoformat()


def _time(text: str, stored: Any) -> Any:
    value = read_as("time", text)
    try:
        time = dt.time.fromisoformat(value)
    except ValueError:
        return None
    if isinstance(stored, str) and (_ZONE.search(stored) is None) != (time.tzinfo is None):
        return None if time.tzinfo is None else time.replace(tzinfo=None).isoformat()
    return value if ":" in text else None


def _bytes(text: str, stored: Any) -> Any:
    if text.startswith("\\x"):
        value = read_as("bytes", text)
        return None if value == text else value
    if "\\" not in text and stored == text.encode(errors="replace").hex():
        return stored
    value = read_as("bytes", text)
    return None if re.fullmatch(r"([0-9a-f]{2})*", value) is None else value


def _interval(text: str, stored: Any) -> Any:
    units = _UNITS.fullmatch(text)
    if units is not None:
        is_time = units[2] in ("second", "minute", "hour")
        text = f"P{'T' if is_time else ''}{units[1].lstrip('+')}{units[2][0].upper()}"
    halves = _HALF_DAYS.fullmatch(text)
    if halves is not None:
        text = f"P{halves[1]}DT12H"
    value = read_as("interval", text)
    return value if value.endswith(" us") else None


_READERS: Mapping[Kind, Callable[[str, Any], Any]] = {
    "number": _number,
    "boolean": _boolean,
    "moment": _moment,
    "time": _time,
    "bytes": _bytes,
    "interval": _interval,
}


# -- columns of which only the form of their values tells the type ---------------------------------


def _is_same_form(logged: str, stored: str) -> bool:
    if stored.endswith(" "):
        return logged.rstrip(" ") == stored.rstrip(" ")  # As char(n) pads it.
    if _DATE.fullmatch(stored):
        return _date(logged) == stored
    if _UUID.fullmatch(stored):
        return logged.lower().strip("{}").replace("-", "") == stored.replace("-", "")
    if _MAC.fullmatch(stored):
        return _hexadecimal(logged) == _hexadecimal(stored)
    address = _address(stored)
    return address is not None and address == _address(logged)


def _is_form_readable(logged: str, stored: str) -> bool:
    if logged == stored:
        return True
    if _DATE.fullmatch(stored):
        return _date(logged) is not None
    if _MAC.fullmatch(stored):
        return re.fullmatch(r"([0-9a-f]{12}|[0-9a-f]{16})", _hexadecimal(logged)) is not None
    if _RANGE.fullmatch(stored):
        lists = read_as("json", logged), read_as("json", stored)
        is_other_list = all(isinstance(found, list) for found in lists) and lists[0] != lists[1]
        return is_other_list or _WHOLE_RANGE.fullmatch(logged) is not None
    if _MONEY.fullmatch(stored):
        return _MONEY.fullmatch(logged) is not None
    return _address(stored) is None or _address(logged) is not None


def _date(text: str) -> str | None:
    """Return the date that a text is or begins with; None: it is none."""
    text = _BASIC.sub(r"\1-\2-\3", text.strip())
    begins = _DATE.match(text)
    if begins is None or (len(text) > len(begins[0]) and moment_of(text) is None):
        return None
    return begins[0]


def _hexadecimal(text: str) -> str:
    return re.sub(r"[:.-]", "", text.strip().lower())


def _address(text: str) -> Any:
    if "." not in text and ":" not in text:
        return None
    try:
        return ip_interface(text.strip())
    except ValueError:
        return None
