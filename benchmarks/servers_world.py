"""What every group over real servers uses: servers of its own, fresh topics, records, processes."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, Protocol
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.measuring import Row, spread
from benchmarks.parts import corpus
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import delete_topics, ensure_topics
from service.process import GARBAGE_THRESHOLDS
from synchroscope.ports import EVENTS, NewRecord, Record

CLIENTS = ("confluent", "kafka-python")
TOGETHER_SECONDS = 60.0
PERCENTILES = (50, 95, 99)
_EVENT_ID_HEADER = "ce_id"
_STORE_POSITION_HEADER = "store-position"


class World(Struct, frozen=True):
    """Where this run's own servers are."""

    kafka: str
    postgresql: str
    redis: str
    folder: Path

    def settings(self, client: str, **more: Any) -> KafkaSettings:
        """Return Kafka settings with names that nobody else uses."""
        mark = uuid4().hex[:12]
        given: dict[str, Any] = {"topic_prefix": f"{mark}.", "name": f"bench-{mark}", **more}
        return KafkaSettings(bootstrap_servers=self.kafka, client=client, **given)  # type: ignore[arg-type]

    def log_bytes(self, settings: KafkaSettings) -> int:
        """Return what the events' topic takes on the broker's disk."""
        folders = (self.folder / "kafka" / "data").glob(f"{settings.topic(EVENTS)}-*")
        return sum(file.stat().st_size for folder in folders for file in folder.glob("*.log"))


@contextmanager
def topics(world: World, client: str, **more: Any) -> Iterator[KafkaSettings]:
    """Create all topics of a log anew, and delete them at the end."""
    settings = world.settings(client, **more)
    made_with = replace(settings, client="confluent")
    ensure_topics(made_with)
    try:
        yield settings
    finally:
        delete_topics(made_with)


# -- records -----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def retail_records(rows: int | None) -> list[NewRecord]:
    """Return the retail days' records as the relay wrote them, in the store's order."""

    def place(item: tuple[int, Record]) -> int:
        return int(item[1].header(_STORE_POSITION_HEADER) or b"0")

    parts = corpus(rows).partitions
    pairs = [(number, record) for number, records in enumerate(parts) for record in records]
    return [
        NewRecord(EVENTS, number, record.key, record.value, record.headers)
        for number, record in sorted(pairs, key=place)
    ]


def mean_bytes(records: Sequence[NewRecord]) -> float:
    """Return the mean size of the values."""
    return sum(len(record.value) for record in records) / len(records)


def order_of(records: Sequence[NewRecord]) -> dict[tuple[int, int], int]:
    """Return (partition, offset) -> number of a record, where they were sent in this order.

    >>> one, two = (NewRecord(EVENTS, number, b"", b"") for number in (0, 1))
    >>> order_of([one, two, one])
    {(0, 0): 0, (1, 0): 1, (0, 1): 2}
    """
    counts: dict[int, int] = {}
    order = {}
    for number, record in enumerate(records):
        offset = counts.get(record.partition, 0)
        counts[record.partition] = offset + 1
        order[record.partition, offset] = number
    return order


# -- latencies ---------------------------------------------------------------------------------


def due_times(start: float, rate: float, count: int) -> list[float]:
    """Return when each of so many events is due, by its number."""
    return [start + number / rate for number in range(count)]


def latencies(seen: dict[int, float], begun: Sequence[float], warm: int) -> list[float]:
    """Return for each event, by its number, how long after it began it was seen; sorted.

    The first `warm` events do not count.

    >>> latencies({0: 10.5, 1: 10.75, 2: 11.5}, due_times(10.0, 2.0, 3), warm=1)
    [0.25, 0.5]
    """
    return sorted(at - begun[number] for number, at in seen.items() if number >= warm)


def percentile(known: Sequence[float], per_cent: float) -> float:
    """Return the least value that so many per cent do not exceed; `known` is sorted.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 99)
    (2.0, 4.0)
    """
    return known[max(math.ceil(len(known) * per_cent / 100), 1) - 1]


def latency_rows(
    name: str, ours: Sequence[Sequence[float]], limit: str, theirs: Sequence[Sequence[float]]
) -> list[Row]:
    """Return a row for each of `PERCENTILES`; both sides hold a sorted list for each repeat.

    The notes tell how far the repeats' ratios lie apart, and what all repeats say taken together.
    """
    rows = []
    pools = [sorted(value for one in side for value in one) for side in (ours, theirs)]
    for per_cent in PERCENTILES:
        mine = [percentile(one, per_cent) for one in ours]
        other = [percentile(one, per_cent) for one in theirs]
        ratios = [a / b for a, b in zip(mine, other, strict=True)] if other else []
        pooled = [percentile(pool, per_cent) for pool in pools if pool]
        notes = {"events_a_repeat": float(min(map(len, ours))), "pooled_ours": pooled[0]}
        if ratios:
            notes |= {
                "ratio_least": min(ratios),
                "ratio_greatest": max(ratios),
                "pooled_theirs": pooled[1],
                "pooled_ratio": pooled[0] / pooled[1],
            }
        rows.append(
            Row(
                name=f"{name}, p{per_cent}",
                unit="s",
                better="lower",
                ours=spread(mine),
                limit=limit,
                theirs=spread(other) if other else None,
                ratio=spread(ratios).median if ratios else None,
                notes=notes,
            )
        )
    return rows


# -- processes ---------------------------------------------------------------------------------


class _Barrier(Protocol):
    def wait(self, timeout: float) -> int: ...

    def abort(self) -> None: ...


_barrier: _Barrier | None = None


def _begin(barrier: _Barrier) -> None:
    global _barrier
    _barrier = barrier
    gc.set_threshold(*GARBAGE_THRESHOLDS)


class Processes:
    """Some processes that work on one measurement at a time, set up as a role's process is."""

    def __init__(self, count: int) -> None:
        context = get_context("spawn")
        self._barrier = context.Barrier(count)
        self._executor = ProcessPoolExecutor(count, context, _begin, (self._barrier,))

    def run(self, *tasks: tuple[Any, ...]) -> list[Any]:
        """Run one task a process, each a function and its arguments; return their results."""
        futures: list[Future[Any]] = [self._executor.submit(_task, *task) for task in tasks]
        try:
            return [future.result() for future in futures]
        except BrokenBarrierError:
            # Not the one that waited in vain is to be told of, but the one that failed.
            failures = [one for future in futures if (one := future.exception()) is not None]
            failures.sort(key=lambda one: isinstance(one, BrokenBarrierError))
            raise failures[0] from None
        finally:
            self._barrier.reset()

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown(cancel_futures=True)


def _task(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BaseException:
        assert _barrier is not None
        _barrier.abort()
        raise
    finally:
        gc.unfreeze()
        gc.collect()


def together() -> None:
    """Wait until every process of the measurement is ready."""
    assert _barrier is not None
    # As a role's process does when it begins: what is there by now is not looked through again.
    gc.collect()
    gc.freeze()
    _barrier.wait(TOGETHER_SECONDS)


@contextmanager
def processes(count: int) -> Iterator[Processes]:
    """Start processes and end them."""
    pool = Processes(count)
    try:
        yield pool
    finally:
        pool.close()


def pin(core: int) -> None:
    """Have this thread, and those that it starts, run on one core alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def unpin() -> None:
    """Let this thread run anywhere."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
