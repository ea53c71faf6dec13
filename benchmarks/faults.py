"""`make faults`: every kind of fault over many seeds, and whether exactly that was found.

Each run is the real command with `--fault`, on the days that come with the package (or `--data`).
It is judged from the report alone. Prints a table, writes JSON with `--output`, and ends with 1
when a promise was broken.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.faults import KINDS
from service.demo import REPLICAS

SHARES = {
    "drop": 0.002,
    "duplicate": 0.02,
    "reorder": 0.02,
    "delay": 0.002,
    "corrupt": 0.002,
    "stale": 0.002,
}
FOUND_KINDS = {
    "drop": {"missed"},
    "corrupt": {"corrupted", "stale"},
    "stale": {"stale", "corrupted"},
    "reorder": {"reordered"},
    "duplicate": {"doubled"},
    "delay": set[str](),
}
ALWAYS_FOUND = ("drop", "corrupt", "stale")
LOCATED_WITHIN_SECONDS = 1.0


def judge(kind: str, replica: str, report: dict[str, Any]) -> list[str]:
    """Return every broken promise of one run's report."""
    wrong: list[str] = []
    faults, findings = report["faults"], report["findings"]
    injected = {
        (fault["subject"], fault["context_type"])
        for fault in faults
        if not fault["lost_with_process"]
    }
    found = {(s, f["context_type"]) for f in findings for s in f["subjects"]}
    if kind in ALWAYS_FOUND and injected - found:
        wrong.append(f"not found: {sorted(injected - found)[:3]}")
    if found - injected:
        wrong.append(f"found and not injected: {sorted(found - injected)[:3]}")
    others = {f["replica"] for f in findings} - {replica}
    if others:
        wrong.append(f"other replicas named: {others}")
    odd = {f["kind"] for f in findings} - FOUND_KINDS[kind]
    if odd:
        wrong.append(f"kinds: {odd}")
    if len(findings) > len(faults):
        wrong.append(f"{len(findings)} findings for {len(faults)} causes")
    if kind == "drop":
        places = [tuple(f["first_bad_position"].values()) for f in findings]
        if sorted(places) != sorted(tuple(f["position"].values()) for f in faults):
            wrong.append("positions differ")
    if kind == "reorder" and report["ordering_violations"] != len(faults):
        wrong.append(f"{report['ordering_violations']} violations for {len(faults)} swaps")
    if kind == "duplicate" and report["replicas"][replica]["duplicates"] != len(faults):
        wrong.append(f"{report['replicas'][replica]['duplicates']} duplicates of {len(faults)}")
    for name, other in report["replicas"].items():
        if name != replica and other["verdict"] != "CONSISTENT":
            wrong.append(f"{name} is {other['verdict']}")
    return wrong


def seconds_to_locate(report: dict[str, Any]) -> list[float]:
    """Return, per finding, the seconds from the first report that showed it to its location."""
    return [
        (
            dt.datetime.fromisoformat(finding["detected_at"])
            - dt.datetime.fromisoformat(finding["evidence"]["first_reported_at"])
        ).total_seconds()
        for finding in report["findings"]
    ]


def run_once(
    kind: str, seed: int, data: Path | None, folder: Path
) -> tuple[str, dict[str, Any], int]:
    """Run the demo with one fault; return replica, report and exit code."""
    replica = REPLICAS[seed % len(REPLICAS)].name
    report = folder / "report.json"
    command = [
        sys.executable, "-m", "service.cli", "demo", "--headless", "--speed", "max",
        "--http-port", "0", "--fault", f"{kind}:{replica}:{SHARES[kind]}", "--seed", str(seed),
        "--report", str(report),
    ]  # fmt: skip
    if data is not None:
        command += ["--data", str(data)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
    return replica, json.loads(report.read_text(encoding="utf-8")), ended.returncode


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def main() -> int:
    """Run all kinds and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make faults ARGS=…")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--start-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--data", type=Path, default=None, help="folder of invoice CSV files")
    parser.add_argument("--output", type=Path, default=None, help="write the table as JSON")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    broken = 0
    print("kind       seeds injected findings  open  p95 to locate")
    for kind in options.kinds:
        row = {"kind": kind, "seeds": options.seeds, "injected": 0, "findings": 0, "open": 0}
        times: list[float] = []
        for seed in range(options.start_seed, options.start_seed + options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                replica, report, _ = run_once(kind, seed, options.data, Path(folder))
            for text in judge(kind, replica, report):
                broken += 1
                print(f"  BROKEN {kind} seed {seed} {replica}: {text}", flush=True)
            row["injected"] += len(report["faults"])
            row["findings"] += len(report["findings"])
            row["open"] += sum(f["state"] != "resolved" for f in report["findings"])
            times += seconds_to_locate(report)
        row["p95_seconds_to_locate"] = percentile(times, 0.95)
        if row["p95_seconds_to_locate"] >= LOCATED_WITHIN_SECONDS:
            broken += 1
            print(f"  BROKEN {kind}: p95 to locate is {row['p95_seconds_to_locate']:.2f} s")
        rows.append(row)
        print(
            f"{kind:10} {row['seeds']:>5} {row['injected']:>8} {row['findings']:>8} "
            f"{row['open']:>5} {row['p95_seconds_to_locate']:>12.3f} s",
            flush=True,
        )
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
