"""The validator in a tiny world: faults in, findings out, and what must never be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from synchroscope.digest import aggregate_hash
from synchroscope.errors import FencedError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import EVENTS, REPORTS, STATE, NewRecord, Record
from synchroscope.report import (
    Explanation,
    Note,
    Report,
    Request,
    decode_message,
    encode_message,
)
from synchroscope.view import View
from tests.builders import event, update
from tests.validation_world import REPLICA, VIEW, World
from validator.finding import Finding, public_form
from validator.refused_finding import HOUR_SECONDS, MAXIMUM_AN_HOUR, MAXIMUM_OPEN

OTHER = "scorer@2"


@pytest.fixture(autouse=True, params=["whole buckets", "sketches"])
def _way_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds whichever way differing buckets are looked into."""
    if request.param == "sketches":
        monkeypatch.setattr(World, "whole_facts", 0)


def world(**more: Any) -> World:
    """Return a world with two aggregates at sequence 1, all consistent."""
    made = World(**more)
    made.write("1", limit=5, note="secret")
    made.write("2", limit=6)
    made.run()
    assert made.verdict() == "CONSISTENT"
    return made


def only(made: World) -> Finding:
    [finding] = made.findings()
    return finding


def answering(made: World, change: Callable[[Request, Explanation], Explanation]) -> None:
    """Let the replica's answers be changed by a bug."""
    replica = made.projectors[REPLICA].replica
    explain = replica.explain
    replica.explain = lambda request, **more: change(  # type: ignore[method-assign]
        request, explain(request, **more)
    )


def reporting(made: World, change: Callable[[Report], Report]) -> None:
    """Let the replica's reports be changed by a bug."""
    replica = made.projectors[REPLICA].replica
    report = replica.report
    replica.report = lambda now, parts: change(report(now, parts))  # type: ignore[method-assign]


# -- faults and what is found ---------------------------------------------------------------------


def missed(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)


def missed_and_overwritten(w: World) -> None:
    missed(w)
    w.write("1", limit=8, note="x")


def hot_corruption(w: World) -> None:
    w.overwrite("1", limit=99)
    w.write("1", limit=7)


def cold_corruption(w: World) -> None:
    w.overwrite("1", limit=99)


def deletion(w: World) -> None:
    w.delete("1")


def extra_record(w: World) -> None:
    w.overwrite("9", limit=99)


def extra_record_outside_the_view(w: World) -> None:
    w.write("9", kind="temporal", hour=1)
    w.overwrite("9", kind="temporal", hour=2)


def stale(w: World) -> None:
    key = ("financial", "user:1")
    old = w.storages[REPLICA].get(key)
    assert old is not None
    w.write("1", limit=7)
    w.run()
    w.storages[REPLICA].commit({key: old}, 0, None)


def missed_and_corrupted(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)
    w.run()
    w.overwrite("1", note="changed")


def two_aggregates(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)
    w.overwrite("2", limit=99)


def doubled(w: World) -> None:
    """A replica that takes a second delivery for the next event."""

    def again(records: list[Record]) -> list[Record]:
        out = []
        for record in records:
            out.append(record)
            if record.offset == 2:
                twin = msgspec.json.decode(record.value)
                twin["sequence"] += 1
                out.append(replace(record, value=msgspec.json.encode(twin)))
        return out

    w.links[REPLICA].tamper = again
    w.write("1", limit=7)


def reordered_within_a_batch(w: World) -> None:
    w.links[REPLICA].tamper = lambda records: records[::-1]
    w.write("1", limit=7)
    w.write("1", limit=8)


FAULTS: dict[str, tuple[Callable[[World], None], list[tuple[str, str, str]]]] = {
    "missed": (missed, [("missed", "open", "user:1")]),
    "missed and overwritten": (missed_and_overwritten, [("missed", "resolved", "user:1")]),
    "corrupted, met by the next event": (hot_corruption, [("corrupted", "resolved", "user:1")]),
    "corrupted, met by the scrub": (cold_corruption, [("corrupted", "open", "user:1")]),
    "a record deleted": (deletion, [("corrupted", "open", "user:1")]),
    "a record nobody wrote": (extra_record, [("corrupted", "open", "user:9")]),
    "a record of a type outside the view": (
        extra_record_outside_the_view,
        [("corrupted", "open", "user:9")],
    ),
    "put back to an older version": (stale, [("stale", "open", "user:1")]),
    "two faults on one aggregate": (
        missed_and_corrupted,
        [("corrupted", "open", "user:1"), ("missed", "open", "user:1")],
    ),
    "faults on two aggregates": (
        two_aggregates,
        [("corrupted", "open", "user:2"), ("missed", "open", "user:1")],
    ),
    "doubled": (doubled, [("doubled", "resolved", "user:1")]),
    "reordered without effect": (reordered_within_a_batch, []),
}


