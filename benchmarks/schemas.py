"""What the check of events costs beside the fold: `python -m benchmarks.schemas`.

The same retail events through the decoder, the fold of the reference and the checker, in turn and
in CPU time of this process; the median of the repeats is shown.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from benchmarks.parts import PARTITIONS, REFERENCE_RECORDS, corpus
from examples.retail.views import VIEWS
from pipeline.log_memory import MemoryLog
from service.schema_room import register_folder
from synchroscope.event import decode_wire
from synchroscope.ports import CONTROL_TOPICS, EVENTS, NewRecord
from validator.reference import Reference
from validator.schemas.checker import SchemaChecker
from validator.schemas.checking import decode_written
from validator.schemas.registry_log import LogRegistry

SCHEMAS = Path(__file__).resolve().parent.parent / "examples" / "retail" / "schemas"
AT = 1_700_000_000.0


def new_log(*, broken_every: int = 0) -> MemoryLog:
    """Return a log of the retail events; every so many-th has a field that nobody declared."""
    log = MemoryLog({EVENTS: PARTITIONS, **dict.fromkeys(CONTROL_TOPICS, 1)})
    number = 0
    for partition, records in enumerate(corpus(None).partitions):
        new = []
        for record in records:
            number += 1
            value = record.value
            if broken_every and number % broken_every == 0:
                made = msgspec.json.decode(value)
                made["contextDelta"]["updates"]["undeclared"] = {"current": 1}
                value = msgspec.json.encode(made)
            new.append(NewRecord(EVENTS, partition, record.key, value))
        log.append(new, AT)
    return log


def checking(log: MemoryLog) -> Callable[[], object]:
    """Return what checks the whole log."""
    registry = LogRegistry(log)
    register_folder(registry, SCHEMAS, AT)
    checker = SchemaChecker(log, registry)

    def run() -> None:
        now = AT
        while checker.step(now).consumed:
            now += 0.01

    return run


def folding(log: MemoryLog) -> Callable[[], object]:
    """Return what folds the whole log."""
    reference = Reference(log, list(VIEWS))

    def run() -> None:
        for partition in range(PARTITIONS):
            while reference.advance(partition, REFERENCE_RECORDS, []):
                pass

    return run


@click.command()
@click.option("--repeats", type=click.IntRange(1, 99), default=7, show_default=True)
def main(repeats: int) -> None:
    """Print the table."""
    values, count = corpus(None).values, corpus(None).count
    rows: dict[str, Callable[[], Callable[[], object]]] = {
        "decode for the fold": lambda: lambda: [decode_wire(value) for value in values],
        "decode for the check": lambda: lambda: [decode_written(value) for value in values],
        "fold, 4 views": lambda: folding(new_log()),
        "check, all right": lambda: checking(new_log()),
        "check, one event in 100 wrong": lambda: checking(new_log(broken_every=100)),
        "check, every event wrong": lambda: checking(new_log(broken_every=1)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, make in rows.items():
            run = make()
            begun = time.process_time()
            run()
            seconds[name].append(time.process_time() - begun)
    fold = statistics.median(seconds["fold, 4 views"])
    click.echo(f"{count} events, {repeats} repeats; CPU time")
    click.echo("| row | µs an event | events/s | share of the fold |\n| --- | --- | --- | --- |")
    for name, found in seconds.items():
        median = statistics.median(found)
        micros, rate = median / count * 1e6, count / median
        click.echo(f"| {name} | {micros:.1f} | {rate:,.0f} | {median / fold:.2f} |")


if __name__ == "__main__":
    main()
