"""What the extension of `_hashing.c` offers."""

from array import array
from typing import Any

from synchroscope.native_hashing import Exchange, Key, Lanes, Row, Step

def hash_fact(context_type: str, subject: str, field: str, value: Any, /) -> Lanes | None: ...
def hash_changes(
    changes: list[Exchange],
    lane0: array[int],
    lane1: array[int],
    counts: array[int],
    bits: int,
    /,
) -> tuple[bytes, bytes] | None: ...
def hash_applied(events: list[Step], /) -> tuple[list[Row], int, int] | None: ...
def hash_aggregates(keys: list[Key], /) -> list[int] | None: ...
