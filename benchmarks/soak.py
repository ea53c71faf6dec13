"""`make soak`: break everything, one thing at a time, under load, and see if anything is wrong.

Starts servers of its own, two processes of each role and a producer. Each round kills or pauses a
role's process, restarts a server, or changes what a replica's storage holds behind its back, and
measures how long it takes until an event accepted after that is in every replica and validated
there (after a restart of a server: since it answers again). At the end everything is held against
the event store, told as naively as possible:

* no acknowledged event is lost, and each partition holds the store's events in order;
* every replica holds exactly the facts that it must, and has applied each event once;
* findings name exactly what was changed behind a replica's back, and nothing else.

    python -m benchmarks.soak --rounds 30 --seed 7
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.local_servers import Servers
from benchmarks.soak_faults import Faults
from benchmarks.soak_load import Load
from benchmarks.soak_proof import check_findings, settle, verify
from benchmarks.soak_recovery import (
    START_LIMIT_SECONDS,
    Eyes,
    Violation,
    recovery_seconds,
    why_not_started,
)
from service.configuration import load_configuration
from service.distributed import DistributedPipeline
from synchroscope.errors import SynchroscopeError

FLOOR_SECONDS = 30.0

CONFIGURATION = """
name: soak
log:
  kafka:
    bootstrap_servers: ${SYNCHROSCOPE_KAFKA}
    client: CLIENT
    partitions: 4
    session_timeout_seconds: 3.0
event_store: {postgresql: {dsn: "${SYNCHROSCOPE_POSTGRESQL}"}}
views:
  risk: {fields: {financial: "*"}, public: {financial: [limit]}}
  offers: {fields: {financial: [limit], behavioural: "*"}}
projector: {scrub_interval_seconds: 0.01}
replicas:
  - {name: risk@1, redis: {url: "${SYNCHROSCOPE_REDIS}"}}
  - {name: risk@2, postgresql: {dsn: "${SYNCHROSCOPE_POSTGRESQL}"}}
  - {name: offers@1, redis: {url: "${SYNCHROSCOPE_REDIS}"}}
  - {name: offers@2, postgresql: {dsn: "${SYNCHROSCOPE_POSTGRESQL}"}}
