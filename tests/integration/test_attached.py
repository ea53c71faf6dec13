"""Attached mode over real servers: a pipeline that knows nothing of us, faults by hand, kill -9."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import redis

from benchmarks.attached_pipeline import Attached, Pipeline, pipeline, wait_for
from pipeline.kafka_client import NewTopic, open_client
from pipeline.kafka_settings import KafkaSettings
from synchroscope.ports import NewRecord
from tests.servers import kafka_server, postgresql_dsn, redis_url

FOUND_SECONDS = 45.0
RATE = 150.0
#: What the journal calls a fault -> the kind of its finding, its cause, and whether the journal
#: knows the event from which on all is wrong.
EXPECTED = {
    "dropped event": ("missed", "event not applied", True),
    "dropped delete": ("missed", "delete not applied", True),
    "older write": ("reordered", "older version over a newer one", True),
    "bit flip": ("corrupted", "bit flip", False),
    "truncated": ("corrupted", "truncated", False),
    "changed type": ("corrupted", "changed type", False),
    "out-of-band write": ("foreign", "written behind the pipeline's back", False),
    "out-of-band delete": ("foreign", "deleted behind the pipeline's back", False),
    "extra row": ("foreign", "row that the log does not have", False),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Pipeline]:
    with pipeline(kafka_server(), postgresql_dsn(), redis_url(), tmp_path) as running:
        yield running


def of(found: list[dict[str, Any]], store: str, user: str) -> list[dict[str, Any]]:
    return [f for f in found if f["replica"] == store and f["subjects"] == [user]]


def check_single(fault: dict[str, Any], found: list[dict[str, Any]]) -> None:
    kind, cause, knows_position = EXPECTED[fault["kind"]]
    (finding,) = of(found, fault["store"], fault["users"][0])
    assert (finding["kind"], finding["evidence"]["cause"]) == (kind, cause), fault
    if knows_position:
        partition, offset = fault["position"]
        assert finding["first_bad_position"] == {"partition": partition, "offset": offset}, fault
    elif kind != "foreign" or cause != EXPECTED["extra row"][1]:
        since = finding["since"]
        assert since["after_offset"] < since["by_offset"], finding


def check_wrong_subject(fault: dict[str, Any], found: list[dict[str, Any]]) -> None:
    partition, offset = fault["position"]
    position = {"partition": partition, "offset": offset}
    lacking, having = (of(found, fault["store"], user) for user in fault["users"])
    assert [(f["kind"], f["first_bad_position"]) for f in lacking] == [("missed", position)]
    (stray,) = having
    assert stray["kind"] == "foreign"
    belongs = {"subject": fault["users"][0], "position": position}
    assert stray["evidence"]["belongs_to"] == belongs


def check_restore(fault: dict[str, Any], found: list[dict[str, Any]]) -> None:
    (bulk,) = [f for f in found if f["replica"] == fault["store"] and f["kind"] == "bulk"]
    for partition, span in bulk["evidence"]["positions"].items():
        end = fault["position"][partition]  # The store may have been a little behind the log.
        assert span["from"] <= end + RATE, bulk
        assert span["to"] >= end - RATE, bulk


def is_found(fault: dict[str, Any], found: list[dict[str, Any]]) -> bool:
    if not fault["users"]:
        return any(f["kind"] == "bulk" and f["replica"] == fault["store"] for f in found)
    users_found = [of(found, fault["store"], user) for user in fault["users"]]
    is_amended = fault["kind"] != "wrong subject" or any(
        "belongs_to" in f["evidence"] for f in users_found[-1]
    )
    return all(users_found) and is_amended


def wait_until_found(faults: list[dict[str, Any]], attached: Attached) -> list[dict[str, Any]]:
    def left() -> list[dict[str, Any]]:
        return [f for f in faults if not is_found(f, list(attached.findings().values()))]

    try:
        wait_for(lambda: not left(), FOUND_SECONDS, "every fault is found")
    except TimeoutError:
        pytest.fail(f"not found: {left()}; {attached.errors[-5:]}")
    return list(attached.findings().values())


def wait_until_consistent(attached: Attached) -> None:
    def is_consistent() -> bool:
        return all(attached.verdict(name)[0] == "CONSISTENT" for name in ("redis", "postgresql"))

    try:
        wait_for(is_consistent, FOUND_SECONDS, "CONSISTENT")
    except TimeoutError:
        pytest.fail(f"not CONSISTENT: {attached.status()}; {attached.errors[-5:]}")


def test_every_fault_is_found_located_and_named_and_nothing_else_is(
    world: Pipeline, tmp_path: Path
) -> None:
    world.produce(RATE, 1_000, 600.0, seed=1)
    attached = world.attach()
    wait_until_consistent(attached)
    faults = world.inject(tmp_path / "first.jsonl", "--rounds", "1", "--seed", "7")
    assert len(faults) == 19  # Ten kinds in two stores; where all is text no type can change.
    found = wait_until_found(faults, attached)
    for fault in faults:
        check = check_wrong_subject if fault["kind"] == "wrong subject" else check_single
        check(fault, found)
    injected = {user for fault in faults for user in fault["users"]}
    assert {user for f in found for user in f["subjects"]} == injected

    # What was found outlives the process, and is not found again.
    attached.kill()
    attached = world.attach()
    restores = world.inject(tmp_path / "second.jsonl", "--kind", "stale_restore", "--seed", "8")
    assert len(restores) == 2
    found = wait_until_found(restores, attached)
    for fault in restores:
        check_restore(fault, found)
    single = [f for f in found if f["state"] == "open" and f["kind"] != "bulk"]
    # Keys that do not fit the position of the others, such as those that were copied later than
    # they, are told by themselves.
    of_restore = ("reordered", "missed")
    again = [f for f in single if f["kind"] not in of_restore or injected & set(f["subjects"])]
    assert again == [], "what was open before is told again"
    assert attached.stop() == 1


def test_a_consumer_that_stands_still_is_lag_and_nothing_else(world: Pipeline) -> None:
    world.produce(RATE, 1_000, 600.0, seed=2)
    attached = world.attach()
    wait_until_consistent(attached)
    world.signal("redis", signal.SIGSTOP)
    try:
        wait_for(
            lambda: attached.verdict("redis")[1].startswith("LAGGING"), FOUND_SECONDS, "LAGGING"
        )
        stood_until = time.monotonic() + 5.0
        wait_for(lambda: time.monotonic() > stood_until, 10.0, "a while")
        assert attached.verdict("redis")[0] == "UNKNOWN"
        assert attached.verdict("postgresql")[0] == "CONSISTENT"
    finally:
        world.signal("redis", signal.SIGCONT)
    wait_until_consistent(attached)
    assert attached.stop() in (0, 3)
    assert attached.findings() == {}

    once = world.attach("other", "--once")
    assert once.end(FOUND_SECONDS) == 0, once.lines
    assert [list(line) for line in once.lines] == [["summary"]]


def test_a_locked_table_is_unknown_and_neither_its_neighbour_nor_the_end_waits_for_it(
    world: Pipeline,
) -> None:
    world.produce(RATE, 100, 600.0, seed=3)
    attached = world.attach()
    wait_until_consistent(attached)
    with psycopg.connect(world.postgresql) as connection:
        connection.execute(f"LOCK TABLE {world.table} IN ACCESS EXCLUSIVE MODE".encode())
        with closing(redis.Redis.from_url(world.redis_url)) as client:
            client.hset(f"{world.prefix}user-7-by-hand", "risk", "high")
        wait_for(lambda: attached.verdict("redis")[0] == "DIVERGED", FOUND_SECONDS, "DIVERGED")
        wait_for(
            lambda: attached.verdict("postgresql")[1].startswith("the store has not answered"),
            FOUND_SECONDS,
            "UNKNOWN",
        )
        began = time.monotonic()
        assert attached.stop() == 1
        assert time.monotonic() - began < 8.0

        began = time.monotonic()
        once = world.attach("other", "--once", "--timeout", "12")
        once.end(FOUND_SECONDS)
        assert time.monotonic() - began < 25.0
        summary = once.lines[-1]["summary"]
        assert summary["stores"]["postgresql"]["verdict"] == "UNKNOWN"


def test_typed_columns_of_postgresql_are_held_against_what_producers_write(
    tmp_path: Path,
) -> None:
    kafka, dsn, mark = kafka_server(), postgresql_dsn(), uuid4().hex[:10]
    topic, table = f"typed-{mark}", f"typed_{mark}"
    key = str(uuid4()).upper()
    fields = {
        "at": ("timestamptz", "2026-01-01T10:00:00.123+01:00"),
        "local": ("timestamp", "2026-01-01T10:00:00.000"),
        "code": ("char(6)", "ab"),
        "other": ("uuid", key),
        "hour": ("time", "10:00"),
        "term": ("interval", "1 day"),
        "amount": ("numeric(10,2)", "5.10"),
        "share": ("real", 0.1),
        "is_on": ("boolean", True),
        "count": ("bigint", 7),
        "day": ("date", "2026-01-01"),
        "tags": ("text[]", ["a", "b"]),
    }
    values = {name: value for name, (_, value) in fields.items()}
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in fields.items())
    places = ", ".join(["%s"] * (len(fields) + 1))
    file = tmp_path / "attached.yaml"
    file.write_text(
        f"log: {{kafka: {{bootstrap_servers: '{kafka}'}}, topic: {topic}}}\n"
        "record: {subject: key, type: p}\n"
        "stores:\n"
        f"  - {{name: pg, uri: '{dsn}?table={table}', subject: id, settle_seconds: 1,\n"
        "     recheck_seconds: 0.5, walk_interval_seconds: 1}\n"
    )

    def once() -> tuple[int, list[tuple[str, list[str]]]]:
        command = [sys.executable, "-m", "service.cli", "attach", str(file), "--once"]
        command += ["--output", "json", "--timeout", "40"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found = [line["finding"] for line in lines if "finding" in line]
        told = [(f["evidence"]["cause"], sorted(f["evidence"]["fields"])) for f in found]
        return done.returncode, told

    with (
        closing(open_client(KafkaSettings(bootstrap_servers=kafka))) as client,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        connection.execute(f"CREATE TABLE {table} (id uuid PRIMARY KEY, {columns})".encode())
        client.create_topics([NewTopic(topic, 1, 1, {})])
        try:
            wait_for(lambda: topic in client.partition_counts(), 20, "the topic")
            record = NewRecord(topic, 0, key.encode(), json.dumps(values).encode())
            with closing(client.writer()) as writer:
                writer.send([record], int(time.time() * 1000))
            row = [key, *values.values()]
            connection.execute(f"INSERT INTO {table} VALUES ({places})".encode(), row)
            assert once() == (0, [])
            connection.execute(f"UPDATE {table} SET at = at + interval '1 hour'".encode())
            assert once() == (1, [("written behind the pipeline's back", ["at"])])
        finally:
            connection.execute(f"DROP TABLE {table}".encode())
            client.delete_topics([topic])
