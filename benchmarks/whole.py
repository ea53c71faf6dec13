"""Rows of the whole embedded pipeline: what being watched costs, and how late a replica is."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.measuring import Row, Seconds, Settings, forget, rates_row, spread
from benchmarks.parts import DATA, corpus
from examples.retail.rows import COLUMNS, retail_files
from examples.retail.stream import RetailProducer
from examples.retail.views import RULES
from pipeline.commands import CommandSide
from pipeline.event_store import EventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_sqlite import SqliteLog
from pipeline.projector import Projector
from pipeline.relay import Relay
from pipeline.sqlite_database import SqliteDatabase
from service.demo import BATCH_ROWS, IDLE_SECONDS, REFRESH_SECONDS, REPLICAS
from service.embedded import EmbeddedPipeline, make_storage
from service.measuring import measurements_of
from synchroscope.event import ContextEvent, decode_wire
from synchroscope.latency import Latencies
from synchroscope.ports import (
    CONTROL_TOPICS,
    EVENTS,
    AggregateKey,
    AggregateRecord,
    Progress,
    Record,
    ReplicaStorage,
    Role,
)
from synchroscope.replica import Change, Replica
from synchroscope.report import Explanation
from synchroscope.view import View

PARTITIONS = 4
PACED_RATES = (200, 1_000)
PACED_SECONDS = 5.0
MAXIMUM_PACED_BATCH = 200


class Producer(Protocol):
    """What makes events."""

    @property
    def done(self) -> bool:
        """Whether all are made."""
        ...

    def step(self, now: float) -> Progress:
        """Make some."""
        ...


class Pipeline(Protocol):
    """What carries them."""

    store: EventStore
    projectors: dict[str, Projector]

    def step(self) -> int:
        """Step every role once."""
        ...

    def is_done(self) -> bool:
        """Say whether everything that was produced has arrived (and was judged)."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class PlainReplica(Replica):
    """Keeps facts, sequence and position in one transaction: no digest, audit, journal, marker.

    What a careful team would write without Synchroscope: it still drops repeated sequences.
    """

    def __init__(self, name: str, view: View, storage: ReplicaStorage) -> None:
        super().__init__(name, view, storage, incarnation="plain")
        self._positions: dict[int, int] = {}

    def position(self, partition: int) -> int:
        """Return the next offset to read; every run begins with an empty storage."""
        return self._positions.get(partition, 0)

    def apply(self, partition: int, records: Sequence[Record], position: int) -> list[Change]:
        """Apply records and move to `position`."""
        changed: dict[AggregateKey, AggregateRecord] = {}
        model = self.view.model
        for record in records:
            event = decode_wire(record.value)
            wanted = self.view.fields.get(event.context_type)
            if wanted is None:
                continue
            key = (event.context_type, event.subject)
            aggregate = changed.get(key)
            if aggregate is None:
                stored = self._storage.get(key)
                if stored is None:
                    aggregate = AggregateRecord(key[0], key[1], partition, 0, {}, [])
                else:
                    aggregate = stored.copy()
            sequence = event.sequence or aggregate.sequence + 1
            if sequence <= aggregate.sequence:
                continue
            aggregate.sequence = sequence
            targets = event.propagation_rules.target_models
            is_named = targets is None or model in targets
            for name, update in event.context_delta.updates.items():
                if not wanted or name in wanted:
                    aggregate.fields[name] = (update.current if is_named else None, sequence)
            changed[key] = aggregate
        self._storage.commit(changed, partition, str(position).encode())
        self._positions[partition] = position
        return []


class PlainProjector(Projector):
    """Polls and applies: no reports, no answers, no scrub."""

    def _answer(self) -> list[Explanation]:
        return []

    def _is_report_due(self, now: float) -> bool:
        return False


