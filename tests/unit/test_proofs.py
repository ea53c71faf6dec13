"""Proofs on request: all storage is summed after the question, however lately it was before."""

from __future__ import annotations

from synchroscope.ports import REQUESTS, STATE, NewRecord
from synchroscope.report import Check, encode_message
from tests.validation_world import REPLICA, World
from validator.standing import Standing, consumer_of, decode_standing, standing_key

OTHER = "scorer@2"


def asked(w: World, name: str) -> None:
    w.log.append([NewRecord(REQUESTS, 0, b"", encode_message(Check(name)))], w.now)


def standing(w: World) -> Standing:
    record = w.log.latest(STATE, standing_key(consumer_of(None)))
    assert record is not None
    found = decode_standing(record.value)
    assert found is not None
    return found


def proven_world() -> World:
    w = World((REPLICA, OTHER), worker="validator-1")
    for number in range(12):
        w.write(str(number), limit=number)
    asked(w, "first")
    w.run(20)
    assert standing(w).proven == ["first"]
    assert standing(w).settled
    return w


def test_what_was_spoilt_since_the_last_proof_at_the_same_place_is_found() -> None:
    w = proven_world()
    w.overwrite("3", OTHER, limit=8_831)
    w.run(20)
    assert w.findings() == []  # Nobody looked.
    asked(w, "second")
    w.run(20)
    assert standing(w).proven == ["first", "second"]
    assert (w.verdict(OTHER), w.verdict()) == ("DIVERGED", "CONSISTENT")
    [finding] = w.findings()
    assert (finding.kind, finding.replica, finding.subjects) == ("corrupted", OTHER, ["user:3"])


def test_questions_that_come_together_get_one_proof_and_later_ones_another() -> None:
    w = proven_world()
    before = w.requests()
    for number in range(200):
        asked(w, f"question {number}")
    w.run(30)
    assert standing(w).proven[-1] == "question 199"
    assert len(w.requests()) - len(before) <= 2 * 2


def test_a_question_is_answered_when_replicas_have_come_to_the_head() -> None:
    w = proven_world()
    w.links[OTHER].hold_at = w.log.head("context.events", 0)
    w.write("3", limit=77)
    asked(w, "second")
    w.run(20)
    assert standing(w).proven == ["first"]
    w.links[OTHER].hold_at = None
    w.run(20)
    assert standing(w).proven == ["first", "second"]


def test_who_asks_gets_a_proof_however_often_others_ask_meanwhile() -> None:
    w = proven_world()
    for number in range(60):
        asked(w, f"question {number}")
        w.step()
    assert "question 0" in standing(w).proven
    assert len(standing(w).proven) > 20
