"""What a replica storage does that several processes use at once, whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Protocol

import psycopg
import pytest
import redis

from pipeline.postgresql_database import PostgresqlDatabase
from pipeline.storage_postgresql import PostgresqlStorage
from pipeline.storage_redis import RedisStorage
from synchroscope.errors import FencedError
from synchroscope.ports import ReplicaStorage
from tests.contract.test_replica_storage import PLACE, RISK, chunk, record
from tests.postgresql import schema_name
from tests.redis import redis_prefix
from tests.servers import postgresql_dsn, redis_url

REPLICA = "scorer@1"


class Place(Protocol):
    """Where a storage is: to be opened more than once, and changed behind its back."""

    def open(self, replica: str = REPLICA) -> ReplicaStorage: ...

    def wipe(self) -> None: ...

    def copy(self) -> dict[bytes, bytes]:
        """Return all that is stored, for `fall_back`."""
        ...

    def fall_back(self, copy: dict[bytes, bytes]) -> None: ...


class PostgresqlPlace:
    def __init__(self, to_close: ExitStack) -> None:
        self._to_close = to_close
        self._schema = to_close.enter_context(schema_name())

    def open(self, replica: str = REPLICA) -> ReplicaStorage:
        database = PostgresqlDatabase(postgresql_dsn(), self._schema)
        return self._to_close.enter_context(closing(PostgresqlStorage(database, replica)))

    def wipe(self) -> None:
        self.fall_back(dict.fromkeys(self.copy(), b""))

    def copy(self) -> dict[bytes, bytes]:
        found = {}
        with psycopg.connect(postgresql_dsn()) as connection, connection.cursor() as cursor:
            for name in ("lives", "aggregates", "partitions", "journal"):
                table = f"{self._schema}.replica_{name}".encode()
                with cursor.copy(b"COPY %s TO STDOUT" % table) as rows:
                    found[table] = b"".join(map(bytes, rows))
        return found

    def fall_back(self, copy: dict[bytes, bytes]) -> None:
        with psycopg.connect(postgresql_dsn()) as connection, connection.cursor() as cursor:
            for table, data in copy.items():
                cursor.execute(b"DELETE FROM %s" % table)
                with cursor.copy(b"COPY %s FROM STDIN" % table) as rows:
                    rows.write(data)


class RedisPlace:
    def __init__(self, to_close: ExitStack) -> None:
        self._to_close = to_close
        self._prefix = to_close.enter_context(redis_prefix())

    def open(self, replica: str = REPLICA) -> ReplicaStorage:
        storage = RedisStorage(redis_url(), replica, prefix=self._prefix)
        return self._to_close.enter_context(closing(storage))

    def wipe(self) -> None:
        self.fall_back({})

    def copy(self) -> dict[bytes, bytes]:
        with closing(redis.Redis.from_url(redis_url())) as client:
            keys = client.scan_iter(f"{{{self._prefix}:*")
            return {key: data for key in keys if (data := client.dump(key)) is not None}

    def fall_back(self, copy: dict[bytes, bytes]) -> None:
        with closing(redis.Redis.from_url(redis_url())) as client:
            for key in client.scan_iter(f"{{{self._prefix}:*"):
                client.delete(key)
            for key, data in copy.items():
                client.restore(key, 0, data)


PLACES: dict[str, Callable[[ExitStack], Place]] = {
    "postgresql": PostgresqlPlace,
    "redis": RedisPlace,
}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as to_close:
        yield PLACES[request.param](to_close)


def opened(place: Place, life: str = "life") -> ReplicaStorage:
    """Open the storage, as a replica does: what has no life is begun."""
    storage = place.open()
    if storage.incarnation() is None:
        storage.begin(life)
    storage.incarnation()
    return storage


def put(storage: ReplicaStorage, value: int, partition: int = 0) -> None:
    """Commit a value with its state and its chunk."""
    one = record(RISK, value, partition, a=value)
    storage.commit({RISK: one}, partition, b"%d" % value, chunk(value))


def test_what_one_commits_another_reads(place: Place) -> None:
    first, second = opened(place), opened(place)
    put(first, 1)
    assert second.incarnation() == first.incarnation() == "life"
    assert second.partition_state(0) == b"1"
    assert second.get(RISK) == record(RISK, 1, a=1)
    assert second.journal(0, 0) == [chunk(1)]


def test_processes_with_partitions_of_their_own_do_not_disturb_each_other(place: Place) -> None:
    first, second = opened(place), opened(place)
    for number in range(1, 4):
        first.commit({RISK: record(RISK, number)}, 0, b"first %d" % number)
        second.commit({PLACE: record(PLACE, number, 1)}, 1, b"second %d" % number)
    assert (first.partition_state(1), second.partition_state(0)) == (b"second 3", b"first 3")


def test_a_writer_that_was_paused_is_fenced_and_nothing_of_it_is_stored(place: Place) -> None:
    paused, successor = opened(place), opened(place)
    put(paused, 1)
    assert successor.partition_state(0) == b"1"
    put(successor, 2)
    with pytest.raises(FencedError):
        paused.commit({PLACE: record(PLACE, 9, a=9)}, 0, b"9", chunk(9), journal_floor=99)
    for storage in (paused, successor):
        assert storage.get(PLACE) is None
        assert storage.get(RISK) == record(RISK, 2, a=2)
        assert storage.journal(0, 0) == [chunk(1), chunk(2)]
    assert successor.partition_state(0) == b"2"


def test_a_writer_stays_fenced_until_it_reads_the_partition_again(place: Place) -> None:
    paused, successor = opened(place), opened(place)
    put(paused, 1)
    successor.partition_state(0)
    put(successor, 2)
    for _ in range(2):
        with pytest.raises(FencedError):
            put(paused, 8)
    assert paused.get(RISK) == record(RISK, 2, a=2)
    assert paused.partition_state(0) == b"2"
    put(paused, 3)
    with pytest.raises(FencedError):
        put(successor, 4)
    assert paused.partition_state(0) == b"3"


def test_a_commit_that_leaves_the_state_alone_fences_too(place: Place) -> None:
    first, second = opened(place), opened(place)
    assert first.partition_state(0) is second.partition_state(0) is None
    first.commit({RISK: record(RISK, a=1)}, 0, None)
    with pytest.raises(FencedError):
        second.commit({RISK: record(RISK, a=2)}, 0, None)
    assert first.get(RISK) == record(RISK, a=1)


def test_a_commit_without_a_look_at_the_partition_looks_first(place: Place) -> None:
    first, second = opened(place), opened(place)
    put(first, 1)
    put(second, 2)
    with pytest.raises(FencedError):
        put(first, 3)


def test_of_writers_that_saw_the_same_exactly_one_is_stored(place: Place) -> None:
    storages = [opened(place) for _ in range(4)]
    for round_number in range(10):
        for storage in storages:
            storage.partition_state(0)
        stored: list[int] = []
        start = threading.Barrier(len(storages))

        def attempt(writer: int, value: int, start: threading.Barrier, stored: list[int]) -> None:
            start.wait(10)
            try:
                put(storages[writer], value)
            except FencedError:
                return
            stored.append(value)

        threads = [
            threading.Thread(target=attempt, args=(n, 10 * round_number + n, start, stored))
            for n in range(len(storages))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(stored) == 1
        assert storages[0].partition_state(0) == b"%d" % stored[0]
        assert storages[0].get(RISK) == record(RISK, stored[0], a=stored[0])


def test_a_life_begun_by_another_fences_whoever_knew_the_old_one(place: Place) -> None:
    old, new = opened(place), opened(place)
    put(old, 1)
    new.begin("second")
    # As many commits as the old one made: the partition's version alone would not tell them apart.
    put(new, 5)
    with pytest.raises(FencedError):
        put(old, 2)
    assert (old.incarnation(), old.partition_state(0)) == ("second", b"5")
    assert old.get(RISK) == record(RISK, 5, a=5)
    put(old, 6)
    assert new.get(RISK) == record(RISK, 6, a=6)


def test_of_two_that_begin_at_once_the_first_wins_and_the_other_does_nothing(place: Place) -> None:
    first, second = place.open(), place.open()
    assert first.incarnation() is second.incarnation() is None
    first.begin("first")
    put(first, 1)
    second.begin("second")
    assert second.incarnation() == "first"
    assert second.get(RISK) == record(RISK, 1, a=1)
    put(second, 2)


def test_who_saw_a_life_that_has_ended_does_not_end_the_next_one(place: Place) -> None:
    first, second = opened(place), opened(place)
    first.begin("second life")
    put(first, 1)
    second.begin("third life")
    assert first.incarnation() == second.incarnation() == "second life"
    assert first.get(RISK) == record(RISK, 1, a=1)
    second.begin("third life")
    assert first.incarnation() == "third life"
    assert first.get(RISK) is None


def test_of_many_that_begin_at_once_exactly_one_names_the_life(place: Place) -> None:
    storages = [place.open() for _ in range(4)]
    start = threading.Barrier(len(storages))
    lives: list[str | None] = []

    def begin(number: int) -> None:
        start.wait(10)
        while storages[number].incarnation() is None:
            storages[number].begin(f"life {number}")
        lives.append(storages[number].incarnation())

    assert [storage.incarnation() for storage in storages] == [None] * 4
    threads = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lives) == 4
    assert len(set(lives)) == 1


def test_a_storage_that_was_wiped_fences_its_writers_and_can_begin_again(place: Place) -> None:
    storage = opened(place)
    put(storage, 1)
    place.wipe()
    with pytest.raises(FencedError):
        put(storage, 2)
    assert (storage.incarnation(), storage.partition_state(0), storage.get(RISK)) == (None,) * 3
    storage.begin("second")
    put(storage, 3)
    assert opened(place).get(RISK) == record(RISK, 3, a=3)


def test_a_storage_that_fell_back_to_an_older_copy_fences_its_writers(place: Place) -> None:
    storage = opened(place)
    put(storage, 1)
    older = place.copy()
    put(storage, 2)
    place.fall_back(older)
    with pytest.raises(FencedError):
        put(storage, 3)
    assert storage.partition_state(0) == b"1"
    assert storage.get(RISK) == record(RISK, 1, a=1)
    put(storage, 2)
    assert storage.journal(0, 0) == [chunk(1), chunk(2)]


@pytest.mark.parametrize("first", [0, 1], ids=["from nothing", "from a commit"])
def test_after_a_fall_back_as_many_commits_of_another_do_not_make_it_the_same(
    place: Place, first: int
) -> None:
    storage = opened(place)
    for number in range(first):
        put(storage, number)
    older = place.copy()
    put(storage, 5)
    place.fall_back(older)
    other = opened(place)
    other.commit({PLACE: record(PLACE, 1, a="other")}, 0, b"other")
    with pytest.raises(FencedError):
        put(storage, 6)
    assert storage.partition_state(0) == b"other"
    assert storage.get(RISK) == (record(RISK, 0, a=0) if first else None)


def test_replicas_on_one_server_are_apart(place: Place) -> None:
    first, second = place.open("scorer@1"), place.open("scorer@2")
    for storage in (first, second):
        storage.incarnation()
        storage.begin("life")
    put(first, 1)
    assert (second.get(RISK), second.partition_state(0)) == (None, None)
    assert list(second.scan(0, 0, 1)) == list(second.scan(0, 1, 1)) == []
    put(second, 2)
    second.begin("other")
    assert first.incarnation() == "life"
    assert first.get(RISK) == record(RISK, 1, a=1)
    put(first, 3)


# -- prefetching -------------------------------------------------------------------------------


def behind_its_back(place: Place, value: int) -> None:
    """Change the aggregate without the partition that others watch."""
    other = opened(place)
    other.commit({RISK: record(RISK, value, a=value)}, 99, None)


def test_what_was_prefetched_is_as_it_was_then_and_absent_if_absent(place: Place) -> None:
    storage = opened(place)
    put(storage, 1)
    storage.prefetch([RISK, PLACE, RISK])
    assert (storage.get(RISK), storage.get(PLACE)) == (record(RISK, 1, a=1), None)
    behind_its_back(place, 2)
    assert storage.get(RISK) == record(RISK, 1, a=1), "it was not read ahead"


def test_each_prefetch_reads_from_storage_anew(place: Place) -> None:
    storage = opened(place)
    put(storage, 1)
    storage.prefetch([RISK])
    behind_its_back(place, 2)
    storage.prefetch([RISK])
    assert storage.get(RISK) == record(RISK, 2, a=2)


@pytest.mark.parametrize("call", ["commit", "partition_state", "begin", "prefetch", "fenced"])
def test_what_was_prefetched_is_dropped(place: Place, call: str) -> None:
    storage = opened(place)
    put(storage, 1)
    storage.prefetch([RISK])
    behind_its_back(place, 2)
    if call == "commit":
        storage.commit({}, 0, b"")
    elif call == "partition_state":
        storage.partition_state(0)
    elif call == "begin":
        storage.begin("second")
    elif call == "prefetch":
        storage.prefetch([])
    else:
        successor = opened(place)
        successor.commit({}, 0, b"")
        with pytest.raises(FencedError):
            storage.commit({}, 0, b"")
    found = storage.get(RISK)
    assert found == (None if call == "begin" else record(RISK, 2, a=2))


def test_what_was_not_prefetched_is_read_when_it_is_asked_for(place: Place) -> None:
    storage = opened(place)
    put(storage, 1)
    storage.prefetch([PLACE])
    assert storage.get(RISK) == record(RISK, 1, a=1)
