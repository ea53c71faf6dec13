"""The whole path: command side, PostgreSQL, relay, Kafka, projector, Redis; each role a process.

The producer's events are due at a steady rate; it submits together what became due while it stored
what was due before. An event counts from when it was due until its facts are stored in Redis.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from benchmarks.measuring import Row, Settings
from benchmarks.parts import VIEW, corpus
from benchmarks.servers_bare import LIMIT_SECONDS, Stuck
from benchmarks.servers_propagation import WARM_SECONDS, Paced, Seen, Witness, pace
from benchmarks.servers_world import (
    CLIENTS,
    World,
    due_times,
    latencies,
    latency_rows,
    processes,
    together,
)
from examples.retail.views import RULES
from pipeline.commands import Accepted, CommandSide
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.kafka_topics import delete_topics, ensure_topics
from service.configuration import Configuration, load_configuration
from service.hosts import Identity
from service.projector_host import ProjectorHost
from service.relay_host import RelayHost
from service.stores import migrate, open_database, replica_plans
from service.supervision import IDLE_SECONDS, Host
from synchroscope.event import decode_event, encode_event

RATES = {100: 6.0, 1_000: 6.0}
MOST_EVENTS = 500
"""The most that the producer submits in one transaction."""

CONFIGURATION = """
name: {mark}
log: {{kafka: {{bootstrap_servers: "{kafka}", client: {client}, topic_prefix: {mark}.}}}}
event_store: {{postgresql: {{dsn: "{postgresql}", schema: {schema}}}}}
views: {{{model}: {{fields: {fields}}}}}
replicas: [{{name: "{model}@1", redis: {{url: "{redis}", prefix: {mark}}}}}]
"""


def write_configuration(world: World, client: str, path: Path) -> None:
    """Write the file that every role's process is given."""
    mark = f"bench-{uuid4().hex[:12]}"
    fields = ", ".join(f"{kind}: [{', '.join(names)}]" for kind, names in VIEW.fields.items())
    text = CONFIGURATION.format(
        mark=mark,
        schema=mark.replace("-", "_"),
        client=client,
        kafka=world.kafka,
        postgresql=world.postgresql,
        redis=world.redis,
        model=VIEW.model,
        fields=f"{{{fields}}}",
    )
    path.write_text(text, encoding="utf-8")


@contextmanager
def installation(world: World, client: str) -> Iterator[Path]:
    """Prepare topics and tables of an installation and yield its configuration file."""
    with TemporaryDirectory(prefix="synchroscope-bench-") as folder:
        path = Path(folder) / "synchroscope.yaml"
        write_configuration(world, client, path)
        configuration = load_configuration(path, os.environ)
        ensure_topics(configuration.log.kafka)
        migrate(configuration)
        try:
            yield path
        finally:
            delete_topics(configuration.log.kafka)


# -- the tasks of the three processes --------------------------------------------------------------


def produce(path: Path, events: Sequence[bytes], rate: float) -> Paced:
    configuration = load_configuration(path, os.environ)
    with closing(open_database(configuration)) as database:
        side = CommandSide(PostgresqlEventStore(database), RULES)

        def submit(due: Sequence[bytes]) -> None:
            with side.batch(time.time()) as batch:
                outcomes = batch.submit_all(due)
            refused = [one for one in outcomes if not isinstance(one, Accepted)]
            if refused:
                raise Stuck(f"not accepted: {refused[0]}")

        side.batch(time.time())
        together()
        return pace(events, rate, submit, MOST_EVENTS)


def step(host: Host) -> None:
    if not host.step(time.time()):
        host.wait(IDLE_SECONDS)


def relay(path: Path, ended: Path) -> None:
    """Run the role until the file `ended` is there."""
    with closing(RelayHost(load_configuration(path, os.environ), identity("relay"))) as host:
        while host.record is None:
            step(host)
        together()
        while not ended.exists():
            step(host)


def project(path: Path, numbers: Mapping[str, int], ended: Path) -> Seen:
    """Run the role until all these events, by ID, are stored; make the file `ended` then."""
    configuration = load_configuration(path, os.environ)
    try:
        with closing(projector_host(configuration)) as host:
            (projector,) = host.projectors.values()
            witness = Witness(projector._events)
            # The host has no setting for it: nobody but a benchmark asks when each was stored.
            projector._events, projector._clock = witness, witness.clock
            while len(host.division.owned()) < configuration.log.kafka.partitions:
                step(host)
            together()
            seen: Seen = {}
            deadline = time.monotonic() + LIMIT_SECONDS
            while len(seen) < len(numbers):
                step(host)
                note(witness, numbers, seen)
                if time.monotonic() > deadline:
                    raise Stuck(f"{len(numbers) - len(seen)} events were not stored")
        return seen
    finally:
        ended.touch()


def note(witness: Witness, numbers: Mapping[str, int], seen: Seen) -> None:
    """Take from the witness when which event was stored."""
    for at, _, records in witness.commits:
        for record in records:
            number = numbers.get((record.header("ce_id") or b"").decode())
            if number is not None:  # Not one that the command side made up itself.
                seen.setdefault(number, at)
    witness.commits.clear()


def identity(role: str) -> Identity:
    return Identity(f"{role}-{uuid4().hex}")


def projector_host(configuration: Configuration) -> ProjectorHost:
    plans = replica_plans(configuration)
    return ProjectorHost(configuration, identity("projector"), plans, divided=True)


# -- rows --------------------------------------------------------------------------------------


def path_rows(settings: Settings, world: World) -> Iterator[Row]:
    """From a command that is due to its facts in Redis."""
    submitted = [encode_event(event) for one in corpus(settings.rows).batches for event in one]
    with processes(3) as pool:
        for client in CLIENTS:
            for rate, seconds in RATES.items():
                events = submitted[: int(rate * (3.0 if settings.quick else seconds))]
                numbers = {str(decode_event(e).event_id): n for n, e in enumerate(events)}
                taken = []
                for _ in range(settings.few_repeats):
                    with installation(world, client) as path:
                        ended = path.parent / "ended"
                        paced, _, seen = pool.run(
                            (produce, path, events, float(rate)),
                            (relay, path, ended),
                            (project, path, numbers, ended),
                        )
                    due = due_times(paced.start, rate, len(events))
                    taken.append(latencies(seen, due, round(rate * WARM_SECONDS)))
                name = f"command to Redis, {client}, {rate:,}/s"
                yield from latency_rows(name, taken, "no limit: p95 below 100 ms is wanted", [])
