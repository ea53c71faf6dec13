"""When are two values of stores that are not ours the same? Big numbers included.

`synchroscope.canonical` ends at 64 bits, as events do. Others write larger integers, and a store
may turn a large float into an integer (jsonb gives ``2.5e19`` back as 25000000000000000000).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from synchroscope.canonical import encode
from synchroscope.errors import InvalidEventError

MAXIMUM_DEPTH = 100
"""A value that is nested deeper has no form; Python's own bound depends on who asks."""
_LEAST, _END = -(2**63), 2**64
_EXACT_END = 2.0**63
_BIG = "\0integer "
_BIG_CODE = 1


def encode_value(value: Any) -> bytes:
    """Return bytes that are the same for the same values: those of `encode`, where it has any.

    An integer of over 64 bits is itself to the last digit; a float of 2^63 and more is the integer
    that its shortest form says. Raises `InvalidEventError` as `encode` does, and for what is nested
    deeper than `MAXIMUM_DEPTH`.

    >>> encode_value(2.5e19) == encode_value(25 * 10**18), encode_value([1e300]) == encode_value(
    ...     [10**300]
    ... )
    (True, True)
    >>> encode_value(10**21) == encode_value(10**21 + 1), encode_value(5.0) == encode(5)
    (False, True)
    """
    if isinstance(value, dict | list) and _is_deep(value):
        raise InvalidEventError("malformed JSON", f"nested more than {MAXIMUM_DEPTH} deep")
    return encode(_reduced(value) if _may_be_big(value) else value)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAXIMUM_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [child for some in inner for child in some if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _may_be_big(value: Any) -> bool:
    # Nearly all values are small, and need no copy.
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return False
    if kind is int:
        return not _LEAST <= value < _END
    if kind is float:
        return not -_EXACT_END <= value < _EXACT_END
    if kind is dict:
        return any(map(_may_be_big, value.values()))
    if kind is list:
        return any(map(_may_be_big, value))
    return True


def _reduced(value: Any) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, float):
        if not value.is_integer() or -_EXACT_END <= value < _EXACT_END:
            return value
        value = int(Decimal(repr(value)))
    if isinstance(value, int):
        # In hexadecimal: Python refuses to write more than 4,300 digits.
        return value if _LEAST <= value < _END else f"{_BIG}{value:x}"
    if isinstance(value, list | tuple):
        return [_reduced(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _reduced(item) for key, item in value.items()}
    return value


def packable(value: Any) -> Any:
    """Return a value as MessagePack can say it, which ends at 64 bits; `unpacked` undoes it."""
    if isinstance(value, int) and not _LEAST <= value < _END:
        return msgspec.msgpack.Ext(_BIG_CODE, f"{value:x}".encode())
    if isinstance(value, list | tuple):
        return [packable(item) for item in value]
    if isinstance(value, Mapping):
        return {key: packable(item) for key, item in value.items()}
    return value


def unpacked(code: int, data: memoryview) -> Any:
    """Return what `packable` put away, as the decoder's ``ext_hook``."""
    if code != _BIG_CODE:
        raise ValueError(f"MessagePack extension {code} is not known")
    return int(bytes(data), 16)


def shown(value: Any) -> Any:
    """Return a value for people and for any JSON reader: big integers as text."""
    if isinstance(value, int) and not _LEAST <= value < _END:
        return str(Decimal(value)) if value.bit_length() < 10_000 else f"{value:#x}"
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    return value
