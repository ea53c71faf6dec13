"""`prove` and `status` over real servers: what is spoilt or not relayed is never called proven."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest

from pipeline.commands import CommandSide
from pipeline.event_store_postgresql import PostgresqlEventStore
from service.configuration import Configuration, load_configuration
from service.stores import open_database
from tests.builders import event
from tests.integration.test_distributed import ROOT, config
from tests.integration.test_repair import command
from tests.waiting import until

__all__ = ["config"]
SPOILT = "offer-pricer@2"


@contextmanager
def running(config: Path, *roles: str) -> Iterator[subprocess.Popen[str]]:
    """Run roles in a process of their own; at the end it is killed."""
    arguments = [sys.executable, "-m", "service.cli", "run", *roles, "--config", str(config)]
    with (config.parent / f"{'-'.join(roles)}.log").open("w") as log:
        process = subprocess.Popen(
            [*arguments, "--http-port", "0"], cwd=ROOT, stdout=log, stderr=log, text=True
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture
def configuration(config: Path) -> Configuration:
    prepared = command(config, "prepare")
    assert prepared.returncode == 0, prepared.stdout
    return load_configuration(config, os.environ)


def submit(configuration: Configuration, first: int, events: int) -> None:
    with (
        closing(open_database(configuration)) as database,
        CommandSide(PostgresqlEventStore(database)).batch(time.time()) as batch,
    ):
        for number in range(first, first + events):
            made = event(None, {"spend": number}, number=number, user=str(number % 40))
            batch.submit(msgspec.json.encode(made))


def proven(config: Path, seconds: float) -> tuple[int, str]:
    ended = command(config, "prove", "--timeout", str(seconds))
    return ended.returncode, ended.stdout


def spoil(configuration: Configuration, user: int) -> None:
    """Change a fact of a replica in PostgreSQL behind its back."""
    [place] = [one for one in configuration.replicas if one.name == SPOILT]
    assert place.postgresql is not None
    with psycopg.connect(place.postgresql.dsn, autocommit=True) as connection:
        changed = connection.execute(
            f"UPDATE {place.postgresql.schema}.replica_aggregates "
            "SET fields = jsonb_set(fields::jsonb, '{spend,0}', '8831') "
            "WHERE replica = %s AND subject = %s",
            (SPOILT, f"user:{user}"),
        )
        assert changed.rowcount == 1


def test_what_was_spoilt_right_after_a_proof_is_seen_by_the_next_one(
    config: Path, configuration: Configuration
) -> None:
    with running(config, "relay", "projector", "validator"):
        submit(configuration, 0, 80)
        code, said = proven(config, 60)
        assert (code, "8/8 replicas CONSISTENT" in said) == (0, True), said
        for user in (31, 32):
            spoil(configuration, user)
            code, said = proven(config, 60)
            assert code == 1, said
        assert "2 findings" in said


def test_events_that_no_relay_carries_are_never_called_proven(
    config: Path, configuration: Configuration
) -> None:
    with running(config, "projector", "validator"):
        with running(config, "relay"):
            submit(configuration, 0, 80)
            assert proven(config, 60)[0] == 0
            assert command(config, "status").returncode == 0
        submit(configuration, 80, 40)
        missing = "40 accepted events are not known to be in the log, and no relay works"
        until(lambda: command(config, "status").returncode == 3, "status to be undecided")
        assert missing in command(config, "status").stdout
        code, said = proven(config, 5)
        assert (code, missing in said) == (3, True), said
        with running(config, "relay"):
            code, said = proven(config, 60)
            assert (code, "120 events" in said) == (0, True), said
