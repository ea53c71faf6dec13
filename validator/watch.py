"""What the validator knows of one replica, and the verdict that follows from it.

All decisions here are pure: notes and reference in, a value with a reason out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

from synchroscope.digest import MASK, Lanes, lanes_from_hex
from synchroscope.ports import AggregateKey
from synchroscope.report import Explanation, Note, Sketched
from synchroscope.view import View
from validator.folds import ViewSum
from validator.judgement import Actual

MAXIMUM_WAITING = 256
MAXIMUM_EARLIER = 16
MAXIMUM_HELD = 10_000
"""Of so many deviating aggregates of a partition it is remembered how a replica holds them. More:
more memory, and a larger checkpoint."""
NOTHING: Lanes = (0, 0)


class Verdict(StrEnum):
    """What can be said of a replica. What could not be checked is UNKNOWN, never CONSISTENT."""

    CONSISTENT = "CONSISTENT"
    UNKNOWN = "UNKNOWN"
    DIVERGED = "DIVERGED"


class Judged(Struct, frozen=True):
    """A verdict and its reason."""

    verdict: Verdict
    reason: str


class Delta(Struct, frozen=True, array_like=True):
    """Reference minus replica at one position: facts, applied events; and what it counted itself:
    anomalies, and aggregates that were repaired."""

    state: Lanes = NOTHING
    facts: int = 0
    audit: Lanes = NOTHING
    applied: int = 0
    anomalies: int = 0
    repaired: int = 0

    @property
    def holds_the_same_facts(self) -> bool:
        """Whether the replica's facts are what they must be."""
        return self.state == NOTHING and self.facts == 0


def compare(reference: ViewSum, note: Note) -> Delta:
    """Return how a replica differs from its reference at the note's position."""
    root = reference.digest.root()
    state, audit = lanes_from_hex(note.state), lanes_from_hex(note.audit)
    return Delta(
        ((root.lane0 - state[0]) & MASK, (root.lane1 - state[1]) & MASK),
        root.facts - note.facts,
        ((reference.audit[0] - audit[0]) & MASK, (reference.audit[1] - audit[1]) & MASK),
        reference.applied - note.applied,
        note.anomalies,
        note.repaired,
    )


class Investigation(Struct):
    """A question that was put to the replica and is not answered yet."""

    request_id: str
    since: int
    buckets: list[int]
    scrub: bool
    asked_at: float
    attempts: int = 1
    answer: Explanation | None = None
    keep: list[int] = []
    """Buckets that are to be shown whether they differ or not."""
    kept_numbers: list[int] = []
    """Aggregates that are to be shown whether they differ or not."""
    sketched: list[Sketched] = []
    numbers: list[int] = []
    """The aggregates that the question is about, beside whole buckets."""
    named: dict[int, list[int]] = {}
    """Bucket that differs -> the aggregates in it that do, as sketches told."""
    tries: dict[int, int] = {}
    """Bucket -> how often sketches could not tell."""
    rounds: int = 0
    table: bytes = b""
    """The digest's table of an earlier answer, which need not be sent again."""


class Held(Struct, frozen=True, array_like=True, gc=False):
    """How a replica held an aggregate when the store's order stood at `store_position`.

    ``has_other_facts``: whether the facts, and not the sequence alone, were not what they must be.
    """

    actual: Actual
    store_position: int
    has_other_facts: bool = True


NEVER_SCRUBBED = -1


class PartitionWatch(Struct):
    """One partition of one replica.

    ``known`` is the difference that findings account for already; ``settled`` the position up to
    which every applied event is accounted for; ``held`` how deviating aggregates were found.
    """

    known: Delta = Delta()
    settled: int = 0
    settled_store_position: int = 0
    compared_position: int = -1
    compared_at: float = 0.0
    agreed_position: int | None = None
    differs: bool = False
    newest: Note | None = None
    scrubbed_position: int = NEVER_SCRUBBED
    ordering_violations: int = 0
    held: dict[AggregateKey, Held] = {}
    investigation: Investigation | None = None
    waiting: list[Note] = []
    news: bool = False
    news_at: float | None = None
    """When the first report came that showed a difference nothing accounts for yet."""
    left_out: int = 0


class ReplicaWatch(Struct):
    """One expected replica."""

    name: str
    model: str
    incarnation: str = ""
    refused: str = "never reported"
    partitions: dict[int, PartitionWatch] = {}
    markers_compared: int = 0
    agreements: int = 0
    reported_at: float = 0.0
    earlier: list[str] = []
    """Incarnations that ended; one that comes back is another process under the same name, or an
    older copy of the storage."""
    conflict_at: float | None = None
    spoken_at: dict[int, float] = {}
    """Partition -> when its newest note was written, by the clock of the replica's process."""

    def reset(self, incarnation: str, partitions: Iterable[int]) -> None:
        """Forget what was known of an earlier life; findings stay open until a digest agrees."""
        if self.incarnation:
            ended = [life for life in self.earlier if life != incarnation]
            self.earlier = [*ended, self.incarnation][-MAXIMUM_EARLIER:]
        self.incarnation = incarnation
        self.partitions = {number: PartitionWatch() for number in partitions}
        self.spoken_at = {}


def refuse_reason(view: View, algorithm: str, bits: int, report: object) -> str:
    """Return why a report cannot be compared at all; empty when it can."""
    for name, expected in (("view_hash", view.hash()), ("algorithm", algorithm), ("bits", bits)):
        seen = getattr(report, name)
        if seen != expected:
            return f"{name} is {seen}, expected {expected}"
    return ""


def judge_replica(
    watch: ReplicaWatch,
    unproven: Mapping[int, str],
    has_open_findings: bool,
    now: float,
    evidence_limit_seconds: float,
) -> Judged:
    """Return the verdict, by the first rule that applies.

    1. It never reported, or what it reports cannot be compared: UNKNOWN.
    2. A finding is open, or its facts differed at the last equal position: DIVERGED.
    3. The reference itself is not proven for a partition: UNKNOWN.
    4. A partition was not compared yet, or the evidence is too old: UNKNOWN.
    5. CONSISTENT.
    """
    if watch.refused:
        return Judged(Verdict.UNKNOWN, watch.refused)
    if has_open_findings:
        return Judged(Verdict.DIVERGED, "open findings")
    if watch.conflict_at is not None and abs(now - watch.conflict_at) <= evidence_limit_seconds:
        return Judged(Verdict.UNKNOWN, "two processes report under one name")
    for number, part in watch.partitions.items():
        if part.differs:
            return Judged(Verdict.DIVERGED, f"digest differs on partition {number}")
    flaws = [f"reference of partition {n}: {reason}" for n, reason in unproven.items() if reason]
    if flaws:
        return Judged(Verdict.UNKNOWN, "; ".join(flaws))
    for number, part in watch.partitions.items():
        if part.news:
            return Judged(Verdict.UNKNOWN, f"partition {number} is being investigated")
        if part.compared_position < 0:
            return Judged(Verdict.UNKNOWN, f"partition {number} was never compared")
        age = now - part.compared_at
        if abs(age) > evidence_limit_seconds:  # Negative: a clock was set back since.
            return Judged(Verdict.UNKNOWN, f"evidence of partition {number} is {age:.0f} s old")
    return Judged(Verdict.CONSISTENT, "equal digests at equal positions")
