"""What the validator must never believe: reports and answers that cannot be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from synchroscope.digest import aggregate_hash
from synchroscope.ports import REPORTS, STATE, NewRecord
from synchroscope.report import Explanation, Note, Report, decode_message, encode_message
from tests.validation_world import REPLICA, World
from tests.validator_faults import (
    OTHER,
    answering,
    cold_corruption,
    missed,
    only,
    rogue,
    way_to_look,
    world,
)

__all__ = ["way_to_look"]


def reporting(made: World, change: Callable[[Report], Report]) -> None:
    """Let the replica's reports be changed by a bug."""
    replica = made.projectors[REPLICA].replica
    report = replica.report
    replica.report = lambda now, parts: change(report(now, parts))  # type: ignore[method-assign]


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[]", b'{"type":"report"}', b"null"])
def test_garbage_among_the_reports_is_passed_over(data: bytes) -> None:
    w = world()
    w.tell(data)
    w.run()
    assert w.verdict() == "CONSISTENT"


BAD_NOTES: dict[str, dict[str, Any]] = {
    "a huge position": {"position": 2**70},
    "a position beyond the head": {"position": 3},
    "a partition out of range": {"partition": 5},
    "a huge partition": {"partition": 2**80},
    "a huge counter": {"anomalies": 2**64},
    "a negative counter": {"applied": -1},
    "huge facts": {"facts": 2**100},
    "negative facts": {"facts": -1},
    "another state": {"state": "f" * 32},
    "another count of facts": {"facts": 7},
    "every note a marker, and wrong": {"marker": True, "state": "f" * 32},
}


@pytest.mark.parametrize("change", BAD_NOTES.values(), ids=BAD_NOTES)
def test_a_report_that_cannot_be_right_is_never_consistent(change: dict[str, Any]) -> None:
    w = world()
    reporting(w, lambda r: replace(r, notes=[replace(n, **change) for n in r.notes]))
    w.run(30)
    assert w.verdict() != "CONSISTENT"
    w.restart_validator()
    w.start_replica(REPLICA, w.storages[REPLICA])
    w.run()
    assert w.settle() and w.verdict() == "CONSISTENT"


def test_a_report_of_another_view_takes_back_what_was_compared() -> None:
    w = world()
    good = w.sent()[-1]
    w.tell(replace(good, view_hash="0" * 16))
    w.tell(replace(good, notes=[]))
    w.validate()
    assert w.verdict() == "UNKNOWN"


def note_of(answer: Explanation, **change: Any) -> Explanation:
    return replace(answer, note=replace(answer.note, **change))


BAD_ANSWERS: dict[str, Callable[[Explanation], Explanation]] = {
    "no table": lambda a: replace(a, table=b""),
    "a table of wrong length": lambda a: replace(a, table=b"x" * 25),
    "a table of another size": lambda a: replace(a, table=bytes(48)),
    "a table that does not sum to the digest": lambda a: replace(a, table=bytes(len(a.table))),
    "a huge position": lambda a: note_of(a, position=2**63),
    "a partition out of range": lambda a: note_of(a, partition=9),
    "a huge event": lambda a: replace(a, entries=[replace(e, event=2**64) for e in a.entries]),
    "an entry ahead": lambda a: replace(a, entries=[replace(e, offset=2**70) for e in a.entries]),
    "a negative offset": lambda a: replace(a, entries=[replace(e, offset=-1) for e in a.entries]),
    "a huge prior": lambda a: replace(a, entries=[replace(e, prior=2**90) for e in a.entries]),
    "a journal from beyond": lambda a: replace(a, journal_from=2**65),
    "no buckets": lambda a: replace(a, buckets=[]),
}


