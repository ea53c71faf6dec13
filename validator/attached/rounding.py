"""Is a stored value that of the log with fewer digits, as a column of less precision keeps it?"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from validator.stores.text_values import moment_of

LEAST_DIGITS = 6
"""So many digits are left of a number that is rounded before its point, as a float of 32 bits."""
_FRACTION = re.compile(r"[.,](\d+)")


def is_rounded(right: Any, seen: Any) -> bool:
    """Say whether one value is the other one to fewer digits.

    >>> is_rounded(5.126, 5.13), is_rounded(5.126, 5.2), is_rounded(19, 20), is_rounded(5.12, 5.126)
    (True, False, False, False)
    >>> is_rounded("2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:00.123457+00:00")
    True
    """
    if isinstance(right, str) and isinstance(seen, str):
        return _is_rounded_moment(right, seen)
    exact, short = _number(right), _number(seen)
    if exact is None or short is None:
        return False
    kept, digits = int(short.as_tuple().exponent), len(short.as_tuple().digits)
    if kept <= int(exact.as_tuple().exponent) or (kept > 0 and digits < LEAST_DIGITS):
        return False
    lost, unit = abs(exact) - abs(short), Decimal(1).scaleb(kept)
    return exact.is_signed() == short.is_signed() and -unit / 2 <= lost < unit


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value)).normalize()
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _is_rounded_moment(right: str, seen: str) -> bool:
    exact, short = moment_of(_FRACTION.sub(_microseconds, right)), moment_of(seen)
    if exact is None or short is None:
        return False
    kept = _digits(seen)
    unit = dt.timedelta(microseconds=10 ** max(6 - kept, 0))
    return kept < _digits(right) and abs(exact - short) <= unit


def _microseconds(found: re.Match[str]) -> str:
    return f".{found[1][:6]}"


def _digits(text: str) -> int:
    found = _FRACTION.search(text)
    return 0 if found is None else len(found[1].rstrip("0"))
