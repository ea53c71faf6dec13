"""Rows that depend on the number of keys: validator memory, LMDB snapshots.

``python -m benchmarks.scale reference 10000 --trace`` is what the memory rows start as a process of
its own, so that each begins from nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from benchmarks.measuring import Row, Settings, Work, amount, durations, forget
from benchmarks.parts import decode_bare, in_folder, plain
from pipeline.storage_lmdb import LmdbStorage
from synchroscope.digest import DEFAULT_BITS, aggregate_hash
from synchroscope.ports import (
    EVENTS,
    AggregateRecord,
    Batch,
    NewRecord,
    Record,
    TopicPartition,
)
from synchroscope.view import View
from validator.reference import Reference

KIND = "financial"
VIEW = View("scorer", {KIND: frozenset({"spend"})})
MEMORY_KEYS = (10_000, 100_000, 1_000_000)
LMDB_KEYS = 1_000_000
LMDB_COMMIT_RECORDS = 20_000
AT = 1_700_000_000.0


# -- the validator's memory --------------------------------------------------------------------


class SyntheticLog:
    """Makes its records up when they are read, each of a key of its own; keeps nothing."""

    def __init__(self, count: int) -> None:
        self._count = count

    def partitions(self, topic: str) -> int:
        """Return 1."""
        return 1

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return made-up records."""
        end = min(position + limit, self._count)
        records = [Record(n, b"", _synthetic(n), (), AT) for n in range(position, end)]
        return Batch(records, max(end, position))

    def head(self, topic: str, partition: int) -> int:
        """Return how many there are."""
        return self._count

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Refuse: nothing is kept."""
        raise NotImplementedError

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return nothing."""
        return {}

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return nothing."""
        return None


def _synthetic(number: int) -> bytes:
    return (
        f'{{"eventId":"{number:032x}","contextDelta":{{"updates":{{"spend":{{"current":{number}}}}},'
        f'"userId":"{number}"}},"contextType":"financial","sequence":1}}'
    ).encode()


def fold_reference(log: SyntheticLog) -> object:
    reference = Reference(log, [VIEW])
    while reference.advance(0, 1_000):
        pass
    return reference


def fold_keyed(log: SyntheticLog) -> object:
    facts: dict[tuple[str, str | None], dict[str, Any]] = {}
    position = 0
    while records := log.read(EVENTS, 0, position, 1_000).records:
        for record in records:
            event = decode_bare(record.value)
            fields = facts.setdefault((event.context_type, event.context_delta.user_id), {})
            for name, update in event.context_delta.updates.items():
                fields[name] = update.current
        position += len(records)
    return facts


FOLDS: dict[str, Callable[[SyntheticLog], object]] = {
    "reference": fold_reference,
    "keyed": fold_keyed,
}


def measure_fold(fold: str, keys: int, trace: bool) -> dict[str, float]:
    """Fold so many keys and return what that took and keeps."""
    forget()
    gc.collect()
    before = _resident_bytes()
    if trace:
        tracemalloc.start()
    started = time.process_time()
    kept = FOLDS[fold](SyntheticLog(keys))
    seconds = time.process_time() - started
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0] if trace else 0
    grown = _resident_bytes() - before
    del kept
    return {"seconds": seconds, "traced_bytes": traced, "rss_bytes": grown}


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def start_fold(fold: str, keys: int, *, trace: bool) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.scale", fold, str(keys)]
    return subprocess.Popen(
        command + ["--trace"] * trace,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def result_of(process: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a fold's process ended with {process.returncode}")
    result: dict[str, float] = json.loads(output)
    return result


def memory_rows(settings: Settings) -> list[Row]:
    """What the reference keeps after so many keys, beside a dictionary of them."""
    sizes = [settings.size(keys) for keys in MEMORY_KEYS]
    places = [(fold, keys) for keys in sizes for fold in FOLDS]
    # Traced processes are slow and not timed, so they may share the cores; the timed ones may not.
    traced: dict[tuple[str, int], dict[str, float]] = {}
    for keys in sizes:
        started = {fold: start_fold(fold, keys, trace=True) for fold in FOLDS}
        traced |= {(fold, keys): result_of(process) for fold, process in started.items()}
    timed = {place: result_of(start_fold(*place, trace=False)) for place in places}
    rows = []
    for keys in sizes:
        ours, theirs = timed["reference", keys], timed["keyed", keys]
        rows.append(
            amount(
                f"validator memory, {keys:,} keys",
                "bytes",
                traced["reference", keys]["traced_bytes"],
                "bare dict keyed fold",
                traced["keyed", keys]["traced_bytes"],
                {
                    "ours_rss_growth_bytes": ours["rss_bytes"],
                    "limit_rss_growth_bytes": theirs["rss_bytes"],
                    "ours_events_per_cpu_second": keys / ours["seconds"],
                    "limit_events_per_cpu_second": keys / theirs["seconds"],
                },
            )
        )
    return rows


# -- LMDB --------------------------------------------------------------------------------------


def _aggregate(number: int) -> AggregateRecord:
    fields: dict[str, tuple[Any, int]] = {"spend": (number / 4, 3), "cancellations": (0, 3)}
    return AggregateRecord(KIND, f"user:{number}", number % 4, 3, fields, [])


def build_lmdb(path: Path, keys: int) -> LmdbStorage:
    storage = LmdbStorage(path, map_size_bytes=1 << 31)
    storage.begin("benchmark")
    for start in range(0, keys, LMDB_COMMIT_RECORDS):
        made = [_aggregate(n) for n in range(start, min(start + LMDB_COMMIT_RECORDS, keys))]
        made.sort(key=lambda record: aggregate_hash(record.context_type, record.subject))
        storage.commit({(r.context_type, r.subject): r for r in made}, 0, b"state")
    return storage


def lmdb_rows(settings: Settings) -> list[Row]:
    """Snapshot and restore of a million aggregates."""
    keys = settings.size(LMDB_KEYS)
    with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as name:
        root = Path(name)
        started = time.process_time()
        storage = build_lmdb(root / "live", keys)
        build_seconds = time.process_time() - started
        storage.snapshot(root / "kept")
        kept, live = root / "kept" / "data.mdb", root / "live" / "data.mdb"

        def snapshot(folder: Path) -> tuple[Work, Callable[[], object]]:
            return lambda: storage.snapshot(folder / "snapshot"), lambda: None

        def copy(source: Path) -> Callable[[Path], tuple[Work, Callable[[], object]]]:
            return lambda folder: (
                lambda: shutil.copyfile(source, folder / "data.mdb"),
                lambda: None,
            )

        def read_first(path: Path) -> None:
            opened = LmdbStorage(path)
            try:
                if opened.get((KIND, "user:0")) is None or not list(
                    opened.scan(0, 0, DEFAULT_BITS)
                ):
                    raise RuntimeError("the copy does not hold what was stored")
            finally:
                opened.close()

        def open_bare() -> None:
            with lmdb.open(str(root / "kept"), max_dbs=4, readonly=True) as environment:
                database = environment.open_db(b"aggregates", create=False)
                with environment.begin(db=database) as transaction:
                    transaction.get(b"absent")

        def restore(folder: Path) -> tuple[Work, Callable[[], object]]:
            def work() -> None:
                (folder / "restored").mkdir()
                shutil.copyfile(kept, folder / "restored" / "data.mdb")
                read_first(folder / "restored")

            return work, lambda: None

        rows = [
            durations(
                f"lmdb snapshot, {keys:,} aggregates",
                in_folder(snapshot),
                "bare copy of the live file",
                in_folder(copy(live)),
                settings.few_repeats,
            ),
            durations(
                "lmdb open, first read, one bucket",
                plain(lambda: read_first(root / "kept")),
                "bare lmdb open and get",
                plain(open_bare),
                settings.few_repeats,
            ),
            durations(
                "lmdb restore: copy, open, first read, one bucket",
                in_folder(restore),
                "bare copy of the snapshot",
                in_folder(copy(kept)),
                settings.few_repeats,
            ),
        ]
        storage.close()
        notes = {
            "build_cpu_seconds": build_seconds,
            "live_bytes": float(live.stat().st_size),
            "snapshot_bytes": float(kept.stat().st_size),
        }
        return [msgspec.structs.replace(rows[0], notes=notes), *rows[1:]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fold", choices=FOLDS)
    parser.add_argument("keys", type=int)
    parser.add_argument("--trace", action="store_true", help="count allocations; slow")
    options = parser.parse_args()
    print(json.dumps(measure_fold(options.fold, options.keys, options.trace)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
