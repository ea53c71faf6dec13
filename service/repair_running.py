"""What `synchroscope repair` does: orders, follows, and shows beforehand what would be written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from msgspec import Struct
from rich.console import Console

from pipeline.sqlite_database import SqliteDatabase
from service.configuration import load_configuration
from service.findings_listing import is_attached, repair_text
from synchroscope.digest import DEFAULT_BITS, Hasher
from synchroscope.errors import ConfigurationError
from synchroscope.ports import EVENTS, REPORTS, REQUESTS, Log, NewRecord
from synchroscope.report import (
    Explanation,
    RepairOrder,
    Request,
    decode_message,
    encode_message,
)
from synchroscope.view import View
from validator.finding import Finding
from validator.histories import History, PartitionOf
from validator.ledger import FindingsReader
from validator.repair_plan import (
    Deviation,
    bucket_of,
    candidates,
    deviations,
    hashes_of,
    lack_of_authority,
    refusal,
)

DATABASE = "synchroscope.db"
LOOK_SECONDS = 0.2
ASK_SECONDS = 3.0
READ_RECORDS = 1_000
BEYOND_EVERYTHING = 2**62
SHOWN_KEYS = 100


class Place(Struct, frozen=True):
    """A pipeline that runs: what a repair is ordered and planned with.

    ``views`` are by replica; ``wait`` lets a moment pass in which others go on.
    """

    log: Log
    history: History
    views: dict[str, View]
    partition_of: PartitionOf
    bits: int
    hasher: Hasher
    wait: Callable[[], None]


@contextmanager
def open_place(
    config: Path | None, data_dir: Path | None, *, only_look: bool = False
) -> Iterator[Place]:
    """Connect to the servers that a file names, or run the pipeline of a data folder here.

    `only_look`: run it on a copy of the folder, for roles that run change what it holds.
    """
    if config is not None:
        yield from _servers(config)
    elif data_dir is not None and only_look:
        with TemporaryDirectory(prefix="synchroscope-") as copy:
            _copy(data_dir, Path(copy) / "data")
            yield from _folder(Path(copy) / "data")
    elif data_dir is not None:
        yield from _folder(data_dir)


def _servers(config: Path) -> Iterator[Place]:
    from pipeline.event_store_postgresql import PostgresqlEventStore
    from pipeline.log_kafka import KafkaLog
    from pipeline.partitioner import PARTITIONERS
    from service.stores import make_hasher, open_database, replica_plans

    configuration = load_configuration(config, os.environ)
    place = PARTITIONERS[configuration.partitioner]
    with (
        closing(KafkaLog(configuration.log.kafka)) as log,
        closing(open_database(configuration)) as database,
    ):
        count = log.partitions(EVENTS)
        yield Place(
            log,
            PostgresqlEventStore(database),
            {plan.name: plan.view for plan in replica_plans(configuration)},
            lambda kind, subject: place(kind, subject, count),
            configuration.validator.digest.bits,
            make_hasher(configuration),
            lambda: log.wait(LOOK_SECONDS),
        )


def _check_folder(data_dir: Path) -> None:
    if not (data_dir / DATABASE).is_file():
        raise ConfigurationError(f"{data_dir} is no data folder: it has no {DATABASE}")


def _copy(data_dir: Path, copy: Path) -> None:
    _check_folder(data_dir)
    with closing(SqliteDatabase(data_dir / DATABASE)):  # Nobody else may be writing.
        shutil.copytree(data_dir, copy)


def _folder(data_dir: Path) -> Iterator[Place]:
    from pipeline.partitioner import by_subject
    from service.demo import REPLICAS
    from service.embedded import EmbeddedPipeline

    _check_folder(data_dir)
    with closing(EmbeddedPipeline(data_dir, REPLICAS)) as pipeline:
        count = pipeline.log.partitions(EVENTS)

        def wait() -> None:
            if not pipeline.step():
                time.sleep(LOOK_SECONDS / 20)

        yield Place(
            pipeline.log,
            pipeline.store,
            {spec.name: spec.view for spec in REPLICAS},
            lambda kind, subject: by_subject(kind, subject, count),
            DEFAULT_BITS,
            Hasher(),
            wait,
        )


def run_repair(
    name: str,
    config: Path | None,
    data_dir: Path | None,
    *,
    dry_run: bool,
    force: bool,
    seconds: float,
) -> int:
    """Repair a finding, or show what that would write; return the exit code."""
    console = Console(soft_wrap=True)
    if is_attached(data_dir):
        raise ConfigurationError(
            f"{data_dir} is that of `synchroscope attach`, which only reads the stores: put them "
            "right with what fills them; the finding closes when a later look agrees"
        )
    with open_place(config, data_dir, only_look=dry_run) as place:
        reader = FindingsReader(place.log)
        finding = _find(reader, name)
        if finding is None:
            raise ConfigurationError(f"there is no finding {name}: `synchroscope findings` lists")
        if reason := refusal(finding, force=force):
            console.print(reason, highlight=False)
            return 2
        if dry_run:
            return _show_plan(place, reader, finding, console, seconds)
        return _follow(place, reader, name, console, force=force, seconds=seconds)


def _find(reader: FindingsReader, name: str) -> Finding | None:
    return next((finding for finding in reader.read() if finding.id == name), None)


# -- repairing ------------------------------------------------------------------------------------


def _follow(
    place: Place,
    reader: FindingsReader,
    name: str,
    console: Console,
    *,
    force: bool,
    seconds: float,
) -> int:
    request, asked_at, told = uuid4().hex, -ASK_SECONDS, ""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        finding = _find(reader, name)
        if finding is None or finding.state == "resolved":
            break
        work = finding.evidence.get("repair", {})
        if finding.state == "open" and work.get("request_id") == request:
            console.print(repair_text(finding), highlight=False)
            return 3 if "refused" in work else 1
        if finding.state == "open" and time.monotonic() - asked_at >= ASK_SECONDS:
            asked_at = time.monotonic()
            order = encode_message(RepairOrder(request, name, force))
            place.log.append([NewRecord(REQUESTS, 0, b"validator", order)], time.time())
        if finding.state == "repairing" and (text := repair_text(finding)) != told:
            told = text
            console.print(f"repairing: {text}", highlight=False)
        place.wait()
    finding = _find(reader, name)
    if finding is None or finding.state != "resolved":
        console.print(
            f"{name} is not proven after {seconds:g} s; the repair goes on: look with "
            "`synchroscope findings --open`, and whether validators and projectors run",
            highlight=False,
        )
        return 3
    at = finding.evidence.get("agreed_position")
    console.print(
        f"{name} is resolved: the digest of {finding.replica} agrees at {finding.partition}:{at}",
        highlight=False,
    )
    return 0


# -- what would be written ------------------------------------------------------------------------


def _show_plan(
    place: Place, reader: FindingsReader, finding: Finding, console: Console, seconds: float
) -> int:
    name = finding.replica or ""
    view = place.views.get(name)
    if view is None:
        raise ConfigurationError(f"there is no replica {name} here any more")
    buckets = [bucket_of(key, place.bits) for key in finding.keys]
    buckets = buckets or list(finding.evidence.get("buckets", []))
    answer = _explain(place, name, finding.partition, sorted(set(buckets)), seconds)
    if answer is None:
        console.print(f"{name} did not answer within {seconds:g} s", highlight=False)
        return 3
    keys = candidates(finding, answer, view, place.history, place.partition_of, place.bits, buckets)
    position = answer.note.position
    published = _store_position(place.log, finding.partition, position)
    found = deviations(keys, answer, view, place.history, published, place.hasher)
    unresolved = [one for one in reader.read() if one.state != "resolved"]
    reason = lack_of_authority([one.key for one in found], view.model, place.bits, unresolved)
    if reason:
        console.print(reason, highlight=False)
        return 3
    console.print(
        f"{name} at {finding.partition}:{position}: {len(found)} aggregates would be written",
        highlight=False,
    )
    for deviation in found[:SHOWN_KEYS]:
        for line in plan_lines(deviation, answer, view, place.hasher):
            console.print(line, highlight=False, markup=False)
    if len(found) > SHOWN_KEYS:
        console.print(f"and {len(found) - SHOWN_KEYS:,} more", highlight=False)
    return 0


def _explain(
    place: Place, replica: str, partition: int, buckets: list[int], seconds: float
) -> Explanation | None:
    request = Request(f"dry-run-{uuid4().hex}", replica, partition, BEYOND_EVERYTHING, buckets)
    position = place.log.head(REPORTS, 0)
    record = NewRecord(REQUESTS, 0, replica.encode(), encode_message(request))
    place.log.append([record], time.time())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        batch = place.log.read(REPORTS, 0, position, READ_RECORDS)
        position = batch.position
        for answer in map(decode_message, (record.value for record in batch.records)):
            if isinstance(answer, Explanation) and answer.request_id == request.request_id:
                return answer
        if not batch.records:
            place.wait()
    return None


def _store_position(log: Log, partition: int, position: int) -> int:
    """Return the newest store position that the log holds before a position.

    What a relay publishes again is older than what stands before it, so the highest counts.
    """
    start = position
    while start > 0:
        end, start = start, max(start - READ_RECORDS, 0)
        found, at = 0, start
        while at < end:
            batch = log.read(EVENTS, partition, at, end - at)
            for record in batch.records:
                stored = record.header("store-position") or b""
                if record.offset < end and stored.isdigit():
                    found = max(found, int(stored))
            if batch.position <= at:
                break
            at = batch.position
        if found:
            return found
    return 0


def plan_lines(
    deviation: Deviation, answer: Explanation, view: View, hasher: Hasher
) -> Iterator[str]:
    """Yield what would be written, a line a field; values of public fields only, else hashes."""
    kind, subject = deviation.key
    yield (f"{kind} of {subject}: sequence {deviation.seen.sequence} -> {deviation.truth.sequence}")
    must = hashes_of(deviation.key, deviation.truth, hasher)
    seen = {fact.field: fact for fact in deviation.seen.facts}
    shown = {
        fact.field: fact.value
        for stored in answer.aggregates
        if (stored.context_type, stored.subject) == deviation.key
        for fact in stored.facts
    }
    for field in sorted(must.keys() | seen.keys()):
        old = (seen[field].hash, seen[field].sequence) if field in seen else (None, 0)
        new = must.get(field, (None, 0))
        if old == new:
            continue
        before, after = old[0], new[0]
        if view.is_public(kind, field):
            before = None if before is None else repr(shown.get(field))
            after = None if after is None else repr(deviation.truth.fields[field][0])
        yield f"  {field}: {before or 'no fact'} -> {after or 'no fact'} (written by {new[1]})"
