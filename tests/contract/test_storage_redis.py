"""What only the storage on Redis has: its layout, its slices, and what others write into it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from pipeline import storage_redis
from pipeline.storage_redis import SLICE_RECORDS, RedisStorage
from synchroscope.digest import aggregate_hash
from synchroscope.errors import FencedError, StorageError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord, ReplicaStorage
from synchroscope.replica import Replica
from tests.builders import VIEW
from tests.builders import record as event_record
from tests.contract.test_replica_storage import (
    COMMITS,
    PLACE,
    RISK,
    chunk,
    keep,
    record,
    told,
)
from tests.redis import redis_prefix
from tests.servers import redis_url

OTHER: AggregateKey = ("financial", "user:2")


class Place:
    """One replica's keys, and a plain client to look at them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.client = redis.Redis.from_url(redis_url())
        self.base = f"{{{prefix}:scorer@1}}"

    def key(self, key: AggregateKey) -> str:
        return f"{self.base}:a:{key[0]}:{key[1]}"

    def open(self) -> RedisStorage:
        storage = RedisStorage(redis_url(), "scorer@1", prefix=self.prefix)
        storage.incarnation()
        return storage

    def keys(self, kind: str = "") -> set[bytes]:
        return set(self.client.scan_iter(f"{self.base}:{kind}*", count=1_000))

    def copy(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.keys()}

    def fall_back(self, copy: dict[bytes, bytes]) -> None:
        for key in self.keys():
            self.client.delete(key)
        for key, data in copy.items():
            self.client.restore(key, 0, data)


@pytest.fixture
def place() -> Iterator[Place]:
    with redis_prefix() as prefix:
        made = Place(prefix)
        with closing(made.client):
            yield made


@pytest.fixture
def storage(place: Place) -> Iterator[RedisStorage]:
    with closing(place.open()) as opened:
        opened.begin("life")
        yield opened


def scanned(storage: ReplicaStorage, partition: int = 0) -> list[AggregateKey]:
    found = [one for bucket in (0, 1) for one in storage.scan(partition, bucket, 1)]
    return [(one.context_type, one.subject) for one in found]


# -- the layout ----------------------------------------------------------------------------------


def test_a_model_reads_a_fact_by_a_plain_command(storage: RedisStorage, place: Place) -> None:
    keep(storage, record(RISK, limit=5.0, level="low", gone=None))
    stored = place.client.hgetall(f"{{{place.prefix}:scorer@1}}:a:financial:user:1")
    meta = stored.pop(b"meta")
    assert stored == {b"f:limit": b"5.0", b"f:level": b'"low"'}
    assert b'"gone":1' in meta


def test_every_key_of_a_replica_lies_in_one_slot(storage: RedisStorage, place: Place) -> None:
    storage.commit({RISK: record(RISK, a=1), PLACE: record(PLACE, 1, 7)}, 3, b"state", chunk(0))
    found = place.keys()
    assert len(found) == 8
    assert len({key_slot(key) for key in found}) == 1


