"""Which compatibility a subject asks of a new version, and whether the version has it.

As in Confluent's registry: with BACKWARD readers of the new version read what was written with the
one before it; with FORWARD readers of the one before read what is written with the new; FULL is
both; the _TRANSITIVE forms ask it of all earlier versions, NONE asks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from msgspec import Struct

from validator.schemas.inclusion import Schema, differences
from validator.schemas.inclusion_values import Difference

Level = Literal[
    "BACKWARD",
    "BACKWARD_TRANSITIVE",
    "FORWARD",
    "FORWARD_TRANSITIVE",
    "FULL",
    "FULL_TRANSITIVE",
    "NONE",
]
LEVELS: tuple[Level, ...] = get_args(Level)
DEFAULT_LEVEL: Level = "BACKWARD"
MAXIMUM_REASONS = 20


class Incompatibility(Struct, frozen=True):
    """A difference that a level does not allow: to which version, and who cannot read whom."""

    version: int
    reader: Literal["new", "old"]
    difference: Difference

    def __str__(self) -> str:
        found = self.difference
        who = (
            f"the new schema cannot read version {self.version}"
            if self.reader == "new"
            else f"version {self.version} cannot read the new schema"
        )
        return f"{{errorType:'{found.rule}', path:'{found.path}', description:'{who}: " + (
            f"{found.detail}'}}"
        )


def incompatibilities(
    level: Level, new: Schema, earlier: Sequence[tuple[int, Schema]]
) -> list[Incompatibility]:
    """Return why `new` may not follow the `earlier` versions (oldest first); empty: it may.

    >>> number, text = {"type": "number"}, {"type": ["number", "string"]}
    >>> [len(incompatibilities(level, text, [(1, number)])) for level in LEVELS]
    [0, 0, 1, 1, 1, 1, 0]
    """
    if level == "NONE" or not earlier:
        return []
    found: list[Incompatibility] = []
    for version, old in earlier if level.endswith("_TRANSITIVE") else earlier[-1:]:
        if not level.startswith("FORWARD"):
            found += [Incompatibility(version, "new", one) for one in differences(old, new)]
        if not level.startswith("BACKWARD"):
            found += [Incompatibility(version, "old", one) for one in differences(new, old)]
    return found[:MAXIMUM_REASONS]
