"""Repair: whatever deviates is put right, proven by a later digest, and nothing moves back."""

from __future__ import annotations

from copy import deepcopy

import msgspec
import pytest
from msgspec.structs import replace

from synchroscope.digest import aggregate_hash
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import REQUESTS, AggregateRecord, NewRecord
from synchroscope.report import Repair, RepairOrder, Report, Request, encode_message
from tests import validator_faults
from tests.builders import event
from tests.validation_world import REPLICA, World
from validator.finding import Finding
from validator.repairing import RepairLimits

KEY = ("financial", "user:1")


def order(world: World, finding: str, request: str = "one", *, force: bool = False) -> None:
    """Ask for a repair as the command line does."""
    data = encode_message(RepairOrder(request, finding, force))
    world.log.append([NewRecord(REQUESTS, 0, b"validator", data)], world.now)


def missing_one(**more: object) -> World:
    """Return a world whose replica missed the newest event of user 1, and is found out."""
    world = validator_faults.world(**more)
    world.drop(2)
    world.write("1", limit=7)
    world.run()
    assert world.kinds() == [("missed", "open", ["user:1"])]
    return world


def open_findings(world: World) -> list[Finding]:
    return [finding for finding in world.findings() if finding.state != "resolved"]


def repairs(world: World) -> list[Repair]:
    return [message for message in world.sent(REQUESTS) if isinstance(message, Repair)]


def held(world: World) -> AggregateRecord:
    stored = world.storages[REPLICA].get(KEY)
    assert stored is not None
    return stored


def run_until_closed(world: World, rounds: int = 40) -> None:
    for _ in range(rounds):
        world.step()
        if not open_findings(world):
            return world.run(3)
    raise AssertionError(world.kinds())


# -- everything that is open can be repaired ------------------------------------------------------


@pytest.mark.parametrize("name", validator_faults.FAULTS)
def test_every_kind_of_fault_is_repaired_and_what_comes_after_it_is_found_anew(name: str) -> None:
    fault, _ = validator_faults.FAULTS[name]
    world = validator_faults.world()
    fault(world)
    world.run()
    world.validator.scrub(world.now)
    world.run()
    found = len(world.findings())
    for finding in open_findings(world):
        order(world, finding.id)
    world.links[REPLICA].tamper = list
    run_until_closed(world)
    assert (world.verdict(), len(world.findings())) == ("CONSISTENT", found)
    world.write("2", limit=100)
    world.run()
    world.overwrite("1", limit=100)
    world.validator.scrub(world.now)
    world.run()
    [again] = open_findings(world)
    assert (again.kind, again.subjects) == ("corrupted", ["user:1"])
    order(world, again.id, "two")
    run_until_closed(world)
    assert world.verdict() == "CONSISTENT"


def test_a_repaired_aggregate_goes_on_as_if_nothing_had_been() -> None:
    world = missing_one()
    order(world, open_findings(world)[0].id)
    run_until_closed(world)
    assert held(world).fields["limit"] == (7, 2)
    for limit in range(20):
        world.write("1", limit=limit)
        world.run(2)
    assert world.settle()
    assert (world.verdict(), len(world.findings())) == ("CONSISTENT", 1)
    [resolved] = world.findings()
    assert resolved.evidence["repair"]["attempts"] == 1
    assert resolved.evidence["agreed_position"] == 3


def test_a_fault_between_the_finding_and_the_repair_is_found_and_mended_too() -> None:
    world = missing_one()
    world.overwrite("1", note="other")
    order(world, open_findings(world)[0].id)
    run_until_closed(world)
    assert [kind for kind, _, _ in world.kinds()] == ["corrupted", "missed"]
    assert (held(world).fields["note"], world.verdict()) == (("secret", 1), "CONSISTENT")


def test_a_repair_under_load_keeps_what_newer_events_wrote() -> None:
    world = missing_one()
    world.overwrite("1", note="other")
    order(world, open_findings(world)[0].id)
    for limit in range(100, 140):
        world.write("1", limit=limit)
        world.step()
        assert held(world).fields["limit"][1] == held(world).sequence
    run_until_closed(world)
    assert held(world).fields == {"limit": (139, 42), "note": ("secret", 1)}
    assert len(world.findings()) == 2


def test_the_counters_tell_of_a_gap_that_was_filled() -> None:
    world = validator_faults.world()
    world.drop(2)
    world.write("1", limit=7)
    world.write("1", note="newer")
    world.run()
    assert held(world).missing == [2]
    order(world, open_findings(world)[0].id)
    run_until_closed(world)
    assert (held(world).missing, held(world).fields["limit"]) == ([], (7, 2))
    [newest] = [message for message in world.sent() if isinstance(message, Report)][-1].notes
    assert (newest.gaps, newest.repaired, newest.anomalies) == (0, 1, 0)


