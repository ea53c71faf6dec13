"""What a list of changed facts and applied events comes to in digest, sketches and audit.

A replica does not hash fact by fact: it collects what leaves and what enters, and has all of it
hashed together, by the extension where that was built.
"""

from __future__ import annotations

import numpy as np

from synchroscope import native_hashing
from synchroscope.digest import MASK, Digest, Hasher, Lanes, aggregate_hash, event_hash
from synchroscope.native_hashing import Exchange, Row, Step
from synchroscope.sketch import Numbers


def add_changes(digest: Digest, hasher: Hasher, changes: list[Exchange]) -> tuple[Numbers, Numbers]:
    """Work changed facts into a digest; return columns for its sketches.

    These are the hashes of the aggregates, and what each change makes of lane 0.
    """
    native = native_hashing.extension
    if native is not None and hasher.is_native:
        columns = (digest.lane0, digest.lane1, digest.counts)
        found = native.hash_changes(changes, *columns, digest.bits)
        if found is not None:
            return np.frombuffer(found[0], np.uint64), np.frombuffer(found[1], np.uint64)
    parts = []
    for key, field, before, after in changes:
        hashed, lane0 = aggregate_hash(*key), 0
        bucket = hashed >> digest.shift
        if before is not None:
            lanes = hasher.fact(*key, field, before)
            digest.subtract(bucket, lanes)
            lane0 -= lanes[0]
        if after is not None:
            lanes = hasher.fact(*key, field, after)
            digest.add(bucket, lanes)
            lane0 += lanes[0]
        parts.append((hashed, lane0 & MASK))
    hashes, lanes0 = np.array(parts, np.uint64).reshape(-1, 2).T.copy()
    return hashes, lanes0


def hash_applied(hasher: Hasher, steps: list[Step]) -> tuple[list[Row], Lanes]:
    """Return the journal's entries, and the sum of the lanes of "applied there, after"."""
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
    rows = [(offset, event_hash(name), sequence, prior) for offset, name, sequence, prior in steps]
    return rows, (lane0 & MASK, lane1 & MASK)