@pytest.mark.parametrize("is_restarted", [False, True], ids=["", "validator restarts each step"])
@pytest.mark.parametrize("cause, found", FAULTS.values(), ids=FAULTS)
def test_one_finding_for_each_cause(
    cause: Callable[[World], None], found: list[tuple[str, str, str]], is_restarted: bool
) -> None:
    w = world()
    cause(w)
    for _ in range(20):
        w.step()
        if is_restarted:
            w.restart_validator()
        w.validator.scrub(w.now)
    w.run()

    assert [(k, s, *names) for k, s, names in w.kinds()] == found
    is_open = any(state == "open" for _, state, _ in found)
    assert w.verdict() == ("DIVERGED" if is_open else "CONSISTENT")
    assert sum(w.validator.findings_total.values()) == len(found)


def test_an_order_that_leaves_no_trace_is_still_counted() -> None:
    w = world()
    reordered_within_a_batch(w)
    w.run()
    [status] = w.validator.status(w.now)

    assert (status.ordering_violations, status.late) == (1, 1)


def test_a_finding_stays_open_until_a_digest_agrees_and_keeps_its_first_detection() -> None:
    w = world()
    missed(w)
    w.run()
    first = only(w)
    w.run(20)
    assert only(w) == first
    w.write("1", limit=8)
    w.run()
    closed = only(w)

    assert (closed.state, closed.detected_at) == ("resolved", first.detected_at)
    assert closed.resolved_at is not None and closed.resolved_at > first.detected_at
    assert closed.evidence["agreed_position"] == 4
    assert w.settle() and only(w) == closed


def test_a_missed_event_is_named_with_its_offset_and_correlation() -> None:
    w = world()
    missed(w)
    w.run()
    finding = only(w)

    assert finding.first_bad_position is not None and finding.first_bad_position.offset == 2
    assert finding.since is not None
    assert (finding.since.after_offset, finding.since.by_offset) == (2, 2)
    assert finding.evidence["events"][0]["correlation_id"] == "correlation-3"
    assert finding.evidence["events"][0]["offset"] == 2


def test_since_of_a_corruption_lies_between_the_last_write_and_the_event_that_met_it() -> None:
    w = world()
    w.write("2", limit=7)
    w.overwrite("1", limit=99)
    w.write("2", limit=8)
    w.write("1", limit=9)
    w.run()
    finding = only(w)

    assert finding.since is not None
    assert (finding.since.after_offset, finding.since.by_offset) == (1, 4)
    assert finding.evidence["met_at"] == "event"


def test_evidence_shows_values_of_public_fields_only() -> None:
    w = world()
    w.overwrite("1", limit=99, note="private words")
    w.settle()
    fields = only(w).evidence["fields"]

    assert fields["limit"]["seen_value"] == 99
    assert set(fields["note"]) == {"expected_hash", "seen_hash"}
    for topic in (REPORTS, "sync.findings", STATE, "sync.requests"):
        assert all(b"private words" not in r.value for r in w.log.read(topic, 0, 0, 999).records)
    assert "keys" not in public_form(only(w))


def test_bulk_damage_is_one_bulk_finding_and_every_key_is_named_in_slices() -> None:
    w = World(bits=8, whole_facts=1_000)
    for number in range(300):
        w.write(str(number), limit=number)
    w.run()
    for number in range(300):
        w.overwrite(str(number), limit=-number - 1)
    w.settle()
    w.run(30)

    assert {(f.kind, f.state) for f in w.findings()} == {("corrupted", "open"), ("bulk", "open")}
    assert len({subject for f in w.findings() for subject in f.subjects}) == 300
    assert len(w.findings()) < 20
    assert len(w.requests()) < 40
    assert max(len(request.buckets) for request in w.requests()) == 64
    w.start_replica(REPLICA, MemoryStorage())
    assert w.settle() and w.verdict() == "CONSISTENT"
    assert {f.state for f in w.findings()} == {"resolved"}


def test_a_journal_that_is_no_longer_complete_leaves_the_cause_unknown_but_names_the_key() -> None:
    w = world()
    answering(w, lambda _, a: replace(a, journal_from=a.note.position, entries=[], mismatches=[]))
    missed(w)
    w.run()
    finding = only(w)

    assert (finding.kind, finding.subjects) == ("unexplained", ["user:1"])
    assert "cause UNKNOWN" in finding.evidence["reason"]
    w.write("1", limit=9)
    w.run()
    assert only(w).state == "resolved"


