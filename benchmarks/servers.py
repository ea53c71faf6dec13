"""`make bench-servers`: the distributed mode over real servers, beside bare clients.

Starts Kafka, PostgreSQL and Redis of its own (deploy/local/up), measures, and stops them again.
Prints a table and writes JSON. ``docs/benchmarks.md`` says what each row means.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.local_servers import own_servers
from benchmarks.measuring import Row, Settings
from benchmarks.run import FOLDER, circumstances, header, line
from benchmarks.servers_path import path_rows
from benchmarks.servers_propagation import propagation_rows
from benchmarks.servers_throughput import throughput_rows
from benchmarks.servers_tuning import tuning_rows
from benchmarks.servers_validator import validator_rows
from benchmarks.servers_world import World
from service.process import GARBAGE_THRESHOLDS

GROUPS: dict[str, Callable[[Settings, World], Iterator[Row]]] = {
    "throughput": throughput_rows,
    "propagation": propagation_rows,
    "path": path_rows,
    "validator": validator_rows,
    "tuning": tuning_rows,
}
DEFAULT_OUTPUT = FOLDER / "results" / "servers.json"
PACKAGES = ("confluent-kafka", "kafka-python", "redis", "psycopg", "numpy")


@contextmanager
def servers() -> Iterator[World]:
    """Start servers in a folder and on ports that nobody has, and stop them whatever happens."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder:
        place = Path(folder) / "servers"
        with own_servers(place) as (kafka, postgresql, redis):
            yield World(kafka, postgresql, redis, place)


def load() -> str:
    """Return the machine's load averages."""
    return " ".join(f"{one:.2f}" for one in os.getloadavg())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make bench-servers ARGS=…")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one repeat")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP",
                        help=f"only these groups: {', '.join(GROUPS)}")  # fmt: skip
    options = parser.parse_args(arguments)
    settings = Settings(quick=options.quick)
    # As the roles' processes are set up, for what is measured in this one.
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    rows: list[Row] = []
    loads: dict[str, str] = {"start": load()}
    started = time.perf_counter()
    with servers() as world:
        print(header(), flush=True)
        for name in options.only:
            for row in GROUPS[name](settings, world):
                rows.append(row)
                print(line(row, None), flush=True)
            loads[name] = load()
            print(f"  {name}: load average {loads[name]}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s in all")
    known: dict[str, Any] = {
        **circumstances(),
        **{name: version(name) for name in PACKAGES},
        "crc32c": find_spec("crc32c") is not None,  # kafka-python is faster with it.
        "load_average_after": loads,
        "seconds": round(time.perf_counter() - started),
    }
    result = {"circumstances": known, "rows": msgspec.to_builtins(rows)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
