"""Many findings of one kind: few bundles, each of which names all that it tells of."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from synchroscope.ports import Record
from tests.validation_world import REPLICA, World
from validator import bundle
from validator.bundle import Cause, Scene, gathered
from validator.differs import units_of
from validator.finding import Finding, Position, Since, encode_finding

USERS = 100


def filled() -> World:
    """Return a settled world."""
    w = World(bits=8, whole_facts=50)
    for number in range(USERS):
        w.write(str(number), limit=number, note="n")
    w.run(20)
    assert w.settle()
    return w


def lose_events(w: World, *users: int, rounds: int = 0) -> None:
    """Let the replica miss one event of each user, with so many rounds after each."""
    first = w.validator.reference.position(0)

    def keep(records: list[Record]) -> list[Record]:
        return [record for record in records if record.offset < first]

    w.links[REPLICA].tamper = keep
    for user in users:
        w.write(str(user), limit=-user - 1)
        w.run(rounds)
    w.run()


def mend(w: World, *users: int) -> None:
    """Write anew what was missed."""
    w.links[REPLICA].tamper = list
    for user in users:
        w.write(str(user), limit=user)
    w.run()


def named(findings: list[Finding]) -> list[str]:
    return sorted(subject for finding in findings for subject in finding.subjects)


def test_more_keys_than_a_finding_may_name_are_several_findings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "MAXIMUM_SUBJECTS", 60)
    w = filled()
    lose_events(w, *range(USERS))
    found = sorted(w.findings(), key=lambda finding: len(finding.keys))

    assert [(f.kind, len(f.keys)) for f in found] == [("missed", 40), ("missed", 60)]
    assert named(found) == sorted(f"user:{number}" for number in range(USERS))
    assert [f.evidence["causes_total"] for f in found] == [len(f.evidence["causes"]) for f in found]
    mend(w, *range(60, USERS))
    states = {finding.id: finding.state for finding in w.findings()}
    assert [states[finding.id] for finding in found] == ["resolved", "open"]
    mend(w, *range(60))
    assert {finding.state for finding in w.findings()} == {"resolved"}
    assert w.settle() and w.verdict() == "CONSISTENT"


def test_what_is_found_one_by_one_is_gathered_when_it_is_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "SINGLE_FINDINGS", 5)
    monkeypatch.setattr(bundle, "GROWN_SUBJECTS", 4)
    w = filled()
    lose_events(w, *range(15), rounds=4)
    found = w.findings()

    assert [len(finding.keys) for finding in found] == [1, 1, 1, 1, 1, 4, 4, 2]
    assert named(found) == sorted(f"user:{number}" for number in range(15))
    grown = found[5]
    assert grown.kind == "missed" and grown.evidence["causes_total"] == 4
    offsets = [cause["offset"] for cause in grown.evidence["causes"]]
    assert offsets == [USERS + number for number in range(5, 9)]
    assert grown.since is not None and grown.since.by_offset == offsets[0]
    assert grown.evidence["checked_position"] > offsets[-1]
    w.restart_validator()
    assert len(w.validator.open_findings()) == 8
    mend(w, *range(15))
    assert {finding.state for finding in w.findings()} == {"resolved"}
    assert w.settle() and w.verdict() == "CONSISTENT"


def cause(user: int, offset: int = 7) -> Cause:
    return Cause(
        "missed", ("financial", f"user:{user}"), offset, offset, dict[str, Any], f"e{user}-{offset}"
    )


def test_a_bundle_that_is_told_of_again_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "SINGLE_FINDINGS", 0)
    scene = Scene(REPLICA, 0, 10, None, 0.0, None, {}, {}, {})
    causes = [cause(user) for user in range(60)]
    (first,) = gathered(scene, causes, [])
    (again,) = gathered(scene, causes, [first])
    (grown,) = gathered(scene, [*causes, cause(99, 5), cause(0, 8)], [first])

    assert again == first
    assert grown.id == first.id
    assert len(grown.keys) == grown.evidence["subjects_total"] == 61
    assert grown.evidence["causes_total"] == len(grown.evidence["causes"]) == 62
    assert grown.since == Since(0, 5, 5) and grown.first_bad_position == Position(0, 5)
    assert not gathered(scene, [], [first])


def test_a_key_that_is_in_order_again_and_struck_anew_is_told_of_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "SINGLE_FINDINGS", 0)
    scene = Scene(REPLICA, 0, 10, None, 0.0, None, {}, {}, {})
    causes = [cause(user) for user in range(60)]
    (first,) = gathered(scene, causes, [])
    narrowed = replace(first, keys=first.keys[1:])
    (grown,) = gathered(scene, causes, [narrowed])

    assert set(grown.keys) == set(first.keys)


def test_a_bundle_whose_repair_was_ordered_does_not_grow() -> None:
    scene = Scene(REPLICA, 0, 10, None, 0.0, None, {}, {}, {})
    (first,) = gathered(scene, [cause(user) for user in range(60)], [])
    more = [cause(user) for user in range(100, 160)]
    (other,) = gathered(scene, more, [replace(first, state="repairing")])

    assert other.id != first.id and len(other.keys) == 60


def test_a_bundle_fits_into_a_record_however_long_its_subjects_are() -> None:
    scene = Scene(REPLICA, 0, 10, None, 0.0, None, {}, {}, {})
    keys = [("financial", f"{number:06}" + "x" * 2_000) for number in range(500)]
    causes = [Cause("missed", key, 7, 7, dict[str, Any], "e") for key in keys]
    found = gathered(scene, causes, [])

    assert [key for finding in found for key in finding.keys] == keys
    assert len({finding.id for finding in found}) == len(found) == 11
    assert max(len(encode_finding(finding)) for finding in found) < 500_000


def test_a_second_fault_of_a_key_at_the_same_position_is_told_beside_the_first() -> None:
    w = World()
    w.write("1", limit=1, note="n")
    w.run(40)

    def look() -> Finding:
        w.projectors[REPLICA].replica.scrub(0, range(1 << w.bits))
        w.run(60)
        (found,) = w.findings()
        return found

    w.overwrite("1", limit=-2)
    first = look()
    w.overwrite("1", note="other")
    both = look()

    assert both.id == first.id
    assert set(both.evidence["fields"]) == {"limit", "note"}
    assert both.evidence["fields"]["limit"] == first.evidence["fields"]["limit"]
    w.overwrite("1", limit=77)
    again = look()
    pair = again.evidence["fields"]["limit"]
    assert pair["seen_value"] == 77
    assert pair["expected_hash"] == first.evidence["fields"]["limit"]["expected_hash"]


def test_keys_that_are_in_order_again_still_count_as_divergent_when_causes_are_ranked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "BULK_FINDINGS", 3)
    w = filled()
    lose_events(w, *range(5))
    mend(w, *range(4))
    (finding,) = w.findings()
    views = {REPLICA: w.view}
    units, _ = units_of([finding], views, random.Random(1))

    assert len(finding.keys) == 1
    assert sorted(unit.key[1] for unit in units if unit.key) == [f"user:{n}" for n in range(5)]
