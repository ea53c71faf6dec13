"""Sketches against sets: what they name is exactly what differs, or they say that they cannot."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.digest import MASK
from synchroscope.sketch import (
    BELOW_BUCKET_BITS,
    CELLS,
    SIZES,
    Part,
    Sketches,
    differing,
    from_bytes,
    number_of,
    pack_numbers,
    to_bytes,
    unpack_numbers,
)

BITS = 4
BUCKETS = range(1 << BITS)
HASHES = st.integers(0, MASK)
FACTS = st.lists(st.tuples(HASHES, st.integers(1, MASK)), max_size=60)


def sketches(facts: list[Part]) -> Sketches:
    made = Sketches(BITS, is_empty=True)
    made.change(facts)
    return made


def numbers(facts: list[Part]) -> list[int]:
    """Return the aggregates whose facts do not sum to nothing."""
    sums: defaultdict[int, int] = defaultdict(int)
    for hashed, lane in facts:
        sums[number_of(hashed, BITS)] += lane
    return sorted(number for number, lane in sums.items() if lane & MASK)


@settings(max_examples=200)
@given(FACTS, st.lists(st.tuples(HASHES, st.integers(1, MASK)), max_size=8), st.sampled_from(SIZES))
def test_what_is_named_is_what_differs(common: list[Part], odd: list[Part], size: int) -> None:
    one, other = sketches(common + odd), sketches(common)
    named = differing(one.cells(BUCKETS, size) - other.cells(BUCKETS, size), BUCKETS)
    assert named is None or named == numbers(odd)
    # Either side may have more.
    back = differing(other.cells(BUCKETS, size) - one.cells(BUCKETS, size), BUCKETS)
    assert back == named
    # Hashes that end in many zeros are not told; one in 65,536 ends in as many as these.
    if len(odd) <= 1 and all(lane & 0xFFFF for _, lane in odd):
        assert named is not None


def test_twenty_eight_differences_are_told_by_the_cells_of_one_bucket() -> None:
    chance = random.Random(5)
    told = 0
    for _ in range(200):
        odd = [(chance.getrandbits(64), chance.getrandbits(64)) for _ in range(28)]
        named = differing(sketches(odd).cells(BUCKETS), BUCKETS)
        assert named in (None, numbers(odd))
        told += named is not None
    assert told >= 190


def test_a_changed_fact_names_its_aggregate_whatever_was_there_before() -> None:
    hashed = 0xABCDEF0123456789
    must, has = sketches([(hashed, 7), (hashed, 9)]), sketches([(hashed, 7), (hashed, 1 << 19)])
    assert differing(must.cells(BUCKETS) - has.cells(BUCKETS), BUCKETS) == [
        hashed >> (64 - BITS - BELOW_BUCKET_BITS)
    ]


@given(FACTS, FACTS)
def test_what_comes_and_goes_leaves_nothing(first: list[Part], second: list[Part]) -> None:
    made = sketches(first + second)
    made.change([(hashed, -lane) for hashed, lane in first])
    assert (made.cells(BUCKETS) == sketches(second).cells(BUCKETS)).all()


@given(FACTS)
def test_columns_and_rows_are_counted_alike(facts: list[Part]) -> None:
    made = Sketches(BITS, is_empty=True)
    made.add(
        np.array([hashed for hashed, _ in facts], np.uint64),
        np.array([lane for _, lane in facts], np.uint64),
    )
    assert (made.cells(BUCKETS) == sketches(facts).cells(BUCKETS)).all()


@given(FACTS, st.sampled_from(SIZES))
def test_cells_are_carried_as_bytes(facts: list[Part], size: int) -> None:
    cells = sketches(facts).cells([1, 3], size)
    data = to_bytes(cells)
    assert len(data) == 16 * size
    assert (from_bytes(data) == cells).all()


@given(FACTS)
def test_the_sketch_of_many_buckets_is_the_sum_of_theirs(facts: list[Part]) -> None:
    made = sketches(facts)
    each = [made.cells([bucket]) for bucket in BUCKETS]
    assert (made.cells(BUCKETS) == np.sum(each, axis=0, dtype=np.uint64)).all()


def test_a_bucket_that_is_not_built_takes_no_changes_and_is_built_whole() -> None:
    made = Sketches(BITS)
    low, high = 1 << 60, 9 << 60
    made.change([(low, 5)])
    assert not made.is_built(1)
    made.build(1, [(low, 5), (low + 1, 6)])
    made.change([(low, 1), (high, 3)])
    assert (made.cells([1]) == sketches([(low, 6), (low + 1, 6)]).cells([1])).all()
    assert not made.cells([9]).any()
    made.forget([1])
    assert not made.is_built(1)
    assert not made.cells([1]).any()


def test_sketches_are_added_only_where_they_are_built() -> None:
    made, more = Sketches(BITS), sketches([(1 << 60, 5), (2 << 60, 7)])
    made.build(1, [])
    made.add_all(more, [1, 2])
    assert (made.cells(BUCKETS) == more.cells([1])).all()


@pytest.mark.parametrize("data", [b"", b"x", bytes(16), bytes(16 * 65), bytes(16 * 24)])
def test_other_bytes_are_no_sketch(data: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes a cell"):
        from_bytes(data)


@given(st.lists(st.integers(0, (1 << (BITS + BELOW_BUCKET_BITS)) - 1)))
def test_numbers_are_carried_as_bytes(named: list[int]) -> None:
    assert unpack_numbers(pack_numbers(named, BITS), BITS) == named


@pytest.mark.parametrize("data", [b"abc", b"\xff\xff\xff\xff", b"abcde"])
def test_other_bytes_are_no_numbers(data: bytes) -> None:
    with pytest.raises(ValueError, match="not numbers"):
        unpack_numbers(data, BITS)


@settings(max_examples=300)
@given(st.binary(min_size=16 * CELLS, max_size=16 * CELLS))
def test_garbage_comes_to_an_end(data: bytes) -> None:
    named = differing(from_bytes(data), BUCKETS)
    assert named is None or len(named) <= CELLS


def test_too_many_bits_have_no_sketches() -> None:
    with pytest.raises(ValueError, match="no sketches"):
        Sketches(13)
