"""What the batch fold remembers of a value is what the canonical encoding says, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from synchroscope.canonical import encode
from synchroscope.errors import InvalidEventError
from validator.batch_plan import Plan

# Hypothesis draws small numbers mostly; where the length changes is what matters here.
EDGES = [
    sign * 2**bits + more for bits in (5, 8, 16, 32, 62) for more in (-1, 0, 1) for sign in (1, -1)
] + [23, 24, -24, -25, 2**63 - 1, -(2**63)]
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(INTEGERS | FLOATS | st.booleans() | st.none() | st.text(), max_size=20))
@example(EDGES)
@example([0.0, -0.0, 1.5, 0.1, 5.0, 2.0**70, 1e300])
def test_a_remembered_value_has_its_canonical_bytes(values: list[Any]) -> None:
    written = Plan(()).written

    for _ in range(2):  # When it is met first, and when it is remembered.
        assert [written[type(value)][value] for value in values] == [encode(v) for v in values]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, float("nan"), float("inf"), "\ud800"])
def test_what_the_rule_refuses_is_refused_here_too(value: Any) -> None:
    with pytest.raises(InvalidEventError):
        Plan(()).written[type(value)][value]
