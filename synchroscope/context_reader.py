"""How a model reads: the context, what it is worth, and why.

    follower = FreshnessFollower(log, "fraud-scorer@1", partition_of, position_of=replica.position)
    reader = ContextReader(replica.get, follower, {"financial": Limits(1.0, default={"risk": 1})})
    given = reader.get("user:17850", "financial", time.time())
    given.facts, given.label, given.source, given.reason

Of each aggregate two contexts are kept that were read while they were fresh: the newest one, and
one that is older by the settle time. A fault is found some time after it happened, so what was
fresh right before the finding may be wrong already. Under a finding only that is given which was
read before the event at which it went wrong; of a fault of the storage nobody can say that.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from synchroscope.context_cache import ContextCache, copied_facts
from synchroscope.errors import ConfigurationError, SynchroscopeError
from synchroscope.freshness import (
    DIVERGED,
    UNKNOWN,
    Decision,
    Freshness,
    Label,
    Limits,
    decide,
)
from synchroscope.freshness_follower import FreshnessFollower
from synchroscope.ports import AggregateKey

DEFAULT_CAPACITY_AGGREGATES = 10_000
DEFAULT_SETTLE_SECONDS = 10.0
SourceOfContext = Literal["replica", "cached", "default"]
SOURCES: tuple[SourceOfContext, ...] = ("replica", "cached", "default")


class Given(Struct, frozen=True):
    """What a model gets: the facts, where they are from, and what is known of the replica's read.

    ``label`` is the read's. ``cached_age_seconds`` is the age of what was kept, its own staleness
    included; None unless ``source`` is ``cached``.
    """

    facts: dict[str, Any]
    source: SourceOfContext
    label: Label
    reason: str
    freshness: Freshness
    cached_age_seconds: float | None = None

    @property
    def is_degraded(self) -> bool:
        """Whether this is anything but the replica's own context, proven and in time."""
        return self.label is not Label.FRESH


class _Kept(Struct, frozen=True):
    """A context that was fresh; ``position`` is one that the replica had not passed when read."""

    facts: dict[str, Any]
    read_at: float
    staleness_seconds: float
    position: int | None


class ContextReader:
    """Reads contexts with their worth; from any thread.

    Parameters
    ----------
    read: Subject and context type -> facts: `Replica.get`, or `ContextCache.get`.
    follower: What is known of the replica; somebody calls its `step`.
    limits: Context type -> what is asked of it; `otherwise` for all others.
    cache: The cache whose `get` is `read`, if there is one: what it keeps has an age as well.
    capacity_aggregates: Of how many aggregates fresh contexts are kept; each takes about 1 kB and
        twice its values.
    settle_seconds: By how much the older of the two is older at least. Longer than it takes to find
        a fault; shorter gives newer contexts.
    """

    def __init__(
        self,
        read: Callable[[str, str], dict[str, Any]],
        follower: FreshnessFollower,
        limits: Mapping[str, Limits],
        *,
        otherwise: Limits | None = None,
        cache: ContextCache | None = None,
        capacity_aggregates: int = DEFAULT_CAPACITY_AGGREGATES,
        settle_seconds: float = DEFAULT_SETTLE_SECONDS,
    ) -> None:
        if capacity_aggregates < 1 or not settle_seconds >= 0:
            raise ConfigurationError(
                "a reader keeps 1 aggregate or more, and settles in 0 s or more"
            )
        self._read = read
        self._follower = follower
        self._limits = dict(limits)
        self._otherwise = otherwise or Limits()
        for each in (*self._limits.values(), self._otherwise):
            each.check()
        self._cache = cache
        self._capacity_aggregates = capacity_aggregates
        self._settle_seconds = settle_seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[AggregateKey, tuple[_Kept, ...]] = OrderedDict()
        self._reads: Counter[tuple[Label, SourceOfContext]] = Counter()

    def reads(self) -> dict[tuple[Label, SourceOfContext], int]:
        """Return how many reads there were, by label and source."""
        with self._lock:
            return dict(self._reads)

    def get(self, subject: str, context_type: str, now: float) -> Given:
        """Return one aggregate's context; raise what reading raises where the limits say so."""
        limits = self._limits.get(context_type, self._otherwise)
        seen_at = None
        if self._cache is not None and self._cache.is_following:
            seen_at = self._cache.seen_at
        # Before the read: what is known then holds for everything that is read later.
        freshness = self._follower.freshness(subject, context_type, now, seen_at=seen_at)
        decision = decide(freshness, limits)
        given = self._given((context_type, subject), freshness, decision, limits, now)
        with self._lock:
            self._reads[given.label, given.source] += 1
        return given

    def _given(
        self,
        key: AggregateKey,
        freshness: Freshness,
        decision: Decision,
        limits: Limits,
        now: float,
    ) -> Given:
        label, reason = decision.label, decision.reason
        if decision.response == "serve":
            try:
                facts = self._read(key[1], key[0])
            except SynchroscopeError as error:
                if limits.on_unavailable == "serve":
                    raise
                label = label if label is Label.SUSPECT else Label.UNKNOWN
                reason = f"the replica cannot be read: {error}"
                decision = Decision(label, limits.on_unavailable, reason)
                freshness = Freshness(None, None, UNKNOWN, reason, None, freshness.findings)
            else:
                if label is Label.FRESH:
                    self._keep(key, facts, freshness, now)
                return Given(facts, "replica", label, reason, freshness)
        if decision.response == "cached":
            kept = self._find(key, freshness, limits, now)
            if kept is not None:
                age = now - kept.read_at + kept.staleness_seconds
                facts = copied_facts(kept.facts)
                return Given(facts, "cached", label, reason, freshness, age)
        return Given(copied_facts(limits.default), "default", label, reason, freshness)

    def _keep(
        self, key: AggregateKey, facts: Mapping[str, Any], freshness: Freshness, now: float
    ) -> None:
        with self._lock:
            kept = self._kept.get(key, ())
            if kept:
                self._kept.move_to_end(key)
                if 0 <= now - kept[0].read_at < self._settle_seconds:
                    return
        try:
            # After the read: the replica had not passed this when it was read.
            position = self._follower.position(self._follower.partition_of(*key))
        except SynchroscopeError:
            position = None
        staleness = freshness.staleness_seconds or 0.0
        newest = _Kept(copied_facts(facts), now, staleness, position)
        with self._lock:
            self._kept[key] = (newest, *kept[:1])
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity_aggregates:
                self._kept.popitem(last=False)

    def _find(
        self, key: AggregateKey, freshness: Freshness, limits: Limits, now: float
    ) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key, ())
        clean = [finding.clean_until for finding in freshness.findings or ()]
        # Where it differs since when is not known: only what is old enough is given.
        youngest = self._settle_seconds if freshness.verdict == DIVERGED and not clean else 0.0
        for one in kept:
            if not youngest <= now - one.read_at <= limits.maximum_cached_age_seconds:
                continue
            if all(
                until is not None and one.position is not None and one.position <= until
                for until in clean
            ):
                return one
        return None
