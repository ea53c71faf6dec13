"""How far a model may trust what it reads, and what it is given when it may not.

A `Freshness` is all that is known of one read, a `Limits` what a model asks of a context type, and
`decide` puts the two together. Everything here is pure. What is not known is None, never 0, and is
never called fresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

from synchroscope.errors import ConfigurationError

CONSISTENT, UNKNOWN, DIVERGED = "CONSISTENT", "UNKNOWN", "DIVERGED"

Response = Literal["serve", "cached", "default"]
_RESPONSES = ("serve", "cached", "default")


class NamedFinding(Struct, frozen=True):
    """A finding that is open and concerns what is read.

    ``clean_until`` is the position up to which the replica is known to have been right there; None
    where that is not known.
    """

    id: str
    kind: str
    clean_until: int | None


class Freshness(Struct, frozen=True):
    """What is known of one read of a replica.

    ``staleness_seconds`` is the longest time for which the log can have had an event that the read
    does not show: the age of the first event that is not applied, or the time since the replica
    was last seen at the log's end. ``lag_events`` is how many records it had not applied when it
    was last looked at. ``verdict`` is the validator's, of the partition that was read, and
    ``verdict_age_seconds`` the age of the comparison behind it. ``findings`` are those that name
    the aggregate, or that cannot say which ones they mean; None: they could not be read.
    """

    staleness_seconds: float | None
    lag_events: int | None
    verdict: str
    verdict_reason: str
    verdict_age_seconds: float | None
    findings: tuple[NamedFinding, ...] | None
    position: int | None = None


class Label(StrEnum):
    """What a read is, the worst first."""

    SUSPECT = "suspect"
    """An open finding concerns it."""
    DIVERGED = "diverged"
    """The replica differs from the log, and no finding says that it is here."""
    STALE = "stale"
    UNKNOWN = "unknown"
    """What is needed to tell is not known, or too old."""
    FRESH = "fresh"


class Limits(Struct, frozen=True):
    """What a model asks of a context type, and what it wants where it does not get that.

    ``serve`` gives what the replica has, ``cached`` the newest context that was read while it was
    fresh and, under a finding, certainly before the fault; ``default`` gives `default`, and so does
    ``cached`` where there is none.

    Parameters
    ----------
    maximum_staleness_seconds: None: any, but not an unknown one. Smaller than the follower's look
        interval it is never met.
    maximum_verdict_age_seconds: Older evidence is UNKNOWN.
    on_finding, on_diverged, on_stale, on_unknown: By `Label`. What is cached is never newer than
        what the replica has, so ``cached`` helps against a finding, and hardly against staleness.
    on_unavailable: When the replica cannot be read at all; ``serve`` raises the error.
    maximum_cached_age_seconds: What was read longer ago is not given as ``cached``.
    default: The context to decide on when there is no other.
    """

    maximum_staleness_seconds: float | None = None
    maximum_verdict_age_seconds: float = 30.0
    on_finding: Response = "cached"
    on_diverged: Response = "serve"
    on_stale: Response = "serve"
    on_unknown: Response = "serve"
    on_unavailable: Response = "cached"
    maximum_cached_age_seconds: float = 3_600.0
    default: Mapping[str, Any] = {}

    def check(self) -> None:
        """Raise `ConfigurationError` for a limit that cannot be."""
        for name in ("on_finding", "on_diverged", "on_stale", "on_unknown", "on_unavailable"):
            if getattr(self, name) not in _RESPONSES:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}: use one of {', '.join(_RESPONSES)}"
                )
        for name in ("staleness", "verdict_age", "cached_age"):
            seconds = getattr(self, f"maximum_{name}_seconds")
            if seconds is not None and not seconds > 0:
                raise ConfigurationError(f"maximum_{name}_seconds is {seconds}: it must be over 0")


class Decision(Struct, frozen=True):
    """What to give, what it is called, and why."""

    label: Label
    response: Response
    reason: str


def decide(freshness: Freshness, limits: Limits) -> Decision:
    """Return what to do with a read, by the first rule that applies.

    1. An open finding concerns it: SUSPECT.
    2. The replica's partition is DIVERGED: so it is called.
    3. The staleness is known and over its limit: STALE.
    4. Staleness, findings or verdict are not known, or the verdict's evidence is too old: UNKNOWN.
    5. FRESH.
    """
    if freshness.findings:
        named = ", ".join(f"{one.id} {one.kind}" for one in freshness.findings[:3])
        more = len(freshness.findings) - 3
        rest = f" and {more} more" if more > 0 else ""
        return Decision(Label.SUSPECT, limits.on_finding, f"under finding {named}{rest}")
    if freshness.verdict == DIVERGED:
        return Decision(Label.DIVERGED, limits.on_diverged, freshness.verdict_reason)
    stale, most = freshness.staleness_seconds, limits.maximum_staleness_seconds
    if stale is not None and most is not None and stale > most:
        return Decision(Label.STALE, limits.on_stale, f"stale by {stale:.3f} s of {most:g} s")
    unknown = _what_is_unknown(freshness, limits)
    if unknown:
        return Decision(Label.UNKNOWN, limits.on_unknown, unknown)
    return Decision(Label.FRESH, "serve", "consistent and within its limits")


def _what_is_unknown(freshness: Freshness, limits: Limits) -> str:
    if freshness.staleness_seconds is None:
        return "how stale it is, is not known"
    if freshness.findings is None:
        return "whether a finding concerns it, is not known"
    if freshness.verdict != CONSISTENT:
        return f"verdict {freshness.verdict}: {freshness.verdict_reason}"
    age, most = freshness.verdict_age_seconds, limits.maximum_verdict_age_seconds
    if age is None:
        return "how old the verdict is, is not known"
    if age > most:
        return f"the verdict's evidence is {age:.0f} s old, {most:g} s allowed"
    return ""
