"""Repair over real servers: what is open is repaired while events go on, and held to the store."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.oracle import all_events, facts_of_storage, facts_of_view
from pipeline.commands import CommandSide
from pipeline.event_store_postgresql import PostgresqlEventStore
from service.configuration import Configuration, load_configuration
from service.stores import open_database, open_storage, replica_plans
from tests.builders import event
from tests.integration.test_distributed import ROOT, config, data
from tests.waiting import until

__all__ = ["config", "data"]
PATIENCE_SECONDS = 300.0
FAULTS = (
    "drop:fraud-scorer@2:0.01",
    "corrupt:offer-pricer@1:0.01",
    "stale:recommender@2:0.02",
    "reorder:compliance-checker@1:0.05",
)


def command(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments, "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def open_findings(config: Path) -> list[dict[str, Any]]:
    listed = command(config, "findings", "--open", "--output", "json")
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    assert listed.returncode in (0, 1), listed.stderr
    return found


@pytest.fixture
def loaded(config: Path, data: Path, tmp_path: Path) -> Iterator[Configuration]:
    """Run the demo with faults and events for about a minute; return its configuration."""
    arguments = ["demo", "--config", str(config), "--data", str(data), "--http-port", "0"]
    arguments += ["--data-dir", str(tmp_path / "run"), "--speed", "120"]
    for fault in FAULTS:
        arguments += ["--fault", fault]
    output = (tmp_path / "demo.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        configuration = load_configuration(config, os.environ)
        with closing(open_database(configuration)) as database:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not PostgresqlEventStore(database).count():
                assert time.monotonic() < deadline, (tmp_path / "demo.log").read_text()
                time.sleep(0.2)
        yield configuration
    finally:
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            process.kill()
        output.close()


class Load:
    """Events beside the demo's, of which there may be none left when the first repair begins."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with closing(open_database(self._configuration)) as database:
            commands = CommandSide(PostgresqlEventStore(database))
            for number in itertools.count(1_000_000):
                with commands.batch(time.time()) as batch:
                    made = event(None, {"spend": number}, number=number, user=str(number % 40))
                    batch.submit(msgspec.json.encode(made))
                if self._is_over.wait(0.05):
                    return

    def end(self) -> None:
        """Stop; once is enough."""
        self._is_over.set()
        self._thread.join()


@pytest.fixture
def load(loaded: Configuration) -> Iterator[Load]:
    running = Load(loaded)
    yield running
    running.end()


def test_everything_that_is_open_is_repaired_under_load_until_all_is_consistent(
    config: Path, loaded: Configuration, load: Load
) -> None:
    repaired = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    with closing(open_database(loaded)) as database:
        store = PostgresqlEventStore(database)
        accepted, was_quiet, under_load = -1, False, 0
        while time.monotonic() < deadline:
            if under_load:
                load.end()
            now_accepted = store.count()
            is_quiet, accepted = now_accepted == accepted > 0, now_accepted
            found = open_findings(config)
            if not found and is_quiet and was_quiet:
                break
            was_quiet = is_quiet
            for finding in found[:3]:
                before = store.count()
                ended = command(config, "repair", finding["id"], "--timeout", "60")
                assert ended.returncode in (0, 2), (ended.stdout, ended.stderr, finding)
                repaired += ended.returncode == 0
                under_load += store.count() > before
        proven = command(config, "prove", "--timeout", "120")
        left = open_findings(config)
        while left and time.monotonic() < deadline:  # What the proof's scrub has found.
            for finding in left:
                assert command(config, "repair", finding["id"]).returncode in (0, 2)
            left = open_findings(config)
            proven = command(config, "prove", "--timeout", "120")
        assert (proven.returncode, left) == (0, []), proven.stdout
        events = all_events(store)
    assert repaired > 0
    assert under_load > 0
    for plan in replica_plans(loaded):
        with closing(open_storage(plan)) as storage:
            storage.incarnation()
            held = facts_of_storage(storage, loaded.log.kafka.partitions)
        assert held == facts_of_view(events, plan.view), plan.name


def test_a_dry_run_shows_what_would_be_written_and_changes_nothing(
    config: Path, loaded: Configuration
) -> None:
    [first, *_] = until(lambda: open_findings(config), "a finding", PATIENCE_SECONDS)
    shown = command(config, "repair", first["id"], "--dry-run")
    assert shown.returncode in (0, 2), shown.stderr
    if shown.returncode == 0:
        assert f"{first['replica']} at " in shown.stdout
    [now] = [one for one in open_findings(config) if one["id"] == first["id"]] or [first]
    assert "repair" not in now["evidence"]
    assert command(config, "repair", "F-nothing").returncode == 2
