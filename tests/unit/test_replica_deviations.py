"""What a replica says of a storage that does not hold what it was given."""

from __future__ import annotations

from typing import Any

from synchroscope.digest import Digest, event_hash, lanes_hex
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord
from synchroscope.report import Entry
from tests.builders import event_id, rebuilt, record, replica_of, update
from tests.replica_world import (
    FIRST,
    KEY,
    assert_digest_is_that_of_storage,
    explained,
    hash_of,
    newest,
)


def overwrite(storage: MemoryStorage, sequence: int | None = None, **fields: Any) -> None:
    """Change stored fields behind the replica's back; each keeps its sequence."""
    held = storage.get(KEY)
    assert held is not None
    twin = held.copy()
    twin.sequence = sequence or held.sequence
    for name, value in fields.items():
        twin.fields[name] = (value, twin.fields[name][1])
    storage.commit({KEY: twin}, 0, None)


def test_a_corrupted_value_is_evidence_when_the_next_event_meets_it() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    overwrite(storage, limit=55, risk="corrupt")
    replica.apply(0, [record(1, 2, {"limit": update(6, 5)})], 2)
    answer = explained(replica)

    [mismatch] = answer.mismatches
    assert (mismatch.offset, mismatch.field, mismatch.sequence, mismatch.prior) == (
        1,
        "limit",
        2,
        1,
    )
    assert (mismatch.expected, mismatch.stored) == (hash_of("limit", 5), hash_of("limit", 55))
    # The bucket was summed again, so the other field's corruption shows in the digest as well.
    assert answer.table == rebuilt(storage).table()
    assert answer.note.anomalies == 2
    assert explained(replica, scrub=True).note.anomalies == 2


def test_a_gap_sums_its_bucket_again_and_so_finds_what_else_is_wrong_there() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    overwrite(storage, risk="rotten")
    replica.apply(0, [record(1, 3, {"limit": update(6, 5)})], 2)

    assert explained(replica).mismatches == []
    assert newest(replica).anomalies == 1
    assert_digest_is_that_of_storage(replica, storage)


def test_a_marker_in_the_same_batch_is_noted_with_the_bucket_summed_again() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    overwrite(storage, limit=55, risk="rotten")
    replica.apply(0, [record(1, 2, {"limit": update(6, 5)})], 5)
    marker, end = replica.report(0.0, [0]).notes
    root = rebuilt(storage).root()

    assert marker.marker and marker.position == 4
    assert marker.state == end.state == lanes_hex((root.lane0, root.lane1))
    assert marker.anomalies == end.anomalies == 2


def test_without_an_event_only_a_scrub_finds_a_corrupted_value() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST, record(1, 1, {"limit": 3}, user="2")], 2)
    overwrite(storage, risk="rotten")

    assert explained(replica).table != rebuilt(storage).table()
    bucket = Digest(4).bucket(*KEY)
    assert replica.scrub(0, [b for b in range(16) if b != bucket]) == 0
    assert explained(replica).note.anomalies == 0
    answer = explained(replica, scrub=True)
    assert (answer.scrubbed, answer.note.anomalies) == (True, 1)
    assert answer.table == rebuilt(storage).table()
    assert replica.scrub(0, range(16)) == 0
    assert replica_of(storage).scrub(0, range(16)) == 0  # It was stored, not only remembered.


def test_a_stale_restore_of_an_aggregate_shows_as_gap_and_mismatch() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    old = storage.get(KEY)
    assert old is not None
    replica.apply(0, [record(n, n + 1, {"limit": update(5 + n, 4 + n)}) for n in (1, 2, 3)], 4)
    storage.commit({KEY: old.copy()}, 0, None)
    replica.apply(0, [record(4, 5, {"limit": update(9, 8)})], 5)
    answer = explained(replica)

    assert answer.entries[-1] == Entry(4, event_hash(event_id(4)), 5, 1)
    assert [(m.expected, m.stored) for m in answer.mismatches] == [
        (hash_of("limit", 8), hash_of("limit", 5))
    ]
    assert (answer.note.gaps, answer.note.anomalies) == (3, 2)
    assert_digest_is_that_of_storage(replica, storage)


class Unreadable(MemoryStorage):
    """Cannot read one aggregate any more."""

    lost: AggregateKey | None = None

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        return None if key == self.lost else super().get(key)

    def scan(self, partition: int, bucket: int, bits: int) -> Any:
        for held in super().scan(partition, bucket, bits):
            if (held.context_type, held.subject) != self.lost:
                yield held


def test_an_aggregate_that_cannot_be_read_is_out_of_the_digest_after_the_next_event() -> None:
    storage = Unreadable()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    storage.lost = KEY
    replica.apply(0, [record(1, 2, {"limit": update(6, 5)})], 2)
    storage.lost = None

    assert replica.get("user:1", "financial") == {"limit": 6}
    assert newest(replica).gaps == 1
    assert_digest_is_that_of_storage(replica, storage)
