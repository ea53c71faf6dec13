"""What somebody else put into a replica's storage: a scan yields whatever a `get` returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
import redis

from pipeline.storage_lmdb import LmdbStorage, _record_key
from pipeline.storage_postgresql import PostgresqlStorage
from pipeline.storage_redis import SLICE_RECORDS, RedisStorage
from synchroscope.digest import aggregate_hash
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord, ReplicaStorage
from tests.contract.test_replica_storage import record
from tests.postgresql import postgresql_schema
from tests.redis import redis_storage
from tests.servers import redis_url

FIRST: AggregateKey = ("financial", "user:7")
STRAY: AggregateKey = ("financial", "user:999")
BITS = 6
UNKNOWN_PARTITION = 99


@pytest.fixture(params=["memory", "lmdb", "postgresql", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicaStorage]:
    with ExitStack() as stack:
        storage: ReplicaStorage = MemoryStorage()
        if request.param == "postgresql":
            storage = PostgresqlStorage(stack.enter_context(postgresql_schema()), "scorer@1")
        elif request.param == "redis":
            storage = stack.enter_context(redis_storage())
        elif request.param == "lmdb":
            storage = LmdbStorage(tmp_path / "replica")
        stack.enter_context(closing(storage))
        storage.begin("life")
        for partition in (0, 1):
            storage.commit({}, partition, b"state")
        storage.commit({FIRST: record(FIRST, 3, limit=5)}, 0, b"state")
        yield storage


def put_outside(storage: ReplicaStorage, stray: AggregateRecord) -> None:
    """Put a row there as somebody might who copied another one and changed its key."""
    key = (stray.context_type, stray.subject)
    if isinstance(storage, MemoryStorage):
        storage._records[key] = stray
    elif isinstance(storage, LmdbStorage):
        with storage._environment.begin(write=True, db=storage._aggregates) as transaction:
            transaction.put(_record_key(*key), msgspec.msgpack.encode(stray))
    elif isinstance(storage, PostgresqlStorage):
        storage._database.query(
            "INSERT INTO replica_aggregates SELECT replica, %s, %s, %s, hash, sequence, fields, "
            "missing FROM replica_aggregates WHERE subject = 'user:7' RETURNING 1",
            (*key, stray.partition),
        )
    elif isinstance(storage, RedisStorage):
        with closing(redis.Redis.from_url(redis_url())) as client:
            source = f"{storage._base}:a:financial:user:7"
            meta = msgspec.json.decode(client.hget(source, "meta") or b"")
            meta[1] = stray.partition
            client.hset(
                f"{storage._base}:a:{key[0]}:{key[1]}",
                mapping={b"f:limit": b"5", b"meta": msgspec.json.encode(meta)},
            )


def sweep(storage: ReplicaStorage, limit: int = 10, partition: int = 0) -> int:
    """Sweep from the beginning to the end; return how many were mended."""
    place, mended = b"", 0
    while True:
        swept = storage.sweep(partition, place, limit)
        place, mended = swept.place, mended + swept.mended
        if not place:
            return mended


def in_own_bucket(
    storage: ReplicaStorage, key: AggregateKey, partition: int = 0
) -> list[AggregateRecord]:
    bucket = aggregate_hash(*key) >> (64 - BITS)
    found = storage.scan(partition, bucket, BITS)
    return [one for one in found if (one.context_type, one.subject) == key]


@pytest.mark.parametrize("partition", [0, 1])
def test_a_row_from_outside_is_yielded_by_the_scan_of_its_bucket(
    storage: ReplicaStorage, partition: int
) -> None:
    put_outside(storage, record(STRAY, 3, partition, limit=5))
    held = storage.get(STRAY)
    assert held == record(STRAY, 3, partition, limit=5)
    sweep(storage)
    assert in_own_bucket(storage, STRAY, partition) == [held]
    assert in_own_bucket(storage, FIRST) == [storage.get(FIRST)]
    everywhere = [o for p in (0, 1) for b in range(1 << BITS) for o in storage.scan(p, b, BITS)]
    assert len(everywhere) == 2


def test_a_row_of_a_partition_that_there_is_not_is_taken_into_one_that_there_is(
    storage: ReplicaStorage,
) -> None:
    put_outside(storage, record(STRAY, 3, UNKNOWN_PARTITION, limit=5))
    assert sweep(storage, partition=1) == 1
    assert storage.get(STRAY) == record(STRAY, 3, 1, limit=5)
    assert in_own_bucket(storage, STRAY, 1) == [record(STRAY, 3, 1, limit=5)]


def test_a_sweep_of_what_was_committed_changes_nothing(storage: ReplicaStorage) -> None:
    everyone = [record(("t", f"user:{n}"), n + 1, n % 2, a=n) for n in range(300)]
    for partition in (0, 1):
        mine = everyone[partition::2]
        storage.commit({(r.context_type, r.subject): r for r in mine}, partition, b"state")
    assert sweep(storage, 7) == sweep(storage, 10_000) == 0
    assert [storage.get((r.context_type, r.subject)) for r in everyone] == everyone


def test_a_sweep_looks_at_few_at_a_time_and_at_all_in_the_end(storage: ReplicaStorage) -> None:
    for number in range(200):
        stray = record(("financial", f"user:1000{number}"), 3, UNKNOWN_PARTITION, limit=5)
        put_outside(storage, stray)
    first = storage.sweep(0, b"", 20)
    assert first.place
    assert first.keys < 100
    assert first.mended + sweep(storage, 20) == 200


def test_an_empty_storage_is_swept_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(postgresql_schema())
        empty = [
            MemoryStorage(),
            stack.enter_context(closing(LmdbStorage(tmp_path))),
            PostgresqlStorage(database, "scorer@1"),
            stack.enter_context(redis_storage()),
        ]
        assert [sweep(storage, 500) for storage in empty] == [0, 0, 0, 0]


# -- PostgreSQL --------------------------------------------------------------------------------


def test_a_hash_that_is_not_the_keys_is_put_right() -> None:
    with postgresql_schema() as database:
        storage = PostgresqlStorage(database, "scorer@1")
        storage.commit({FIRST: record(FIRST, limit=5)}, 0, b"state")
        database.query("UPDATE replica_aggregates SET hash = 'x' RETURNING 1")
        assert in_own_bucket(storage, FIRST) == []
        assert sweep(storage) == 1
        assert in_own_bucket(storage, FIRST) == [record(FIRST, limit=5)]


# -- Redis -------------------------------------------------------------------------------------


@pytest.fixture
def keys() -> Iterator[tuple[RedisStorage, redis.Redis]]:
    with redis_storage() as storage, closing(redis.Redis.from_url(redis_url())) as client:
        storage.begin("life")
        storage.commit({FIRST: record(FIRST, limit=5)}, 0, b"state")
        yield storage, client


def place_of(storage: RedisStorage, key: AggregateKey) -> str:
    return f"{storage._base}:a:{key[0]}:{key[1]}"


@pytest.mark.parametrize("meta", [None, "", "oops", '["older",0,3,{},[]]', '["', "[1,2,3]"])
def test_a_hash_without_meta_of_this_life_is_entered_as_written_by_nobody(
    keys: tuple[RedisStorage, redis.Redis], meta: str | None
) -> None:
    storage, client = keys
    mapping = {"f:limit": "5"} if meta is None else {"f:limit": "5", "meta": meta}
    client.hset(place_of(storage, STRAY), mapping=mapping)
    assert storage.get(STRAY) is None
    assert sweep(storage) == 1
    assert in_own_bucket(storage, STRAY) == [AggregateRecord(*STRAY, 0, 0, {"limit": (5, 0)}, [])]
    assert sweep(storage) == 0


def test_what_older_lives_left_is_no_fact_and_is_not_entered(
    keys: tuple[RedisStorage, redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, client = keys
    monkeypatch.setattr("pipeline.storage_redis.SLICES_AT_BEGINNING", 0)
    storage.begin("second")
    assert sweep(storage) == 0
    assert storage.get(FIRST) is None
    assert client.exists(place_of(storage, FIRST))


def test_an_aggregate_whose_meta_was_deleted_is_not_made_up(
    keys: tuple[RedisStorage, redis.Redis],
) -> None:
    storage, client = keys
    client.hdel(place_of(storage, FIRST), "meta")
    assert sweep(storage) == 0
    assert storage.get(FIRST) is None


def test_other_keys_are_left_alone(keys: tuple[RedisStorage, redis.Redis]) -> None:
    storage, client = keys
    odd = [f"{storage._base}:a:financial", f"{storage._base}:a:a}}b:user:1"]
    client.hset(odd[0], "f:limit", "5")
    client.hset(odd[1], "f:limit", "5")
    client.set(place_of(storage, STRAY), "no hash")
    client.hset(f"{storage._base}:a:".encode() + b"t:\xff", "f:limit", "5")
    assert sweep(storage) == 0


def test_a_replicas_name_is_no_pattern() -> None:
    with redis_storage() as storage:
        twins = [
            RedisStorage(redis_url(), name, prefix=storage._base[1:18]) for name in ("a?", "ab")
        ]
        for twin in twins:
            twin.begin("life")
            twin.commit({}, 0, b"state")
        with closing(redis.Redis.from_url(redis_url())) as client:
            client.hset(place_of(twins[1], STRAY), "f:limit", "5")
        assert [sweep(twin, SLICE_RECORDS) for twin in twins] == [0, 1]
        for twin in twins:
            twin.close()
