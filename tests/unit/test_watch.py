"""The rules of a verdict one by one, and what makes a report comparable."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from synchroscope.digest import Digest, lanes_hex
from synchroscope.report import Note, Report
from tests.validation_world import VIEW
from validator.folds import ViewSum
from validator.watch import (
    Delta,
    PartitionWatch,
    ReplicaWatch,
    Verdict,
    compare,
    judge_replica,
    refuse_reason,
)

LIMIT_SECONDS = 30.0
ZERO = "0" * 32


def part(**more: object) -> PartitionWatch:
    return PartitionWatch(**{"compared_position": 5, "compared_at": 100.0, **more})


def watch(*parts: PartitionWatch, refused: str = "") -> ReplicaWatch:
    made = ReplicaWatch("scorer@1", "scorer", "life", refused, dict(enumerate(parts or (part(),))))
    made.reported_at = 100.0
    return made


TABLE = {
    "never reported": (
        ReplicaWatch("scorer@1", "scorer"),
        [""],
        False,
        100.0,
        "UNKNOWN",
        "never reported",
    ),
    "refused outweighs open findings": (
        watch(refused="bits is 4, expected 8"),
        [""],
        True,
        100.0,
        "UNKNOWN",
        "bits",
    ),
    "findings open": (watch(), [""], True, 100.0, "DIVERGED", "open findings"),
    "facts differ": (watch(part(differs=True)), [""], False, 100.0, "DIVERGED", "partition 0"),
    "one partition of two differs": (
        watch(part(), part(differs=True)),
        ["", ""],
        False,
        100.0,
        "DIVERGED",
        "partition 1",
    ),
    "the reference is not proven": (watch(), ["no sequence"], False, 100.0, "UNKNOWN", "sequence"),
    "it is being investigated": (
        watch(part(news=True)),
        [""],
        False,
        100.0,
        "UNKNOWN",
        "investigated",
    ),
    "a partition was never compared": (
        watch(part(), PartitionWatch()),
        ["", ""],
        False,
        100.0,
        "UNKNOWN",
        "partition 1 was never compared",
    ),
    "evidence as old as allowed": (watch(), [""], False, 130.0, "CONSISTENT", "equal digests"),
    "evidence too old": (watch(), [""], False, 130.5, "UNKNOWN", "old"),
    "lagging, with fresh evidence": (
        watch(part(compared_position=2)),
        [""],
        False,
        101.0,
        "CONSISTENT",
        "equal digests",
    ),
}


@pytest.mark.parametrize(
    "replica, unproven, has_findings, now, verdict, reason", TABLE.values(), ids=TABLE
)
def test_the_verdict_is(
    replica: ReplicaWatch,
    unproven: list[str],
    has_findings: bool,
    now: float,
    verdict: str,
    reason: str,
) -> None:
    reasons = dict(enumerate(unproven))
    judged = judge_replica(replica, reasons, has_findings, now, LIMIT_SECONDS)

    assert (judged.verdict, reason in judged.reason) == (Verdict(verdict), True), judged


def test_a_partition_that_reports_no_longer_mention_grows_old_whatever_the_others_say() -> None:
    old = watch(part(compared_at=0.0), part(compared_at=100.0))
    old.reported_at = 100.0

    assert judge_replica(old, {0: "", 1: ""}, False, 100.0, 30.0).verdict is Verdict.UNKNOWN


REPORT = Report("scorer@1", VIEW.hash(), "xxh3-128", 4, "life", 0.0, [])


@pytest.mark.parametrize(
    "other, reason",
    [
        ({}, ""),
        ({"view_hash": "0" * 16}, "view_hash"),
        ({"algorithm": "blake2b-128"}, "algorithm"),
        ({"bits": 5}, "bits"),
    ],
)
def test_only_a_report_of_the_same_view_and_digest_is_compared(
    other: dict[str, object], reason: str
) -> None:
    said = refuse_reason(VIEW, "xxh3-128", 4, replace(REPORT, **other))

    assert reason in said and bool(said) == bool(reason)


def test_a_new_incarnation_forgets_every_comparison() -> None:
    known = watch(part(), part())
    known.reset("another", range(2))

    assert judge_replica(known, {0: "", 1: ""}, False, 100.0, 30.0).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "other, delta",
    [
        ({}, Delta()),
        ({"facts": 1}, Delta(facts=-1)),
        ({"applied": 2}, Delta(applied=-2)),
        ({"anomalies": 3}, Delta(anomalies=3)),
        ({"repaired": 3}, Delta(repaired=3)),
        ({"state": lanes_hex((1, 2))}, Delta(state=(2**64 - 1, 2**64 - 2))),
        ({"audit": lanes_hex((0, 5))}, Delta(audit=(0, 2**64 - 5))),
    ],
)
def test_a_difference_is_reference_minus_replica(other: dict[str, object], delta: Delta) -> None:
    note = replace(Note(0, 5, ZERO, 0, ZERO, 0), **other)

    assert compare(ViewSum(Digest(4), (0, 0), 0), note) == delta
    assert delta.holds_the_same_facts == (not {"facts", "state"} & set(other))
