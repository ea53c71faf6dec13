"""Seeds that once failed, each for a reason of its own; they have to pass for ever."""

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


@pytest.mark.parametrize("seed", [*ONCE_FAILED, *range(60)])
def test_every_property_holds_for_seed(seed: int) -> None:
    simulate(seed)