def test_a_finding_in_bulk_is_repaired_by_force_only() -> None:
    world = World(bits=8)
    for user in range(200):
        world.write(str(user), limit=user)
    world.run()
    for user in range(150):
        world.overwrite(str(user), limit=-user - 1)
    world.validator.scrub(world.now)
    world.run(20)
    bulk = [finding for finding in open_findings(world) if finding.kind == "bulk"]
    order(world, bulk[0].id)
    world.run(3)
    [refused] = [finding for finding in open_findings(world) if finding.id == bulk[0].id]
    assert "--force" in refused.evidence["repair"]["refused"]
    for number, finding in enumerate(open_findings(world)):
        order(world, finding.id, f"forced {number}", force=True)
    for _ in range(6):
        world.run(40)
        for finding in open_findings(world):
            order(world, finding.id, f"again {world.now}", force=True)
    assert (open_findings(world), world.verdict()) == ([], "CONSISTENT")
    for user in range(200):
        stored = world.storages[REPLICA].get(("financial", f"user:{user}"))
        assert stored is not None
        assert stored.fields["limit"] == (user, 1)


# -- what a repair must not do --------------------------------------------------------------------


def told(world: World) -> Repair:
    """Return a repair that the validator has sent and the replica has not read."""
    projector = world.projectors[REPLICA]
    repair = projector.replica.repair
    projector.replica.repair = lambda message: 0  # type: ignore[method-assign]
    order(world, open_findings(world)[0].id)
    world.run()
    projector.replica.repair = repair  # type: ignore[method-assign]
    return repairs(world)[0]


def test_a_repair_that_comes_twice_or_late_changes_nothing_more() -> None:
    world = missing_one()
    message = told(world)
    replica = world.projectors[REPLICA].replica
    assert replica.repair(message) == 1
    once = held(world).copy()
    assert replica.repair(message) == 0
    world.write("1", limit=8, note="newer")
    world.run()
    newer = held(world).copy()
    assert newer != once
    assert replica.repair(message) == 0
    assert held(world) == newer


def test_what_has_changed_since_it_was_seen_is_left() -> None:
    world = missing_one()
    message = told(world)
    world.overwrite("1", limit=1_000)
    assert world.projectors[REPLICA].replica.repair(message) == 0
    assert held(world).fields["limit"] == (1_000, 1)
    run_until_closed(world, 100)
    assert held(world).fields["limit"] == (7, 2)
    assert [kind for kind, _, _ in world.kinds()] == ["corrupted", "missed"]


@pytest.mark.parametrize(
    "change",
    [
        {"incarnation": "another"},
        {"view_hash": "another"},
        {"position": 99},
        {"accounted": 99},
        {"partition": 7},
    ],
)
def test_a_repair_for_another_life_view_or_position_is_refused(change: dict[str, object]) -> None:
    world = missing_one()
    message = msgspec.structs.replace(told(world), **change)
    assert world.projectors[REPLICA].replica.repair(message) == 0
    assert held(world).fields["limit"] == (5, 1)


def test_a_replica_that_begins_anew_is_not_repaired_from_its_earlier_life() -> None:
    world = missing_one()
    message = told(world)
    world.links[REPLICA].tamper = list
    world.start_replica(REPLICA, MemoryStorage())
    assert world.projectors[REPLICA].replica.repair(message) == 0
    run_until_closed(world)
    assert world.verdict() == "CONSISTENT"


def test_a_storage_that_falls_back_to_before_the_repair_is_found_out_at_the_same_position() -> None:
    world = missing_one()
    copy = deepcopy(world.storages[REPLICA])
    order(world, open_findings(world)[0].id)
    run_until_closed(world)
    assert world.verdict() == "CONSISTENT"
    world.start_replica(REPLICA, copy)
    world.run()
    assert (world.kinds(), world.verdict()) == ([("missed", "open", ["user:1"])], "DIVERGED")
    order(world, open_findings(world)[0].id, "two")
    run_until_closed(world)
    assert world.verdict() == "CONSISTENT"


def test_a_storage_that_loses_an_event_right_before_the_repair_is_found_out() -> None:
    world = missing_one()
    message = told(world)
    seen = held(world).copy()
    projector = world.projectors[REPLICA]
    world.write("1", note="newer")
    projector.step(world.now)
    assert held(world).sequence == 3
    world.storages[REPLICA].commit({KEY: seen}, 0, None)
    assert projector.replica.repair(message) == 1
    run_until_closed(world)
    assert [(kind, state) for kind, state, _ in world.kinds()] == [
        ("missed", "resolved"),
        ("stale", "resolved"),
    ]
    assert held(world).fields == {"limit": (7, 2), "note": ("newer", 3)}


