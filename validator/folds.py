"""What the events of a partition come to at a position, view by view."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from synchroscope.digest import MASK, Digest, Lanes
from synchroscope.sketch import Sketches
from validator.batch_fold import Change


class ViewSum(Struct, array_like=True):
    """One view of one partition: its digest, the audit over its events, how many they were.

    The newest fold alone has ``sketches``; copies have none.
    """

    digest: Digest
    audit: Lanes
    applied: int
    sketches: Sketches | None = None

    def add(self, change: Change) -> None:
        """Take what a stretch of records changes."""
        self.digest.add_sums(change.buckets, change.lane0, change.lane1, change.counts)
        lane0, lane1 = self.audit[0] + change.audit[0], self.audit[1] + change.audit[1]
        self.audit = (lane0 & MASK, lane1 & MASK)
        self.applied += change.applied
        if self.sketches is not None:
            self.sketches.change_columns(change.hashes, change.parts)

    def copy(self) -> ViewSum:
        """Return an independent copy."""
        return ViewSum(self.digest.copy(), self.audit, self.applied)


class Fold:
    """All views of one partition at one position."""

    __slots__ = ("position", "store_position", "unproven", "views")

    def __init__(self, views: Mapping[str, ViewSum]) -> None:
        self.position = 0
        self.store_position = 0
        self.unproven = ""
        self.views = dict(views)

    def copy(self) -> Fold:
        """Return an independent copy."""
        twin = Fold({model: view.copy() for model, view in self.views.items()})
        twin.position, twin.store_position = self.position, self.store_position
        twin.unproven = self.unproven
        return twin


class StoredFold(Struct, array_like=True):
    """A `Fold` as bytes, for the validator's checkpoint."""

    position: int
    store_position: int
    unproven: str
    repeated: int
    views: dict[str, tuple[bytes, Lanes, int]]
    recent: list[int]
    made_of: str = ""
    """Views, algorithm and size of the digests."""
    runs: list[tuple[int, int]] = []
    runs_from: int = 0
    undecodable: int = 0
