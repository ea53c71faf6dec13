"""`make bench`: throughput, memory and latencies, each beside the limit it is compared with.

Prints a table and writes JSON. ``docs/benchmarks.md`` says what each row means. Nothing here fails
on a slow machine: `benchmarks/baseline.json` holds the ratios of an earlier run to compare with.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.location import location_rows
from benchmarks.measuring import Row, Settings, Spread
from benchmarks.parts import commands_rows, decode_rows, reference_rows, relay_rows, replica_rows
from benchmarks.scale import lmdb_rows, memory_rows
from benchmarks.whole import pipeline_rows

GROUPS: dict[str, Callable[[Settings], list[Row]]] = {
    "decode": decode_rows,
    "reference": reference_rows,
    "replica": replica_rows,
    "commands": commands_rows,
    "relay": relay_rows,
    "pipeline": pipeline_rows,
    "memory": memory_rows,
    "lmdb": lmdb_rows,
    "location": location_rows,
}
FOLDER = Path(__file__).resolve().parent
DEFAULT_OUTPUT = FOLDER / "results" / "latest.json"
BASELINE = FOLDER / "baseline.json"


def number(value: float, unit: str) -> str:
    """Return a value as the table shows it.

    >>> number(12_345.6, "events/s"), number(0.0123, "s"), number(2_500_000, "bytes")
    ('12,346', '12.30 ms', '2.50 MB')
    """
    if unit == "s":
        return f"{value * 1e3:,.2f} ms" if value < 10 else f"{value:,.1f} s"
    if unit == "bytes":
        return f"{value / 1e6:,.2f} MB" if value >= 1e5 else f"{value / 1e3:,.2f} kB"
    return f"{value:,.0f}"


def line(row: Row, before: float | None) -> str:
    """Return one line of the table."""

    def shown(seen: Spread | None) -> str:
        return "-" if seen is None else number(seen.median, row.unit)

    between = f"{number(row.ours.least, row.unit)} .. {number(row.ours.greatest, row.unit)}"
    ratios = [row.ratio, row.wall_ratio, before]
    cells = ["-" if ratio is None else f"{ratio:.3g}" for ratio in ratios]
    return (
        f"{row.name:48} {shown(row.ours):>11} {between:>25} {shown(row.theirs):>12} "
        f"{cells[0]:>7} {cells[1]:>7} {cells[2]:>8}  {row.limit}"
    )


def header() -> str:
    """Return the table's first line."""
    return (
        f"{'row (CPU; rates are a second)':48} {'ours':>11} {'least .. greatest':>25} "
        f"{'limit':>12} {'ratio':>7} {'(wall)':>7} {'baseline':>8}  limit is"
    )


def circumstances() -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("msgspec", "xxhash", "lmdb")
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return name -> ratio, as the baseline holds them."""
    return {row.name: float(f"{row.ratio:.3g}") for row in rows if row.ratio is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make bench ARGS=…")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, few repeats")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME",
                        help=f"only these groups: {', '.join(GROUPS)}")  # fmt: skip
    parser.add_argument("--rows", type=int, default=None, help="retail lines to use; default: all")
    parser.add_argument("--baseline", action="store_true", help="write the baseline anew")
    options = parser.parse_args(arguments)
    settings = Settings(quick=options.quick, rows=options.rows)
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    rows: list[Row] = []
    print(header(), flush=True)
    started = time.perf_counter()
    for name in options.only:
        for row in GROUPS[name](settings):
            rows.append(row)
            print(line(row, baseline.get(row.name)), flush=True)
    print(f"{time.perf_counter() - started:.0f} s in all")
    result = {"circumstances": circumstances(), "rows": msgspec.to_builtins(rows)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.baseline:
        text = json.dumps({**baseline, **ratios_of(rows)}, indent=2)
        BASELINE.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
