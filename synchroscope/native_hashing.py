"""The extension `_hashing`, where it was built: it hashes whole lists, by xxh3 alone, and adds up.

What it gives is what `synchroscope.digest` would make of the same objects, to the bit. What it is
not sure of it does not give at all: then it is hashed in Python, which is the rule.
"""

from __future__ import annotations

import os
import sys
from array import array
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PURE = "SYNCHROSCOPE_PURE"
"""Set in the environment to anything but 0: no extension is built or used."""

Key = tuple[str, str]
"""Context type and subject."""
Exchange = tuple[Key, str, Any, Any]
"""A field of an aggregate, the value that leaves it and the one that enters; None: no fact."""
Step = tuple[int, str, int, int]
"""An applied event: offset, event ID, its sequence, the aggregate's sequence before it."""
Row = tuple[int, int, int, int]
"""The same with the event ID's hash, as the journal has it."""
Lanes = tuple[int, int]
Numbers = NDArray[np.uint64]
Places = NDArray[np.intp]


class Extension(Protocol):
    """What the extension offers; None is what it leaves to Python."""

    def hash_fact(self, context_type: str, subject: str, field: str, value: Any, /) -> Lanes | None:
        """Return a fact's lanes."""
        ...

    def hash_changes(
        self,
        changes: list[Exchange],
        lane0: array[int],
        lane1: array[int],
        counts: array[int],
        bits: int,
        /,
    ) -> tuple[bytes, bytes] | None:
        """Work changes into a digest; return the aggregates' hashes, and lanes 0 by row.

        Where it returns None nothing is changed.
        """
        ...

    def hash_applied(self, events: list[Step], /) -> tuple[list[Row], int, int] | None:
        """Return the journal's entries, and the sums of both lanes, mod 2^64."""
        ...

    def hash_aggregates(self, keys: list[Key], /) -> list[int] | None:
        """Return the aggregates' hashes."""
        ...

    def add_at(self, sums: Numbers, places: Places, values: Numbers, /) -> None:
        """Add each of the values to the sum at its place; all are in one piece of memory."""
        ...

    def add_to_sketches(
        self, cells: Numbers, hashes: Numbers, lanes: Numbers, bits: int, /
    ) -> None:
        """Count facts in all cells, sums and weighed sums, as `Sketches.add` does."""
        ...


def loaded(name: str) -> Any:
    """Return an extension by its module's name; None where it was not built or is not wanted."""
    if os.environ.get(PURE, "0") != "0":
        return None
    try:
        return import_module(name)
    except ImportError:
        return None


extension: Extension | None = loaded("synchroscope._hashing")


def add_at(sums: Numbers, places: Places, values: Numbers) -> None:
    """Add each of the values to the sum at its place, mod 2^64."""
    if extension is None or sys.maxsize < 2**63 - 1:
        np.add.at(sums, places, values)
    else:
        extension.add_at(sums, np.ascontiguousarray(places), np.ascontiguousarray(values))


def is_native() -> bool:
    """Say whether lists are hashed by the extension."""
    return extension is not None
