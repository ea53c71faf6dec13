"""Follows what the log tells about one replica: how far it is, its verdicts, its findings.

Nothing is asked of the validator: verdicts come from `sync.state`, findings from `sync.findings`,
the age of what is not applied from the events themselves. Of the validator's messages only what is
needed here is decoded, so that one of another release is understood as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from msgspec import Struct

from synchroscope.errors import ConfigurationError
from synchroscope.foreign import decoded
from synchroscope.freshness import UNKNOWN, Freshness, NamedFinding
from synchroscope.ports import EVENTS, FINDINGS, STATE, AggregateKey, Log, Progress
from synchroscope.recorded import recorded_at

STANDING_KEY_PREFIX = b"standing/"
RESOLVED = "resolved"
DEFAULT_LOOK_INTERVAL_SECONDS = 0.5
DEFAULT_NEWS_LIMIT_SECONDS = 10.0
READ_RECORDS = 1_000
MAXIMUM_OPEN_FINDINGS = 10_000
KINDS_OF_EVENTS = frozenset({"missed", "doubled", "reordered"})
"""Kinds in which an event did the harm, so that all was well before it. What a storage does to
itself may have happened at any time before it was seen."""
MAXIMUM_KEYS = 100
"""A finding that names more aggregates is taken to mean its whole partition."""


class ReplicaNews(Struct, frozen=True):
    """One replica in a validator's standing."""

    name: str
    verdict: str
    reason: str = ""
    position: dict[int, int] = {}
    compared_at: float | None = None


class StandingNews(Struct, frozen=True):
    """What is needed of a validator's standing: see `validator.standing.Standing`."""

    at: float
    heads: dict[int, int]
    replicas: list[ReplicaNews]


class SinceNews(Struct, frozen=True):
    """Since when a finding is."""

    partition: int | None = None
    after_offset: int | None = None


class FindingNews(Struct, frozen=True):
    """What is needed of a finding: see `validator.finding.Finding`."""

    id: str
    state: str
    kind: str
    replica: str | None = None
    context_type: str | None = None
    subjects: list[str] = []
    keys: list[AggregateKey] = []
    partition: int | None = None
    since: SinceNews | None = None

    def aggregates(self) -> frozenset[AggregateKey]:
        """Return what it names; empty where it cannot say, or names very many."""
        named = {(kind, subject) for kind, subject in self.keys}
        if self.context_type is not None:
            named |= {(self.context_type, subject) for subject in self.subjects}
        is_listed = bool(named) and len(named) <= MAXIMUM_KEYS
        return frozenset(named) if is_listed else frozenset()


_decode_standing = msgspec.json.Decoder(StandingNews).decode
_decode_finding = msgspec.json.Decoder(FindingNews).decode
KEPT_ENDS = 64
"""How many looks are remembered, to tell since when a record can have been in the log."""


class _Look(Struct, frozen=True):
    """A partition when it was looked at: the first event not applied was there since `since`."""

    at: float
    position: int
    lag_events: int
    since: float


class _Verdict(Struct, frozen=True):
    at: float
    verdict: str
    reason: str
    position: int | None
    compared_at: float | None


