"""What every replica storage does, whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage_lmdb import SCAN_SLICE_RECORDS, LmdbStorage
from pipeline.storage_postgresql import PostgresqlStorage
from synchroscope.digest import aggregate_hash
from synchroscope.errors import StorageError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, ReplicaStorage
from tests.contract.killing import acknowledged_when_killed
from tests.postgresql import postgresql_schema
from tests.redis import redis_storage

RISK: AggregateKey = ("financial", "user:1")
PLACE: AggregateKey = ("geographic", "user:ü")


@pytest.fixture(params=["memory", "lmdb", "lmdb durable", "postgresql", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicaStorage]:
    with ExitStack() as stack:
        storage: ReplicaStorage = MemoryStorage()
        if request.param == "postgresql":
            storage = PostgresqlStorage(stack.enter_context(postgresql_schema()), "scorer@1")
        elif request.param == "redis":
            storage = stack.enter_context(redis_storage())
        elif request.param != "memory":
            storage = LmdbStorage(tmp_path / "replica", durable=request.param == "lmdb durable")
        stack.enter_context(closing(storage))
        yield storage


def record(
    key: AggregateKey, sequence: int = 1, partition: int = 0, **values: Any
) -> AggregateRecord:
    fields = {name: (value, sequence) for name, value in values.items()}
    return AggregateRecord(*key, partition, sequence, fields, [])


def keep(storage: ReplicaStorage, *records: AggregateRecord, partition: int = 0) -> None:
    storage.commit({(r.context_type, r.subject): r for r in records}, partition, None)


def chunk(start: int, end: int | None = None) -> JournalChunk:
    return JournalChunk(start, start + 1 if end is None else end, b"%d" % start)


def keys(records: Iterator[AggregateRecord]) -> set[AggregateKey]:
    return {(record.context_type, record.subject) for record in records}


def test_a_new_storage_has_no_life_and_is_empty(storage: ReplicaStorage) -> None:
    assert storage.incarnation() is None
    assert storage.partition_state(0) is None
    assert storage.get(RISK) is None
    assert list(storage.scan(0, 0, 1)) == []
    assert storage.journal(0, 0) == []


def test_a_life_begins_empty_and_bears_its_name(storage: ReplicaStorage) -> None:
    storage.begin("first")
    storage.commit({RISK: record(RISK, a=1)}, 3, b"state", chunk(0))
    storage.begin("second/ü")
    assert storage.incarnation() == "second/ü"
    assert (storage.get(RISK), storage.partition_state(3), storage.journal(3, 0)) == (
        None,
        None,
        [],
    )
    assert list(storage.scan(0, 0, 1)) == list(storage.scan(0, 1, 1)) == []


@pytest.mark.parametrize(
    "value",
    [None, True, 1, -1, 1.0, -0.5, 2**63 - 1, -(2**63), "", "ü", [1, [None]], {"a": {"b": [2.5]}}],
)
def test_an_aggregate_is_read_as_it_was_stored(storage: ReplicaStorage, value: Any) -> None:
    stored = AggregateRecord(*RISK, 2, 9, {"a": (value, 7), "b": (None, 9)}, [3, 5])
    keep(storage, stored, partition=2)
    found = storage.get(RISK)
    assert found == stored
    assert found is not None
    assert type(found.fields["a"][0]) is type(value)


def test_an_aggregate_is_replaced_by_its_next_version(storage: ReplicaStorage) -> None:
    keep(storage, record(RISK, 1, a=1, b=2), record(PLACE, 1, c=3))
    keep(storage, record(RISK, 2, a=5))
    assert storage.get(RISK) == record(RISK, 2, a=5)
    assert storage.get(PLACE) == record(PLACE, 1, c=3)


def test_one_commit_stores_records_state_and_chunk(storage: ReplicaStorage) -> None:
    storage.commit({RISK: record(RISK, a=1)}, 4, b"\x00state", chunk(0))
    assert storage.get(RISK) == record(RISK, a=1)
    assert storage.partition_state(4) == b"\x00state"
    assert storage.partition_state(0) is None
    assert storage.journal(4, 0) == [chunk(0)]


def test_no_state_leaves_the_state_alone(storage: ReplicaStorage) -> None:
    storage.commit({}, 0, b"kept")
    storage.commit({RISK: record(RISK, a=1)}, 0, None, chunk(0))
    assert storage.partition_state(0) == b"kept"
    storage.commit({}, 0, b"")
    assert storage.partition_state(0) == b""


def test_a_scan_yields_exactly_the_bucket_of_the_partition(storage: ReplicaStorage) -> None:
    everyone = [("financial", f"user:{number}") for number in range(300)]
    for partition in (0, 1):
        mine = [record(k, partition=partition, a=1) for k in everyone[partition::2]]
        keep(storage, *mine, partition=partition)
    for bits in (1, 5, 8, 14):
        for bucket in {aggregate_hash(*key) >> (64 - bits) for key in everyone} | {0}:
            for partition in (0, 1):
                inside = {
                    key
                    for key in everyone[partition::2]
                    if aggregate_hash(*key) >> (64 - bits) == bucket
                }
                assert keys(storage.scan(partition, bucket, bits)) == inside


def test_the_buckets_together_are_everything_once(storage: ReplicaStorage) -> None:
    everyone = [record((f"type{n % 3}", f"user:{n}"), a=n) for n in range(200)]
    keep(storage, *everyone)
    scanned = [found for bucket in range(8) for found in storage.scan(0, bucket, 3)]
    assert sorted(scanned, key=lambda r: r.fields["a"]) == everyone


def test_the_journal_hands_out_what_ends_after_a_position_in_order(storage: ReplicaStorage) -> None:
    chunks = [chunk(0, 10), chunk(10, 300), chunk(300, 70_000)]
    for one in chunks:
        storage.commit({}, 0, None, one)
    storage.commit({}, 1, None, chunk(5))
    assert storage.journal(0, 0) == chunks
    assert storage.journal(0, 9) == chunks
    assert storage.journal(0, 10) == chunks[1:]
    assert storage.journal(0, 70_000) == []
    assert storage.journal(1, 0) == [chunk(5)]
    assert storage.journal(2, 0) == []


def test_chunks_that_end_at_or_before_the_floor_are_dropped(storage: ReplicaStorage) -> None:
    for start in range(5):
        storage.commit({}, 0, None, chunk(start))
        storage.commit({}, 1, None, chunk(start))
    storage.commit({}, 0, None, chunk(5), journal_floor=3)
    assert storage.journal(0, 0) == [chunk(3), chunk(4), chunk(5)]
    assert storage.journal(1, 0) == [chunk(start) for start in range(5)]


def test_a_journal_that_was_emptied_goes_on(storage: ReplicaStorage) -> None:
    for partition in (0, 1):
        storage.commit({}, partition, None, chunk(0))
    storage.commit({}, 0, None, None, journal_floor=99)
    assert storage.journal(0, 0) == []
    storage.commit({}, 0, None, chunk(99))
    storage.commit({}, 0, None, chunk(100))
    assert storage.journal(0, 0) == [chunk(99), chunk(100)]
    assert storage.journal(1, 0) == [chunk(0)]


def test_aggregates_with_alike_names_are_kept_apart(storage: ReplicaStorage) -> None:
    alike = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc", ""),
        ("", "abc"),
        ("c", "ab"),
        ("a" * 400, "x" * 400),
    ]
    keep(storage, *(record(key, a=number) for number, key in enumerate(alike)))
    assert [storage.get(key) for key in alike] == [record(k, a=n) for n, k in enumerate(alike)]


# -- LMDB ----------------------------------------------------------------------------------------


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    with closing(LmdbStorage(tmp_path)) as storage:
        storage.begin("life")
        storage.commit({RISK: record(RISK, a=1)}, 0, b"state", chunk(0))
    with closing(LmdbStorage(tmp_path)) as storage:
        assert storage.incarnation() == "life"
        assert storage.get(RISK) == record(RISK, a=1)
        assert storage.partition_state(0) == b"state"
        assert storage.journal(0, 0) == [chunk(0)]


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    storage = LmdbStorage(tmp_path)
    storage.close()
    storage.close()


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(
    tmp_path: Path, durable: bool
) -> None:
    program = f"""
        import itertools, sys
        from pipeline.storage_lmdb import LmdbStorage
        from tests.contract.test_replica_storage import PLACE, RISK, chunk, record
        storage = LmdbStorage(sys.argv[1], durable={durable})
        storage.begin("life")
        for number in itertools.count():
            records = {{key: record(key, number, a=number) for key in (RISK, PLACE)}}
            storage.commit(records, 0, str(number).encode(), chunk(number), number - 9)
            print(number, flush=True)
    """
    acknowledged = acknowledged_when_killed(program, tmp_path, 30)
    with closing(LmdbStorage(tmp_path)) as storage:
        assert storage.incarnation() == "life"
        last = int(storage.partition_state(0) or b"-1")
        assert last >= acknowledged
        for key in (RISK, PLACE):
            assert storage.get(key) == record(key, last, a=last)
        assert storage.journal(0, 0) == [chunk(number) for number in range(last - 9, last + 1)]


def test_after_a_power_cut_an_unflushed_storage_is_empty_and_a_closed_one_is_not(
    tmp_path: Path,
) -> None:
    with closing(LmdbStorage(tmp_path)) as storage:
        storage.begin("life")
        assert (tmp_path / "unflushed").exists()
    with closing(LmdbStorage(tmp_path)) as storage:
        assert storage.incarnation() == "life"
    (tmp_path / "unflushed").write_text("another boot of this machine")
    with closing(LmdbStorage(tmp_path)) as storage:
        assert storage.incarnation() is None


def test_a_durable_storage_carries_no_mark_of_mistrust(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (tmp_path / "unflushed").write_text(boot)
    with closing(LmdbStorage(tmp_path, durable=True)):
        assert not (tmp_path / "unflushed").exists()


def test_the_map_grows_when_it_is_full(tmp_path: Path) -> None:
    with closing(LmdbStorage(tmp_path, map_size_bytes=64 * 1024)) as storage:
        storage.begin("life")
        for number in range(20):
            key = ("financial", f"user:{number}")
            storage.commit({key: record(key, a="x" * 20_000)}, 0, None)
        scanned = [found for bucket in (0, 1) for found in storage.scan(0, bucket, 1)]
        assert len(scanned) == 20
        assert storage.incarnation() == "life"


def test_a_commit_beyond_the_bound_is_refused_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    size = 128 * 1024
    storage = LmdbStorage(tmp_path, map_size_bytes=size, maximum_map_size_bytes=2 * size)
    with closing(storage):
        storage.commit({RISK: record(RISK, a=1)}, 0, b"before", chunk(0))
        big = record(PLACE, a="x" * 1_000_000)
        with pytest.raises(StorageError, match="maximum_map_size_bytes"):
            storage.commit({RISK: record(RISK, 2, a=2), PLACE: big}, 0, b"after", chunk(1))
        assert storage.get(RISK) == record(RISK, a=1)
        assert storage.get(PLACE) is None
        assert storage.partition_state(0) == b"before"
        assert storage.journal(0, 0) == [chunk(0)]
        storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"after")
        assert storage.get(RISK) == record(RISK, 2, a=2)


def test_space_is_used_again_however_much_was_read_and_scanned(tmp_path: Path) -> None:
    storage = LmdbStorage(tmp_path, map_size_bytes=512 * 1024, maximum_map_size_bytes=512 * 1024)
    with closing(storage):
        keep(storage, record(PLACE, a=1))
        for number in range(200):
            abandoned = storage.scan(0, aggregate_hash(*PLACE) >> 63, 1)
            next(abandoned)
            storage.commit({RISK: record(RISK, a="x" * 20_000)}, 0, b"%d" % number)
            assert storage.get(RISK) is not None


def test_a_bucket_larger_than_a_slice_is_scanned_whole(tmp_path: Path) -> None:
    with closing(LmdbStorage(tmp_path)) as storage:
        everyone = [("t", str(number)) for number in range(2 * SCAN_SLICE_RECORDS + 300)]
        keep(storage, *(record(key) for key in everyone))
        halves = [[one.subject for one in storage.scan(0, bucket, 1)] for bucket in (0, 1)]
        assert max(map(len, halves)) > SCAN_SLICE_RECORDS
        assert sorted(halves[0] + halves[1]) == sorted(subject for _, subject in everyone)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\x00",
        b"\xc1",
        msgspec.msgpack.encode([1, 2, 3]),
        msgspec.msgpack.encode(record(PLACE, a=1)),
        msgspec.msgpack.encode(record(RISK, a=1))[:-1],
        msgspec.msgpack.encode(record(RISK, a=float("nan"))),
        msgspec.msgpack.encode(record(RISK, a=b"bytes")),
        msgspec.msgpack.encode(record(RISK, a=2**64 - 1)),
        msgspec.msgpack.encode(record(RISK, a="ok")).replace(b"ok", b"\xff\xff"),
        b"\x96" + b"\x91" * 5_000,
    ],
)
def test_what_cannot_be_read_is_absent_and_no_crash(tmp_path: Path, garbage: bytes) -> None:
    with closing(LmdbStorage(tmp_path)) as storage:
        keep(storage, record(RISK, a=1), record(("financial", "user:2"), a=1))
    with lmdb.open(str(tmp_path), max_dbs=4) as environment:
        database = environment.open_db(b"aggregates")
        with environment.begin(write=True, db=database) as transaction:
            cursor = transaction.cursor()
            assert cursor.set_range(aggregate_hash(*RISK).to_bytes(8, "big"))
            transaction.put(cursor.key(), garbage)
    with closing(LmdbStorage(tmp_path)) as storage:
        assert storage.get(RISK) is None
        found = [record for bucket in (0, 1) for record in storage.scan(0, bucket, 1)]
        assert [(one.context_type, one.subject) for one in found] == [("financial", "user:2")]
        keep(storage, record(RISK, a=2))
        assert storage.get(RISK) == record(RISK, a=2)


def test_an_open_storage_cannot_be_opened_again(tmp_path: Path) -> None:
    with (
        closing(LmdbStorage(tmp_path)) as storage,
        pytest.raises(StorageError, match="has it open already"),
    ):
        storage.begin("life")
        LmdbStorage(tmp_path)


def test_a_file_that_is_no_environment_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not an environment " * 1_000)
    with pytest.raises(StorageError, match="no LMDB environment"):
        LmdbStorage(tmp_path)
    assert not (tmp_path / "unflushed").exists(), "else the file would be deleted after a restart"
    with pytest.raises(StorageError, match="check that the folder can be written"):
        LmdbStorage(tmp_path / "data.mdb")


def test_a_snapshot_is_a_storage_of_its_own(tmp_path: Path) -> None:
    with closing(LmdbStorage(tmp_path / "live")) as storage:
        storage.begin("life")
        keep(storage, record(RISK, a=1))
        storage.snapshot(tmp_path / "copy")
        keep(storage, record(RISK, 2, a=2))
        with closing(LmdbStorage(tmp_path / "copy")) as copy:
            assert copy.incarnation() == "life"
            assert copy.get(RISK) == record(RISK, a=1)
        with pytest.raises(StorageError, match="name an empty folder"):
            storage.snapshot(tmp_path / "copy")


def test_another_thread_may_read_while_the_map_grows(tmp_path: Path) -> None:
    with closing(LmdbStorage(tmp_path, map_size_bytes=64 * 1024)) as storage:
        keep(storage, record(RISK, a="constant"))
        wrong: list[AggregateRecord | None] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                found = storage.get(RISK)
                if found != record(RISK, a="constant"):
                    wrong.append(found)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for number in range(100):
                keep(storage, record(("financial", f"user:{number + 2}"), a="x" * 20_000))
        finally:
            done.set()
            reader.join()
        assert wrong == []


# -- memory and LMDB agree -----------------------------------------------------------------------

KEYS = st.tuples(st.sampled_from(["financial", "ü"]), st.sampled_from(["user:1", "user:2", ""]))
COMMITS = st.tuples(
    st.dictionaries(KEYS, st.integers(0, 9), max_size=4),
    st.integers(0, 1),
    st.none() | st.binary(max_size=3),
    st.booleans(),
    st.integers(0, 12),
)


@settings(max_examples=40, deadline=None)
@given(commits=st.lists(COMMITS, max_size=10), begin_at=st.integers(0, 20))
def test_memory_and_lmdb_agree(
    tmp_path_factory: pytest.TempPathFactory, commits: list[Any], begin_at: int
) -> None:
    memory = MemoryStorage()
    with closing(LmdbStorage(tmp_path_factory.mktemp("replica"))) as other:
        storages: list[ReplicaStorage] = [memory, other]
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


def told(storage: ReplicaStorage) -> list[Any]:
    scanned = {
        (partition, bucket): sorted(map(repr, storage.scan(partition, bucket, 2)))
        for partition in (0, 1)
        for bucket in range(4)
    }
    return [
        storage.incarnation(),
        scanned,
        [
            (storage.partition_state(partition), storage.journal(partition, 2))
            for partition in (0, 1)
        ],
    ]
