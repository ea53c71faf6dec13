"""How does a store stand? The verdict, by rules of which the first one that holds decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from validator.attached.checker import StoreChecker
from validator.attached.log_view import Positions

Verdict = Literal["CONSISTENT", "UNKNOWN", "DIVERGED"]
OVERDUE_SECONDS = 10.0
"""What the validator itself has not done for so long makes a verdict UNKNOWN."""


class StoreStanding(Struct, frozen=True):
    """How a store stands, and why."""

    name: str
    verdict: Verdict
    reason: str
    lag_events: int
    lag_seconds: float


class LogStanding(Struct, frozen=True):
    """What concerns all stores.

    Parameters
    ----------
    positions: Where the fold is.
    is_caught_up: It has come to where the log ended when it began.
    unavailable: Why the log cannot be read.
    unknown: What of the log is not known, in sentences.
    idle_seconds: The validator has not come to look at anything for so long.
    """

    positions: Positions
    is_caught_up: bool
    unavailable: str
    unknown: Sequence[str]
    idle_seconds: float


def standing_of(checker: StoreChecker, log: LogStanding, opened: int, now: float) -> StoreStanding:
    """Return how a store stands of which so many findings are open."""
    name, walk, settings = checker.settings.name, checker.walk, checker.settings
    lagging = checker.lagging()
    events, seconds = 0, 0.0
    for suspect in lagging:
        position = log.positions.get(suspect.partition, 0)
        events = max(events, position - (suspect.waits_for or position))
        seconds = max(seconds, now - suspect.recorded_at)
    overdue = _overdue(checker, log, now)
    unknown = [*log.unknown, *([checker.unchecked.sentence()] if checker.unchecked else [])]

    def standing(verdict: Verdict, reason: str) -> StoreStanding:
        return StoreStanding(name, verdict, reason, events, seconds)

    # 1. What is proven wrong is wrong whatever else is not known.
    if opened:
        return standing("DIVERGED", "; ".join([f"{opened} open findings", *overdue]))
    # 2. Nobody answers, or nobody asks.
    if log.unavailable or checker.unavailable:
        return standing("UNKNOWN", log.unavailable or checker.unavailable)
    if overdue:
        return standing("UNKNOWN", overdue[0])
    # 3. It has not applied what it should have by now.
    undecided = checker.undecided(now)
    if undecided and lagging:
        keys = f"{len(lagging):,} keys lack events"
        lag = f"LAGGING by {events:,} events, {seconds:.0f} s: {keys}"
        return standing("UNKNOWN", "; ".join([lag, *unknown]))
    if undecided:
        return standing("UNKNOWN", f"{undecided} keys change too fast to be judged")
    # 4. Something differs, and must still do so at the next look to be a finding.
    differing = checker.differing()
    if differing:
        return standing("UNKNOWN", f"{differing} keys differ and are read again")
    # 5. Not everything was looked at lately.
    if not log.is_caught_up or walk.finished_at is None:
        return standing("UNKNOWN", "not everything has been looked at yet")
    age = now - walk.finished_at
    if age > settings.walk_limit_seconds:
        return standing("UNKNOWN", f"the last whole walk is {age:.0f} s old")
    # 6. There is what cannot be looked at.
    if unknown:
        return standing("UNKNOWN", "; ".join(unknown))
    if checker.keyless:
        return standing("UNKNOWN", f"{checker.keyless:,} rows have no key, or none that is known")
    return standing("CONSISTENT", f"all of it was looked at within {age:.0f} s")


def _overdue(checker: StoreChecker, log: LogStanding, now: float) -> list[str]:
    """Return what should have been known by now, in at most one sentence."""
    if log.idle_seconds > OVERDUE_SECONDS:
        return [f"nothing was looked at for {log.idle_seconds:.0f} s"]
    seconds, why = checker.overdue(now)
    return [f"{why} for {seconds:.0f} s"] if seconds > checker.settings.answer_seconds else []
