"""`synchroscope simulate`: many seeds, a count of what happened, and how to repeat a failure."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from chaos.simulator import Outcome, simulate


def run_simulation(seeds: Sequence[int], keep_going: bool, console: Console) -> int:
    """Run every seed; return 0 when all properties held, 1 otherwise."""
    total: Counter[str] = Counter()
    failed: list[int] = []
    done = 0
    shown = track(seeds, description="simulating", console=console, disable=not console.is_terminal)
    for seed in shown:
        done += 1
        try:
            _count(total, simulate(seed))
        except Exception as error:
            failed.append(seed)
            console.print(
                f"seed {seed}: {type(error).__name__}: {error}", style="red", markup=False
            )
            console.print(
                f"repeat with: synchroscope simulate --seeds 1 --start-seed {seed}  "
                f"(Python {sys.version_info.major}.{sys.version_info.minor})",
                highlight=False,
            )
            if not keep_going:
                break
    faults = ", ".join(f"{n:,} {kind}" for kind, n in sorted(total.items()) if kind.islower())
    console.print(
        f"{done:,} seeds, {len(failed)} failed; {total['STEPS']:,} steps, "
        f"{total['EVENTS']:,} events, {total['CRASHES']:,} crashes; "
        f"injected: {faults or 'nothing'}; "
        f"{total['FOUND']:,} found and located, {total['MASKED']:,} masked",
        highlight=False,
        soft_wrap=True,
    )
    return 1 if failed else 0


def _count(total: Counter[str], outcome: Outcome) -> None:
    total.update(outcome.faults)
    total["STEPS"] += outcome.steps
    total["EVENTS"] += outcome.events
    total["CRASHES"] += outcome.crashes
    total["FOUND"] += outcome.found
    total["MASKED"] += outcome.masked
