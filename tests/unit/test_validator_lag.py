"""Lag, silence and restarts are no divergence, and lose no finding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import EVENTS
from synchroscope.view import View
from tests.validation_world import REPLICA, VIEW, World
from tests.validator_faults import OTHER, answering, missed, way_to_look, world

__all__ = ["way_to_look"]


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
