"""A replica's steps happen whole or not at all, and what a restart goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from synchroscope.digest import Hasher
from synchroscope.errors import ConfigurationError, StorageError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk
from synchroscope.replica_state import Partition
from synchroscope.report import encode_message
from synchroscope.view import View
from tests.builders import VIEW, record, replica_of, update
from tests.replica_world import FIRST, KEY, explained, newest


class Failing(MemoryStorage):
    """Refuses to commit when told to."""

    fails = False

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        if self.fails:
            raise StorageError("disk full; make room")
        super().commit(records, partition, state, chunk, journal_floor)


def test_a_commit_that_fails_changes_nothing_and_can_be_tried_again() -> None:
    storage = Failing()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    before = (encode_message(explained(replica)), newest(replica), replica.position(0))
    more = [record(n, n + 1, {"limit": update(5 + n, 4 + n)}) for n in range(1, 9)]
    storage.fails = True
    with pytest.raises(StorageError):
        replica.apply(0, more, 9)

    assert before == (encode_message(explained(replica)), newest(replica), replica.position(0))
    storage.fails = False
    replica.apply(0, more, 9)
    straight = replica_of()
    straight.apply(0, [FIRST, *more], 9)
    assert replica.report(0.0, [0]) == straight.report(0.0, [0])


def test_a_restart_on_the_same_storage_goes_on_where_it_stood() -> None:
    storage = MemoryStorage()
    first = replica_of(storage)
    first.apply(0, [FIRST, record(1, 3, {"limit": 7})], 2)
    told = newest(first)
    second = replica_of(storage, incarnation="another")

    assert (second.incarnation, newest(second)) == (first.incarnation, told)
    rest = [record(2, 2, {"limit": 6, "risk": "mid"}), record(3, 4, {"limit": update(8, 7)})]
    second.apply(0, rest, 4)
    first_time = replica_of()
    first_time.apply(0, [FIRST, record(1, 3, {"limit": 7}), *rest], 4)
    assert second.report(0.0, [0]) == first_time.report(0.0, [0])
    assert explained(second) == explained(first_time)


@pytest.mark.parametrize(
    "other",
    [
        {"view": View("scorer", {"financial": frozenset({"limit"})})},
        {"view": View("other", VIEW.fields)},
        {"bits": 5},
        {"hasher": Hasher("blake2b-128", b"k" * 16)},
    ],
    ids=["fields", "model", "bits", "hash"],
)
def test_another_view_or_digest_begins_a_new_life(other: dict[str, Any]) -> None:
    storage = MemoryStorage()
    first = replica_of(storage, incarnation="one")
    first.apply(0, [FIRST], 1)
    second = replica_of(storage, incarnation="two", **other)

    assert second.incarnation != first.incarnation
    assert (second.position(0), second.get("user:1", "financial")) == (0, {})
    assert newest(second).facts == 0


def test_another_key_begins_a_new_life() -> None:
    storage = MemoryStorage()
    first = replica_of(storage, incarnation="one", hasher=Hasher("blake2b-128", b"k" * 16))
    first.apply(0, [FIRST], 1)
    second = replica_of(storage, incarnation="two", hasher=Hasher("blake2b-128", b"l" * 16))

    assert second.incarnation != first.incarnation
    assert second.position(0) == 0


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 21}, {"marker_interval": 0}], ids=str)
def test_a_wrong_setting_is_refused_before_anything_is_lost(wrong: dict[str, int]) -> None:
    storage = MemoryStorage()
    first = replica_of(storage)
    first.apply(0, [FIRST], 1)
    with pytest.raises(ConfigurationError):
        replica_of(storage, **wrong)

    assert (storage.incarnation(), storage.get(KEY) is None) == (first.incarnation, False)


def test_a_state_that_cannot_be_read_says_what_to_do() -> None:
    storage = MemoryStorage()
    replica_of(storage).apply(0, [FIRST], 1)
    storage.commit({}, 0, b"\xc1 rotten")

    with pytest.raises(StorageError, match="empty the replica's storage"):
        replica_of(storage).position(0)


def test_a_model_may_change_what_it_was_given() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [record(0, 1, {"limit": [1, {"a": [2]}]})], 1)
    given_out = replica.get("user:1", "financial")
    given_out["limit"][1]["a"].append("mine")

    assert replica.get("user:1", "financial") == {"limit": [1, {"a": [2]}]}
    assert replica.scrub(0, range(16)) == 0


def test_what_is_stored_when_a_step_stops_right_after_its_commit_is_not_applied_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [record(n, n + 1, {"limit": n + 1}) for n in range(8)]
    whole, torn = replica_of(MemoryStorage()), replica_of(MemoryStorage())
    whole.apply(0, records, 8)
    torn.apply(0, records[:4], 4)

    def stop(self: Partition) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Partition, "settle", stop)
        with pytest.raises(MemoryError):
            torn.apply(0, records[4:], 8)
    assert torn.position(0) == 8
    torn.apply(0, records[4:], 8)
    one, other = newest(torn), newest(whole)
    assert one.duplicates == 4
    assert (one.state, one.audit, one.applied) == (other.state, other.audit, other.applied)
