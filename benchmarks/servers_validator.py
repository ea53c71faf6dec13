"""The validator's fold from Kafka on one core, beside Quix Streams and a naive loop.

Every side reads the same topic, which is full before, in a process that runs on one core alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_128_intdigest

from benchmarks.measuring import Row, Seconds, Settings, forget, rates_row
from benchmarks.parts import NARROW_VIEW
from benchmarks.servers_bare import LIMIT_SECONDS, Stuck
from benchmarks.servers_throughput import WAIT_SECONDS, filled
from benchmarks.servers_world import World, mean_bytes, pin, processes, retail_records
from examples.retail.views import VIEWS
from pipeline.kafka_settings import KafkaSettings
from pipeline.log_kafka import KafkaLog
from pipeline.partitioner import by_subject
from synchroscope.ports import EVENTS, NewRecord
from synchroscope.view import View
from validator.reference import Reference

EVENTS_COUNT = 400_000
USERS = 10_000
PARTITIONS = 4
FOLD_RECORDS = 2_048
QUIX_PYTHON = Path(sys.prefix) / "quix" / "bin" / "python"
QUIX_SECONDS = 240.0
_ID_CHARACTERS = 8


# -- topics ------------------------------------------------------------------------------------


def one_field_records(count: int, users: int = USERS) -> Iterator[NewRecord]:
    """Yield events that each change one field of one of so many users; sequences lead on."""
    for number in range(count):
        user, turn = f"customer-{number % users:06d}", number // users
        update: dict[str, Any] = {"current": number, "confidence": 0.95}
        if turn:
            update["previous"] = number - users
        event = {
            "eventId": f"{number:08x}-5d5c-4d7c-9e53-0242ac120002",
            "timestamp": "2026-01-01T12:00:00.000000Z",
            "eventType": "context.updated",
            "source": {"modelId": "fraud-scorer", "instanceId": "replica-07"},
            "contextType": "financial",
            "contextDelta": {"userId": user, "updates": {"spend": update}},
            "propagationRules": {"targetModels": None, "priority": "high"},
            "correlationId": f"{number:08x}-77aa-4f0e-8d6e-0242ac120003",
            "sequence": turn + 1,
        }
        place = by_subject("financial", f"user:{user}", PARTITIONS)
        yield NewRecord(EVENTS, place, f"user:{user}".encode(), msgspec.json.encode(event))


def repeated_retail(records: Sequence[NewRecord], count: int, *, headers: bool) -> list[NewRecord]:
    """Return the retail days over and over, each time with other IDs and later positions."""
    made: list[NewRecord] = []
    for turn in range(-(-count // len(records))):
        for number, record in enumerate(records, turn * len(records) + 1):
            start = record.value.index(b'"eventId":"') + len(b'"eventId":"')
            value = b"%s%08x%s" % (
                record.value[:start],
                turn,
                record.value[start + _ID_CHARACTERS :],
            )
            more = [(n, v) for n, v in record.headers if n != "store-position"]
            more.append(("store-position", b"%d" % number))
            kept = tuple(more) if headers else ()
            made.append(NewRecord(EVENTS, record.partition, record.key, value, kept))
    return made


# -- sides, each in a process on one core ------------------------------------------------------


def fold_all(settings: KafkaSettings, views: Sequence[View], count: int, core: int) -> Seconds:
    """Fold so many events as the validator does."""
    pin(core)
    forget()
    with closing(KafkaLog(settings)) as log:
        reference = Reference(log, views)
        deadline = time.monotonic() + LIMIT_SECONDS
        # As with Quix Streams, the clock starts when the first event has come.
        while not log.read(EVENTS, reference.partitions[0], 0, 1).records:
            log.wait(WAIT_SECONDS)
        wall, cpu = time.perf_counter(), time.process_time()
        left = count
        while left > 0:
            folded = sum(reference.advance(n, FOLD_RECORDS) for n in reference.partitions)
            left -= folded
            if not folded:
                log.wait(WAIT_SECONDS)
                if time.monotonic() > deadline:
                    raise Stuck(f"{left} events are missing")
        taken = Seconds(time.process_time() - cpu, time.perf_counter() - wall)
        if any(reference.current(n).unproven for n in reference.partitions):
            raise Stuck("what was folded proves nothing")
        return taken


class _Change(Struct, gc=False):
    current: Any


class _Delta(Struct, gc=False, rename="camel"):
    updates: dict[str, _Change]
    user_id: str = ""


class _Event(Struct, gc=False, rename="camel"):
    event_id: str
    context_type: str
    context_delta: _Delta
    sequence: int


def naive_all(settings: KafkaSettings, count: int, core: int) -> Seconds:
    """Do the least that has a sum at its end: consume, decode, hash twice, add to one bucket.

    It has no views, no targets, no positions and no record of what came twice.
    """
    pin(core)
    import confluent_kafka

    topic = settings.topic(EVENTS)
    decode = msgspec.json.Decoder(_Event).decode
    sums = [0] * 256
    handle: Any = confluent_kafka.Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": settings.name,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        handle.assign([confluent_kafka.TopicPartition(topic, n, 0) for n in range(PARTITIONS)])
        left, deadline = count, time.monotonic() + LIMIT_SECONDS
        while left > 0 and time.monotonic() < deadline:
            messages = handle.consume(5_000, 0.1)
            for message in messages:
                event = decode(message.value())
                delta = event.context_delta
                key = f"{event.context_type}/{delta.user_id}/"
                for name, change in delta.updates.items():
                    held = xxh3_128_intdigest(f"{key}{name}={change.current}".encode())
                    known = xxh3_128_intdigest(f"{event.event_id}{event.sequence}".encode())
                    sums[held & 255] += held + known
            left -= len(messages)
        if left > 0:
            raise Stuck(f"{left} events are missing")
        return Seconds(time.process_time() - cpu, time.perf_counter() - wall)
    finally:
        handle.close()


def quix_python() -> str | None:
    """Return an interpreter that has Quix Streams: this one, or that of ``make bench-servers``."""
    if find_spec("quixstreams") is not None:
        return sys.executable
    return str(QUIX_PYTHON) if QUIX_PYTHON.exists() else None


def quix_all(python: str, settings: KafkaSettings, count: int, core: int) -> Seconds:
    """Have Quix Streams update a state for so many events, with its own defaults."""
    script = Path(__file__).with_name("servers_quix.py")
    arguments = [settings.bootstrap_servers, settings.topic(EVENTS), str(count), str(core)]
    done = subprocess.run(
        [python, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=QUIX_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"Quix Streams failed: {done.stderr.strip()[-500:]}")
    taken = json.loads(done.stdout.splitlines()[-1])
    return Seconds(taken["cpu"], taken["wall"])


# -- rows --------------------------------------------------------------------------------------


def compared(
    world: World,
    settings: Settings,
    title: str,
    records: Sequence[NewRecord],
    views: Sequence[View],
) -> list[Row]:
    """Return the rows of one topic: both clients and the naive loop, each beside Quix Streams."""
    count = len(records)
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    python = quix_python()
    with filled(world, "confluent", records) as known, processes(1) as pool:

        def fold(client: str) -> Seconds:
            with_client = replace(known, client=client)
            taken: Seconds = pool.run((fold_all, with_client, views, count, core))[0]
            return taken

        sides: dict[str, Callable[[], Seconds]] = {
            "confluent": partial(fold, "confluent"),
            "kafka-python": partial(fold, "kafka-python"),
            "naive loop": lambda: pool.run((naive_all, known, count, core))[0],
        }
        if python is not None:
            sides["Quix Streams"] = lambda: quix_all(python, known, count, core)
        rounds = [{n: side() for n, side in sides.items()} for _ in range(settings.repeats)]
    other = [one.get("Quix Streams", one["naive loop"]) for one in rounds]
    limit = "Quix Streams" if python is not None else "naive loop: quixstreams is not installed"
    name = f"{title} ({mean_bytes(records):.0f} B)"
    return [
        rates_row(f"{side}, {name}", count, [one[side] for one in rounds], limit, other)
        for side in sides
        if side != "Quix Streams"
    ]


def validator_rows(settings: Settings, world: World) -> Iterator[Row]:
    """The fold on one core."""
    count = settings.size(EVENTS_COUNT)
    retail = retail_records(settings.rows)
    narrow, wide = (NARROW_VIEW,), VIEWS
    yield from compared(world, settings, "1 view 1 field", list(one_field_records(count)), narrow)
    headed = [
        with_headers(number, record) for number, record in enumerate(one_field_records(count))
    ]
    yield from compared(world, settings, "1 view 1 field, headers", headed, narrow)
    bare = repeated_retail(retail, count, headers=False)
    yield from compared(world, settings, "retail, 4 views", bare, wide)
    relayed = repeated_retail(retail, count, headers=True)
    yield from compared(world, settings, "retail, 4 views, headers", relayed, wide)


def with_headers(number: int, record: NewRecord) -> NewRecord:
    """Return a record with the headers that the relay writes."""
    headers = (
        ("ce_id", record.value[12:48]),
        ("ce_correlationid", record.value[12:48]),
        ("recorded", b"1700000000.123456"),
        ("store-position", b"%d" % (number + 1)),
    )
    return NewRecord(record.topic, record.partition, record.key, record.value, headers)
