"""What the extension of `_hashing.c` offers."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
def add_at(
    sums: NDArray[np.uint64], places: NDArray[np.intp], values: NDArray[np.uint64], /
) -> None: ...
def add_to_sketches(
    cells: NDArray[np.uint64], hashes: NDArray[np.uint64], lanes: NDArray[np.uint64], bits: int, /
) -> None: ...
