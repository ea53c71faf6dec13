"""A clean run of attached mode under load: whatever it finds is a false finding.

    python -m benchmarks.attached_soak --minutes 60 --rate 3000

Starts Kafka, PostgreSQL and Redis of its own. Prints a journal as markdown, a row a minute; exit
code 1 if there was any finding, or a store was not CONSISTENT in the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.attached_pipeline import Attached, Pipeline, pipeline, wait_for
from benchmarks.local_servers import own_servers

STORES = ("redis", "postgresql")
START_SECONDS = 60.0
REST_SECONDS = 540.0


def share(horizon: dict[str, Any]) -> str:
    """Return what was there in time of what was looked for."""
    if not horizon["looked"]:
        return "-"
    return f"{horizon['consistent']:,} of {horizon['looked']:,}"


def row(report: dict[str, Any], name: str, minute: float, attached: Attached) -> str:
    """Return a row of the journal."""
    store, log = report["stores"][name], report["log"]
    shares = " | ".join(share(horizon) for horizon in store["horizons"])
    return (
        f"| {minute:.1f} | {name} | {log['records']:,} | {log['behind']:,} | {log['keys']:,} "
        f"| {store['rows_read']:,} | {store['walks']} | {shares} | {store['looks']['lagging']:,} "
        f"| {len(attached.findings())} | {store['verdict']} | {attached.memory_bytes() >> 20} |"
    )


def watch(world: Pipeline, attached: Attached, minutes: float) -> dict[str, Any]:
    """Print a row a minute until the producer has ended and everything was looked at again."""
    began = time.monotonic()
    next_at, report = 60.0, attached.status()
    while world.is_running("producer"):
        time.sleep(1.0)
        report = attached.status() or report
        elapsed = time.monotonic() - began
        if elapsed >= next_at:
            next_at += 60.0
            for name in STORES:
                print(row(report, name, elapsed / 60, attached), flush=True)
        if elapsed > minutes * 60 + 60:
            raise TimeoutError("the producer does not end")
    walked = {name: report["stores"][name]["walks"] for name in STORES}

    def is_walked() -> bool:
        stores = attached.status().get("stores", {})
        return bool(stores) and all(stores[name]["walks"] >= walked[name] + 2 for name in STORES)

    wait_for(is_walked, START_SECONDS + REST_SECONDS, "a walk after the end")
    report = attached.status()
    for name in STORES:
        print(row(report, name, (time.monotonic() - began) / 60, attached), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=2_000.0, help="events a second")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    print(
        f"A clean run of {options.minutes:g} minutes at {options.rate:,.0f} events/s over "
        f"{options.users:,} users, seed {options.seed}; two consumers, Redis and PostgreSQL.\n"
    )
    with (
        tempfile.TemporaryDirectory(prefix="synchroscope-soak-") as folder,
        own_servers(Path(folder) / "servers") as addresses,
        pipeline(*addresses, Path(folder) / "world") as world,
    ):
        attached = world.attach()
        try:
            wait_for(lambda: attached.status().get("stores"), START_SECONDS, "the validator")
            world.produce(options.rate, options.users, options.minutes * 60, options.seed)
            print(
                "| minute | store | records | to fold | keys | rows read | walks | within 1 s "
                "| within 10 s | within 1 min | within 5 min | lagging looks | findings | verdict "
                "| memory MiB |\n" + "|" + " --- |" * 15,
                flush=True,
            )
            report = watch(world, attached, options.minutes)
        finally:
            attached.stop()
    findings = attached.findings()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = report["log"]["records"]
    print(
        f"\n{records:,} events ({records / (options.minutes * 60):,.0f}/s), {len(findings)} false "
        f"findings; all processes together used {usage.ru_utime + usage.ru_stime:,.0f} s of CPU."
    )
    for finding in list(findings.values())[:20]:
        print(f"    {json.dumps(finding)}")
    verdicts = [report["stores"][name]["verdict"] for name in STORES]
    sys.exit(0 if not findings and set(verdicts) == {"CONSISTENT"} else 1)


if __name__ == "__main__":
    main()