class FreshnessFollower:
    """Knows how far one replica may be trusted. One thread calls `step`, any thread the rest.

    Parameters
    ----------
    log: Any log that reads.
    replica: Its name, ``model@instance``.
    partition_of: Context type and subject -> partition, as the log's producers choose it.
    position_of: Partition -> how far the replica has applied, None where that cannot be told:
        `Replica.position` of a replica in this process, `stored_position` of a storage. Default:
        what the validator was told last, which is older.
    look_interval_seconds: Time between two looks at positions; staleness is known no better.
    news_limit_seconds: What a validator said longer ago is UNKNOWN; findings that were last looked
        for longer ago are not known.
    """

    def __init__(
        self,
        log: Log,
        replica: str,
        partition_of: Callable[[str, str], int],
        *,
        position_of: Callable[[int], int | None] | None = None,
        look_interval_seconds: float = DEFAULT_LOOK_INTERVAL_SECONDS,
        news_limit_seconds: float = DEFAULT_NEWS_LIMIT_SECONDS,
    ) -> None:
        if not (look_interval_seconds >= 0 and news_limit_seconds > 0):
            raise ConfigurationError("look interval and news limit must be 0 s or more, and over 0")
        self.replica = replica
        self.partition_of = partition_of
        self._log = log
        self._position_of = position_of
        self._look_interval_seconds = look_interval_seconds
        self._news_limit_seconds = news_limit_seconds
        self._partitions = range(log.partitions(EVENTS))
        self._looks: dict[int, _Look] = {}
        #: When a partition was looked at, and where its log ended then; the newest last.
        self._ends: dict[int, deque[tuple[float, int]]] = {
            partition: deque(maxlen=KEPT_ENDS) for partition in self._partitions
        }
        self._looked_at: float | None = None
        self._verdicts: dict[int, _Verdict] = {}
        self._state_position = 0
        self._findings = _Findings(log, replica)

    # -- following ---------------------------------------------------------------------------

    def step(self, now: float) -> Progress:
        """Read what is new and, when it is time, look how far the replica is."""
        consumed = self._read_standings()
        looked_at = self._looked_at
        is_due = looked_at is None or not 0 <= now - looked_at < self._look_interval_seconds
        consumed += self._findings.read(now, look=is_due)
        if is_due:
            for partition in self._partitions:
                self._look(partition, now)
            self._looked_at = now
        return Progress(consumed)

    def _read_standings(self) -> int:
        batch = self._log.read(STATE, 0, self._state_position, READ_RECORDS)
        self._state_position = batch.position
        for record in batch.records:
            if record.key.startswith(STANDING_KEY_PREFIX):
                standing = decoded(_decode_standing, record.value)
                if standing is not None:
                    self._take_standing(standing)
        return len(batch.records)

    def _take_standing(self, standing: StandingNews) -> None:
        mine = next((one for one in standing.replicas if one.name == self.replica), None)
        for partition in standing.heads:
            if mine is None:
                reason = f"the validator of partition {partition} does not expect {self.replica}"
                verdict = _Verdict(standing.at, UNKNOWN, reason, None, None)
            else:
                position = mine.position.get(partition)
                verdict = _Verdict(
                    standing.at, mine.verdict, mine.reason, position, mine.compared_at
                )
            self._verdicts[partition] = verdict

    def _look(self, partition: int, now: float) -> None:
        # The head first: what comes meanwhile is not said to be applied.
        head = self._log.head(EVENTS, partition)
        position = self.position(partition)
        known = self._looks.get(partition)
        if position is None:
            return  # What was seen last still holds, and gets old.
        if known is not None and position < known.position:
            del self._looks[partition]  # It fell back to an older copy: nothing of that holds.
        since: float | None = None
        if position >= head:
            since = now
        else:
            batch = self._log.read(EVENTS, partition, position, 1)
            if batch.records:
                first = batch.records[0]
                recorded = recorded_at(first)
                since = first.timestamp if recorded is None else recorded
                since = min(since, self._not_there_at(partition, position, now))
                if known is not None and known.position == position and known.lag_events:
                    since = min(since, known.since)
            elif batch.position >= head:
                since = now
        if since is not None:
            self._looks[partition] = _Look(now, position, max(head - position, 0), since)
        self._ends[partition].append((now, head))

    def _not_there_at(self, partition: int, position: int, now: float) -> float:
        """Return the time of the last look when a record was not yet in the log; else of the first.

        By this clock: that of who recorded the event may be ahead.
        """
        looks = [look for look in self._ends[partition] if look[0] <= now]
        before = [at for at, end in looks if end <= position]
        return max(before) if before else min((at for at, _ in looks), default=now)

    # -- asking ------------------------------------------------------------------------------

    def position(self, partition: int) -> int | None:
        """Return how far the replica has applied, as far as that can be told now."""
        if self._position_of is not None:
            return self._position_of(partition)
        verdict = self._verdicts.get(partition)
        return None if verdict is None else verdict.position

    def freshness(
        self, subject: str, context_type: str, now: float, *, seen_at: float | None = None
    ) -> Freshness:
        """Return what is known of a read that is made after this call.

        `seen_at`: the time up to which a cache between the replica and the reader has seen every
        event; None where there is no such cache.
        """
        partition = self.partition_of(context_type, subject)
        look = self._looks.get(partition)
        staleness = None
        if look is not None and look.at <= now:  # Else a clock was set back.
            staleness = now - (look.since if seen_at is None else min(look.since, seen_at))
        verdict, reason, compared_at = self._judged(partition, now)
        return Freshness(
            staleness_seconds=staleness,
            lag_events=None if look is None else look.lag_events,
            verdict=verdict,
            verdict_reason=reason,
            verdict_age_seconds=None if compared_at is None else abs(now - compared_at),
            findings=self._findings.of(
                (context_type, subject), partition, now, self._news_limit_seconds
            ),
            position=None if look is None else look.position,
        )

    def _judged(self, partition: int, now: float) -> tuple[str, str, float | None]:
        told = self._verdicts.get(partition)
        if told is None:
            return UNKNOWN, f"nobody has validated partition {partition} yet", None
        age = now - told.at
        if abs(age) > self._news_limit_seconds:
            reason = f"nobody has validated partition {partition} for {age:.0f} s"
            return UNKNOWN, reason, told.compared_at
        return told.verdict, told.reason, told.compared_at


