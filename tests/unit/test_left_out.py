"""More deviating keys than the validator follows: none is forgotten or given a false cause."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from synchroscope.ports import REQUESTS, NewRecord, Record
from synchroscope.report import Explanation, RepairOrder, Request, encode_message
from tests.validation_world import REPLICA, World
from validator import locate, watch

USERS = 30


def lossy(**more: int) -> World:
    """Return a settled world whose replica misses every event from now on."""
    w = World(bits=8, **more)
    for number in range(USERS):
        w.write(str(number), limit=number)
    w.run()
    assert w.settle()

    def keep(records: list[Record]) -> list[Record]:
        return [record for record in records if record.offset < USERS]

    w.links[REPLICA].tamper = keep
    return w


def lose(w: World, *users: int) -> None:
    for user in users:
        w.write(str(user), limit=-user - 1)
        w.run(4)


def open_kinds(w: World) -> set[str]:
    return {finding.kind for finding in w.validator.open_findings()}


def named(w: World) -> set[str]:
    return {subject for finding in w.validator.open_findings() for subject in finding.subjects}


def repair_all(w: World, request: str) -> None:
    for finding in w.validator.open_findings():
        order = encode_message(RepairOrder(request, finding.id, True))
        w.log.append([NewRecord(REQUESTS, 0, b"validator", order)], w.now)
    w.run(60)


def test_keys_that_deviate_anew_are_judged_however_many_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locate, "MAXIMUM_SUSPECTS", 3)
    w = lossy()
    lose(w, *range(12))

    assert named(w) == {f"user:{number}" for number in range(12)}
    assert open_kinds(w) == {"missed"}


def test_what_is_left_out_is_counted_and_is_never_told_to_be_a_storage_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "MAXIMUM_HELD", 5)
    w = lossy()
    lose(w, *range(12))
    (bulk,) = [finding for finding in w.validator.open_findings() if finding.kind == "bulk"]

    assert len(named(w)) == 5
    assert bulk.evidence["left_out"] == 7
    assert "7 aggregates were left out" in bulk.evidence["reason"]
    w.restart_validator()
    w.links[REPLICA].tamper = list
    w.write("other", limit=1)
    w.run()
    for number in range(8):
        repair_all(w, str(number))
    assert {finding.kind for finding in w.findings()} <= {"missed", "unexplained", "bulk"}
    assert {finding.state for finding in w.findings()} == {"resolved"}
    assert w.settle() and w.verdict() == "CONSISTENT"
    assert w.validator._watches[REPLICA].partitions[0].left_out == 0


def test_what_was_left_out_is_named_when_there_is_room_and_the_bulk_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "MAXIMUM_HELD", 5)
    w = lossy()
    lose(w, *range(8))
    before = named(w)
    w.links[REPLICA].tamper = list
    for subject in before:
        w.write(subject.removeprefix("user:"), limit=1)
    w.run(10)

    assert named(w) == {f"user:{number}" for number in range(8)} - before
    assert open_kinds(w) == {"unexplained", "bulk"}
    told = [f for f in w.validator.open_findings() if f.kind == "unexplained"]
    assert all("too many to follow each" in finding.evidence["reason"] for finding in told)
    assert all(finding.evidence["fields"] for finding in told)


def test_of_more_suspects_than_are_judged_at_once_the_others_are_named_without_a_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locate, "MAXIMUM_SUSPECTS", 5)
    w = lossy()
    for number in range(12):
        w.write(str(number), limit=-number - 1)
    w.run(10)

    (bulk,) = [finding for finding in w.validator.open_findings() if finding.kind == "bulk"]
    assert bulk.evidence["left_out"] == 7
    assert open_kinds(w) == {"missed", "unexplained", "bulk"}
    assert named(w) == {f"user:{number}" for number in range(12)}


def test_a_known_key_is_not_judged_anew_until_something_happens_to_it() -> None:
    w = lossy()
    lose(w, *range(4))
    judged: list[int] = []
    judge = locate.judge

    def counting(case: locate.Case) -> locate.Judgement:
        judged.append(1)
        return judge(case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locate, "judge", counting)
        lose(w, 5)
    assert len(judged) == 1
    assert len(named(w)) == 5


def test_events_lost_by_a_replica_that_forgot_which_are_one_finding_that_counts_them() -> None:
    w = lossy()
    answer = w.projectors[REPLICA].replica.explain

    def forgetful(request: Request, **more: bool) -> Explanation:
        made = answer(request, **more)
        return replace(made, journal_from=made.note.position, entries=[], mismatches=[])

    w.projectors[REPLICA].replica.explain = forgetful  # type: ignore[method-assign]
    for number in range(4):
        w.write("1", limit=-number - 1)
        w.run(4)
    found = {finding.kind: finding for finding in w.validator.open_findings()}

    assert set(found) == {"unexplained", "missed"} and len(w.findings()) == 2
    assert found["missed"].evidence["missing"] == 3
    assert found["missed"].evidence["reason"].startswith("3 events were not applied")
