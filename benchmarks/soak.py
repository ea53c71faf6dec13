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
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import redis
from msgspec import Struct

from benchmarks.local_servers import Servers
from chaos.oracle import Facts, all_events, facts_of_view
from pipeline.commands import Accepted, CommandSide, Repeated
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.log_kafka import KafkaLog
from service.configuration import Configuration, load_configuration
from service.distributed import DistributedPipeline
from service.gathering import Gatherer
from service.stores import open_database, open_storage, replica_plans
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import EVENTS
from synchroscope.replica import PartitionState
from validator.repeats import store_position

EVENTS_PER_SECOND = 150
BATCH_EVENTS = 5
BUSY_USERS = 400
QUIET_USERS = 40
"""Written once at the start: what is changed behind their back is found by the scrub alone."""
PAUSE_SECONDS = (1.0, 9.0)
RECOVERY_LIMIT_SECONDS = 60.0
START_LIMIT_SECONDS = 180.0
"""For the first start of all processes at once, which has nothing to recover from."""
SHOWN_LINES = 5
FINDING_LIMIT_SECONDS = 120.0
FLOOR_SECONDS = 30.0
LOOK_SECONDS = 0.05

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


class Violation(Exception):  # noqa: N818 - it is what the report calls it
    """Something that must not happen has happened."""


class NotStarted(Exception):  # noqa: N818 - as above
    """The processes did not come up; nothing was soaked."""


class Damage(Struct, frozen=True):
    """What was changed behind a replica's back."""

    replica: str
    context_type: str
    subject: str


# -- load --------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Produces until it is stopped; an event counts as acknowledged when its batch is stored."""

    def __init__(self, configuration: Configuration, seed: int) -> None:
        super().__init__(name="load", daemon=True)
        self._configuration = configuration
        self._rng = random.Random(seed)
        self._stop_wanted = threading.Event()
        self._number = 0
        self.acknowledged: set[str] = set()
        self.waits = 0
        self.failure: BaseException | None = None

    def end(self) -> None:
        """Stop producing and wait for the last batch."""
        self._stop_wanted.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        """Produce at a steady rate, and again what may or may not have been stored."""
        try:
            self._produce()
        except BaseException as error:
            self.failure = error

    def _produce(self) -> None:
        batch: list[bytes] = []
        side: CommandSide | None = None
        database = None
        due = time.monotonic()
        while not self._stop_wanted.is_set() or batch:
            if not batch:
                due = max(due + BATCH_EVENTS / EVENTS_PER_SECOND, time.monotonic() - 1.0)
                time.sleep(max(due - time.monotonic(), 0.0))
                batch = [self._event() for _ in range(BATCH_EVENTS)]
            try:
                if side is None:
                    database = open_database(self._configuration)
                    side = CommandSide(PostgresqlEventStore(database))
                with side.batch(time.time()) as open_batch:
                    outcomes = [open_batch.submit(event) for event in batch]
            except SynchroscopeError:
                self.waits += 1
                side = None
                if database is not None:
                    database.close()
                time.sleep(0.2)
                continue
            for outcome, event in zip(outcomes, batch, strict=True):
                if not isinstance(outcome, Accepted | Repeated):
                    raise Violation(f"refused: {outcome}")
                self.acknowledged.add(msgspec.json.decode(event)["eventId"])
            batch = []
        if database is not None:
            database.close()

    def _event(self) -> bytes:
        rng, number = self._rng, self._number
        self._number += 1
        if number < 2 * QUIET_USERS:
            user, kind = f"quiet-{number // 2}", ("financial", "behavioural")[number % 2]
        else:
            user = f"busy-{rng.randrange(BUSY_USERS)}"
            kind = rng.choice(("financial", "behavioural", "geographic"))
        fields = {"limit": rng.randrange(10**6), "score": rng.random()}
        targets = (
            None if number < 2 * QUIET_USERS else rng.choice((None, None, ["risk"], ["offers"]))
        )
        rules: dict[str, Any] = {"priority": rng.choice(("normal", "high"))}
        if targets is not None:
            rules["targetModels"] = targets
        return msgspec.json.encode(
            {
                "eventId": str(UUID(int=rng.getrandbits(128), version=4)),
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "eventType": "context.updated",
                "source": {"modelId": "soak", "instanceId": "1"},
                "contextType": kind,
                "contextDelta": {
                    "userId": user,
                    "updates": {name: {"current": value} for name, value in fields.items()},
                },
                "propagationRules": rules,
            }
        )