class PlainPipeline:
    """The same parts in the same process, with nobody watching."""

    def __init__(self, folder: Path) -> None:
        self._database = SqliteDatabase(folder / "synchroscope.db")
        self.log = SqliteLog(
            self._database, {EVENTS: PARTITIONS, **dict.fromkeys(CONTROL_TOPICS, 1)}
        )
        self.store: EventStore = SqliteEventStore(self._database)
        self._relay = Relay(self.store, self.log)
        self._storages = {spec.name: make_storage(folder, spec) for spec in REPLICAS}
        self.projectors: dict[str, Projector] = {
            spec.name: PlainProjector(
                PlainReplica(spec.name, spec.view, self._storages[spec.name]),
                self.log,
                scrub_interval_seconds=None,
                clock=time.time,
            )
            for spec in REPLICAS
        }

    def step(self) -> int:
        """Step every role once."""
        roles: list[Role] = [self._relay, *self.projectors.values()]
        return sum(role.step(time.time()).consumed for role in roles)

    def is_done(self) -> bool:
        """Say whether everything that was produced has arrived."""
        return self._relay.position == self.store.count() and all(
            projector.replica.position(partition) == self.log.head(EVENTS, partition)
            for projector in self.projectors.values()
            for partition in range(PARTITIONS)
        )

    def close(self) -> None:
        """Release what is held."""
        for storage in self._storages.values():
            storage.close()
        self._database.close()


class ReportingPipeline:
    """The embedded pipeline without its validator: replicas keep digests and report them."""

    def __init__(self, folder: Path) -> None:
        self._embedded = EmbeddedPipeline(folder, REPLICAS, partitions=PARTITIONS)
        self.store: EventStore = self._embedded.store
        self.projectors = self._embedded.projectors
        self._roles: list[Role] = [self._embedded.relay, *self.projectors.values()]

    def step(self) -> int:
        """Step every role but the validator once."""
        return sum(role.step(time.time()).consumed for role in self._roles)

    def is_done(self) -> bool:
        """Say whether everything that was produced has arrived."""
        return self._embedded.is_caught_up()

    def close(self) -> None:
        """Release what is held."""
        self._embedded.close()


class FullPipeline:
    """The embedded pipeline as the demo runs it, with a snapshot of the metrics twice a second."""

    def __init__(self, folder: Path) -> None:
        self._embedded = EmbeddedPipeline(folder, REPLICAS, partitions=PARTITIONS)
        self.store: EventStore = self._embedded.store
        self.projectors = self._embedded.projectors
        self._measured_at = 0.0

    def step(self) -> int:
        """Step every role once, and take a snapshot when it is time."""
        consumed = self._embedded.step()
        now = time.monotonic()
        if now - self._measured_at >= REFRESH_SECONDS:
            self._measured_at = now
            measurements_of(self._embedded.account(time.time()))
        return consumed

    def is_done(self) -> bool:
        """Say whether everything has arrived and was folded; the demo's closing scrub is not."""
        validator = self._embedded.validator
        return self._embedded.is_caught_up() and all(
            validator.reference.position(partition) == head
            for partition, head in self._embedded.heads().items()
        )

    def close(self) -> None:
        """Release what is held."""
        self._embedded.close()


class PacedProducer:
    """Submits events at a steady rate; latency counts from when each was due, not from its turn."""

    def __init__(self, events: Sequence[ContextEvent], store: EventStore, rate: float) -> None:
        self._events = events
        self._commands = CommandSide(store, RULES)
        self._rate = rate
        self._started: float | None = None
        self._place = 0

    @property
    def done(self) -> bool:
        """Whether all are submitted."""
        return self._place >= len(self._events)

    def step(self, now: float) -> Progress:
        """Submit what is due; the batch is stamped with the time at which its first was."""
        if self._started is None:
            self._started = now
        due = min(int((now - self._started) * self._rate) + 1, self._place + MAXIMUM_PACED_BATCH)
        events = self._events[self._place : due]
        if not events:
            return Progress(0)
        with self._commands.batch(self._started + self._place / self._rate) as batch:
            for event in events:
                batch.submit(event)
        self._place += len(events)
        return Progress(len(events))


Variant = Callable[[Path], Pipeline]
ProducerOf = Callable[[EventStore], Producer]


