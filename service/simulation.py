"""`synchroscope simulate`: many seeds, a count of what happened, and how to repeat a failure."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from rich.console import Console
from rich.progress import track

from chaos.simulator import Outcome, simulate
from synchroscope.errors import SynchroscopeError


def run_simulation(
    seeds: Sequence[int], keep_going: bool, console: Console, *, jobs: int = 1
) -> int:
    """Run every seed in `jobs` processes; return 0 when all properties held, 1 otherwise."""
    total: Counter[str] = Counter()
    failed: list[int] = []
    done = 0
    with _outcomes(seeds, min(jobs, len(seeds))) as outcomes:
        shown = track(
            zip(seeds, outcomes, strict=True),
            total=len(seeds),
            description="simulating",
            console=console,
            disable=not console.is_terminal,
        )
        for seed, outcome in shown:
            done += 1
            if isinstance(outcome, Outcome):
                _count(total, outcome)
                continue
            failed.append(seed)
            console.print(f"seed {seed}: {outcome}", style="red", markup=False)
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


@contextmanager
def _outcomes(seeds: Sequence[int], jobs: int) -> Iterator[Iterator[Outcome | str]]:
    """Give the outcome, or what went wrong, of each seed in turn."""
    if jobs < 2:
        yield map(_outcome, seeds)
        return
    # Spawned: a fork would take along what threads of this process hold.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _leave_interrupts)
    try:
        yield pool.map(_outcome, seeds)
    except BrokenProcessPool:
        raise SynchroscopeError(
            "a process that ran seeds was killed or crashed: run them with --jobs 1 to see which"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the first process, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(seed: int) -> Outcome | str:
    try:
        return simulate(seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _count(total: Counter[str], outcome: Outcome) -> None:
    total.update(outcome.faults)
    total["STEPS"] += outcome.steps
    total["EVENTS"] += outcome.events
    total["CRASHES"] += outcome.crashes
    total["FOUND"] += outcome.found
    total["MASKED"] += outcome.masked
