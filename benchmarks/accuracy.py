"""`make accuracy`: precision, recall and onset error for each kind of fault, with intervals.

Two tables. *Instrumented*: the production roles under a virtual clock (`chaos`), each run with
faults of one kind at random in one of two replicas; the seeds decide about everything. *Attached*:
the pipeline of `examples/attached` over real servers, `synchroscope attach` beside it, and the
faults that `examples/attached/inject.py` does to the stores by hand. What was injected is told by
whoever injected it, never by what is measured. ``docs/accuracy.md`` says what each column means.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from benchmarks.accuracy_attached import attached_scores
from benchmarks.accuracy_instrumented import KINDS, run_seed
from benchmarks.accuracy_score import Score
from benchmarks.run import FOLDER, circumstances

Z = 1.959964
"""Of the normal distribution 95 % lie within so many standard deviations."""
DEFAULT_OUTPUT = FOLDER / "results" / "accuracy.json"


class Share(Struct, frozen=True):
    """A share with its 95 % interval (Wilson, 1927)."""

    count: int
    total: int

    def text(self) -> str:
        """Return it as the table shows it; "-" of nothing."""
        if not self.total:
            return "-"
        low, high = wilson(self.count, self.total)
        return f"{self.count / self.total:.1%} ({low:.1%} - {high:.1%})"


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927).

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    share, square = count / total, Z * Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    spread = share * (1 - share) / total + square / (4 * total * total)
    half = Z * math.sqrt(spread) / (1 + square / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def line(score: Score) -> str:
    """Return a row of the table."""
    told = ", ".join(f"{kind} {count}" for kind, count in score.causes.most_common())
    widths = sorted(score.widths)
    median = f"{statistics.median(widths):g}" if widths else "-"
    return (
        f"| {score.kind} | {score.runs} | {score.injected} | {score.masked} "
        f"| {Share(score.found, score.injected - score.masked).text()} "
        f"| {Share(score.right, score.findings).text()} | {told or '-'} "
        f"| {Share(score.inside, score.found - score.counted).text()} "
        f"| {median} | {widths[-1] if widths else '-'} "
        f"| {score.false_alarms} |"
    )


HEADER = (
    "| fault | runs | injected | left no trace | found (recall) "
    "| findings with a cause (precision) | told as | onset inside the interval "
    "| interval, median | longest | false alarms |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def instrumented_scores(seeds: range) -> list[Score]:
    """Run every kind over these seeds."""
    scores: list[Score] = []
    for kind in KINDS:
        score = Score(kind)
        for seed in seeds:
            score.add(run_seed(kind, seed))
        scores.append(score)
        print(line(score), flush=True)
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make accuracy ARGS=…")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the JSON goes")
    parser.add_argument("--seeds", type=int, default=60, help="runs of each kind")
    parser.add_argument("--start-seed", type=int, default=0, help="the first one")
    parser.add_argument(
        "--rounds", type=int, default=6, help="attached: each kind so often in each store; 0: none"
    )
    options = parser.parse_args(arguments)
    print(f"Instrumented replicas\n\n{HEADER}")
    seeds = range(options.start_seed, options.start_seed + options.seeds)
    found = {"instrumented": instrumented_scores(seeds)}
    if options.rounds:
        print(f"\nAttached stores\n\n{HEADER}")
        found["attached"] = attached_scores(options.rounds, options.start_seed)
        for score in found["attached"]:
            print(line(score), flush=True)
    tables: dict[str, Any] = {
        name: [_plain(score) for score in scores] for name, scores in found.items()
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(
        json.dumps({"circumstances": circumstances(), **tables}, indent=1) + "\n",
        encoding="utf-8",
    )
    everything = Counter[str]()
    for scores in found.values():
        for score in scores:
            everything["wrong"] += score.findings - score.right + score.false_alarms
            everything["missed"] += score.injected - score.masked - score.found
    print(f"\n{everything['missed']} not found, {everything['wrong']} found without a cause")
    return 1 if everything["wrong"] or everything["missed"] else 0


def _plain(score: Score) -> dict[str, Any]:
    return {name: getattr(score, name) for name in Score.__struct_fields__}


if __name__ == "__main__":
    sys.exit(main())
