"""A role that fails is thrown away and built anew; what cannot be mended is told."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from service import retrying, supervision
from service.board import ProcessRecord
from service.supervision import Health, Supervised, is_hung
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    SynchroscopeError,
    UnavailableError,
)
from tests.waiting import until

PATIENCE_SECONDS = 10.0


class Script:
    """A host whose steps do what the script says, one entry a step, and then nothing."""

    def __init__(self, entries: list[BaseException | None]) -> None:
        self.entries = entries
        self.built = 0
        self.closed = 0
        self.steps = 0
        self.proves = True

    def build(self) -> Script:
        self.built += 1
        return self

    def step(self, now: float) -> int:
        self.steps += 1
        entry = self.entries.pop(0) if self.entries else None
        if entry is not None:
            raise entry
        return 0

    def wait(self, seconds: float) -> None:
        time.sleep(0.001)

    def close(self) -> None:
        self.closed += 1

    @property
    def record(self) -> ProcessRecord | None:
        return None

    @property
    def is_proven(self) -> bool:
        return self.proves

    def healths(self) -> list[Health]:
        return []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(retrying, "PROBE_SECONDS", 0.05)


def run(script: Script) -> tuple[Supervised, list[SynchroscopeError]]:
    fatal: list[SynchroscopeError] = []
    supervised = Supervised("role", script.build, lambda role, error: fatal.append(error))
    supervised.start()
    return supervised, fatal


def end(supervised: Supervised) -> None:
    supervised.stop()
    supervised.join(PATIENCE_SECONDS)


def test_a_role_whose_server_goes_away_is_built_anew_each_time_until_it_is_back() -> None:
    script = Script([None] + [UnavailableError("kafka", "gone")] * 7)
    supervised, fatal = run(script)
    until(lambda: not script.entries and supervised.health().state == "running", "it to run")
    health = supervised.health()
    assert (script.built, script.closed, health.restarts, health.reason) == (8, 7, 7, "")
    assert not fatal
    end(supervised)
    assert (script.closed, supervised.health().state) == (8, "stopped")


def test_after_some_failures_the_circuit_opens_and_one_attempt_at_a_time_probes() -> None:
    script = Script([UnavailableError("kafka", "gone")] * 60)
    supervised, _ = run(script)
    until(lambda: supervised.health().circuit == "open", "the circuit to open")
    assert supervised.health().state == "waiting"
    assert "gone" in supervised.health().reason
    before, began = script.steps, time.monotonic()
    until(lambda: script.steps >= before + 3, "three attempts")
    assert time.monotonic() - began > 0.1
    end(supervised)


def test_steps_that_prove_nothing_end_no_row_of_failures_and_waits_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrying, "LONGEST_PROBE_SECONDS", 0.4)
    script = Script([None, UnavailableError("kafka", "full")] * 100)
    script.proves = False
    supervised, _ = run(script)
    failures: list[float] = []

    def seen() -> bool:
        if supervised.health().restarts > len(failures):
            failures.append(time.monotonic())
        return len(failures) == 7

    until(seen, "seven failures", pause_seconds=0.005)
    waits = [late - early for early, late in itertools.pairwise(failures)]
    assert min(waits[3:4]) > 0.09
    assert min(waits[4:5]) > 0.19
    assert min(waits[5:]) > 0.39
    script.entries.clear()
    script.proves = True
    until(lambda: supervised.health().circuit == "closed", "the circuit to close")
    end(supervised)


def test_a_role_that_stands_by_runs_though_it_proves_nothing() -> None:
    script = Script([])
    script.proves = False
    supervised, _ = run(script)
    until(lambda: script.steps > 3, "some steps")
    assert supervised.health().state == "running"
    end(supervised)
    assert script.built == 1


def test_losing_its_place_opens_no_circuit() -> None:
    script = Script([FencedError("another one")] * 20)
    supervised, _ = run(script)
    until(lambda: not script.entries and supervised.health().state == "running", "it to run")
    assert supervised.health().circuit == "closed"
    assert script.built == 21
    end(supervised)


def test_a_wrong_setting_ends_the_role_and_is_told() -> None:
    script = Script([ConfigurationError("partitions: 0")])
    supervised, fatal = run(script)
    until(lambda: fatal, "the error")
    assert "partitions" in str(fatal[0])
    supervised.join(PATIENCE_SECONDS)
    assert (supervised.health().state, script.closed) == ("failed", 1)


def test_a_defect_does_not_end_the_thread() -> None:
    script = Script([ZeroDivisionError("defect")])
    supervised, fatal = run(script)
    until(lambda: script.built == 2 and supervised.health().state == "running", "it to run again")
    assert not fatal
    end(supervised)


def test_a_role_that_cannot_be_built_is_tried_again() -> None:
    attempts = threading.Semaphore(0)
    script = Script([])

    def build() -> Script:
        attempts.release()
        if script.built < 3:
            script.built += 1
            raise UnavailableError("postgresql", "starting up")
        return script

    supervised = Supervised("role", build, lambda role, error: None)
    supervised.start()
    until(lambda: supervised.health().state == "running", "it to run")
    end(supervised)


@pytest.mark.parametrize(
    ("state", "stepped_at", "hung"),
    [
        ("running", 1_000.0, False),
        ("running", 1_000.0 - supervision.HUNG_SECONDS - 1, True),
        ("waiting", 0.0, False),
        ("starting", None, False),
    ],
)
def test_only_a_role_that_runs_and_does_not_come_round_hangs(
    state: supervision.State, stepped_at: float | None, hung: bool
) -> None:
    assert is_hung(Health("role", state, "", stepped_at, 0, "closed"), 1_000.0) is hung
