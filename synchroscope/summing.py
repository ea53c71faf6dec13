"""What the stored facts of a bucket sum to."""

from __future__ import annotations

from typing import Any

from synchroscope.digest import Hasher, Lanes, aggregate_hash
from synchroscope.ports import AggregateKey, AggregateRecord, ReplicaStorage
from synchroscope.replica_state import Partition
from synchroscope.sketch import Part


class FactSums:
    """Hashes facts and sums buckets, of one replica.

    Parameters
    ----------
    storage: Where the facts live.
    hasher, bits: The digest's algorithm and size.
    """

    def __init__(self, storage: ReplicaStorage, hasher: Hasher, bits: int) -> None:
        self._storage = storage
        self._hasher = hasher
        self._bits = bits
        self.keys_read = 0
        """How many stored aggregates were read to sum buckets."""

    def lanes(self, kind: str, subject: str, field: str, value: Any) -> Lanes | None:
        """Return a fact's lanes; None where there is no fact."""
        return None if value is None else self._hasher.fact(kind, subject, field, value)

    def lanes_of(self, record: AggregateRecord) -> list[Lanes]:
        """Return the lanes of an aggregate's facts."""
        return [
            self._hasher.fact(record.context_type, record.subject, name, value)
            for name, (value, _) in record.fields.items()
            if value is not None
        ]

    def sum_bucket(
        self,
        number: int,
        after: Partition,
        bucket: int,
        overlay: dict[AggregateKey, AggregateRecord],
        parts: list[Part] | None = None,
    ) -> bool:
        """Take the bucket's sum from storage; say whether it was what the digest said.

        `overlay` are aggregates that are changed and not yet stored. What the bucket's sketch is
        made of is added to `parts`.
        """
        lanes: list[Lanes] = []
        seen = set()
        for stored in self._storage.scan(number, bucket, self._bits):
            key = (stored.context_type, stored.subject)
            seen.add(key)
            found = self.lanes_of(overlay.get(key, stored))
            lanes.extend(found)
            if parts is not None:
                hashed = aggregate_hash(*key)
                parts.extend([(hashed, lane) for lane, _ in found])
        self.keys_read += len(seen)
        for key, record in overlay.items():
            if key not in seen and after.digest.bucket(*key) == bucket:
                lanes.extend(self.lanes_of(record))
        if after.digest.replace(bucket, lanes):
            return True
        after.state.anomalies += 1
        after.resummed.add(bucket)
        return False
