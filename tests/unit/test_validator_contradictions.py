"""Records that contradict the log's own are the log's fault, and stop nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from synchroscope.errors import FencedError
from synchroscope.event import Update
from synchroscope.ports import EVENTS, NewRecord
from tests.builders import event
from tests.validation_world import REPLICA, World
from tests.validator_faults import OTHER, only, rogue, way_to_look, world
from validator.refused_finding import HOUR_SECONDS, MAXIMUM_AN_HOUR, MAXIMUM_OPEN

__all__ = ["way_to_look"]

ROGUES = {
    "wrong previous": rogue(900, 2, 1),
    "right previous": rogue(900, 2, 5),
    "repeated sequence": rogue(900, 1, 5),
    "an aggregate of its own": rogue(900, 1, None, user="7"),
}


@pytest.mark.parametrize("value", ROGUES.values(), ids=ROGUES)
def test_a_record_past_the_command_side_is_the_logs_fault_and_names_its_producer(
    value: dict[str, Any],
) -> None:
    w = world(replicas=(REPLICA, OTHER))
    offset = w.rogue(value)
    w.run()
    for number in range(3):
        for user in "17":
            w.write(user, limit=70 + number)
        w.run()
    [log_fault] = [f for f in w.findings() if f.kind == "log-contradiction"]

    assert log_fault.replica is None and log_fault.first_bad_position is not None
    assert log_fault.first_bad_position.offset == offset
    assert log_fault.evidence["producer"] == "rogue/r-1"
    assert [w.verdict(REPLICA), w.verdict(OTHER)] == ["CONSISTENT"] * 2
    assert all(f.state == "resolved" for f in w.findings() if f.replica)


@pytest.mark.parametrize("name", ["store-position", "recorded"])
@pytest.mark.parametrize("header", [b"abc", b"9" * 40, b"1e300", b"nan", b""])
def test_headers_that_are_no_numbers_stop_nothing(name: str, header: bytes) -> None:
    w = world()
    w.drop(2)
    w.rogue(rogue(900, 2, 5), ((name, header),))
    w.run()
    assert {f.kind for f in w.findings()} <= {"missed", "log-contradiction"}
    w.write("1", limit=9)
    w.run()
    assert w.verdict() == "CONSISTENT"


def test_beside_a_record_that_is_no_event_a_lost_one_is_still_found() -> None:
    w = world()
    offset = w.rogue({**rogue(900, 2, 5), "contextDelta": {}})
    w.drop(offset + 1)
    w.write("1", limit=9)
    w.run(20)

    found = {finding.kind: finding for finding in w.findings()}
    assert found.keys() == {"log-contradiction", "missed"}
    refused = found["log-contradiction"]
    assert refused.replica is None and refused.first_bad_position is not None
    assert refused.first_bad_position.offset == offset
    assert refused.evidence["producer"] == "rogue/r-1"
    assert "undecodable record" in refused.evidence["undecodable"]
    assert (found["missed"].state, w.verdict()) == ("open", "DIVERGED")
    assert w.validator.standing(w.now).undecodable == 1


def test_the_finding_of_a_record_that_is_no_event_closes_when_all_agree_beyond_it() -> None:
    w = world(replicas=(REPLICA, OTHER))
    w.links[OTHER].hold_at = w.log.head(EVENTS, 0)
    offset = w.rogue(b"\xff")
    w.run(20)
    assert (only(w).state, w.verdict(REPLICA)) == ("open", "CONSISTENT")
    w.restart_validator()
    w.links[OTHER].hold_at = None
    w.run(20)

    assert only(w).state == "resolved"
    assert only(w).evidence["agreed_position"] == offset + 1
    assert [w.verdict(REPLICA), w.verdict(OTHER)] == ["CONSISTENT"] * 2


def test_a_log_that_was_lost_and_made_anew_is_folded_anew_and_its_replicas_told_what_to_do() -> (
    None
):
    w = world()
    head = w.log.head
    w.log.head = lambda topic, n: 0 if topic == EVENTS else head(topic, n)  # type: ignore[method-assign]
    with pytest.raises(FencedError, match="lost and made anew"):
        w.validator.standing(w.now)
    w.restart_validator()
    assert w.validator.reference.position(0) == 0
    w.run(2)
    [status] = w.validator.status(w.now)
    assert status.verdict == "UNKNOWN"
    assert "beyond the log's head" in status.reason and "empty storage" in status.reason


def test_so_many_records_that_are_no_events_have_a_bounded_number_of_findings() -> None:
    w = world()
    w.links[REPLICA].hold_at = w.log.head(EVENTS, 0)
    for number in range(MAXIMUM_OPEN + 20):
        w.rogue(b"nonsense %d" % number)
    w.run(20)

    assert len(w.validator.open_findings()) == MAXIMUM_OPEN
    assert w.validator.standing(w.now).undecodable == MAXIMUM_OPEN + 20


def test_a_flood_of_records_that_are_no_events_is_told_a_number_of_times_an_hour() -> None:
    w = world()
    for number in range(2 * MAXIMUM_AN_HOUR):
        w.rogue(b"nonsense %d" % number)
        w.step()
    w.run()
    assert {f.state for f in w.findings()} == {"resolved"}
    assert w.validator.findings_total == {"log-contradiction": MAXIMUM_AN_HOUR}
    w.now += HOUR_SECONDS
    w.rogue(b"more of it")
    w.run()
    assert w.validator.findings_total == {"log-contradiction": MAXIMUM_AN_HOUR + 1}


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_reference_that_is_not_proven_neither_clears_nor_blames(is_asked: bool) -> None:
    w = world()
    if is_asked:
        w.validator.scrub(w.now)
    w.rogue(event(None, {"limit": 1}, number=900))
    w.write("1", limit=9)
    w.run(20)

    assert (w.verdict(), w.findings()) == ("UNKNOWN", [])
    assert len(w.requests()) <= 1


# -- log and event store have an event otherwise ---------------------------------------------------


def log_altered(w: World) -> None:
    """Have the record of an event changed between relay and log."""
    append = w.log.append

    def altering(records: Sequence[NewRecord], now: float, **more: Any) -> None:
        changed = [
            replace(record, value=record.value.replace(b'"current":77', b'"current":78'))
            for record in records
        ]
        append(changed, now, **more)

    w.log.append = altering  # type: ignore[method-assign]
    w.write("1", limit=77)
    w.log.append = append  # type: ignore[method-assign]


def store_rotten(w: World) -> None:
    """Have an event changed in the event store after it was published."""
    w.write("1", limit=77)
    stored = w.store._events[-1]
    delta = replace(stored.event.context_delta, updates={"limit": Update(current=78, previous=5)})
    changed = replace(stored, event=replace(stored.event, context_delta=delta))
    w.store._events[-1] = w.store._histories["financial", "user:1"][-1] = changed


@pytest.mark.parametrize("later", [False, True], ids=["", "and later events"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["", "validator restarts each step"])
@pytest.mark.parametrize("differ", [log_altered, store_rotten])
def test_replicas_that_do_as_the_log_says_are_not_blamed_where_the_store_says_otherwise(
    differ: Callable[[World], None], is_restarted: bool, later: bool
) -> None:
    w = world(replicas=(REPLICA, OTHER), bits=1)
    for user in "23456":
        w.write(user, limit=5)
    offset = w.log.head(EVENTS, 0)
    differ(w)
    w.run()
    for user in "2345":  # Somebody has to look into the buckets.
        w.overwrite(user, limit=500)
    if later:
        w.write("1", limit=9)
        w.write("1", note="x")
    for _ in range(20):
        w.step()
        if is_restarted:
            w.restart_validator()
        w.validator.scrub(w.now)
    w.run()
    of_log = [f for f in w.findings() if f.kind == "log-contradiction"]
    places = [(f.first_bad_position and f.first_bad_position.offset, f.subjects) for f in of_log]
    if differ is log_altered and later:  # Its successor contradicts as well: it must be seen.
        assert places == [(offset, ["user:1"])]
    else:  # It is seen where the whole bucket is looked into and the value still stands.
        assert places in ([], [(offset, ["user:1"])])
    blamed = {(f.replica, *f.subjects) for f in w.findings() if f.replica}
    assert blamed == {(REPLICA, f"user:{user}") for user in "2345"}
    assert [w.verdict(REPLICA), w.verdict(OTHER)] == ["DIVERGED", "CONSISTENT"]
