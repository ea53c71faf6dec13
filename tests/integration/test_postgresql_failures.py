"""What goes wrong with PostgreSQL: a clear message, nothing half written, and on it goes."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from pipeline.event_store import Append, DeadLetter
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.postgresql_database import PostgresqlDatabase
from pipeline.storage_postgresql import PostgresqlStorage
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)
from tests.contract.test_event_store import RISK, add, event, everything, write_of
from tests.contract.test_replica_storage import chunk, record
from tests.private_postgresql import PASSWORD, PrivateServer, private_server

REPLICA = "scorer@1"


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with private_server() as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"test_{uuid4().hex[:12]}"


@pytest.fixture
def user() -> str:
    return f"user_{uuid4().hex[:12]}"


def refusal(dsn: str, schema: str = "synchroscope") -> SynchroscopeError:
    with pytest.raises(SynchroscopeError) as caught:
        PostgresqlDatabase(dsn, schema)
    assert "127.0.0.1" in str(caught.value)
    for part in (PASSWORD, "s3cret", "wrong"):
        assert part not in str(caught.value)
    return caught.value


# -- settings that are wrong -------------------------------------------------------------------


def test_a_wrong_address_is_unavailable_and_says_what_to_check() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = refusal(f"postgresql://admin:s3cret@127.0.0.1:{port}/postgres")
    assert isinstance(error, UnavailableError)
    assert error.server == f"postgresql 127.0.0.1:{port}/postgres"
    assert "check the address, and that it runs" in str(error)


def test_an_address_that_never_answers_is_given_up_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        error = refusal(f"postgresql://admin:s3cret@127.0.0.1:{port}/postgres")
    assert isinstance(error, UnavailableError)
    assert time.monotonic() - start < 10


def test_a_server_that_speaks_another_language_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer() -> None:
            client, _ = other.accept()
            with client:
                client.recv(1_000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = refusal(f"postgresql://admin:s3cret@127.0.0.1:{port}/postgres?sslmode=disable")
        thread.join()
    assert "check the address" in str(error)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"password": "wrong"}, "check the user and the password"),
        ({"user": "nobody"}, "check the user and the password"),
        ({"database": "absent"}, "create it, or name another one"),
    ],
    ids=["password", "user", "database"],
)
def test_a_wrong_setting_is_named_with_a_remedy(
    server: PrivateServer, change: dict[str, str], remedy: str
) -> None:
    error = refusal(server.dsn(**change))
    assert isinstance(error, ConfigurationError)
    assert remedy in str(error)


def test_a_missing_password_is_told(server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    error = refusal(f"postgresql://admin@127.0.0.1:{server.port}/postgres")
    assert isinstance(error, ConfigurationError)
    assert "give the password in the DSN" in str(error)


def test_tls_that_the_server_does_not_speak_is_told(server: PrivateServer) -> None:
    error = refusal(server.dsn() + "?sslmode=require")
    assert isinstance(error, ConfigurationError)
    assert "lower sslmode" in str(error)


def test_a_user_without_a_connection_left_is_told_to_wait(server: PrivateServer, user: str) -> None:
    dsn = server.add_user(user, "CONNECTION LIMIT 1")
    with closing(psycopg.connect(dsn)):
        error = refusal(dsn)
    assert isinstance(error, UnavailableError)
    assert "too many connections" in str(error)


def test_a_user_who_may_not_create_is_told_which_right_is_missing(
    server: PrivateServer, user: str, schema: str
) -> None:
    dsn = server.add_user(user)
    error = refusal(dsn, schema)
    assert isinstance(error, ConfigurationError)
    assert "grant it CREATE on the database" in str(error)
    server.run(f"CREATE SCHEMA {schema} AUTHORIZATION {user}")
    with closing(PostgresqlDatabase(dsn, schema)) as database:
        add(PostgresqlEventStore(database), event(1, 1, a=1))


def test_a_user_who_may_not_see_the_schema_is_told(
    server: PrivateServer, user: str, schema: str
) -> None:
    PostgresqlDatabase(server.dsn(), schema).close()
    error = refusal(server.add_user(user), schema)
    assert isinstance(error, ConfigurationError)
    assert "grant it" in str(error)


def test_a_read_only_database_is_readable_and_says_why_it_takes_nothing(
    server: PrivateServer, user: str, schema: str
) -> None:
    dsn = server.add_user(user, "SUPERUSER")
    with closing(PostgresqlDatabase(dsn, schema)) as database:
        add(PostgresqlEventStore(database), event(1, 1, a=1))
        PostgresqlStorage(database, REPLICA).commit({RISK: record(RISK, a=1)}, 0, b"1")
    server.run(f"ALTER ROLE {user} SET default_transaction_read_only = on")
    with closing(PostgresqlDatabase(dsn, schema)) as database:
        store, storage = PostgresqlEventStore(database), PostgresqlStorage(database, REPLICA)
        before = everything(store)
        writes: list[Callable[[], None]] = [
            lambda: add(store, event(2, 2, a=2)),
            lambda: store.append(Append(dead_letters=[DeadLetter("r", "d", "s", b"")]), 1.0),
            lambda: storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"2"),
            lambda: storage.begin("life"),
        ]
        for write in writes:
            with pytest.raises(StorageError, match="the database is read-only: name the primary"):
                write()
        assert everything(store) == before
        assert storage.get(RISK) == record(RISK, a=1)
        with pytest.raises(StorageError, match="read-only"):
            PostgresqlDatabase(dsn, f"{schema}_2")
    server.run(f"ALTER ROLE {user} RESET default_transaction_read_only")
    with closing(PostgresqlDatabase(dsn, schema)) as database:
        add(PostgresqlEventStore(database), event(2, 2, a=2))


# -- a server that goes away -------------------------------------------------------------------


def test_a_server_restarted_under_a_live_connection_costs_one_error(
    server: PrivateServer, schema: str
) -> None:
    with closing(PostgresqlDatabase(server.dsn(), schema)) as database:
        store, storage = PostgresqlEventStore(database), PostgresqlStorage(database, REPLICA)
        add(store, event(1, 1, a=1), tracking={"s": "1"})
        storage.begin("life")
        storage.commit({RISK: record(RISK, a=1)}, 0, b"1", chunk(0))
        before = everything(store)
        server.stop()
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"check the address|went away"):
                add(store, event(2, 2, a=2))
        with pytest.raises(UnavailableError):
            storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"2", chunk(1))
        server.start()
        assert everything(store) == before
        add(store, event(2, 2, a=2))
        assert storage.get(RISK) == record(RISK, a=1)
        storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"2", chunk(1))
        assert (storage.incarnation(), storage.partition_state(0)) == ("life", b"2")
        assert storage.journal(0, 0) == [chunk(0), chunk(1)]


def test_the_first_use_after_a_quick_restart_says_that_the_server_went_away(
    server: PrivateServer, schema: str
) -> None:
    with closing(PostgresqlDatabase(server.dsn(), schema)) as database:
        store = PostgresqlEventStore(database)
        server.stop("fast")
        server.start()
        with pytest.raises(UnavailableError, match="what was sent may be stored"):
            add(store, event(1, 1, a=1))
        add(store, event(1, 1, a=1))
        assert store.count() == 1


def test_a_server_that_is_shutting_down_is_unavailable(server: PrivateServer, schema: str) -> None:
    with closing(PostgresqlDatabase(server.dsn(), schema)):
        server.stop("smart")
        error: SynchroscopeError | None = None
        limit = time.monotonic() + 10
        while error is None and time.monotonic() < limit:
            try:
                PostgresqlDatabase(server.dsn(), schema).close()
            except SynchroscopeError as refused:
                error = refused
    with suppress(AssertionError):  # With its last client gone it may have ended by itself.
        server.stop()
    server.start()
    assert isinstance(error, UnavailableError)
    assert "shutting down" in str(error)


def error_when_cut_off(
    database: PostgresqlDatabase, table: str, write: Callable[[], None]
) -> list[BaseException]:
    """Let a write run until it waits for a table, end its session, and return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            write()
        except SynchroscopeError as error:
            raised.append(error)

    writer = threading.Thread(target=run)
    with database.transaction() as cursor:
        cursor.execute(f"LOCK TABLE {table}".encode())
        writer.start()
        limit = time.monotonic() + 20
        found: list[tuple[bool]] = []
        while not found and time.monotonic() < limit:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            found = cursor.fetchall()
        writer.join()
    return raised


