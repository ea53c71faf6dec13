"""How long an event takes from the relay's send to a replica in memory, beside the bare round trip.

Sender and receiver are processes of their own. Events are due at a steady rate whatever happened to
those before (an open loop). Each counts twice: from its send, which is when the append that carries
it begins, and from when it was due, which charges us with waiting behind earlier appends as well.
Whatever both sides need to warm up falls on the first second, which does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from msgspec import Struct

from benchmarks.measuring import Row, Settings
from benchmarks.parts import VIEW
from benchmarks.servers_bare import LIMIT_SECONDS, Stuck, consumer, producer
from benchmarks.servers_world import (
    CLIENTS,
    Processes,
    World,
    due_times,
    latencies,
    latency_rows,
    order_of,
    processes,
    retail_records,
    together,
    topics,
)
from pipeline.kafka_settings import KafkaSettings
from pipeline.log_kafka import KafkaLog
from pipeline.projector import Projector
from pipeline.relay import POSITION_SECONDS, STORE_EVENTS
from service.supervision import IDLE_SECONDS
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import Batch, Log, NewRecord, Record
from synchroscope.replica import Replica

RATES = {100: (6.0, 5), 1_000: (4.0, 15), 5_000: (3.0, 5)}
"""Events a second: for how many seconds, and how often. One pause of the machine is a p99."""
WARM_SECONDS = 1.0
RELAY_RECORDS = 1_000
#: When each event was seen, by its number.
Seen = dict[int, float]
Item = TypeVar("Item")


class Paced(Struct, frozen=True):
    """When it began, and when each item was handed over to be sent, by its number."""

    start: float
    sends: list[float]


def pace(
    items: Sequence[Item], rate: float, send: Callable[[Sequence[Item]], object], most: int
) -> Paced:
    """Send each item when it is due, and what became due meanwhile together."""
    start = time.monotonic()
    sends: list[float] = []
    while (sent := len(sends)) < len(items):
        now = time.monotonic()
        due = min(int((now - start) * rate) + 1, len(items), sent + most)
        if due > sent:
            sends += [now] * (due - sent)
            send(items[sent:due])
        else:
            time.sleep(max(start + sent / rate - time.monotonic(), 0.0))
    return Paced(start, sends)


class Witness:
    """Stands between a projector and its log, and notes when what was read had been applied.

    ``clock`` is what the projector asks for the time right after a commit.
    """

    def __init__(self, log: Log) -> None:
        self._read = log.read
        self._last: tuple[int, Sequence[Record]] = 0, ()
        self.count = 0
        self.commits: list[tuple[float, int, Sequence[Record]]] = []
        self.append, self.partitions, self.head = log.append, log.partitions, log.head
        self.positions, self.latest = log.positions, log.latest

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Read, and remember what."""
        batch = self._read(topic, partition, position, limit)
        self._last = partition, batch.records
        return batch

    def clock(self) -> float:
        """Note that what was read last is stored now."""
        self.commits.append((time.monotonic(), *self._last))
        self.count += len(self._last[1])
        return time.time()


# -- the tasks of the two processes --------------------------------------------------------------


def send_ours(settings: KafkaSettings, records: Sequence[NewRecord], rate: float) -> Paced:
    with closing(KafkaLog(settings, atomic=False)) as log:
        log.positions("relay")
        sent = 0
        noted_at = time.time()

        def send(batch: Sequence[NewRecord]) -> None:
            nonlocal sent, noted_at
            now = time.time()
            positions = {}
            if sent and now - noted_at >= POSITION_SECONDS:  # As the relay does.
                positions, noted_at = {STORE_EVENTS: sent}, now
            log.append(batch, now, consumer="relay", positions=positions)
            sent += len(batch)

        together()
        return pace(records, rate, send, RELAY_RECORDS)


def receive_ours(settings: KafkaSettings, order: dict[tuple[int, int], int]) -> Seen:
    with closing(KafkaLog(settings)) as log:
        witness = Witness(log)
        replica = Replica(f"{VIEW.model}@1", VIEW, MemoryStorage(), incarnation="benchmark")
        projector = Projector(replica, log, events=witness, clock=witness.clock, publish=log.post)
        projector.step(time.time())
        together()
        deadline = time.monotonic() + LIMIT_SECONDS
        while witness.count < len(order):
            if not projector.step(time.time()).consumed:
                log.wait(IDLE_SECONDS)
                if time.monotonic() > deadline:
                    raise Stuck(f"{len(order) - witness.count} events were not applied")
    return {
        order[partition, record.offset]: at
        for at, partition, records in witness.commits
        for record in records
    }


def send_bare(settings: KafkaSettings, records: Sequence[NewRecord], rate: float) -> Paced:
    with producer(settings, linger=0.0) as (send, flush):
        together()
        paced = pace(records, rate, send, len(records))
        flush()
        return paced


def receive_bare(settings: KafkaSettings, order: dict[tuple[int, int], int]) -> Seen:
    seen: Seen = {}
    with consumer(settings) as take:
        take()
        together()
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(seen) < len(order):
            places = take()
            now = time.monotonic()
            seen.update((order[place], now) for place in places)
            if now > deadline:
                raise Stuck(f"{len(order) - len(seen)} records did not come")
    return seen


# -- rows --------------------------------------------------------------------------------------


class Latencies(Struct, frozen=True):
    """Those of one repeat, sorted."""

    from_send: list[float]
    from_due: list[float]


def measure(
    pool: Processes, settings: KafkaSettings, records: Sequence[NewRecord], rate: int, ours: bool
) -> Latencies:
    """Run one repeat of one side."""
    send, receive = (send_ours, receive_ours) if ours else (send_bare, receive_bare)
    paced, seen = pool.run(
        (send, settings, records, float(rate)), (receive, settings, order_of(records))
    )
    warm = round(rate * WARM_SECONDS)
    due = due_times(paced.start, rate, len(records))
    return Latencies(latencies(seen, paced.sends, warm), latencies(seen, due, warm))


def propagation_rows(settings: Settings, world: World) -> Iterator[Row]:
    """From the relay's send, and from due, to applied, at three rates, with each client."""
    known = retail_records(settings.rows)
    with processes(2) as pool:
        for client in CLIENTS:
            for rate, (seconds, repeats) in RATES.items():
                records = known[: int(rate * (3.0 if settings.quick else seconds))]
                sides: dict[bool, list[Latencies]] = {True: [], False: []}
                for number in range(3 if settings.quick else repeats):
                    # Whoever is first meets another machine than the second does.
                    for ours in (number % 2 == 0, number % 2 == 1):
                        with topics(world, client) as topic:
                            sides[ours].append(measure(pool, topic, records, rate, ours))
                name = f"propagation, {client}, {rate:,}/s"
                limit = f"bare {client}, linger 0"
                for since, taken in (
                    ("from send", lambda one: one.from_send),
                    ("from due", lambda one: one.from_due),
                ):
                    mine, other = (list(map(taken, sides[ours])) for ours in (True, False))
                    yield from latency_rows(f"{name}, {since}", mine, limit, other)
