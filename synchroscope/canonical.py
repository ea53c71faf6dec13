"""How a value becomes the same bytes in every language: deterministic CBOR (RFC 8949, 4.2).

With numeric reduction as in the dCBOR profile: a float with an integral value that fits 64 bits is
written as that integer, every other float in the shortest of 16, 32 or 64 bits that keeps it. So
``5``, ``5.0`` and ``5e0`` are one fact. The page ``docs/digest-spec.md`` is the reference.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from synchroscope.errors import InvalidEventError

_HALF, _SINGLE, _DOUBLE = struct.Struct(">e"), struct.Struct(">f"), struct.Struct(">d")
_BYTES = tuple(bytes((number,)) for number in range(256))


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a JSON value.

    Raises `InvalidEventError` for what has no canonical form: other types than JSON's, integers
    outside [-2^63, 2^64), lone surrogates. NaN and infinities, which JSON cannot say but a column
    of an attached store can, have one.

    >>> encode(["geographic", 5.0, -1, None, 1.5]).hex()
    '856a67656f677261706869630520f6f93e00'
    """
    if type(value) is str:
        try:
            data = value.encode()
        except UnicodeEncodeError:
            raise InvalidEventError("malformed JSON", "text has a lone surrogate") from None
        return _head(0x60, len(data)) + data
    if value is None:
        return b"\xf6"
    if value is True:
        return b"\xf5"
    if value is False:
        return b"\xf4"
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list | tuple):
        return _head(0x80, len(value)) + b"".join(map(encode, value))
    if isinstance(value, Mapping):
        pairs = sorted((encode(key), encode(item)) for key, item in value.items())
        return _head(0xA0, len(pairs)) + b"".join(key + item for key, item in pairs)
    if isinstance(value, str):
        return encode(str(value))
    raise InvalidEventError("schema violation", f"{type(value).__name__} has no canonical form")


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return _BYTES[major | argument]
    if argument < 0x100:
        return bytes((major | 24, argument))
    if argument < 0x10000:
        return bytes((major | 25,)) + argument.to_bytes(2, "big")
    if argument < 0x100000000:
        return bytes((major | 26,)) + argument.to_bytes(4, "big")
    return bytes((major | 27,)) + argument.to_bytes(8, "big")


def _integer(value: int) -> bytes:
    if 0 <= value < 2**64:
        return _head(0x00, value)
    # No further down, although CBOR could: a float below -2^63 stays a float (as in dCBOR).
    if -(2**63) <= value < 0:
        return _head(0x20, -1 - value)
    raise InvalidEventError("value out of range", "integer needs over 64 bits")


def _float(value: float) -> bytes:
    if value != value:
        return b"\xf9\x7e\x00"
    if value.is_integer() and -(2.0**63) <= value < 2.0**64:
        return _integer(int(value))
    # What 32 bits do not keep, 16 do not either.
    shortest = b"\xfb" + _DOUBLE.pack(value)
    for form, major in ((_SINGLE, b"\xfa"), (_HALF, b"\xf9")):
        try:
            data = form.pack(value)
        except OverflowError:
            break
        if form.unpack(data)[0] != value:
            break
        shortest = major + data
    return shortest