# -- looking -----------------------------------------------------------------------------------


class Eyes:
    """Looks at the pipeline from outside, whatever server is away at the moment."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._gatherer: Gatherer | None = None

    def ask(self, question: Callable[[Gatherer], Any], default: Any = None) -> Any:
        """Return the answer, or the default while a server is away."""
        try:
            if self._gatherer is None:
                self._gatherer = Gatherer(self._configuration)
            self._gatherer.board.refresh()
            return question(self._gatherer)
        except SynchroscopeError:
            self.close()
            return default

    def close(self) -> None:
        """Release the connections."""
        if self._gatherer is not None:
            self._gatherer.close()
            self._gatherer = None


def is_past(gatherer: Gatherer, store_position: int, heads: dict[int, int]) -> bool:
    """Say whether all up to there is published, applied everywhere and compared."""
    board = gatherer.board
    relay = board.relay()
    if relay is None or relay.position < store_position:
        return False
    if not heads:
        heads.update(gatherer.heads())
        return False
    folded = {n: p for s in board.standings() for n, p in s.positions.items()}
    statuses = board.statuses(time.time())
    return (
        all(folded.get(number, -1) >= head for number, head in heads.items())
        and all(
            status.position.get(number, -1) >= head
            for status in statuses
            for number, head in heads.items()
        )
        and all(status.verdict.value != "UNKNOWN" for status in statuses)
    )


def recovery_seconds(
    eyes: Eyes, since: float, limit_seconds: float = RECOVERY_LIMIT_SECONDS
) -> float:
    """Return the time from `since` until an event accepted after now is validated everywhere."""
    position: int | None = None
    heads: dict[int, int] = {}
    while time.monotonic() - since < limit_seconds:
        if position is None:
            before = eyes.ask(lambda g: g.store.count())
            if before is not None:
                position = before + 1
        elif eyes.ask(partial(is_past, store_position=position, heads=heads), False):
            return time.monotonic() - since
        time.sleep(LOOK_SECONDS)
    raise Violation(
        f"not recovered after {limit_seconds:.0f} s: {eyes.ask(describe)}; "
        f"wanted: position {position}, heads {heads}"
    )


def why_not_started(pids: Mapping[str, int], running: Iterable[str], folder: Path) -> str:
    """Say which processes have not told that they run, with the last lines of their logs.

    A relay or a worker that stands by does not tell; of those too the log shows how they do.
    """
    told = {process.split("-")[-2] for process in running if process.count("-") >= 2}
    silent = [name for name, pid in pids.items() if str(pid) not in told]
    parts = [f"silent: {', '.join(silent) or 'none'}"]
    for name in silent or pids:
        path = folder / f"{name}.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        lines = text.splitlines()[-SHOWN_LINES:] or ["(its log is empty)"]
        parts.append("\n".join([f"{name}:", *(f"    {line}" for line in lines)]))
    return "\n".join(parts)


def describe(gatherer: Gatherer) -> dict[str, Any]:
    """Return where everything stands."""
    now, board = time.time(), gatherer.board
    return {
        "heads": gatherer.heads(),
        "store": gatherer.store.count(),
        "relay": board.relay(),
        "reference": {n: p for s in board.standings() for n, p in s.positions.items()},
        "replicas": {s.name: (s.verdict.value, s.reason, s.position) for s in board.statuses(now)},
        "processes": [(r.process, r.role, r.partitions) for r in board.running(now)],
    }


# -- rounds ------------------------------------------------------------------------------------


class Soak:
    """One run.

    Parameters
    ----------
    rounds, seed: How many rounds, and what decides about each.
    client: Which Kafka client the roles use.
    """

    def __init__(self, rounds: int, seed: int, client: str, folder: Path) -> None:
        self._rounds = rounds
        self._rng = random.Random(seed)
        self._seed = seed
        self._folder = folder
        self._servers = Servers(folder / "servers")
        path = folder / "soak.yaml"
        path.write_text(CONFIGURATION.replace("CLIENT", client), encoding="utf-8")
        self._path = path
        self.recoveries: dict[str, list[float]] = {}
        self.damages: list[Damage] = []
        self.found_after: list[float] = []
        self.downtimes: list[float] = []
        self._waker: threading.Timer | None = None

    def run(self) -> dict[str, Any]:
        """Run all rounds; raise `Violation` for anything that is wrong."""
        say("starting servers")
        self._servers.run("up")
        os.environ.update(self._servers.addresses)
        self._configuration = load_configuration(self._path, os.environ)
        pipeline = DistributedPipeline(self._configuration, self._path, self._folder)
        keeper = threading.Thread(target=self._keep_alive, args=(pipeline,), daemon=True)
        self._ended = threading.Event()
        keeper.start()
        load = Load(self._configuration, self._seed)
        self._eyes = Eyes(self._configuration)
        try:
            load.start()
            say(f"ready after {self._start_seconds(pipeline):.1f} s")
            for number, (name, act) in enumerate(self._plan(pipeline), 1):
                self._round(number, name, act)
            load.end()
            say(f"{len(load.acknowledged):,} events acknowledged; proving everything")
            self._settle(pipeline)
            self._verify(load)
        finally:
            self._ended.set()
            keeper.join(5)
            self._eyes.close()
            with contextlib.suppress(SynchroscopeError):
                pipeline.close()
            self._servers.run("down", "--purge")
        return self._result(load)

    def _start_seconds(self, pipeline: DistributedPipeline) -> float:
        try:
            return recovery_seconds(self._eyes, time.monotonic(), START_LIMIT_SECONDS)
        except Violation as late:
            running = self._eyes.ask(
                lambda g: [record.process for record in g.board.running(time.time())], []
            )
            pids = {name: child.process.pid for name, child in pipeline.children.items()}
            raise NotStarted(f"{why_not_started(pids, running, self._folder)}\n{late}") from None

    def _keep_alive(self, pipeline: DistributedPipeline) -> None:
        while not self._ended.wait(0.2):
            for child in pipeline.children.values():
                child.keep_alive()

    def _plan(self, pipeline: DistributedPipeline) -> Iterator[tuple[str, Callable[[], float]]]:
        def kill(role: str) -> Callable[[], float]:
            return lambda: self._kill(pipeline, role)

        def pause(role: str) -> Callable[[], float]:
            return lambda: self._pause(pipeline, role)

        def restart(server: str, *how: str) -> Callable[[], float]:
            return lambda: self._restart(server, *how)

        kinds: dict[str, Callable[[], float]] = {}
        for role in ("relay", "projector", "validator"):
            kinds[f"kill {role}"] = kill(role)
            kinds[f"pause {role}"] = pause(role)
        for server in ("kafka", "postgres", "redis"):
            kinds[f"restart {server}"] = restart(server)
            kinds[f"kill {server}"] = restart(server, "--kill")
        kinds["change redis"] = lambda: self._damage("redis")
        kinds["change postgres"] = lambda: self._damage("postgresql")
        names: list[str] = []
        for _ in range(self._rounds):
            if not names:
                names = list(kinds)
                self._rng.shuffle(names)
            name = names.pop()
            yield name, kinds[name]

    def _round(self, number: int, name: str, act: Callable[[], float]) -> None:
        time.sleep(self._rng.uniform(0.0, 2.0))
        since = act()
        seconds = recovery_seconds(self._eyes, since)
        if self._waker is not None:
            self._waker.join()  # What a paused process does when it comes back is checked below.
            self._waker = None
            recovery_seconds(self._eyes, time.monotonic())
        self.recoveries.setdefault(name, []).append(seconds)
        say(f"round {number}/{self._rounds}: {name}: {seconds:.1f} s")
        self._check_findings()

    def _victim(self, pipeline: DistributedPipeline, role: str) -> subprocess.Popen[bytes]:
        """Choose a process, where one is active the active one, mostly."""
        children = [c for name, c in pipeline.children.items() if name.startswith(role)]
        active = self._eyes.ask(
            lambda g: [r.process for r in g.board.running(time.time(), role) if r.partitions], []
        )
        chosen = [c for c in children if any(f"-{c.process.pid}-" in name for name in active)]
        return self._rng.choice(chosen or children).process

    def _kill(self, pipeline: DistributedPipeline, role: str) -> float:
        self._victim(pipeline, role).send_signal(signal.SIGKILL)
        return time.monotonic()

    def _pause(self, pipeline: DistributedPipeline, role: str) -> float:
        victim = self._victim(pipeline, role)
        since = time.monotonic()
        victim.send_signal(signal.SIGSTOP)
        self._waker = threading.Timer(
            self._rng.uniform(*PAUSE_SECONDS), victim.send_signal, (signal.SIGCONT,)
        )
        self._waker.start()
        return since

    def _restart(self, server: str, *how: str) -> float:
        """Recovery is counted from when the server answers again: until then all must wait."""
        since = time.monotonic()
        self._servers.run("restart", server, *how)
        self.downtimes.append(time.monotonic() - since)
        return time.monotonic()

    # -- damage --------------------------------------------------------------------------------

    def _damage(self, kind: str) -> float:
        """Change a fact that nobody writes, wait for the finding that names it, put it back."""
        plans = [p for p in replica_plans(self._configuration) if getattr(p.section, kind)]
        plan = self._rng.choice(plans)
        context_type = self._rng.choice(sorted(set(plan.view.fields) - {"geographic"}))
        subject = f"user:quiet-{self._rng.randrange(QUIET_USERS)}"
        damage = Damage(plan.name, context_type, subject)
        self.damages.append(damage)
        since = time.monotonic()
        undo = self._change_redis(damage) if kind == "redis" else self._change_postgres(damage)
        while not self._is_found(damage):
            if time.monotonic() - since > FINDING_LIMIT_SECONDS:
                raise Violation(f"not found after {FINDING_LIMIT_SECONDS:.0f} s: {damage}")
            time.sleep(LOOK_SECONDS)
        self.found_after.append(time.monotonic() - since)
        undo()
        since = time.monotonic()
        while self._is_found(damage):
            if time.monotonic() - since > FINDING_LIMIT_SECONDS:
                raise Violation(f"not resolved after it was put back: {damage}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic()

    def _change_redis(self, damage: Damage) -> Callable[[], None]:
        client = redis.Redis.from_url(self._servers.addresses["SYNCHROSCOPE_REDIS"])
        key = f"{{synchroscope:{damage.replica}}}:a:{damage.context_type}:{damage.subject}"
        before: Any = client.hget(key, "f:limit")
        if before is None:
            raise Violation(f"{key} has no limit")
        client.hset(key, "f:limit", b"-1")

        def undo() -> None:
            client.hset(key, "f:limit", before)
            client.close()

        return undo

    def _change_postgres(self, damage: Damage) -> Callable[[], None]:
        connection = psycopg.connect(
            self._servers.addresses["SYNCHROSCOPE_POSTGRESQL"], autocommit=True
        )
        place = (damage.replica, damage.context_type, damage.subject)
        where = "WHERE replica = %s AND context_type = %s AND subject = %s"
        table = "synchroscope.replica_aggregates"
        row = connection.execute(f"SELECT fields::text FROM {table} {where}", place).fetchone()
        if row is None:
            raise Violation(f"no row of {place}")
        fields = json.loads(row[0])
        fields["limit"][0] = -1
        change = f"UPDATE {table} SET fields = %s::json {where}"
        connection.execute(change, (json.dumps(fields), *place))

        def undo() -> None:
            connection.execute(change, (row[0], *place))
            connection.close()

        return undo

    def _is_found(self, damage: Damage) -> bool:
        def named(gatherer: Gatherer) -> bool:
            return any(
                finding.state != "resolved" and matches(finding, damage)
                for finding in gatherer.account(time.time()).findings
            )

        return bool(self._eyes.ask(named, False))

    def _check_findings(self) -> None:
        findings = self._eyes.ask(lambda g: list(g.account(time.time()).findings), [])
        for finding in findings:
            if not any(matches(finding, damage) for damage in self.damages):
                raise Violation(f"a finding of nothing: {finding}")

    # -- the end -------------------------------------------------------------------------------

    def _settle(self, pipeline: DistributedPipeline) -> None:
        deadline = time.monotonic() + 2 * RECOVERY_LIMIT_SECONDS
        while not (pipeline.is_caught_up() and pipeline.is_settled()):
            if time.monotonic() > deadline:
                raise Violation("the end was not proven in time")
            if pipeline.is_caught_up():
                pipeline.ask_for_proof(time.time())
            time.sleep(LOOK_SECONDS)
        self._check_findings()
        for status in pipeline.account(time.time(), final=True).statuses:
            if status.verdict.value != "CONSISTENT":
                raise Violation(f"{status.name} is {status.verdict.value}: {status.reason}")

    def _verify(self, load: Load) -> None:
        with contextlib.closing(open_database(self._configuration)) as database:
            events = all_events(PostgresqlEventStore(database))
        stored = {str(event.event_id) for event in events}
        if load.acknowledged - stored:
            raise Violation(f"lost: {sorted(load.acknowledged - stored)[:3]}")
        self._verify_log([str(event.event_id) for event in events])
        for plan in replica_plans(self._configuration):
            wanted = facts_of_view(events, plan.view)
            relevant = sum(event.context_type in plan.view.fields for event in events)
            self._verify_replica(plan.name, wanted, relevant)

    def _verify_log(self, ids: list[str]) -> None:
        places: dict[str, int] = {}
        self.repeats = 0
        with contextlib.closing(KafkaLog(self._configuration.log.kafka)) as log:
            for number in range(log.partitions(EVENTS)):
                last = 0
                position, head = 0, log.head(EVENTS, number)
                while position < head:
                    batch = log.read(EVENTS, number, position, 1_000)
                    for record in batch.records:
                        place = store_position(record) or 0
                        if place <= last:
                            self.repeats += 1
                            continue
                        last = place
                        places[(record.header("ce_id") or b"").decode()] = place
                    if batch.position == position:
                        log.wait(0.05)
                    position = batch.position
        if [places.get(one) for one in ids] != list(range(1, len(ids) + 1)):
            raise Violation("the log does not hold the store's events in the store's order")

    def _verify_replica(self, name: str, wanted: Facts, relevant: int) -> None:
        plan = next(p for p in replica_plans(self._configuration) if p.name == name)
        with contextlib.closing(open_storage(plan)) as storage:
            held: Facts = {}
            applied = 0
            for number in range(self._configuration.log.kafka.partitions):
                state = storage.partition_state(number)
                if state is not None:
                    applied += msgspec.msgpack.decode(state, type=PartitionState).applied
                for bucket in range(2):
                    for record in storage.scan(number, bucket, 1):
                        for field, (value, _) in record.fields.items():
                            if value is not None:
                                held[record.context_type, record.subject, field] = value
        if held != wanted:
            odd = {k for k in held.keys() | wanted.keys() if held.get(k) != wanted.get(k)}
            raise Violation(
                f"{name}: {len(odd)} facts are not what they must be: {sorted(odd)[:3]}"
            )
        if applied != relevant:
            raise Violation(f"{name} applied {applied} events, {relevant} concern its view")

    def _result(self, load: Load) -> dict[str, Any]:
        return {
            "rounds": self._rounds,
            "seed": self._seed,
            "events": len(load.acknowledged),
            "producer_waits": load.waits,
            "published_again": self.repeats,
            "server_downtime_seconds": sorted(self.downtimes),
            "divergences_injected": len(self.damages),
            "divergence_found_seconds": sorted(self.found_after),
            "recovery_seconds": {n: sorted(s) for n, s in sorted(self.recoveries.items())},
        }


def matches(finding: Any, damage: Damage) -> bool:
    """Say whether a finding is about that damage."""
    return (
        finding.replica == damage.replica
        and finding.context_type == damage.context_type
        and finding.subjects == [damage.subject]
        and finding.kind in ("corrupted", "stale")
    )


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
