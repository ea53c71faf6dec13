"""Producing and consuming: ours beside the bare client, on the same topics, with each client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from msgspec.structs import replace

from benchmarks.measuring import Row, Settings, Side, Work, in_turn, rates_row
from benchmarks.servers_bare import LIMIT_SECONDS, Stuck, consumer, producer, take_all
from benchmarks.servers_world import CLIENTS, World, mean_bytes, retail_records, topics
from pipeline.kafka_settings import KafkaSettings
from pipeline.log_kafka import KafkaLog
from pipeline.relay import STORE_EVENTS
from synchroscope.ports import DEAD_LETTERS, EVENTS, NewRecord

APPEND_RECORDS = 1_000
READ_RECORDS = 1_000
WAIT_SECONDS = 0.02
LINGER_MILLISECONDS = 5.0
#: How often the retail days are sent in one repeat: fewer times by the slower client.
PASSES = {"confluent": 6, "kafka-python": 2}


def append_all(log: KafkaLog, records: Sequence[NewRecord], size: int) -> None:
    """Append as the relay does: batch by batch, each with the position before it."""
    for start in range(0, len(records), size):
        positions = {STORE_EVENTS: start} if start else {}
        log.append(
            records[start : start + size], time.time(), consumer="relay", positions=positions
        )


def produce_ours(
    world: World, client: str, records: Sequence[NewRecord], size: int = APPEND_RECORDS
) -> Side:
    """Return a side that appends everything to new topics."""

    @contextmanager
    def side() -> Iterator[Work]:
        with topics(world, client) as settings, closing(KafkaLog(settings, atomic=False)) as log:
            log.append([NewRecord(DEAD_LETTERS, 0, b"", b"first")], time.time())
            yield lambda: append_all(log, records, size)

    return side


def produce_bare(world: World, client: str, records: Sequence[NewRecord]) -> Side:
    """Return the same with the bare client: everything at once, and one flush at the end."""

    @contextmanager
    def side() -> Iterator[Work]:
        with (
            topics(world, client) as settings,
            producer(settings, LINGER_MILLISECONDS) as (
                send,
                flush,
            ),
        ):

            def work() -> None:
                send(records)
                flush()

            yield work

    return side


def read_all(log: KafkaLog, count: int, size: int = READ_RECORDS) -> None:
    """Read every partition to its end, in turn, as a role does."""
    positions = dict.fromkeys(range(log.partitions(EVENTS)), 0)
    deadline = time.monotonic() + LIMIT_SECONDS
    while count > 0:
        before = count
        for number, position in positions.items():
            batch = log.read(EVENTS, number, position, size)
            positions[number] = batch.position
            count -= len(list(batch.records))
        if count == before:
            log.wait(WAIT_SECONDS)
            if time.monotonic() > deadline:
                raise Stuck(f"{count} records are missing")


def consume_ours(settings: KafkaSettings, count: int) -> Side:
    """Return a side that reads so many events."""

    @contextmanager
    def side() -> Iterator[Work]:
        with closing(KafkaLog(settings)) as log:
            yield lambda: read_all(log, count)

    return side


def consume_bare(settings: KafkaSettings, count: int) -> Side:
    """Return the same with the bare client."""

    @contextmanager
    def side() -> Iterator[Work]:
        with consumer(settings) as take:
            yield lambda: take_all(take, count)

    return side


def throughput_rows(settings: Settings, world: World) -> Iterator[Row]:
    """Events produced and consumed a second."""
    records = retail_records(settings.rows)
    size = mean_bytes(records)

    def row(name: str, count: int, limit: str, ours: Side, theirs: Side) -> Row:
        mine, other = in_turn((ours, theirs), settings.few_repeats)
        return rates_row(f"{name} ({size:.0f} B)", count, mine, limit, other)

    for client in CLIENTS:
        sent = records * (1 if settings.quick else PASSES[client])
        limit = f"bare {client}"
        ours, theirs = produce_ours(world, client, sent), produce_bare(world, client, sent)
        yield row(f"produce, {client}", len(sent), limit, ours, theirs)
        with filled(world, client, sent) as known:
            ours, theirs = consume_ours(known, len(sent)), consume_bare(known, len(sent))
            yield row(f"consume, {client}", len(sent), limit, ours, theirs)


@contextmanager
def filled(world: World, client: str, records: Sequence[NewRecord]) -> Iterator[KafkaSettings]:
    """Yield the settings of topics that hold the records already."""
    with topics(world, client) as settings:
        with closing(KafkaLog(replace(settings, client="confluent"), atomic=False)) as log:
            for start in range(0, len(records), APPEND_RECORDS):
                log.append(records[start : start + APPEND_RECORDS], time.time())
        yield settings