def test_a_connection_cut_in_the_middle_of_an_append_leaves_nothing(
    server: PrivateServer, schema: str
) -> None:
    with (
        closing(PostgresqlDatabase(server.dsn(), schema)) as database,
        closing(PostgresqlDatabase(server.dsn(), schema)) as other,
    ):
        store = PostgresqlEventStore(database)
        add(store, event(1, 1, a=1))
        before = everything(store)
        write = write_of(store, event(2, 2, a=2), counters={"n": 1})
        # The counters come last: the events are written when the append waits there.
        [error] = error_when_cut_off(other, "counters", lambda: store.append(write, 1.0))
        assert isinstance(error, UnavailableError)
        assert everything(store) == before
        store.append(write, 1.0)
        assert [stored.position for stored in store.read(0, 9)] == [1, 2]


def test_a_connection_cut_in_the_middle_of_a_commit_leaves_nothing(
    server: PrivateServer, schema: str
) -> None:
    with (
        closing(PostgresqlDatabase(server.dsn(), schema)) as database,
        closing(PostgresqlDatabase(server.dsn(), schema)) as other,
    ):
        storage = PostgresqlStorage(database, REPLICA)
        storage.commit({RISK: record(RISK, a=1)}, 0, b"1", chunk(0))

        def write() -> None:
            storage.commit({RISK: record(RISK, 2, a=2)}, 0, b"2", chunk(1))

        [error] = error_when_cut_off(other, "replica_journal", write)
        assert isinstance(error, UnavailableError)
        assert storage.get(RISK) == record(RISK, a=1)
        write()
        assert storage.partition_state(0) == b"2"
        assert storage.journal(0, 0) == [chunk(0), chunk(1)]


