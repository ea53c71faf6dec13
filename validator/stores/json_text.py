"""JSON as pipelines write it: also what Python's own `json` writes, which the standard has not."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def decode_json(data: bytes) -> Any:
    """Return what a document says: NaN, infinities and lone surrogates may be in it.

    Raises `ValueError` for what is no JSON even so.

    >>> decode_json(b'[1, NaN]')
    [1, nan]
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            return json.loads(data.decode(), parse_float=_finite)
        except (ValueError, RecursionError):
            raise ValueError(str(error)) from None


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is beyond any float")
    return number