"""


class NotStarted(Exception):  # noqa: N818 - it is what the report calls it
    """The processes did not come up; nothing was soaked."""


class Soak:
    """One run.

    Parameters
    ----------
    rounds, seed: How many rounds, and what decides about each.
    client: Which Kafka client the roles use.
    folder: Where servers, logs and the configuration file are.
    """

    def __init__(self, rounds: int, seed: int, client: str, folder: Path) -> None:
        self._rounds = rounds
        self._rng = random.Random(seed)
        self._seed = seed
        self._folder = folder
        self._servers = Servers(folder / "servers")
        self._path = folder / "soak.yaml"
        self._path.write_text(CONFIGURATION.replace("CLIENT", client), encoding="utf-8")
        self._ended = threading.Event()
        self._recoveries: dict[str, list[float]] = {}

    def run(self) -> dict[str, Any]:
        """Run all rounds; raise `Violation` for anything that is wrong."""
        say("starting servers")
        self._servers.run("up")
        os.environ.update(self._servers.addresses)
        configuration = load_configuration(self._path, os.environ)
        pipeline = DistributedPipeline(configuration, self._path, self._folder)
        keeper = threading.Thread(target=self._keep_alive, args=(pipeline,), daemon=True)
        keeper.start()
        load = Load(configuration, self._seed)
        eyes = Eyes(configuration)
        faults = Faults(configuration, pipeline, self._servers, eyes, self._rng)
        try:
            load.start()
            say(f"ready after {self._start_seconds(pipeline, eyes):.1f} s")
            for number, (name, act) in enumerate(self._plan(faults), 1):
                self._round(number, name, act, faults, eyes)
            load.end()
            say(f"{len(load.acknowledged):,} events acknowledged; proving everything")
            settle(pipeline, eyes, faults.damages)
            repeats = verify(configuration, load.acknowledged)
        finally:
            self._ended.set()
            keeper.join(5)
            eyes.close()
            with contextlib.suppress(SynchroscopeError):
                pipeline.close()
            self._servers.run("down", "--purge")
        return self._result(load, faults, repeats)

    def _start_seconds(self, pipeline: DistributedPipeline, eyes: Eyes) -> float:
        try:
            return recovery_seconds(eyes, time.monotonic(), START_LIMIT_SECONDS)
        except Violation as late:
            running = eyes.ask(
                lambda g: [record.process for record in g.board.running(time.time())], []
            )
            pids = {name: child.process.pid for name, child in pipeline.children.items()}
            raise NotStarted(f"{why_not_started(pids, running, self._folder)}\n{late}") from None

    def _keep_alive(self, pipeline: DistributedPipeline) -> None:
        while not self._ended.wait(0.2):
            for child in pipeline.children.values():
                child.keep_alive()

    def _plan(self, faults: Faults) -> Iterator[tuple[str, Callable[[], float]]]:
        kinds = faults.kinds()
        names: list[str] = []
        for _ in range(self._rounds):
            if not names:
                names = list(kinds)
                self._rng.shuffle(names)
            name = names.pop()
            yield name, kinds[name]

    def _round(
        self, number: int, name: str, act: Callable[[], float], faults: Faults, eyes: Eyes
    ) -> None:
        time.sleep(self._rng.uniform(0.0, 2.0))
        since = act()
        seconds = recovery_seconds(eyes, since)
        if faults.wait_for_paused():  # What it does when it comes back is checked below.
            recovery_seconds(eyes, time.monotonic())
        self._recoveries.setdefault(name, []).append(seconds)
        say(f"round {number}/{self._rounds}: {name}: {seconds:.1f} s")
        check_findings(eyes, faults.damages)

    def _result(self, load: Load, faults: Faults, repeats: int) -> dict[str, Any]:
        return {
            "rounds": self._rounds,
            "seed": self._seed,
            "events": len(load.acknowledged),
            "producer_waits": load.waits,
            "published_again": repeats,
            "server_downtime_seconds": sorted(faults.downtimes),
            "divergences_injected": len(faults.damages),
            "divergence_found_seconds": sorted(faults.found_after),
            "recovery_seconds": {n: sorted(s) for n, s in sorted(self._recoveries.items())},
        }


def say(text: str) -> None:
    """Print a line at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def print_table(result: Mapping[str, Any]) -> None:
    """Print recovery times, and the sums."""
    print(f"\n{'what':<20} {'times':>5} {'median s':>9} {'max s':>7}")
    for name, seconds in result["recovery_seconds"].items():
        print(
            f"{name:<20} {len(seconds):>5} {statistics.median(seconds):>9.1f} {max(seconds):>7.1f}"
        )
    found = result["divergence_found_seconds"]
    if found:
        print(
            f"{'change found after':<20} {len(found):>5} {statistics.median(found):>9.1f} "
            f"{max(found):>7.1f}"
        )
    print(
        f"\n{result['events']:,} events acknowledged, none lost, none applied twice; "
        f"{result['published_again']} published again and passed over; "
        f"{result['divergences_injected']} divergences injected, all found, no other finding"
    )


def main() -> None:
    """Run, print, and exit 1 when anything is wrong, 3 when the processes did not come up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--client", default="auto", help="auto, confluent or kafka-python")
    parser.add_argument("--output", type=Path, help="write the result as JSON to this file")
    parser.add_argument("--keep", type=Path, help="keep logs in this folder")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    say(f"seed {seed}")
    with contextlib.ExitStack() as stack:
        folder = options.keep
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        try:
            result = Soak(options.rounds, seed, options.client, folder).run()
        except Violation as violation:
            say(f"VIOLATION: {violation}")
            sys.exit(1)
        except NotStarted as failure:
            say(f"not started within {START_LIMIT_SECONDS:.0f} s, nothing was tried: {failure}")
            sys.exit(3)
    print_table(result)
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    slow = {n: max(s) for n, s in result["recovery_seconds"].items() if max(s) > FLOOR_SECONDS}
    if slow:
        say(f"slower than {FLOOR_SECONDS:.0f} s: {slow}")
        sys.exit(1)


if __name__ == "__main__":
    main()