def test_a_commit_whose_answer_was_lost_is_fenced_until_it_is_read(
    server: PrivateServer, schema: str
) -> None:
    with closing(PostgresqlDatabase(server.dsn(), schema)) as database:
        storage = PostgresqlStorage(database, REPLICA)
        storage.commit({RISK: record(RISK, a=1)}, 0, b"1", chunk(0))
        # As after a commit that was stored while its answer got lost.
        with closing(PostgresqlDatabase(server.dsn(), schema)) as same:
            PostgresqlStorage(same, REPLICA).commit({}, 0, b"2", chunk(1))
        with pytest.raises(FencedError):
            storage.commit({}, 0, b"2", chunk(1))
        assert storage.partition_state(0) == b"2"
        storage.commit({}, 0, b"3", chunk(2))
        assert storage.journal(0, 0) == [chunk(0), chunk(1), chunk(2)]


# -- a full disk -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(server: PrivateServer) -> Iterator[tuple[str, Path]]:
    """A database on a disk of 24 MiB of its own: its name and the folder."""
    folder = server.folder / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,uid=postgres,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    try:
        server.run(
            f"CREATE TABLESPACE small LOCATION '{folder}'",
            "CREATE DATABASE small TABLESPACE small",
        )
        yield "small", folder
        server.run("DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_nothing_is_half_written_and_space_is_all_it_needs(
    server: PrivateServer, small_disk: tuple[str, Path]
) -> None:
    name, folder = small_disk
    with closing(PostgresqlDatabase(server.dsn(database=name))) as database:
        store, storage = PostgresqlEventStore(database), PostgresqlStorage(database, REPLICA)
        add(store, event(1, 1, a=1))
        storage.commit({RISK: record(RISK, a=1)}, 0, b"1", chunk(0))
        filler = folder / "filler"
        with filler.open("wb") as file, pytest.raises(OSError):
            while True:
                file.write(bytes(65_536))
                file.flush()
        before = everything(store)
        big = "x" * 400_000
        with pytest.raises(StorageError, match="the disk is full: free some space"):
            while True:
                letter = DeadLetter("r", "d", "s", os.urandom(400_000))
                store.append(Append(dead_letters=[letter]), 1.0)
        with pytest.raises(StorageError, match="the disk is full: free some space"):
            storage.commit({RISK: record(RISK, 2, a=big)}, 0, os.urandom(400_000), chunk(1))
        assert everything(store)[0] == before[0]
        assert storage.get(RISK) == record(RISK, a=1)
        assert storage.partition_state(0) == b"1"
        filler.unlink()
        add(store, event(2, 2, a=2))
        storage.commit({RISK: record(RISK, 2, a=big)}, 0, b"2", chunk(1))
        assert storage.get(RISK) == record(RISK, 2, a=big)
        assert [stored.position for stored in store.read(0, 9)] == [1, 2]