@pytest.mark.parametrize(
    "one, two",
    [
        (("p", "a:b"), ("p:a", "b")),
        (("p", "a%3Ab"), ("p", "a:b")),
        (("p", "a}b"), ("p", "a")),
        (("p", "{a"), ("p", "a")),
    ],
)
def test_replicas_and_prefixes_with_alike_names_are_kept_apart(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    with redis_prefix() as unique:
        storages = [
            RedisStorage(redis_url(), replica, prefix=f"{unique}{prefix}")
            for prefix, replica in (one, two)
        ]
        for number, storage in enumerate(storages):
            storage.begin(str(number))
            keep(storage, record(RISK, a=number))
        for number, storage in enumerate(storages):
            with closing(storage):
                assert storage.incarnation() == str(number)
                assert storage.get(RISK) == record(RISK, a=number)


@pytest.mark.parametrize("kind", ["a:b", "a%3Ab", "{a}", "%", "a%b:", ":"])
def test_a_type_may_have_any_name(storage: RedisStorage, kind: str) -> None:
    alike = [(kind, "x:y"), ("a", "b:x:y"), (f"{kind}:x", "y")]
    keep(storage, *(record(key, a=number) for number, key in enumerate(alike)))
    assert [storage.get(key) for key in alike] == [record(k, a=n) for n, k in enumerate(alike)]
    assert sorted(scanned(storage)) == sorted(alike)


def test_an_aggregate_may_have_more_fields_than_lua_takes_at_once(storage: RedisStorage) -> None:
    large = record(RISK, **{f"field{number}": number for number in range(9_000)})
    keep(storage, large)
    assert storage.get(RISK) == large
    keep(storage, record(RISK, 2, a=1))
    assert storage.get(RISK) == record(RISK, 2, a=1)


# -- what others write, and what cannot be read ---------------------------------------------------

DAMAGE: dict[str, list[tuple[Any, ...]]] = {
    "no JSON": [("HSET", "KEY", "f:limit", "oops")],
    "no text": [("HSET", "KEY", "f:limit", b'"\xff"')],
    "a lone surrogate": [("HSET", "KEY", "f:limit", '"\\ud800"')],
    "a number of more than 64 bits": [("HSET", "KEY", "f:limit", str(2**64 - 1))],
    "nested too deeply": [("HSET", "KEY", "f:limit", "[" * 5_000 + "]" * 5_000)],
    "a field whose name is no text": [("HSET", "KEY", b"f:\xff", "1")],
    "no meta": [("HDEL", "KEY", "meta")],
    "meta of another form": [("HSET", "KEY", "meta", "[1,2,3]")],
    "meta that is no JSON": [("HSET", "KEY", "meta", "")],
    "another kind of key": [("DEL", "KEY"), ("SET", "KEY", "oops")],
    "deleted": [("DEL", "KEY")],
    "expired": [("PEXPIRE", "KEY", 0)],
}


@pytest.mark.parametrize("commands", DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_read_is_absent_and_a_scrub_sees_it(
    storage: RedisStorage, place: Place, commands: list[tuple[Any, ...]]
) -> None:
    replica = Replica("scorer@1", VIEW, storage, incarnation="life", bits=1)
    replica.apply(0, [event_record(0, 1, {"limit": 5, "risk": "low"})], 1)
    replica.apply(0, [event_record(1, 1, {"limit": 6}, user="2")], 2)
    assert replica.scrub(0, (0, 1)) == 0
    for name, _, *rest in commands:
        place.client.execute_command(name, place.key(RISK), *rest)
    assert storage.get(RISK) is None
    assert scanned(storage) == [OTHER]
    storage.prefetch([RISK, OTHER, PLACE])
    assert storage.get(RISK) is storage.get(PLACE) is None
    assert replica.get("user:2", "financial") == {"limit": 6}
    assert replica.scrub(0, (0, 1)) == 1
    keep(storage, record(RISK, 3, limit=7))
    assert storage.get(RISK) == record(RISK, 3, limit=7)


def test_a_field_that_was_written_behind_its_back_is_seen(
    storage: RedisStorage, place: Place
) -> None:
    replica = Replica("scorer@1", VIEW, storage, incarnation="life", bits=1)
    replica.apply(0, [event_record(0, 1, {"limit": 5, "risk": "low"})], 1)
    replica.apply(0, [event_record(1, 2, {"risk": None})], 2)
    place.client.hset(place.key(RISK), mapping={"f:stray": "[1]", "f:risk": '"high"', "own": "x"})
    expected = {"limit": (5, 1), "risk": ("high", 2), "stray": ([1], 0)}
    found = storage.get(RISK)
    assert found is not None
    assert found.fields == expected
    bucket = aggregate_hash(*RISK) >> 63
    assert [one.fields for one in storage.scan(0, bucket, 1)] == [expected]
    assert replica.scrub(0, (0, 1)) == 1
    assert storage.partition_state(0) is not None
    keep(storage, found)
    assert storage.get(RISK) == found


def test_a_key_of_another_kind_refuses_a_commit_before_anything_is_written(
    storage: RedisStorage, place: Place
) -> None:
    storage.commit({RISK: record(RISK, 1, a=1)}, 0, b"before", chunk(0))
    for name in ("j:0", "i:0", "partitions", "emptied"):
        copy = place.copy()
        place.client.delete(f"{place.base}:{name}")
        place.client.set(f"{place.base}:{name}", "oops")
        with pytest.raises(StorageError, match="a key is of another kind: delete it"):
            storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"after", chunk(1))
        assert storage.get(RISK) == record(RISK, 1, a=1)
        place.fall_back(copy)
    storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"after", chunk(1))
    assert storage.journal(0, 0) == [chunk(0), chunk(1)]


# -- slices --------------------------------------------------------------------------------------


def test_what_is_larger_than_a_slice_is_read_whole(storage: RedisStorage, place: Place) -> None:
    everyone = [("t", str(number)) for number in range(2 * SLICE_RECORDS + 300)]
    keep(storage, *(record(key, a=1) for key in everyone))
    assert sorted(scanned(storage)) == sorted(everyone)
    assert len(list(storage.scan(0, 0, 0))) == len(everyone)
    place.client.hset(place.key(everyone[700]), "f:a", b"\xff")
    storage.prefetch(everyone)
    found = [storage.get(key) for key in everyone]
    assert found[700] is None
    assert found[:700] + found[701:] == [
        record(key, a=1) for key in everyone if key != ("t", "700")
    ]


def test_a_life_begins_at_once_and_what_was_before_goes_slice_by_slice(
    storage: RedisStorage, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_redis, "SLICE_RECORDS", 10)
    monkeypatch.setattr(storage_redis, "SLICES_AT_BEGINNING", 2)
    everyone = [("t", str(number)) for number in range(55)]
    for partition in (0, 1):
        mine = [record(key, 1, partition, a=1) for key in everyone[partition::2]]
        keep(storage, *mine, partition=partition)
    storage.begin("second life")
    assert len(place.keys("a:")) == 35
    storage.prefetch(everyone)
    assert [storage.get(key) for key in everyone] == [None] * 55
    assert scanned(storage) == scanned(storage, 1) == []
    kept = {key: record(key, 1, 0, a=2) for key in everyone[::5]}
    commits = 0
    while place.client.exists(f"{place.base}:emptied"):
        storage.commit(kept, 0, b"state")
        commits += 1
        assert commits <= 5
    assert sorted(scanned(storage)) == sorted(kept)
    assert {place.key(key).encode() for key in kept} == place.keys("a:")
    assert not place.keys("emptied")


