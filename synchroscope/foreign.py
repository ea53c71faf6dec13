"""Bytes of the log that anybody may have written: decoded, or passed over.

Not all that msgspec raises for bytes that are none is a `msgspec.DecodeError`: invalid UTF-8 is a
`UnicodeDecodeError`, what is nested too deeply a `RecursionError`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec

logger = logging.getLogger("synchroscope.foreign")

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding foreign bytes may raise."""
MAXIMUM_NAMED = 100
"""Keys that one `PassedOver` names; further ones are only counted."""

T = TypeVar("T")


def decoded(decode: Callable[[bytes], T], data: bytes) -> T | None:
    """Return what the bytes say; None where they say nothing: empty ones took the key off.

    >>> import msgspec
    >>> decoded(msgspec.json.decode, b'{"a": 1}')
    {'a': 1}
    >>> [decoded(msgspec.json.decode, data) for data in (b"", b"{", b'"\\xff"')]
    [None, None, None]
    """
    if not data:
        return None
    try:
        return decode(data)
    except UNDECODABLE:
        return None


class PassedOver:
    """Counts records of a topic that could not be decoded, and names each key once."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._named: set[str] = set()
        self.total = 0

    def note(self, key: str, consequence: str = "it is passed over") -> None:
        """Count one."""
        self.total += 1
        if key not in self._named and len(self._named) < MAXIMUM_NAMED:
            self._named.add(key)
            logger.warning(
                "the record of %s under the key %r cannot be decoded: %s",
                self._topic,
                key,
                consequence,
            )
