"""A storage in memory divides its slots as they grow; what it says stays the same."""

from __future__ import annotations

import pytest

from synchroscope import memory_storage
from synchroscope.digest import aggregate_hash
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord


def stored(number: int) -> AggregateRecord:
    return AggregateRecord("kind", f"user:{number}", number % 2, 1, {"a": (number, 1)}, [])


def key_of(record: AggregateRecord) -> AggregateKey:
    return (record.context_type, record.subject)


@pytest.mark.parametrize("split_records", [1, 3, 64])
def test_every_bucket_and_single_aggregate_is_found_however_slots_are_divided(
    split_records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_storage, "_SPLIT_RECORDS", split_records)
    storage, records = MemoryStorage(), [stored(number) for number in range(3_000)]
    storage.begin("life")

    for start in range(0, len(records), 500):
        part = records[start : start + 500]
        storage.commit({key_of(record): record for record in part}, 0, None)
    changed = AggregateRecord("kind", "user:7", 1, 2, {"a": ("new", 2)}, [])
    storage.commit({key_of(changed): changed}, 1, None)
    records[7] = changed

    assert [storage.get(key_of(record)) for record in records] == records
    assert storage.get(("kind", "user:3000")) is None
    for bits in (1, 8, 12, 13, 15, 16, 18, 32, 36):
        shift = 64 - bits
        wanted = {aggregate_hash(*key_of(record)) >> shift for record in records[:40]}
        for bucket in wanted:
            for partition in (0, 1):
                inside = [
                    record.subject
                    for record in records
                    if record.partition == partition
                    and aggregate_hash(*key_of(record)) >> shift == bucket
                ]
                found = [record.subject for record in storage.scan(partition, bucket, bits)]
                assert sorted(found) == sorted(inside)
