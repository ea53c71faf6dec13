"""Roles that are late, stand still or die: what is not known is UNKNOWN, and nothing is found."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from synchroscope.errors import UnavailableError
from synchroscope.memory_storage import MemoryStorage
from tests.hop_chain import REPLICAS, SETTLE, WINDOW, Chain
from validator.hop_verdicts import LOG_REPLICA, PRODUCER_STORE, RELAY_LOG, STORE_RELAY
from validator.watch import Verdict


def test_what_is_on_its_way_is_not_lost() -> None:
    chain = Chain()
    relay = chain.relay
    chain.relay = _Still()  # type: ignore[assignment]
    chain.traffic()
    chain.run(60)
    assert chain.wrong() == []
    assert chain.states(STORE_RELAY) == chain.states(RELAY_LOG) == set()
    chain.relay = relay
    chain.links["scorer@1"].hold_at = 0
    chain.run(30)
    assert chain.wrong() == []
    assert chain.states(STORE_RELAY) == {"CONSISTENT"}
    chain.links["scorer@1"].hold_at = None
    chain.run(5)
    assert chain.wrong() == []
    assert "scorer@1" in {v.place.replica for v in chain.verdicts}


class _Still:
    """A role that stands still."""

    def step(self, now: float) -> None:
        pass


def test_a_batch_that_is_recorded_long_before_it_is_stored_is_not_too_much() -> None:
    chain = Chain()
    chain.traffic()
    begun = chain.now
    chain.run(20)
    chain.write("1", at=begun)
    chain.settle()
    assert chain.wrong() == []


def test_a_slow_batch_that_the_producer_has_not_told_yet_is_not_too_much_either() -> None:
    chain = Chain()
    chain.traffic()
    begun = chain.now
    chain.run(20)
    chain.write("1", at=begun)
    chain.now += 1.0
    chain.audit()
    chain.settle()
    assert chain.wrong() == []


def test_a_window_that_is_not_over_is_not_judged() -> None:
    chain = Chain()
    chain.traffic()
    while chain.now % WINDOW != 0.5:
        chain.step(0.5)
    chain.verdicts.clear()
    chain.write("1")
    judged_from = chain.now + WINDOW - 0.5 + SETTLE
    while chain.now < judged_from - 1:
        chain.step(0.5)
    current = int((judged_from - SETTLE) // WINDOW) - 1
    assert all(v.window < current for v in chain.verdicts)


def test_whether_an_append_without_an_answer_was_stored_is_unknown() -> None:
    chain = Chain()
    chain.store.fails_after_writing = True
    with pytest.raises(UnavailableError):
        chain.write("1")
    chain.store.fails_after_writing = False
    chain.settle()
    assert chain.wrong() == []
    assert "UNKNOWN" in chain.states(PRODUCER_STORE)
    assert chain.states(STORE_RELAY) == {"CONSISTENT"}


def test_a_producer_that_dies_without_a_last_word_leaves_a_window_unknown() -> None:
    chain = Chain()
    chain.traffic()
    chain.write("1")  # Accepted, and never told.
    chain.now += 0.5
    chain.start_producer()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    unknown = [v.reason for v in chain.verdicts if v.verdict is Verdict.UNKNOWN]
    assert any("ended without a last word" in reason for reason in unknown)
    assert chain.states(STORE_RELAY) == {"CONSISTENT"}


def test_a_producer_that_says_goodbye_leaves_nothing_unknown() -> None:
    chain = Chain()
    chain.traffic()
    chain.tally.tell(chain.now, final=True)
    chain.now += 0.5
    chain.start_producer()
    chain.traffic()
    chain.settle()
    assert chain.states(PRODUCER_STORE) == {"CONSISTENT"}


def test_a_relay_that_dies_after_publishing_and_before_telling_counts_it_again_once() -> None:
    chain = Chain()
    chain.traffic()
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)  # Published; told would be the next time.
    chain.start_relay()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    assert chain.states(STORE_RELAY) == chain.states(RELAY_LOG) == {"CONSISTENT"}


def test_what_a_replica_applied_before_it_died_and_did_not_tell_is_unknown() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)
    chain.projectors["scorer@1"].step(chain.now)
    chain.start_replica("scorer@1")
    chain.write("2")
    chain.settle()
    assert chain.wrong() == []
    mine = {v.verdict for v in chain.verdicts if v.place.replica == "scorer@1"}
    assert Verdict.UNKNOWN in mine


def test_what_a_replica_told_before_it_died_stays_known() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    chain.run(12)  # Told, and its window is over.
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)
    chain.projectors["scorer@1"].step(chain.now)
    chain.start_replica("scorer@1")
    chain.write("2")
    chain.settle()
    of_window = {v.window: v.verdict for v in chain.verdicts if v.place.replica == "scorer@1"}
    assert of_window[min(of_window)] is Verdict.CONSISTENT
    assert of_window[max(of_window)] is Verdict.UNKNOWN


def test_a_partition_that_is_handed_over_leaves_nothing_unknown() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    old = chain.projectors["scorer@1"]
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)
    old.step(chain.now)
    old.own({})
    chain.start_replica("scorer@1")
    chain.write("1")
    chain.step()
    old.step(chain.now)
    chain.settle()
    assert {v.verdict for v in chain.verdicts if v.place.replica == "scorer@1"} == {
        Verdict.CONSISTENT
    }


def test_a_replica_that_is_built_anew_has_applied_everything_once() -> None:
    chain = Chain()
    chain.traffic()
    chain.storages["scorer@1"] = MemoryStorage()
    chain.start_replica("scorer@1")
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    assert chain.states(LOG_REPLICA) == {"CONSISTENT"}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_dies_or_stands_still_nothing_false_is_said(seed: int) -> None:
    """Roles stop, die and come back in any order; nothing is lost, so nothing may be found."""
    rng = Random(seed)
    chain = Chain(checkpoint_seconds=rng.choice([0.0, 3.0]), read_records=rng.choice([2, 5, 1000]))
    for _ in range(200):
        chain.now += rng.choice([0.05, 0.3, 1.0, 2.5])
        for _ in range(rng.randrange(3)):
            kind = rng.choice(["financial", "geographic", "temporal"])
            chain.write(str(rng.randrange(5)), kind, at=chain.now - rng.choice([0, 0, 0, 1, 2]))
        turns: list[Callable[[], Any]] = [
            lambda: chain.tally.step(chain.now),
            lambda: chain.relay.step(chain.now),
            *(lambda p=p: p.step(chain.now) for p in chain.projectors.values()),  # type: ignore[misc]
            chain.audit,
        ]
        rng.shuffle(turns)
        for turn in turns:
            if rng.random() < 0.8:
                turn()
        if rng.random() < 0.04:
            rng.choice(
                [
                    chain.start_relay,
                    chain.start_auditor,
                    chain.start_producer,
                    lambda: chain.start_replica(rng.choice(list(REPLICAS))),
                ]
            )()
    chain.settle()
    assert chain.wrong() == []
    assert chain.findings() == []
    assert "CONSISTENT" in chain.states(STORE_RELAY) & chain.states(RELAY_LOG)
