"""What batching, compression and the producer's settings are worth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from uuid import uuid4

from benchmarks.measuring import Row, Seconds, Settings, Side, Work, in_turn, rates_row, spread
from benchmarks.parts import corpus
from benchmarks.servers_bare import producer
from benchmarks.servers_throughput import append_all
from benchmarks.servers_world import CLIENTS, World, retail_records, topics
from examples.retail.views import RULES
from pipeline.commands import CommandSide
from pipeline.event_store import Append, EventStore
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.kafka_settings import Compression
from pipeline.log_kafka import KafkaLog
from pipeline.postgresql_database import PostgresqlDatabase
from synchroscope.event import ContextEvent
from synchroscope.ports import DEAD_LETTERS, NewRecord

BATCHES = (50, 500, 1_000)
#: A batch of one is slow: fewer events say the same.
SINGLE_EVENTS = 1_000
STORED_EVENTS = 3_000
CODECS: tuple[Compression, ...] = ("lz4", "snappy", "zstd")
CODEC_PASSES = {"confluent": 4, "kafka-python": 1}


def of_batches(
    name: str, events: int, make: Callable[[int, int], Side], settings: Settings
) -> list[Row]:
    """Return a row for each size of batch, beside batches of one; `make` takes count and size."""
    few = min(SINGLE_EVENTS, events)
    sides = [make(few, 1), *(make(events, size) for size in BATCHES)]
    single, *batched = in_turn(sides, settings.few_repeats)
    # As if they had been as many: what counts is the time an event.
    scaled = [Seconds(one.cpu * events / few, one.wall * events / few) for one in single]
    return [
        rates_row(f"{name}, batches of {size:,}", events, taken, "batches of 1", scaled)
        for size, taken in zip(BATCHES, batched, strict=True)
    ]


def appending(
    world: World, client: str, records: Sequence[NewRecord], count: int, size: int
) -> Side:
    """Return a side that appends so many records as the relay does, in batches of that size."""

    @contextmanager
    def side() -> Iterator[Work]:
        with topics(world, client) as settings, closing(KafkaLog(settings, atomic=False)) as log:
            log.append([NewRecord(DEAD_LETTERS, 0, b"", b"first")], time.time())
            yield lambda: append_all(log, records[:count], size)

    return side


class _Recorder(MemoryEventStore):
    """Keeps what is appended to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Append] = []

    def append(self, write: Append, now: float) -> None:
        """Append, and keep the write itself."""
        self.writes.append(write)
        super().append(write, now)


def decide(store: EventStore, events: Sequence[ContextEvent], size: int) -> None:
    """Have a command side decide on the events, so many at a time."""
    commands = CommandSide(store, RULES)
    for start in range(0, len(events), size):
        with commands.batch(time.time()) as batch:
            for event in events[start : start + size]:
                batch.submit(event)


def storing(world: World, events: Sequence[ContextEvent], count: int, size: int) -> Side:
    """Return a side that appends to PostgreSQL what a command side had decided before."""
    recorder = _Recorder()
    decide(recorder, events[:count], size)

    @contextmanager
    def side() -> Iterator[Work]:
        with closing(PostgresqlDatabase(world.postgresql, f"bench_{uuid4().hex[:12]}")) as database:
            store = PostgresqlEventStore(database)

            def work() -> None:
                for write in recorder.writes:
                    store.append(write, time.time())

            yield work

    return side


def deciding(world: World, events: Sequence[ContextEvent], count: int, size: int) -> Side:
    """Return a side that has the command side decide on so many events and store them."""

    @contextmanager
    def side() -> Iterator[Work]:
        with closing(PostgresqlDatabase(world.postgresql, f"bench_{uuid4().hex[:12]}")) as database:
            yield lambda: decide(PostgresqlEventStore(database), events[:count], size)

    return side


def batching_rows(settings: Settings, world: World) -> Iterator[Row]:
    """Batches of the relay and of the command side."""
    records = retail_records(settings.rows)
    events = [event for batch in corpus(settings.rows).batches for event in batch]
    for client in CLIENTS:
        count = settings.size(len(records))
        make = partial(appending, world, client, records)
        yield from of_batches(f"relay append, {client}", count, make, settings)
    count = settings.size(min(len(events), STORED_EVENTS))
    yield from of_batches("PostgreSQL append", count, partial(storing, world, events), settings)
    make = partial(deciding, world, events)
    yield from of_batches("command side over PostgreSQL", count, make, settings)


def compression_rows(settings: Settings, world: World) -> Iterator[Row]:
    """Bytes on the broker's disk, which are those on the wire, and rate, by codec."""
    for client in CLIENTS:
        records = retail_records(settings.rows)
        records = records * (1 if settings.quick else CODEC_PASSES[client])
        codecs: tuple[Compression, ...] = ("none", *CODECS)
        sizes: dict[str, list[int]] = {codec: [] for codec in codecs}
        sides = [compressed(world, client, records, codec, sizes[codec]) for codec in codecs]
        plain, *others = in_turn(sides, settings.few_repeats)
        for codec, taken in zip(CODECS, others, strict=True):
            name = f"{client}, {codec}"
            yield Row(
                name=f"bytes an event, {name}",
                unit="bytes",
                better="lower",
                ours=spread(size / len(records) for size in sizes[codec]),
                limit="uncompressed",
                theirs=spread(size / len(records) for size in sizes["none"]),
                ratio=statistics.median(sizes[codec]) / statistics.median(sizes["none"]),
            )
            yield rates_row(f"append, {name}", len(records), taken, "uncompressed", plain)


def compressed(
    world: World,
    client: str,
    records: Sequence[NewRecord],
    codec: Compression,
    sizes: list[int],
) -> Side:
    """Return a side that appends with a codec and notes what that takes on the broker's disk."""

    @contextmanager
    def side() -> Iterator[Work]:
        with (
            topics(world, client, compression=codec) as settings,
            closing(KafkaLog(settings, atomic=False)) as log,
        ):
            log.append([NewRecord(DEAD_LETTERS, 0, b"", b"first")], time.time())
            yield lambda: append_all(log, records, 1_000)
            sizes.append(world.log_bytes(settings))

    return side


def producer_rows(settings: Settings, world: World) -> Iterator[Row]:
    """Our producer settings beside the library's own, both on the bare client."""
    for client in CLIENTS:
        records = retail_records(settings.rows)
        records = records * (1 if settings.quick else CODEC_PASSES[client])
        ours, defaults = (produced(world, client, records, tuned) for tuned in (True, False))
        mine, other = in_turn((ours, defaults), settings.few_repeats)
        yield rates_row(f"producer settings, {client}", len(records), mine, "its defaults", other)


def produced(world: World, client: str, records: Sequence[NewRecord], tuned: bool) -> Side:
    """Return a side that sends everything through the bare client."""

    @contextmanager
    def side() -> Iterator[Work]:
        with (
            topics(world, client) as known,
            producer(known, known.linger_milliseconds, tuned=tuned) as (send, flush),
        ):

            def work() -> None:
                send(records)
                flush()

            yield work

    return side


def tuning_rows(settings: Settings, world: World) -> Iterator[Row]:
    """Return all of it."""
    yield from batching_rows(settings, world)
    yield from compression_rows(settings, world)
    yield from producer_rows(settings, world)
