"""The demo over real servers: processes of each role, killed and paused, and faults injected."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient

from tests.postgresql import schema_name
from tests.redis import redis_prefix
from tests.servers import kafka_server

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples" / "retail" / "data"
ROWS = 600
PATIENCE_SECONDS = 240.0


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Return the retail configuration on topics, a schema and keys of this test's own."""
    server, name = kafka_server(), f"test-{uuid4().hex[:8]}"
    text = (ROOT / "examples" / "retail" / "kafka.yaml").read_text(encoding="utf-8")
    with schema_name() as schema, redis_prefix() as prefix:
        text = text.replace("name: retail\n", f"name: {name}\n")
        text = text.replace("topic_prefix: retail.", f"topic_prefix: {name}.")
        text = text.replace("schema: retail", f"schema: {schema}")
        text = text.replace("prefix: retail}", f"prefix: {prefix}}}")
        path = tmp_path / "kafka.yaml"
        path.write_text(text, encoding="utf-8")
        yield path
        admin = AdminClient({"bootstrap.servers": server})
        topics = [t for t in admin.list_topics(timeout=10).topics if t.startswith(f"{name}.")]
        for future in admin.delete_topics(topics).values():
            future.result()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with the first rows of one day."""
    folder = tmp_path / "data"
    folder.mkdir()
    add_day(folder, 0, ROWS)
    return folder


def add_day(folder: Path, day: int, rows: int) -> None:
    source = sorted(DATA.glob("*.csv"))[day]
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / source.name).write_text("".join(lines[: rows + 1]), encoding="utf-8")


class Run:
    """A demo that runs, with its folder and its report."""

    def __init__(self, config: Path, data: Path, folder: Path, *arguments: str) -> None:
        self.report_path = folder / "report.json"
        self.folder = folder / "run"
        command = [sys.executable, "-m", "service.cli", "demo", "--config", str(config)]
        command += ["--data", str(data), "--headless", "--http-port", "0"]
        command += ["--data-dir", str(self.folder), "--report", str(self.report_path), *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def end(self) -> tuple[int, dict[str, Any]]:
        output, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.report_path.exists(), output
        return self.process.returncode, json.loads(self.report_path.read_text())

    def child(self, role: str) -> int:
        """Return the process ID of one of the demo's processes, once it runs."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            path = self.folder / f"{role}-0.log"
            if path.exists() and f"{role} runs" in path.read_text(errors="replace"):
                found = subprocess.run(
                    ["pgrep", "-P", str(self.process.pid), "-f", f"run {role}"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if found.stdout.split():
                    return int(found.stdout.split()[0])
            time.sleep(0.1)
        raise AssertionError(f"no {role} came up")


def verdicts(report: dict[str, Any]) -> set[str]:
    return {replica["verdict"] for replica in report["replicas"].values()}


def test_all_replicas_are_proven_and_a_second_run_goes_on_with_nothing_new(
    config: Path, data: Path, tmp_path: Path
) -> None:
    code, report = Run(config, data, tmp_path, "--speed", "max").end()
    assert (code, verdicts(report), report["findings"]) == (0, {"CONSISTENT"}, [])
    assert report["rows_read"] == ROWS
    assert report["replicas"]["fraud-scorer@1"]["applied"] == report["events_produced"]
    code, again = Run(config, data, tmp_path, "--speed", "max").end()
    assert (code, again["runs"]) == (0, 2)
    assert again["events_produced"] == report["events_produced"]
    assert again.keys() == report.keys()
    add_day(data, 1, ROWS)
    # Not at once: events that are in the log before a projector runs are no latency.
    code, third = Run(config, data, tmp_path, "--speed", "1500").end()
    assert (code, third["runs"], third["rows_read"]) == (0, 3, 2 * ROWS)
    assert third["events_produced"] > report["events_produced"]
    for replica in third["replicas"].values():
        assert replica["propagation_latency_seconds"]["p50"] > 0


def test_a_lost_event_is_found_and_named(config: Path, data: Path, tmp_path: Path) -> None:
    run = Run(config, data, tmp_path, "--speed", "max", "--fault", "drop:fraud-scorer@2:0.02")
    code, report = run.end()
    dropped = {(f["context_type"], f["subject"]) for f in report["faults"]}
    named = {(f["context_type"], s) for f in report["findings"] for s in f["subjects"]}
    assert dropped
    assert named == dropped
    assert {f["replica"] for f in report["findings"]} == {"fraud-scorer@2"}
    assert code == int(any(f["state"] == "open" for f in report["findings"]))


@pytest.mark.parametrize("role", ["relay", "projector", "validator"])
def test_killing_a_process_of_each_role_changes_nothing(
    config: Path, data: Path, tmp_path: Path, role: str
) -> None:
    run = Run(config, data, tmp_path, "--speed", "1500")
    os.kill(run.child(role), signal.SIGKILL)
    code, report = run.end()
    assert (code, verdicts(report), report["findings"]) == (0, {"CONSISTENT"}, [])
    assert report["rows_read"] == ROWS
