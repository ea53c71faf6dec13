"""Holds what was found against what was injected, for one kind of fault."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field


class Run(Struct, frozen=True):
    """What one run came to.

    ``injected``: faults. ``masked``: of these, harmless by nature (lag, a repeat), or undone by a
    later fault on the same key before anything could see them. ``found``: those of the others that
    a finding names, with key and place. ``causes``: as which kind, once a fault found. ``inside``,
    ``widths``: how many of the found ones lie in the interval that the finding gives, and how many
    offsets that is wide. ``counted``: those that no finding names, but that the replica's own count
    of its errors of order has. ``findings``, ``right``: findings of the harmed store, and those
    that a fault explains. ``false_alarms``: findings of anything else.
    """

    injected: int
    masked: int
    found: int
    causes: dict[str, int]
    inside: int
    widths: list[int]
    findings: int
    right: int
    false_alarms: int
    counted: int = 0


class Score(Struct):
    """The sum of all runs of a kind; fields as in `Run`."""

    kind: str
    runs: int = 0
    injected: int = 0
    masked: int = 0
    found: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    inside: int = 0
    widths: list[int] = field(default_factory=list)
    findings: int = 0
    right: int = 0
    false_alarms: int = 0
    counted: int = 0

    def add(self, run: Run) -> None:
        """Add a run."""
        self.runs += 1
        self.injected += run.injected
        self.masked += run.masked
        self.found += run.found
        self.causes.update(run.causes)
        self.inside += run.inside
        self.widths += run.widths
        self.findings += run.findings
        self.right += run.right
        self.false_alarms += run.false_alarms
        self.counted += run.counted