@pytest.mark.parametrize("change", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_answer_that_cannot_be_right_is_no_answer(
    change: Callable[[Explanation], Explanation],
) -> None:
    w = world(whole_facts=1_000)
    answering(w, lambda _, answer: change(answer))
    missed(w)
    w.write("2", limit=9)
    w.run(30)

    assert (w.verdict(), w.findings()) == ("DIVERGED", [])
    assert len(w.requests()) < 10
    w.start_replica(REPLICA, w.storages[REPLICA])
    w.run(60)
    assert [f.kind for f in w.findings()] == ["missed"]


def test_a_scrub_that_was_not_done_does_not_settle() -> None:
    w = world()
    answering(w, lambda _, answer: replace(answer, scrubbed=False))
    cold_corruption(w)
    assert not w.settle()


def test_what_was_settled_by_evidence_that_is_too_old_is_not_settled() -> None:
    w = world()
    w.write("1", limit=5)
    assert w.settle()
    assert w.validator.standing(w.now).settled
    w.now += 1_000.0
    assert not w.validator.standing(w.now).settled
    w.run()
    assert w.validator.standing(w.now).settled


def test_a_root_that_belies_its_own_table_proves_nothing() -> None:
    w = world()
    good = w.sent()[-1].notes[-1]
    missed(w)
    w.run()
    w.tell(replace(w.sent()[-1], notes=[]))
    answering(w, lambda _, a: note_of(a, state=good.state, facts=good.facts))
    w.validator.scrub(w.now)
    w.run(30)

    assert w.verdict() == "DIVERGED"


def test_what_a_perfect_liar_says_is_believed() -> None:
    """A replica that reports the digest of what it ought to hold cannot be seen from outside."""
    honest = world(replicas=(REPLICA, OTHER))
    liar, truth = honest.projectors[OTHER].replica, honest.projectors[REPLICA].replica

    def copied(now: float, parts: Any) -> Report:
        notes: list[Note] = [n for n in truth.report(now, parts).notes if not n.marker]
        return replace(truth.report(now, parts), replica=OTHER, notes=notes)

    liar.report = copied  # type: ignore[method-assign]
    honest.overwrite("1", name=OTHER, limit=99)
    honest.run()
    assert honest.verdict(OTHER) == "CONSISTENT"


def test_an_event_id_used_again_for_other_content_is_seen() -> None:
    w = world()
    reused = rogue(900, 2, 5)
    reused["eventId"] = str(UUID(int=1, version=4))
    w.rogue(reused)
    w.run()

    assert w.verdict() != "CONSISTENT"


def test_many_faults_of_one_interval_leave_few_findings_and_a_small_checkpoint() -> None:
    sizes = []
    for users in (100, 200):
        w = World(bits=8)
        for number in range(users):
            w.write(str(number), limit=number)
        w.links[REPLICA].tamper = lambda records: [r for r in records if r.offset % 2]
        w.run()
        record = w.log.latest(STATE, b"validator")
        assert record is not None and {f.kind for f in w.findings()} <= {"missed", "bulk"}
        assert len(w.findings()) <= 2
        sizes.append(len(record.value) / users)
    assert sizes[1] < sizes[0]


def test_a_finding_in_a_bucket_that_was_not_shown_is_not_closed() -> None:
    w = World(bits=8)
    users = sorted(map(str, range(300)), key=lambda user: aggregate_hash(*key_of(user)))
    for user in users:
        w.write(user, limit=1)
    w.run()
    w.overwrite(users[-1], limit=99)
    w.settle()
    first = only(w)
    # As when more aggregates deviate than the validator remembers one by one.
    w.validator._watches[REPLICA].partitions[0].held.clear()
    for user in users[:150]:
        w.overwrite(user, limit=-5)
    w.write("another", limit=1)
    w.settle()

    assert first in w.findings() and first.state == "open"


def key_of(user: str) -> tuple[str, str]:
    return ("financial", f"user:{user}")


def test_a_clock_that_was_set_back_takes_consistent_away_until_the_next_comparison() -> None:
    w = world()
    assert w.verdict() == "CONSISTENT"

    w.now -= 3_600
    assert w.verdict() == "UNKNOWN"

    w.run()
    assert w.verdict() == "CONSISTENT"


@pytest.mark.parametrize(("later_seconds", "is_reset"), [(-0.5, False), (0.5, True)])
def test_an_older_position_counts_only_if_it_was_said_after_the_newer_one(
    later_seconds: float, is_reset: bool
) -> None:
    """Said before, it is late words of a process that lost its place; after, storage fell back."""
    w = world()
    [*_, record] = w.log.read(REPORTS, 0, 0, 10**6).records
    old = decode_message(record.value)
    assert isinstance(old, Report)
    w.write("1", limit=8)
    w.run()
    [*_, record] = w.log.read(REPORTS, 0, 0, 10**6).records
    new = decode_message(record.value)
    assert isinstance(new, Report)
    settled = w.validator.settled_total()
    words = encode_message(replace(old, at=new.at + later_seconds))

    w.log.append([NewRecord(REPORTS, 0, b"", words)], w.now)
    w.validator.step(w.now)

    assert (w.validator.settled_total() < settled) is is_reset