class _Findings:
    """The open findings about one replica, and those about the log itself."""

    def __init__(self, log: Log, replica: str) -> None:
        self._log = log
        self._replica = replica
        self._position = 0
        self._target: tuple[int, float] | None = None
        """An end of the topic, and when it was that."""
        self._known_at: float | None = None
        self._open: dict[str, FindingNews] = {}
        self._by_key: dict[AggregateKey, tuple[str, ...]] = {}
        self._wide: tuple[str, ...] = ()
        """Those that cannot say which aggregates they mean, or name too many."""
        self._untracked: set[str] = set()
        """Open ones that there is no room for: whom they concern is not known."""

    def read(self, now: float, *, look: bool) -> int:
        if self._target is None and look:
            self._target = self._log.head(FINDINGS, 0), now
        batch = self._log.read(FINDINGS, 0, self._position, READ_RECORDS)
        for record in batch.records:
            finding = decoded(_decode_finding, record.value)
            if finding is not None and finding.replica in (None, self._replica):
                self._take(finding)
        self._position = batch.position
        if self._target is not None and self._position >= self._target[0]:
            self._known_at, self._target = self._target[1], None
        self._make_up()
        return len(batch.records)

    def _make_up(self) -> None:
        """Look at some of those there was no room for, where there is room now."""
        for identity in sorted(self._untracked)[: MAXIMUM_OPEN_FINDINGS - len(self._open)]:
            record = self._log.latest(FINDINGS, identity.encode())
            finding = None if record is None else decoded(_decode_finding, record.value)
            self._untracked.discard(identity)
            if finding is not None:
                self._take(finding)

    def _take(self, finding: FindingNews) -> None:
        self._drop(finding.id)
        self._untracked.discard(finding.id)
        if finding.state == RESOLVED:
            return
        if len(self._open) >= MAXIMUM_OPEN_FINDINGS:
            self._untracked.add(finding.id)
            return
        self._open[finding.id] = finding
        aggregates = finding.aggregates()
        for key in aggregates:
            self._by_key[key] = (*self._by_key.get(key, ()), finding.id)
        if not aggregates:
            self._wide = (*self._wide, finding.id)

    def _drop(self, identity: str) -> None:
        known = self._open.pop(identity, None)
        if known is None:
            return
        for key in known.aggregates():
            rest = tuple(one for one in self._by_key[key] if one != identity)
            if rest:
                self._by_key[key] = rest
            else:
                del self._by_key[key]
        self._wide = tuple(one for one in self._wide if one != identity)

    def of(
        self, key: AggregateKey, partition: int, now: float, limit_seconds: float
    ) -> tuple[NamedFinding, ...] | None:
        found = [
            finding
            for identity in (*self._by_key.get(key, ()), *self._wide)
            if (finding := self._open.get(identity)) is not None
        ]
        named = tuple(
            NamedFinding(one.id, one.kind, _clean_until(one, partition))
            for one in found
            if one.partition in (None, partition) or key in one.aggregates()
        )
        if named:
            return named
        known_at = self._known_at
        is_known = known_at is not None and abs(now - known_at) <= limit_seconds
        return () if is_known and not self._untracked else None


def _clean_until(finding: FindingNews, partition: int) -> int | None:
    since = finding.since
    if finding.kind not in KINDS_OF_EVENTS or since is None or since.partition != partition:
        return None
    return since.after_offset