# -- lag, silence, restarts -----------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 12), st.lists(st.sampled_from("123"), min_size=13, max_size=30), st.data())
def test_lag_is_never_divergence(stuck: int, users: list[str], data: st.DataObject) -> None:
    w = World()
    w.links[REPLICA].hold_at = stuck
    for number, user in enumerate(users):
        w.write(user, limit=data.draw(st.sampled_from([None, number, 1])))
        if data.draw(st.booleans()):
            w.step()
        assert w.verdict() != "DIVERGED"
    w.run(3)
    assert (w.findings(), w.requests(), w.validator.is_settled()) == ([], [], False)
    w.links[REPLICA].hold_at = None
    assert w.settle() and (w.verdict(), w.findings()) == ("CONSISTENT", [])


def test_a_silent_replica_becomes_unknown_though_the_others_go_on() -> None:
    w = world(replicas=(REPLICA, OTHER))
    del w.projectors[REPLICA]
    for _ in range(40):
        w.step(seconds=1.0)

    assert (w.verdict(), w.verdict(OTHER)) == ("UNKNOWN", "CONSISTENT")
    assert "old" in w.reason()


def test_a_new_life_is_unknown_until_it_is_compared() -> None:
    w = world()
    reports = len(w.sent())
    w.start_replica(REPLICA, MemoryStorage())
    life = replace(w.sent()[reports - 1], incarnation="another", notes=[])
    w.tell(life)
    w.validate()
    assert w.verdict() == "UNKNOWN"
    w.run()
    assert w.verdict() == "CONSISTENT"


def test_a_position_that_went_back_is_unknown_until_it_is_compared() -> None:
    w = world()
    last = w.sent()[-1]
    w.validate(rounds=1)
    behind = replace(last, notes=[replace(last.notes[-1], position=1)])
    w.tell(behind)
    w.validate()
    assert w.verdict() != "CONSISTENT"


def test_a_lost_request_is_put_again_and_a_slow_answer_to_the_first_counts() -> None:
    w = world(whole_facts=1_000)
    missed(w)
    w.now += 1
    projector = w.projectors[REPLICA]
    projector.step(w.now)
    w.validate()
    [question] = w.requests()
    for _ in range(5):
        w.validate(seconds=1.0)
    again = w.requests()
    assert 1 < len(again) <= 4 and {r.request_id for r in again} == {question.request_id}
    w.tell(projector.replica.explain(question))
    w.validate()
    assert w.requests()[-1].buckets  # The answer was taken: now the buckets are asked for.
    w.run()
    assert [f.kind for f in w.findings()] == ["missed"]


@pytest.mark.parametrize("wrong", ["incarnation", "request_id", "replica"])
def test_an_answer_to_somebody_or_something_else_is_ignored(wrong: str) -> None:
    w = world()
    answering(w, lambda _, a: replace(a, **{wrong: "another"}))
    missed(w)
    w.run(30)

    assert (w.findings(), w.verdict()) == ([], "DIVERGED")
    assert w.reason() == "digest differs on partition 0"


@given(st.lists(st.sampled_from(["write", "step", "restart", "corrupt", "drop"]), max_size=25))
@settings(max_examples=40)
def test_a_restart_at_any_step_neither_loses_nor_doubles_findings(turns: list[str]) -> None:
    straight, restarted = world(), world()
    for number, turn in enumerate(turns):
        for w in (straight, restarted):
            if turn == "write":
                w.write("1", limit=1_000 + number)
            elif turn == "corrupt":
                w.overwrite("2", limit=2_000 + number)
            elif turn == "drop":
                w.drop(w.log.head(EVENTS, 0))
                w.write("3", limit=3_000 + number)
                w.step()
            else:
                w.step()
        if turn == "restart":
            restarted.restart_validator()
    assert straight.settle() and restarted.settle()

    assert [f.id for f in restarted.findings()] == [f.id for f in straight.findings()]
    assert restarted.kinds() == straight.kinds()
    assert restarted.verdict() == straight.verdict()
    assert restarted.validator.findings_total == straight.validator.findings_total


@pytest.mark.parametrize("change", ["fields", "bits", "another model"])
def test_after_a_change_of_views_or_digest_everything_is_folded_and_compared_anew(
    change: str,
) -> None:
    w = world()
    narrow = View("scorer", {"financial": frozenset({"limit"})}, VIEW.public)
    if change == "fields":
        w.view = narrow
    elif change == "bits":
        w.bits = 5
    more = View("second", {"geographic": frozenset()})
    w.restart_validator(views=[w.view, more] if change == "another model" else [w.view])
    assert w.verdict() == "UNKNOWN"
    w.start_replica(REPLICA, w.storages[REPLICA])

    assert w.settle() and (w.verdict(), w.findings()) == ("CONSISTENT", [])


# -- records that contradict ----------------------------------------------------------------------


def rogue(number: int, sequence: int, previous: Any, user: str = "1") -> dict[str, Any]:
    made = event(sequence, {"limit": update(66, previous)}, number=number, user=user)
    return {**made, "source": {"modelId": "rogue", "instanceId": "r-1"}}


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


# -- messages that cannot be believed -------------------------------------------------------------


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