def run(variant: Variant, producer_of: ProducerOf) -> tuple[Seconds, int, Latencies]:
    """Produce everything through a pipeline; return time taken, events made, and latencies."""
    with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder:
        pipeline = variant(Path(folder))
        try:
            producer = producer_of(pipeline.store)
            forget()
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            while not (producer.done and pipeline.is_done()):
                if not producer.step(time.time()).consumed + pipeline.step():
                    time.sleep(IDLE_SECONDS)
            taken = Seconds(time.process_time() - cpu, time.perf_counter() - wall)
            latencies = Latencies()
            for projector in pipeline.projectors.values():
                latencies.merge(projector.latencies)
            return taken, pipeline.store.count(), latencies
        finally:
            pipeline.close()


@contextmanager
def retail_folder(rows: int | None) -> Iterator[Path]:
    """Give a folder with the first `rows` invoice lines (None: the shipped one)."""
    if rows is None:
        yield DATA
        return
    with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder:
        lines = [line for file in retail_files(DATA) for line in file.read_text().splitlines()]
        kept = [line for line in lines if not line.startswith(COLUMNS[0])][:rows]
        (Path(folder) / "retail.csv").write_text("\n".join([",".join(COLUMNS), *kept]) + "\n")
        yield Path(folder)


def pipeline_rows(settings: Settings) -> list[Row]:
    """Three variants of the whole pipeline in turn, at full speed; then latencies at paces."""
    rows = settings.rows or (1_500 if settings.quick else None)
    taken: dict[Variant, list[Seconds]] = {
        PlainPipeline: [],
        ReportingPipeline: [],
        FullPipeline: [],
    }
    latencies = {variant: Latencies() for variant in taken}
    count = 0
    with retail_folder(rows) as folder:

        def at_full_speed(store: EventStore) -> Producer:
            return RetailProducer(folder, CommandSide(store, RULES), store, batch_rows=BATCH_ROWS)

        for _ in range(settings.few_repeats):
            for variant in taken:
                seconds, count, seen = run(variant, at_full_speed)
                taken[variant].append(seconds)
                latencies[variant].merge(seen)
    bare, reporting, full = taken[PlainPipeline], taken[ReportingPipeline], taken[FullPipeline]
    limit = "same parts, nobody watching"
    found = [
        rates_row("pipeline, digests and reports", count, reporting, limit, bare),
        rates_row("pipeline, all with validator", count, full, limit, bare),
        latency_row("latency, full speed", latencies[FullPipeline], latencies[PlainPipeline]),
    ]
    events = [event for batch in corpus(settings.rows).batches for event in batch]
    for rate in PACED_RATES:
        seconds_each = 1.5 if settings.quick else PACED_SECONDS
        made = events[: int(rate * seconds_each)]

        def paced(
            store: EventStore, made: Sequence[ContextEvent] = made, rate: int = rate
        ) -> Producer:
            return PacedProducer(made, store, rate)

        _, _, plain = run(PlainPipeline, paced)
        _, _, watched = run(FullPipeline, paced)
        found.append(latency_row(f"latency, {rate} events/s", watched, plain))
    return found


def latency_row(name: str, ours: Latencies, theirs: Latencies) -> Row:
    """Return a row of percentiles: p95, and p50 and p99 among the notes."""
    mine, other = ours.percentile(0.95) or 0.0, theirs.percentile(0.95) or 0.0
    notes = {
        f"{whose}_p{round(100 * share)}_seconds": latencies.percentile(share) or 0.0
        for whose, latencies in (("ours", ours), ("limit", theirs))
        for share in (0.5, 0.95, 0.99)
    }
    row = Row(
        name=f"{name}, p95",
        unit="s",
        better="lower",
        ours=spread([mine]),
        limit="same parts, nobody watching",
        theirs=spread([other]),
        ratio=mine / other if other else None,
        notes=notes,
    )
    return msgspec.structs.replace(row, wall_ratio=row.ratio)
