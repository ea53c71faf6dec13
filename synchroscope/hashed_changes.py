"""What a list of changed facts and applied events comes to in digest, sketches and audit.

A replica does not hash fact by fact: it collects what leaves and what enters, and has all of it
hashed when a sum is asked for. One row is one field that was set.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from synchroscope import native_hashing
from synchroscope.digest import MASK, Digest, Hasher, Lanes, aggregate_hash, event_hash
from synchroscope.native_hashing import Exchange, Step
from synchroscope.sketch import Numbers

FEW_ROWS = 64
"""So many are added to a digest one by one; more by columns."""


class HashedChanges(Struct, frozen=True):
    """A row for each exchange: the aggregate's hash, and what it changes lanes and count by."""

    hashes: Numbers
    lane0: Numbers
    lane1: Numbers
    counts: NDArray[np.int64]

    def add_to(self, digest: Digest) -> None:
        """Work all rows into a digest."""
        buckets = self.hashes >> np.uint64(digest.shift)
        if len(buckets) <= FEW_ROWS:
            columns = (buckets, self.lane0, self.lane1, self.counts)
        else:
            order = np.argsort(buckets, kind="stable")
            buckets = buckets[order]
            starts = np.flatnonzero(np.diff(buckets, prepend=~buckets[:1]))
            columns = (
                buckets[starts],
                np.add.reduceat(self.lane0[order], starts),
                np.add.reduceat(self.lane1[order], starts),
                np.add.reduceat(self.counts[order], starts),
            )
        digest.add_sums(*(column.tolist() for column in columns))


def hash_changes(hasher: Hasher, changes: list[Exchange]) -> HashedChanges:
    """Return the columns of a list of exchanges."""
    native = native_hashing.extension
    found = None
    if native is not None and hasher.is_native:
        found = native.hash_changes(changes)
    if found is not None:
        hashes, lane0, lane1 = (np.frombuffer(column, np.uint64) for column in found[:3])
        return HashedChanges(hashes, lane0, lane1, np.frombuffer(found[3], np.int64))
    rows = [_row(hasher, *change) for change in changes]
    hashes, lane0, lane1 = np.array([row[:3] for row in rows], np.uint64).reshape(-1, 3).T.copy()
    return HashedChanges(hashes, lane0, lane1, np.array([row[3] for row in rows], np.int64))


def _row(
    hasher: Hasher, key: tuple[str, str], field: str, before: object, after: object
) -> tuple[int, int, int, int]:
    leaving = (0, 0) if before is None else hasher.fact(*key, field, before)
    entering = (0, 0) if after is None else hasher.fact(*key, field, after)
    lanes = (entering[0] - leaving[0]) & MASK, (entering[1] - leaving[1]) & MASK
    return aggregate_hash(*key), *lanes, (after is not None) - (before is not None)


def hash_applied(hasher: Hasher, steps: list[Step]) -> tuple[list[int], Lanes]:
    """Return the hashes of the event IDs, and the sum of the lanes of "applied there, after"."""
    native = native_hashing.extension
    if native is not None and hasher.is_native:
        found = native.hash_applied(steps)
        if found is not None:
            return found[0], found[1:]
    lane0 = lane1 = 0
    for offset, event_id, _, prior in steps:
        first, second = hasher.applied(offset, event_id, prior)
        lane0 += first
        lane1 += second
    return [event_hash(step[1]) for step in steps], (lane0 & MASK, lane1 & MASK)
