"""Faults by hand in the stores of `examples/attached`, over real servers, under load."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.accuracy_score import Run, Score
from benchmarks.attached_pipeline import Attached, Pipeline, pipeline, wait_for
from benchmarks.local_servers import own_servers

RATE = 300.0
USERS = 2_000
FOUND_SECONDS = 120.0
QUIET_SECONDS = 20.0
#: What the journal calls a fault -> the kinds that tell it.
TOLD_AS = {
    "dropped event": {"missed"},
    "dropped delete": {"missed"},
    "wrong subject": {"missed", "foreign"},
    "older write": {"reordered"},
    "bit flip": {"corrupted"},
    "truncated": {"corrupted"},
    "changed type": {"corrupted"},
    "out-of-band write": {"foreign"},
    "out-of-band delete": {"foreign"},
    "extra row": {"foreign"},
}
STORES = ("redis", "postgresql")


def attached_scores(rounds: int, seed: int) -> list[Score]:
    """Start servers and pipeline, inject every kind in both stores, and count what was told."""
    with tempfile.TemporaryDirectory(prefix="synchroscope-accuracy-") as name:
        folder = Path(name)
        with (
            own_servers(folder / "servers") as addresses,
            pipeline(*addresses, folder / "world") as world,
        ):
            return _watched(world, folder, rounds, seed)


def _watched(world: Pipeline, folder: Path, rounds: int, seed: int) -> list[Score]:
    world.produce(RATE, USERS, 86_400.0, seed=seed)
    attached = world.attach()
    wait_for(lambda: _is_consistent(attached), FOUND_SECONDS, "CONSISTENT")
    _wait(QUIET_SECONDS)
    quiet = list(attached.findings().values())
    faults = world.inject(
        folder / "journal.jsonl", "--rounds", str(rounds), "--seed", str(seed), seconds=3_600.0
    )

    def all_found() -> bool:
        told = list(attached.findings().values())
        return all(_of(told, fault) for fault in faults)

    with suppress(TimeoutError):  # The table says it.
        wait_for(all_found, FOUND_SECONDS, "every fault is found")
    _wait(QUIET_SECONDS)
    told = list(attached.findings().values())
    attached.stop()
    nothing = Score("no fault, lag of two consumers")
    nothing.add(Run(0, 0, 0, {}, 0, [], 0, 0, len(quiet)))
    victims = {(fault["store"], user) for fault in faults for user in fault["users"]}
    strange = [one for one in told if not victims & {(one["replica"], s) for s in one["subjects"]}]
    scores = [nothing]
    for kind in TOLD_AS:
        score = Score(kind)
        for fault in faults:
            if fault["kind"] == kind:
                score.add(_run(fault, told))
        scores.append(score)
    nothing.false_alarms += len(strange)
    return scores


def _run(fault: dict[str, Any], told: list[dict[str, Any]]) -> Run:
    named = _of(told, fault)
    right = [one for one in named if one["kind"] in TOLD_AS[fault["kind"]]]
    inside = 0
    widths: list[int] = []
    if right and isinstance(fault["position"], list):
        partition, offset = fault["position"]
        told_at = [one["first_bad_position"] for one in right]
        inside = {"partition": partition, "offset": offset} in told_at
        widths = [0]
    elif right and right[0]["since"] is not None:
        # The log does not have the moment, only where it ended before and after it.
        since = right[0]["since"]
        before, after = (ends[str(since["partition"])] for ends in fault["ends"])
        low = since["after_offset"] or 0
        inside = low <= after and since["by_offset"] >= before
        widths = [since["by_offset"] - low]
    return Run(
        injected=1,
        masked=0,
        found=bool(named),
        causes=dict(
            Counter(f"{one['kind']}: {one['evidence'].get('cause', '-')}" for one in named)
        ),
        inside=int(inside),
        widths=widths,
        findings=len(named),
        right=len(right),
        false_alarms=0,
    )


def _of(told: list[dict[str, Any]], fault: dict[str, Any]) -> list[dict[str, Any]]:
    users = set(fault["users"])
    return [
        one for one in told if one["replica"] == fault["store"] and users & set(one["subjects"])
    ]


def _is_consistent(attached: Attached) -> bool:
    return all(attached.verdict(name)[0] == "CONSISTENT" for name in STORES)


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= until, seconds + 10.0, "a while")
