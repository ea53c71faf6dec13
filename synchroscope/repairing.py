"""What a repair makes of stored aggregates.

The validator says what it saw at a position and what had to be there; since then the replica has
gone on. So a repair is merged field by field and never takes back what a newer event wrote, and it
leaves alone what has changed in any other way: the validator then looks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synchroscope.digest import lanes_hex
from synchroscope.ports import AggregateKey, AggregateRecord, ReplicaStorage
from synchroscope.replica_state import Partition
from synchroscope.report import (
    AggregateRepair,
    Repair,
    Repaired,
    StoredAggregate,
    StoredFact,
)
from synchroscope.summing import FactSums

MAXIMUM_PENDING_REPAIRS = 512
"""How many repaired aggregates a partition's state holds that no question has shown yet."""
HashOf = Callable[[str, Any], str | None]


def merge(
    stored: AggregateRecord, repair: AggregateRepair, hash_of: HashOf
) -> AggregateRecord | None:
    """Return the aggregate put right; None where it is to be left as it is.

    1. It is exactly as the validator saw it: no event came since, so it becomes what it must be.
    2. Newer events alone have changed it: fields that they wrote stay, all others become what they
       must be, and the sequence never falls.
    3. It has changed otherwise, or was repaired before: it is left.
    """
    held = {name: (hash_of(name, value), wrote) for name, (value, wrote) in stored.fields.items()}
    seen = {fact.field: (fact.hash, fact.sequence) for fact in repair.seen.facts}
    must = {field.field: (field.value, field.sequence) for field in repair.fields}
    if stored.sequence == repair.seen.sequence and held == seen:
        return _with(stored, repair.sequence, must, [])
    if stored.sequence < repair.seen.sequence or not seen.keys() <= held.keys():
        return None
    older = {name: pair for name, pair in held.items() if pair[1] <= repair.seen.sequence}
    if any(seen.get(name) != pair for name, pair in older.items()):
        return None
    newer = {n: pair for n, pair in stored.fields.items() if pair[1] > repair.sequence}
    missing = [number for number in stored.missing if number > repair.sequence]
    return _with(stored, max(stored.sequence, repair.sequence), {**must, **newer}, missing)


def _with(
    stored: AggregateRecord,
    sequence: int,
    fields: dict[str, tuple[Any, int]],
    missing: list[int],
) -> AggregateRecord:
    return AggregateRecord(
        stored.context_type, stored.subject, stored.partition, sequence, fields, missing
    )


def shown(
    record: AggregateRecord, sums: FactSums, is_public: Callable[[str, str], bool] | None = None
) -> StoredAggregate:
    """Return an aggregate by the hashes of its facts, with the values of the public fields."""
    kind, subject = record.context_type, record.subject
    facts = []
    for name, (value, sequence) in sorted(record.fields.items()):
        lanes = sums.lanes(kind, subject, name, value)
        told = value if is_public is not None and is_public(kind, name) else None
        facts.append(StoredFact(name, lanes and lanes_hex(lanes), sequence, told))
    return StoredAggregate(kind, subject, record.sequence, facts)


class Repairing:
    """Works repairs into partitions; stores nothing.

    Parameters
    ----------
    storage: Where aggregates are read.
    sums: How facts are hashed and buckets summed.
    """

    def __init__(self, storage: ReplicaStorage, sums: FactSums) -> None:
        self._storage = storage
        self._sums = sums

    def repair(
        self, after: Partition, message: Repair
    ) -> tuple[dict[AggregateKey, AggregateRecord], bool]:
        """Work a message into `after`; return the aggregates that have to be stored.

        Every bucket that is touched is summed again from storage, and those of aggregates that bear
        another partition by now: returned as well is whether one of these was wrong.
        """
        state, records = after.state, {}
        elsewhere: set[int] = set()
        keys = [(wanted.context_type, wanted.subject) for wanted in message.aggregates]
        self._storage.prefetch(keys)
        for key, wanted in zip(keys, message.aggregates, strict=True):
            stored = self._storage.get(key)
            if stored is not None and stored.partition != message.partition:
                elsewhere.add(after.digest.bucket(*key))
                if wanted.sequence == 0:
                    continue  # The other partition says what it must be.
                stored = None  # No scan of this partition showed it.
            stored = stored or AggregateRecord(*key, message.partition, 0, {}, [])
            mended = self._mended(stored, wanted)
            if mended is None:
                continue
            records[key] = mended
            # An older copy of the aggregate may have missed more than was ever counted.
            state.gaps = max(state.gaps - (len(stored.missing) - len(mended.missing)), 0)
            self._exchange(after, stored, mended)
            state.repaired += 1
            state.repairs.append(
                Repaired(
                    state.repaired,
                    state.position,
                    state.applied,
                    stored.sequence,
                    message.repair_id,
                    shown(mended, self._sums),
                )
            )
        touched = {after.digest.bucket(*key) for key in records}
        after.resummed |= touched
        for bucket in touched:
            self._sums.sum_bucket(message.partition, after, bucket, records)
        sums = [
            self._sums.sum_bucket(message.partition, after, bucket, records)
            for bucket in elsewhere - touched
        ]
        return records, not all(sums)

    def _mended(self, stored: AggregateRecord, wanted: AggregateRepair) -> AggregateRecord | None:
        def hash_of(field: str, value: Any) -> str | None:
            lanes = self._sums.lanes(stored.context_type, stored.subject, field, value)
            return lanes and lanes_hex(lanes)

        mended = merge(stored, wanted, hash_of)
        if mended is None:
            return None
        # By hash: in Python 1 equals True.
        is_same = shown(mended, self._sums) == shown(stored, self._sums)
        return None if is_same and mended.missing == stored.missing else mended

    def _exchange(self, after: Partition, stored: AggregateRecord, mended: AggregateRecord) -> None:
        bucket = after.digest.bucket(stored.context_type, stored.subject)
        for lanes in self._sums.lanes_of(stored):
            after.digest.subtract(bucket, lanes)
        for lanes in self._sums.lanes_of(mended):
            after.digest.add(bucket, lanes)