def test_what_a_dead_process_left_of_an_old_life_is_never_taken_for_the_new_one(
    storage: RedisStorage, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_redis, "SLICES_AT_BEGINNING", 0)
    replica = Replica("scorer@1", VIEW, storage, incarnation="life", bits=1)
    replica.apply(0, [event_record(0, 7, {"limit": 5})], 1)
    storage.begin("another")
    again = Replica("scorer@1", VIEW, storage, incarnation="life", bits=1)
    again.apply(0, [event_record(0, 1, {"limit": 1})], 1)
    assert again.get("user:1", "financial") == {"limit": 1}
    assert again.scrub(0, (0, 1)) == 0


def test_if_the_old_life_comes_back_its_facts_are_not_deleted(
    storage: RedisStorage, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(storage, record(RISK, a=1))
    copy = place.copy()
    monkeypatch.setattr(storage_redis, "SLICES_AT_BEGINNING", 0)
    storage.begin("second life")
    remains = place.copy()
    place.fall_back(copy | {key: data for key, data in remains.items() if b":emptied" in key})
    with closing(place.open()) as other:
        assert other.incarnation() == "life"
        while place.client.exists(f"{place.base}:emptied"):
            other.commit({}, 0, b"state")
        assert other.get(RISK) == record(RISK, a=1)


# -- several processes ---------------------------------------------------------------------------


def test_after_a_fall_back_as_many_commits_do_not_make_it_the_same(
    storage: RedisStorage, place: Place
) -> None:
    storage.commit({RISK: record(RISK, 1, a=1)}, 0, b"one")
    copy = place.copy()
    storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"two")
    place.fall_back(copy)
    with closing(place.open()) as other:
        other.commit({RISK: record(RISK, 2, a="other")}, 0, b"two of another")
        with pytest.raises(FencedError, match="lost its newest writes"):
            storage.commit({RISK: record(RISK, 3, a=3)}, 0, b"three")
        assert storage.partition_state(0) == b"two of another"
        storage.commit({RISK: record(RISK, 3, a=3)}, 0, b"three")
        assert other.get(RISK) == record(RISK, 3, a=3)


@pytest.mark.parametrize("lost", ["about", "p:0"])
def test_a_storage_that_lost_a_key_of_ours_is_built_again(
    storage: RedisStorage, place: Place, lost: str
) -> None:
    storage.commit({RISK: record(RISK, 1, a=1)}, 0, b"one", chunk(0))
    place.client.delete(f"{place.base}:{lost}")
    with pytest.raises(FencedError):
        storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"two", chunk(1))
    assert storage.partition_state(0) is None
    storage.commit({PLACE: record(PLACE, 1, a=1)}, 0, b"new", chunk(5))
    assert storage.journal(0, 0) == [chunk(5)]


def test_another_thread_reads_what_is_stored_now(storage: RedisStorage, place: Place) -> None:
    keep(storage, record(RISK, a=1))
    storage.prefetch([RISK])
    with closing(place.open()) as other:
        keep(other, record(RISK, a=2))
    found: list[AggregateRecord | None] = []
    thread = threading.Thread(target=lambda: found.append(storage.get(RISK)))
    thread.start()
    thread.join()
    assert found == [record(RISK, a=2)]
    assert storage.get(RISK) == record(RISK, a=1)


def test_a_server_that_forgot_the_scripts_is_told_them_again(
    storage: RedisStorage, place: Place
) -> None:
    place.client.script_flush()
    storage.commit({RISK: record(RISK, a=1)}, 0, b"state")
    place.client.script_flush()
    assert storage.get(RISK) == record(RISK, a=1)
    assert storage.partition_state(0) == b"state"


# -- memory and Redis agree ----------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(commits=st.lists(COMMITS, max_size=10), begin_at=st.integers(0, 20))
def test_memory_and_redis_agree(commits: list[Any], begin_at: int) -> None:
    with redis_prefix() as prefix:
        other = RedisStorage(redis_url(), "scorer@1", prefix=prefix)
        storages: list[ReplicaStorage] = [MemoryStorage(), other]
        with closing(other):
            for storage in storages:
                for number, (values, partition, state, has_chunk, floor) in enumerate(commits):
                    if number == begin_at:
                        storage.begin("again")
                    # An aggregate stays in its partition, as it does in a log.
                    records = {
                        key: record(key, number, len(key[1]) % 2, a=v) for key, v in values.items()
                    }
                    one = chunk(number) if has_chunk else None
                    storage.commit(records, partition, state, one, floor)
            first, second = (told(storage) for storage in storages)
    assert first == second
