"""The registry's commands and the check of events over real servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from pipeline.kafka_topics import delete_topics, ensure_topics
from pipeline.log_kafka import KafkaLog
from service.cli import cli
from service.configuration import load_configuration
from service.demo import SCHEMAS
from service.hosts import Identity
from service.registry_http import Desk
from service.schema_host import SchemaHost
from synchroscope.ports import EVENTS, NewRecord
from tests.builders import event
from tests.servers import postgresql_dsn
from tests.topics import KAFKA_CLIENTS, kafka_settings
from validator.ledger import FindingsReader
from validator.schemas.registry_log import LogRegistry

NARROW = '{"properties": {"country": {"type": "string"}}, "additionalProperties": false}'
WIDE = '{"properties": {"country": {"type": ["string", "null"]}}, "additionalProperties": false}'
LONGEST_SECONDS = 60.0


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@contextmanager
def serving(*place: str) -> Iterator[str]:
    """Run `registry serve` in a process of its own, and yield its address."""
    command = [sys.executable, "-m", "service.cli", "registry", "serve", *place]
    process = subprocess.Popen([*command, "--http-port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=20.0)
        assert process.returncode == 0


def test_a_folder_is_registered_once_and_its_history_says_who_did_it(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    first = run("registry", "register", str(SCHEMAS), *place, "--output", "json")
    again = run("registry", "register", str(SCHEMAS), *place, "--output", "json")

    assert first.exit_code == again.exit_code == 0
    assert lines(first) == lines(again)
    assert [(one["subject"], one["version"]) for one in lines(first)] == [
        ("behavioural", 1), ("financial", 1), ("geographic", 1),
    ]  # fmt: skip
    told = lines(run("registry", "history", *place, "--output", "json"))
    assert [(one["revision"], one["by"]) for one in told] == [
        (number, "registry register") for number in (1, 2, 3)
    ]


def test_what_is_not_compatible_ends_with_1_and_what_is_no_schema_with_2(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    file = schemas / "geographic.json"
    file.write_text(WIDE)
    assert run("registry", "register", str(schemas), *place, "--dry-run").exit_code == 0
    assert run("registry", "register", str(schemas), *place).exit_code == 0

    file.write_text(NARROW)
    dry = run("registry", "register", str(schemas), *place, "--dry-run")
    assert (dry.exit_code, "TYPE_NARROWED" in dry.stdout) == (1, True)
    assert run("registry", "register", str(schemas), *place).exit_code == 1
    file.write_text("{")
    assert run("registry", "register", str(schemas), *place).exit_code == 2
    assert run("registry", "register", str(schemas)).exit_code == 2
    assert len(lines(run("registry", "history", *place, "--output", "json"))) == 1


def test_a_served_registry_is_one_for_every_client_and_outlives_its_process(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with serving("--data-dir", data) as url:
        assert run("registry", "register", str(SCHEMAS), "--url", url).exit_code == 0
        assert httpx.get(f"{url}/subjects").json() == ["behavioural", "financial", "geographic"]
        beside = run("registry", "history", "--data-dir", data)
        assert (beside.exit_code, len(beside.stdout.splitlines())) == (0, 3)
        in_use = run("registry", "register", str(SCHEMAS), "--data-dir", data)
        assert in_use.exit_code and "in use by another writer" in str(in_use.exception)
    with serving("--data-dir", data) as url:
        assert httpx.get(f"{url}/subjects/financial/versions").json() == [1]


@pytest.fixture(params=KAFKA_CLIENTS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A configuration of an installation of its own, with schema checks."""
    settings = kafka_settings(request.param)
    ensure_topics(settings)
    path = tmp_path / "synchroscope.yaml"
    kafka = {
        name: getattr(settings, name)
        for name in ("bootstrap_servers", "client", "topic_prefix", "name", "partitions")
    }
    document = {
        "log": {"kafka": {**kafka, "session_timeout_seconds": 6.0}},
        "event_store": {"postgresql": {"dsn": postgresql_dsn()}},
        "views": {"scorer": {"fields": {"financial": "*"}}},
        "replicas": [{"name": "scorer@1", "memory": {}}],
        "schemas": {"right_events": 5, "right_seconds": 0.0},
    }
    path.write_text(json.dumps(document))
    yield path
    delete_topics(settings)


