"""The partition of an aggregate never changes during a log's life: golden values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.partitioner import PARTITIONERS, by_context_type, by_subject, hybrid
from synchroscope.errors import ConfigurationError

AGGREGATES = [
    ("financial", "user:12345"),
    ("behavioural", "user:12345"),
    ("financial", "session:abcdef"),
    ("geographic", "user:naïve-ü"),
]
GOLDEN = {
    "by_context_type": [9, 12, 9, 10],
    "by_subject": [3, 3, 13, 8],
    "hybrid": [12, 15, 10, 10],
}


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
def test_a_partition_is_what_it_was_in_the_first_release(name: str) -> None:
    assert [PARTITIONERS[name](*aggregate, 16) for aggregate in AGGREGATES] == GOLDEN[name]


@given(st.sampled_from(sorted(PARTITIONERS)), st.text(), st.text(), st.integers(1, 64))
def test_a_partition_exists(name: str, kind: str, subject: str, partitions: int) -> None:
    assert 0 <= PARTITIONERS[name](kind, subject, partitions) < partitions


def test_by_subject_keeps_a_subject_together() -> None:
    assert by_subject("a", "user:1", 64) == by_subject("b", "user:1", 64)


def test_by_context_type_keeps_a_type_together() -> None:
    assert by_context_type("a", "user:1", 64) == by_context_type("a", "user:2", 64)


def test_hybrid_spreads_a_type_over_no_more_partitions_than_its_spread() -> None:
    partition = hybrid(spread=3)
    assert len({partition("financial", f"user:{number}", 64) for number in range(500)}) == 3


def test_hybrid_with_a_spread_of_one_goes_by_context_type() -> None:
    for kind in ("financial", "geographic"):
        assert hybrid(spread=1)(kind, "user:1", 64) == by_context_type(kind, "user:1", 64)


def test_a_load_of_many_subjects_is_spread_evenly() -> None:
    loads = [0] * 8
    for number in range(8_000):
        loads[by_subject("financial", f"user:{number}", 8)] += 1
    assert max(loads) < 1.15 * min(loads)


def test_a_spread_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="spread"):
        hybrid(spread=0)
