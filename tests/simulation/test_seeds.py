"""Seeds that once failed, each for a reason of its own, and a few others; `make sim` runs many."""

from __future__ import annotations

import pytest

from chaos.simulator import simulate

ONCE_FAILED = {
    86: "a value damaged twice",
    127: "a digest that no longer said what storage holds",
    253: "a damaged value that a late event overwrote without looking",
    336: "a note of a later position was judged before an earlier answer",
    497: "an agreeing digest closed a finding that storage contradicted",
    882: "a finding that had healed was reported as without location",
}


DIVIDED_ONCE_FAILED = {
    37: "a repeated record was taken for the first one, and a fault began too late",
    5: "an event that storage had lost and got again was taken for doubled",
    6: "a replica went on under its old name after its storage was emptied",
    106: "a process on an empty partition did not notice that the storage had another life",
    8: "a storage came back with an earlier life, and was UNKNOWN for ever",
    138: "a storage fell back and caught up before anything was reported",
    0: "what came late was counted again after a storage fell back",
    450: "an answer was put together while another process wrote",
    13: "a process said late how it had found a partition, and a finding was opened again",
}


@pytest.mark.parametrize("seed", [*ONCE_FAILED, *range(20)])
def test_every_property_holds_for_seed(seed: int) -> None:
    simulate(seed, "embedded", repair=False)


@pytest.mark.parametrize("seed", [*DIVIDED_ONCE_FAILED, *range(60, 80)])
def test_every_property_holds_in_the_divided_world_of_seed(seed: int) -> None:
    simulate(seed, "divided", repair=False)


@pytest.mark.parametrize("seed", range(10))
def test_everything_that_is_found_can_be_repaired_at_any_moment_in_seed(seed: int) -> None:
    simulate(seed, "embedded", repair=True)


@pytest.mark.parametrize("seed", range(10))
def test_everything_that_is_found_can_be_repaired_in_the_divided_world_of_seed(seed: int) -> None:
    simulate(seed, "divided", repair=True)
