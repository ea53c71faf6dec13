"""Rows that somebody put into a replica's storage become findings, and a repair removes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
import redis
from msgspec.structs import replace

from pipeline.partitioner import by_subject
from pipeline.storage_lmdb import LmdbStorage
from pipeline.storage_postgresql import PostgresqlStorage
from pipeline.storage_redis import RedisStorage
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import REQUESTS, AggregateRecord, NewRecord, ReplicaStorage
from synchroscope.report import RepairOrder, encode_message
from tests.contract.test_outside_rows import UNKNOWN_PARTITION, put_outside
from tests.postgresql import postgresql_schema
from tests.redis import redis_storage
from tests.servers import redis_url
from tests.validation_world import REPLICA, World
from validator.finding import Finding

PARTITIONS = 2
STRAY = ("financial", "user:999")


@pytest.fixture(params=["memory", "lmdb", "postgresql", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        storage: ReplicaStorage = MemoryStorage()
        if request.param == "postgresql":
            storage = PostgresqlStorage(stack.enter_context(postgresql_schema()), REPLICA)
        elif request.param == "redis":
            storage = stack.enter_context(redis_storage())
        elif request.param == "lmdb":
            storage = LmdbStorage(tmp_path / "replica")
        stack.enter_context(closing(storage))
        yield filled(storage)


def filled(storage: ReplicaStorage) -> World:
    """Return a world of ten users whose replica lives in this storage."""
    world = World(partitions=PARTITIONS)
    world.start_replica(REPLICA, storage)  # type: ignore[arg-type]
    for user in range(10):
        world.write(str(user), limit=user)
    assert world.settle()
    assert world.verdict() == "CONSISTENT"
    return world


def storage_of(world: World) -> ReplicaStorage:
    return world.storages[REPLICA]


def prove(world: World) -> list[Finding]:
    """Have everything summed again; return what is open."""
    for user in range(100, 110):  # A proof is for new positions.
        world.write(str(user), seen=world.now)
    world.run()
    world.validator.scrub(world.now)
    world.run(20)
    return [finding for finding in world.findings() if finding.state != "resolved"]


def repaired(world: World, rounds: int = 60) -> World:
    """Repair everything that is open."""
    for number, finding in enumerate(prove(world)):
        data = encode_message(RepairOrder(f"order {number}", finding.id, force=True))
        world.log.append([NewRecord(REQUESTS, 0, b"validator", data)], world.now)
    for _ in range(rounds):
        world.step()
        if not any(finding.state != "resolved" for finding in world.findings()):
            break
    assert prove(world) == []
    assert world.verdict() == "CONSISTENT"
    return world


@pytest.mark.parametrize("partition", [0, 1, UNKNOWN_PARTITION])
def test_a_row_that_was_copied_under_another_key_is_found_and_removed(
    world: World, partition: int
) -> None:
    held = storage_of(world).get(("financial", "user:7"))
    assert held is not None
    stray = held.copy()
    stray.subject, stray.partition = STRAY[1], partition
    put_outside(storage_of(world), stray)
    [finding] = prove(world)
    assert (finding.kind, finding.subjects) == ("corrupted", [STRAY[1]])
    repaired(world)
    left = storage_of(world).get(STRAY)
    assert left is not None
    assert left.fields == {}


def move(storage: ReplicaStorage, user: str, partition: int) -> AggregateRecord:
    """Have a stored aggregate bear another partition; return it as it was."""
    key = ("financial", f"user:{user}")
    held = storage.get(key)
    assert held is not None
    if isinstance(storage, RedisStorage):
        name = f"{storage._base}:a:{key[0]}:{key[1]}"
        with closing(redis.Redis.from_url(redis_url())) as client:
            meta = msgspec.json.decode(client.hget(name, "meta") or b"")
            meta[1] = partition
            client.hset(name, "meta", msgspec.json.encode(meta))
    else:
        storage.commit({key: replace(held, partition=partition)}, held.partition, None)
    return held


@pytest.mark.parametrize("is_unknown", [False, True])
@pytest.mark.parametrize("users", [("7",), tuple(map(str, range(10)))])
def test_an_aggregate_that_bears_another_partition_is_found_and_put_right(
    world: World, users: tuple[str, ...], is_unknown: bool
) -> None:
    before = {}
    for user in users:
        number = by_subject("financial", f"user:{user}", PARTITIONS)
        other = UNKNOWN_PARTITION if is_unknown else 1 - number
        before[user] = move(storage_of(world), user, other)
    world.projectors[REPLICA].own({0: 1, 1: 1})  # Knows nothing of the commits any more.
    # The sweep may have put it where it belongs, so that nothing is wrong any more.
    assert prove(world) or is_unknown
    repaired(world)
    for user, held in before.items():
        put_right = storage_of(world).get(("financial", f"user:{user}"))
        assert put_right is not None
        assert put_right.partition == held.partition
        assert put_right.fields["limit"] == held.fields["limit"]


def test_a_row_with_the_hash_of_another_key_is_found_and_put_right() -> None:
    with postgresql_schema() as database:
        world = filled(PostgresqlStorage(database, REPLICA))
        database.query("UPDATE replica_aggregates SET hash = 'x', fields = '{}' RETURNING 1")
        assert prove(world)
        repaired(world)
        held = storage_of(world).get(("financial", "user:7"))
        assert held is not None
        assert held.fields["limit"][0] == 7


def test_a_hash_without_meta_is_found_and_removed() -> None:
    with redis_storage() as storage, closing(redis.Redis.from_url(redis_url())) as client:
        world = filled(storage)
        name = f"{storage._base}:a:financial:user:999"
        client.hset(name, "f:limit", "5")
        [finding] = prove(world)
        assert (finding.kind, finding.subjects) == ("corrupted", [STRAY[1]])
        repaired(world)
        assert client.hget(name, "f:limit") is None
