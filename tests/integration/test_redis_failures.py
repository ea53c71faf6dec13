"""What a replica storage does when its Redis is gone, full, locked, read-only or set up wrongly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.redis_connection import server_of
from pipeline.storage_redis import RedisStorage
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.ports import ReplicaStorage
from tests.contract.killing import acknowledged_when_killed
from tests.contract.test_replica_storage import PLACE, RISK, chunk, keep, record
from tests.redis import PrivateRedis, free_port, private_redis, redis_prefix
from tests.servers import redis_url
from tests.waiting import until

WAIT_SECONDS = 20.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path / "redis") as started:
        yield started


@contextmanager
def opened(url: str, **more: Any) -> Iterator[RedisStorage]:
    with closing(RedisStorage(url, "scorer@1", **more)) as storage:
        if storage.incarnation() is None:
            storage.begin("life")
        yield storage


@contextmanager
def client_of(server: PrivateRedis) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(server.url)) as client:
        yield client


def put(storage: ReplicaStorage, value: int) -> None:
    records = {key: record(key, value, a=value) for key in (RISK, PLACE)}
    storage.commit(records, 0, b"%d" % value, chunk(value), value - 9)


def assert_holds(storage: ReplicaStorage, value: int) -> None:
    """Everything is of one commit."""
    assert storage.partition_state(0) == b"%d" % value
    for key in (RISK, PLACE):
        assert storage.get(key) == record(key, value, a=value)
    assert storage.journal(0, 0)[-1] == chunk(value)


# -- the server goes and comes -------------------------------------------------------------------


def test_while_it_is_away_it_is_unavailable_and_afterwards_all_goes_on(
    server: PrivateRedis,
) -> None:
    with opened(server.url) as storage:
        put(storage, 1)
        server.stop()
        for attempt in (
            lambda: put(storage, 2),
            lambda: storage.get(RISK),
            lambda: storage.prefetch([RISK]),
            lambda: storage.partition_state(0),
            storage.incarnation,
            lambda: storage.begin("another"),
            lambda: list(storage.scan(0, 0, 1)),
            lambda: storage.journal(0, 0),
        ):
            with pytest.raises(UnavailableError, match=f"redis 127.0.0.1:{server.port}/0: "):
                attempt()
        server.start()
        assert storage.incarnation() == "life"
        assert_holds(storage, 1)
        put(storage, 2)
        assert_holds(storage, 2)


def test_a_server_that_comes_back_between_two_commits_need_not_be_noticed(
    server: PrivateRedis,
) -> None:
    with opened(server.url) as storage:
        put(storage, 1)
        server.stop()
        server.start()
        with ExitStack() as stack:
            # The connection may be found broken first; what counts is that nothing is doubtful.
            stack.enter_context(contextmanager(_unavailable_at_most)())
            put(storage, 2)
        if storage.partition_state(0) == b"1":
            put(storage, 2)
        assert_holds(storage, 2)


def _unavailable_at_most() -> Iterator[None]:
    try:
        yield
    except UnavailableError:
        return


def test_a_server_that_lost_its_newest_writes_is_noticed(server: PrivateRedis) -> None:
    folder, copy = server.folder / "appendonlydir", server.folder / "copy"
    with opened(server.url) as storage:
        put(storage, 1)
        server.stop()
        shutil.copytree(folder, copy)
        server.start()
        storage.partition_state(0)
        put(storage, 2)
        server.stop()
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        server.start()
        with pytest.raises(FencedError, match="lost its newest writes: read the partition anew"):
            put(storage, 3)
        assert_holds(storage, 1)
        put(storage, 2)
        assert_holds(storage, 2)


def test_a_server_that_came_back_empty_is_noticed(server: PrivateRedis) -> None:
    with opened(server.url) as storage:
        put(storage, 1)
        server.stop()
        shutil.rmtree(server.folder / "appendonlydir")
        server.start()
        with pytest.raises(FencedError):
            put(storage, 2)
        assert storage.incarnation() is None
        storage.begin("again")
        assert storage.partition_state(0) is None
        put(storage, 1)
        assert_holds(storage, 1)


@pytest.mark.parametrize("happens", [True, False])
def test_a_commit_without_an_answer_is_known_after_a_look(
    server: PrivateRedis, happens: bool
) -> None:
    with opened(server.url, answer_seconds=0.5) as storage:
        put(storage, 1)
        server.signal(signal.SIGSTOP)
        with pytest.raises(UnavailableError, match="what was sent may be stored"):
            put(storage, 2)
        if not happens:
            server.stop()
            server.start()
        else:
            server.signal(signal.SIGCONT)
            with opened(server.url) as other:
                until(lambda: other.partition_state(0) == b"2", "the commit")
            with pytest.raises(FencedError):
                put(storage, 2)
        assert_holds(storage, 2 if happens else 1)
        put(storage, 3)
        assert_holds(storage, 3)


def test_a_server_that_runs_a_long_script_is_unavailable_for_that_time(
    server: PrivateRedis,
) -> None:
    with opened(server.url) as storage, client_of(server) as client, client_of(server) as busy:
        put(storage, 1)
        client.config_set("busy-reply-threshold", 50)

        def run() -> None:
            with pytest.raises(redis.ResponseError):
                busy.eval("while true do end", 0)

        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(UnavailableError, match="cannot serve at the moment"):
            until(lambda: storage.get(RISK) is None, "an error")
        client.execute_command("SCRIPT KILL")
        thread.join(WAIT_SECONDS)
        put(storage, 2)
        assert_holds(storage, 2)


def test_nothing_is_half_there_when_the_server_is_killed_during_commits(
    server: PrivateRedis,
) -> None:
    with opened(server.url) as storage:
        for _ in range(3):
            killer = threading.Timer(0.1, server.stop)
            killer.start()
            acknowledged = 0
            with pytest.raises(UnavailableError):
                for value in range(int(storage.partition_state(0) or 0) + 1, 1_000_000):
                    put(storage, value)
                    acknowledged = value
            killer.join()
            server.start()
            last = int(storage.partition_state(0) or 0)
            assert last in (acknowledged, acknowledged + 1)
            assert_holds(storage, last)
            first = max(last - 9, 1)
            assert storage.journal(0, 0) == [chunk(number) for number in range(first, last + 1)]


def test_nothing_is_half_there_when_the_client_is_killed_during_commits(tmp_path: Path) -> None:
    with redis_prefix() as prefix:
        program = f"""
            import itertools
            from pipeline.storage_redis import RedisStorage
            from tests.integration.test_redis_failures import put
            storage = RedisStorage({redis_url()!r}, "scorer@1", prefix={prefix!r})
            storage.begin("life")
            for number in itertools.count():
                put(storage, number)
                print(number, flush=True)
        """
        acknowledged = acknowledged_when_killed(program, tmp_path, 30)
        with closing(RedisStorage(redis_url(), "scorer@1", prefix=prefix)) as storage:
            assert storage.incarnation() == "life"
            last = int(storage.partition_state(0) or b"-1")
            assert last >= acknowledged
            assert_holds(storage, last)
            assert storage.journal(0, 0) == [chunk(number) for number in range(last - 9, last + 1)]


# -- the server refuses ----------------------------------------------------------------------------


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs root and the right to mount")
    try:
        # An "always" would end the server when it cannot write.
        with private_redis(disk, {"appendfsync": "everysec"}) as server:
            _fill(server, disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _fill(server: PrivateRedis, disk: Path) -> None:
    filler = disk / "filler"
    filler.write_bytes(b"x" * 4_000_000)
    with opened(server.url) as storage:
        last = 0
        with pytest.raises(StorageError, match="cannot write to its disk: free some space"):
            for value in range(1, 2_000):
                storage.commit({RISK: record(RISK, value, a="x" * 10_000)}, 0, b"%d" % value)
                last = value
        assert storage.partition_state(0) == b"%d" % last
        assert storage.get(RISK) == record(RISK, last, a="x" * 10_000)
        filler.unlink()

        def written() -> bool:
            try:
                put(storage, last + 1)
            except StorageError:
                return False
            return True

        until(written, "a commit")
        assert_holds(storage, last + 1)
        server.stop()
        server.start()
        assert_holds(storage, last + 1)


def test_used_up_memory_is_named_and_nothing_is_half_written(server: PrivateRedis) -> None:
    with opened(server.url) as storage, client_of(server) as client:
        put(storage, 1)
        client.config_set("maxmemory", 1)
        for _ in range(2):
            with pytest.raises(StorageError, match="raise maxmemory; nothing was half written"):
                put(storage, 2)
        assert_holds(storage, 1)
        client.config_set("maxmemory", 0)
        put(storage, 2)
        assert_holds(storage, 2)


def test_a_read_only_copy_can_be_read_and_says_that_it_is_one(
    server: PrivateRedis, tmp_path: Path
) -> None:
    with (
        opened(server.url) as primary,
        private_redis(
            tmp_path / "copy", {"replicaof": f"127.0.0.1 {server.port}", "appendonly": "no"}
        ) as copied,
    ):
        put(primary, 1)
        with closing(RedisStorage(copied.url, "scorer@1")) as storage:
            until(lambda: _state_or_none(storage) == b"1", "the copy")
            assert storage.incarnation() == "life"
            assert_holds(storage, 1)
            assert len([one for bucket in (0, 1) for one in storage.scan(0, bucket, 1)]) == 2
            with pytest.raises(StorageError, match="a read-only copy: name the primary"):
                put(storage, 2)
            with pytest.raises(StorageError, match="a read-only copy: name the primary"):
                storage.begin("another")
            assert_holds(storage, 1)


def _state_or_none(storage: ReplicaStorage) -> bytes | None:
    try:
        return storage.partition_state(0)
    except UnavailableError:  # It is loading what the primary sends.
        return None


def test_all_works_on_a_node_of_a_cluster_and_a_wrong_node_says_so(tmp_path: Path) -> None:
    settings = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with (
        private_redis(tmp_path / "one", settings) as server,
        client_of(server) as client,
    ):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        until(
            lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the cluster"
        )
        with opened(server.url) as storage:
            put(storage, 1)
            storage.prefetch([RISK, PLACE])
            assert_holds(storage, 1)
            assert len(list(storage.scan(0, 0, 0))) == 2
            storage.begin("another")
            assert storage.get(RISK) is None
            put(storage, 2)
            client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 16_383)
            with pytest.raises(UnavailableError):
                put(storage, 3)


# -- the server or the address is set up wrongly ---------------------------------------------------

SECRET = "s3cret-pa55"


def refusal(url: str) -> SynchroscopeError:
    with pytest.raises(SynchroscopeError) as caught:
        RedisStorage(url, "scorer@1", answer_seconds=1.0).incarnation()
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__
    return caught.value


def test_a_wrong_password_is_named_and_never_shown(tmp_path: Path) -> None:
    with private_redis(tmp_path / "redis", {"requirepass": "right"}) as server:
        place = f"127.0.0.1:{server.port}"
        for url in (
            f"redis://{place}/0",
            f"redis://:{SECRET}@{place}/0",
            f"redis://nobody:{SECRET}@{place}/0",
        ):
            error = refusal(url)
            assert isinstance(error, ConfigurationError), url
            assert "check user and password in the URL" in str(error)
            assert f"redis {place}/0" in str(error)
        with opened(f"redis://:right@{place}/0") as storage:
            put(storage, 1)
            server.stop()
            server.start()
            with closing(redis.Redis.from_url(f"redis://:right@{place}/0")) as client:
                client.config_set("requirepass", "changed")
            with pytest.raises(ConfigurationError, match="check user and password"):
                put(storage, 2)


def test_a_password_that_a_server_does_not_want_is_named(server: PrivateRedis) -> None:
    error = refusal(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")
    assert isinstance(error, ConfigurationError)
    assert "check user and password" in str(error)


@pytest.mark.parametrize("rights", ["~other:* +@all", "~* +@read", "~* +@all -evalsha"])
def test_a_user_without_the_rights_is_told_which(server: PrivateRedis, rights: str) -> None:
    with client_of(server) as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", f">{SECRET}", *rights.split())
    url = f"redis://limited:{SECRET}@127.0.0.1:{server.port}/0"
    with (
        pytest.raises(ConfigurationError, match="allow this user the replica's keys"),
        closing(RedisStorage(url, "scorer@1")) as storage,
    ):
        storage.incarnation()
        storage.begin("life")


def test_the_rights_that_the_message_names_are_enough(server: PrivateRedis) -> None:
    with client_of(server) as client:
        client.execute_command(
            "ACL", "SETUSER", "limited", "on", f">{SECRET}", "~{synchroscope:*", "+@all"
        )
    with opened(f"redis://limited:{SECRET}@127.0.0.1:{server.port}/0") as storage:
        put(storage, 1)
        assert_holds(storage, 1)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_would_drop_facts_is_refused(server: PrivateRedis, policy: str) -> None:
    with client_of(server) as client:
        client.config_set("maxmemory-policy", policy)
        with opened(server.url) as storage:
            put(storage, 1)  # Without a limit nothing is dropped.
        client.config_set("maxmemory", "100mb")
        error = refusal(server.url)
        assert isinstance(error, ConfigurationError)
        assert f"maxmemory-policy {policy}" in str(error)
        client.config_set("maxmemory-policy", "noeviction")
        with opened(server.url) as storage:
            assert_holds(storage, 1)


def test_a_server_that_hides_its_settings_is_used(server: PrivateRedis) -> None:
    with client_of(server) as client:
        client.execute_command(
            "ACL", "SETUSER", "limited", "on", ">x", "~*", "+@all", "-info", "-config"
        )
    with opened(f"redis://limited:x@127.0.0.1:{server.port}/0") as storage:
        put(storage, 1)


def test_a_wrong_address_is_unavailable(server: PrivateRedis) -> None:
    server.stop()
    for url in (server.url, f"redis://u:{SECRET}@nowhere.invalid:1/0", "unix:///nowhere/redis"):
        assert isinstance(refusal(url), UnavailableError), url


@pytest.mark.parametrize(
    "url",
    [
        f"127.0.0.1:6379/{SECRET}",
        f"http://:{SECRET}@127.0.0.1:6379/0",
        f"redis://:{SECRET}/x@127.0.0.1:6379/0",
        f"redis://:x/{SECRET}@127.0.0.1:6379/0",
        f"redis://:{SECRET}@127.0.0.1:port/0",
        f"redis://:{SECRET}#x@127.0.0.1:6379",
        f"redis://:{SECRET}@127.0.0.1:6379/name",
        f"redis://:{SECRET}@127.0.0.1:6379/0?db=x",
    ],
)
def test_a_url_that_is_none_is_refused_without_a_connection(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write redis://host:port/0") as caught:
        server_of(url)
    assert SECRET not in str(caught.value)


def test_a_setting_in_the_url_that_is_not_known_is_named(server: PrivateRedis) -> None:
    error = refusal(f"{server.url}?colour=red")
    assert isinstance(error, ConfigurationError)
    assert "colour" in str(error)


def test_a_database_that_the_server_does_not_have_is_named(server: PrivateRedis) -> None:
    error = refusal(f"redis://127.0.0.1:{server.port}/99")
    assert isinstance(error, ConfigurationError)
    assert "name a database that the server has" in str(error)


def test_what_the_url_says_of_answers_does_not_change_them(server: PrivateRedis) -> None:
    with opened(f"{server.url}?decode_responses=yes&protocol=3&retry_on_timeout=yes") as storage:
        put(storage, 1)
        assert_holds(storage, 1)
        keep(storage, record(RISK, 2, a=2))


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {made}".split(),
        check=True,
        capture_output=True,
    )
    return key, made


def test_tls_is_spoken_and_a_certificate_that_is_not_trusted_is_named(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    key, made = certificate
    plain = tmp_path / "redis"
    with private_redis(plain) as server:
        with client_of(server) as client:
            for name, value in (
                ("tls-cert-file", str(made)),
                ("tls-key-file", str(key)),
                ("tls-ca-cert-file", str(made)),
                ("tls-auth-clients", "no"),
            ):
                client.config_set(name, value)
            port = free_port()
            client.config_set("tls-port", port)
        url = f"rediss://127.0.0.1:{port}/0"
        with opened(f"{url}?ssl_ca_certs={made}") as storage:
            put(storage, 1)
            assert_holds(storage, 1)
        error = refusal(url)
        assert isinstance(error, ConfigurationError)
        assert "check the certificate and ssl_ca_certs=FILE" in str(error)
        # A server without TLS waits for the rest of what it takes for a command, and the other way
        # round the connection is closed: neither says what is wrong.
        for wrong in (f"rediss://127.0.0.1:{server.port}/0", f"redis://127.0.0.1:{port}/0"):
            error = refusal(wrong)
            assert isinstance(error, UnavailableError)
            assert "whether it speaks TLS there" in str(error)