def written(country: Any) -> NewRecord:
    made = event(1, {"country": country}, kind="geographic")
    made["source"] = {"modelId": "shop", "instanceId": "till-1"}
    return NewRecord(EVENTS, 0, b"", json.dumps(made).encode())


def test_one_of_two_processes_checks_and_the_other_takes_over_where_it_ended(
    config: Path, tmp_path: Path
) -> None:
    configuration = load_configuration(config, os.environ)
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    (schemas / "geographic.json").write_text(WIDE)
    assert run("registry", "register", str(schemas), "--config", str(config)).exit_code == 0

    hosts = [SchemaHost(configuration, Identity(f"p{n}"), Desk()) for n in range(2)]
    with closing(KafkaLog(configuration.log.kafka)) as log:
        for country in ("F", 5, "D"):
            log.append([written(country)], time.time())
        first = step_until(hosts, 3)
        assert [host.checker is not None for host in hosts].count(True) == 1
        first.close()
        hosts.remove(first)
        for country in ("F", 6, "D", "F", "D", "F", "D"):
            log.append([written(country)], time.time())
        second = step_until(hosts, 10)

        (finding,) = FindingsReader(log).read()
        assert (finding.state, finding.evidence["count"]) == ("resolved", 2)
        assert second.checker is not None
        assert second.checker.standing(0.0).checks == {"valid": 8, "violation": 2}
        assert LogRegistry(log, wait=log.wait).versions("geographic", 0.0) == [1]
    second.close()


def step_until(hosts: list[SchemaHost], events: int) -> SchemaHost:
    """Step the hosts until one of them has checked so many events and published that."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        for host in hosts:
            if not host.step(time.time()):
                host.wait(0.02)
            if host.checker is None:
                continue
            standing = host.checker.standing(0.0)
            if sum(standing.checks.values()) >= events and not host.checker.is_dirty:
                return host
    raise AssertionError(f"{events} events were not checked in time")


def test_processes_that_register_at_once_give_no_id_to_two_schemas(
    config: Path, tmp_path: Path
) -> None:
    processes = []
    for number in range(3):
        folder = tmp_path / f"schemas-{number}"
        folder.mkdir()
        for name in range(8):
            # Half of the schemas are common to all, under names of their own.
            field = f"common_{name}" if name % 2 else f"own_{number}_{name}"
            text = json.dumps({"properties": {field: {"type": "string"}}})
            (folder / f"type-{number}-{name}.json").write_text(text)
        command = [sys.executable, "-m", "service.cli", "registry", "register", str(folder)]
        command += ["--config", str(config), "--output", "json"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=LONGEST_SECONDS)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    results = [json.loads(line) for text in told for line in text.splitlines()]
    ids: dict[int, set[str]] = {}
    for result in results:
        ids.setdefault(result["id"], set()).add(Path(result["file"]).read_text())
    assert len(results) == 24
    assert [len(texts) for texts in ids.values()] == [1] * 16
    assert sorted(ids) == list(range(1, 17))
    told_history = run("registry", "history", "--config", str(config), "--output", "json")
    assert [one["revision"] for one in lines(told_history)] == list(range(1, 25))


def test_a_process_with_the_role_validator_serves_the_registry(config: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "run", "validator"]
    process = subprocess.Popen(
        [*command, "--config", str(config), "--http-port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        place = re.search(r"http://[0-9.:]+", process.stderr.readline())
        assert place is not None
        assert run("registry", "register", str(SCHEMAS), "--url", place[0]).exit_code == 0
        assert httpx.get(f"{place[0]}/subjects").json() == [
            "behavioural", "financial", "geographic",
        ]  # fmt: skip
        assert httpx.get(f"{place[0]}/metrics").status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=30.0)
    assert process.returncode == 0