def test_what_was_repaired_at_a_position_is_told_until_it_is_accounted_for() -> None:
    world = missing_one()
    replica = world.projectors[REPLICA].replica
    message = told(world)
    [one] = message.aggregates
    other = replace(one, subject="user:3", seen=replace(one.seen, sequence=0, facts=[]))

    def serials(since: int) -> list[int]:
        answer = replica.explain(Request("x", REPLICA, 0, since))
        return [repaired.serial for repaired in answer.repairs]

    assert replica.repair(message) == 1
    assert replica.repair(replace(message, aggregates=[other])) == 1
    assert (serials(message.position), serials(0)) == ([1, 2], [1, 2])
    third = replace(other, subject="user:4")
    assert replica.repair(replace(message, aggregates=[third], accounted=1)) == 1
    assert (serials(message.position), serials(0)) == ([2, 3], [1, 2, 3])
    world.write("2", limit=1)
    world.projectors[REPLICA].step(world.now)
    assert (serials(message.position), serials(0)) == ([2, 3], [1, 2, 3])
    assert serials(message.position + 1) == []


def test_many_repairs_without_an_event_in_between_are_all_accounted_for() -> None:
    world = World(repair_limits=RepairLimits(aggregates_per_message=3))
    for user in range(40):
        world.write(str(user), limit=user)
    world.run()
    for user in range(40):
        world.overwrite(str(user), limit=-1)
    world.validator.scrub(world.now)
    world.run(20)
    for number, finding in enumerate(open_findings(world)):
        order(world, finding.id, f"number {number}")
    run_until_closed(world, 400)
    assert max(len(message.aggregates) for message in repairs(world)) == 3
    found = len(world.findings())
    for user in range(40):
        world.write(str(user), limit=100)
    assert world.settle()
    assert (world.verdict(), len(world.findings())) == ("CONSISTENT", found)
    world.validator = world.make_validator(evidence_limit_seconds=31.0)
    assert world.settle()
    assert (world.verdict(), len(world.findings())) == ("CONSISTENT", found)


def test_a_validator_that_comes_back_goes_on_with_the_repair() -> None:
    world = missing_one()
    order(world, open_findings(world)[0].id)
    world.validate(2)
    assert [state for _, state, _ in world.kinds()] == ["repairing"]
    world.restart_validator()
    run_until_closed(world)
    assert world.verdict() == "CONSISTENT"


def test_a_repair_that_has_no_effect_ends_open_and_says_so() -> None:
    world = missing_one()
    world.projectors[REPLICA].replica.repair = lambda message: 0  # type: ignore[method-assign]
    order(world, open_findings(world)[0].id)
    for _ in range(100):
        world.step(seconds=1.0)
    [finding] = open_findings(world)
    assert (finding.state, len(repairs(world))) == ("open", 8)
    assert "something goes on harming them" in finding.evidence["repair"]["failed"]
    assert world.verdict() == "DIVERGED"


def test_who_asks_again_with_the_same_request_is_not_given_another_repair() -> None:
    world = missing_one()
    [finding] = open_findings(world)
    order(world, finding.id)
    run_until_closed(world)
    sent = len(repairs(world))
    order(world, finding.id)
    world.run()
    assert (len(repairs(world)), open_findings(world)) == (sent, [])


# -- without authority ----------------------------------------------------------------------------


def test_an_unproven_reference_repairs_nothing() -> None:
    world = missing_one()
    world.rogue(event(None, {"limit": 1}, number=900))
    world.run()
    order(world, open_findings(world)[0].id)
    world.run()
    [finding] = open_findings(world)
    assert finding.state == "open"
    assert "is UNKNOWN" in finding.evidence["repair"]["refused"]
    assert repairs(world) == []


def test_what_the_log_itself_contradicts_is_not_repaired() -> None:
    world = missing_one()
    contradiction = replace(
        open_findings(world)[0],
        id="F-log",
        kind="log-contradiction",
        replica=None,
        evidence={"model": "scorer", "corrected_bucket": bucket(world)},
    )
    world.validator._ledger.open(contradiction, world.log)
    order(world, open_findings(world)[0].id)
    order(world, "F-log")
    world.run()
    texts = {finding.id: finding.evidence["repair"]["refused"] for finding in open_findings(world)}
    assert "not of what a replica holds" in texts.pop("F-log")
    assert ["no authority" in text for text in texts.values()] == [True]
    assert repairs(world) == []


def bucket(world: World) -> int:
    return aggregate_hash(*KEY) >> (64 - world.bits)
