"""Laws of the digest: a sum over facts, whatever the order in which they came and went."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from synchroscope import digest as digest_module
from synchroscope.digest import (
    MASK,
    Digest,
    Hasher,
    Lanes,
    lanes_from_hex,
    lanes_hex,
    sum_lanes,
)
from synchroscope.errors import ConfigurationError, InvalidEventError

ANY_SPEED = settings(deadline=None)  # A law does not depend on how busy the machine is.

HASHER = Hasher()
BITS = 3
NUMBERS = st.integers(0, MASK) | st.sampled_from([0, 1, MASK, MASK - 1, 1 << 63])
LANES = st.tuples(NUMBERS, NUMBERS)
FACTS = st.lists(st.tuples(st.integers(0, 2**BITS - 1), LANES), max_size=20)


def column(numbers: Any) -> NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


def of(facts: list[tuple[int, Lanes]]) -> Digest:
    digest = Digest(BITS)
    for bucket, lanes in facts:
        digest.add(bucket, lanes)
    return digest


@ANY_SPEED
@given(FACTS, st.randoms(use_true_random=False))
def test_the_order_of_facts_does_not_matter(facts: list[Any], random: Any) -> None:
    other = facts[:]
    random.shuffle(other)

    assert of(facts).table() == of(other).table()


@ANY_SPEED
@given(FACTS, FACTS, FACTS, st.integers(0, 2**BITS - 1))
def test_a_table_that_was_packed_before_is_what_packing_it_anew_gives(
    first: list[Any], second: list[Any], third: list[Any], bucket: int
) -> None:
    digest = of(first)
    before = digest.table()
    twin = digest.copy()
    for number, lanes in second:
        twin.subtract(number, lanes)
    for step in (
        lambda: twin.replace(bucket, [lanes for _, lanes in third]),
        lambda: twin.add_sums(np.array([bucket]), column([MASK]), column([MASK]), column([3])),
        lambda: twin.add(bucket, (1, 2)),
    ):
        step()
        anew = Digest(BITS)
        anew.add_sums(np.arange(2**BITS), *map(column, (twin.lane0, twin.lane1, twin.counts)))
        assert twin.table() == anew.table()
        assert twin.copy().table() == Digest.from_table(twin.table()).table() == anew.table()
    assert digest.table() == before  # A copy is independent.


@ANY_SPEED
@given(FACTS, FACTS, st.randoms(use_true_random=False))
def test_changing_step_by_step_is_building_anew(
    kept: list[Any], gone: list[Any], random: Any
) -> None:
    steps = [(True, fact) for fact in kept + gone] + [(False, fact) for fact in gone]
    random.shuffle(steps)  # A subtraction may even come before its addition.
    digest = Digest(BITS)
    for is_added, (bucket, lanes) in steps:
        (digest.add if is_added else digest.subtract)(bucket, lanes)

    assert digest.table() == of(kept).table()
    assert digest.root() == of(kept).root()
    assert digest.differing(of(kept)) == []


@ANY_SPEED
@given(FACTS, FACTS)
def test_rolling_back_leads_where_it_began(before: list[Any], change: list[Any]) -> None:
    digest = of(before)
    for bucket, lanes in change:
        digest.add(bucket, lanes)
    for bucket, lanes in reversed(change):
        digest.subtract(bucket, lanes)

    assert digest.table() == of(before).table()


@ANY_SPEED
@given(st.integers(0, 2**BITS - 1), LANES, st.integers(2, 5))
def test_twins_do_not_cancel(bucket: int, lanes: Lanes, count: int) -> None:
    digest = of([(bucket, lanes)] * count)

    assert digest.root().facts == count
    assert digest.sum_of(bucket) == (lanes[0] * count & MASK, lanes[1] * count & MASK)
    assert digest.differing(of([(bucket, lanes)] * (count - 2))) == [bucket]


def test_no_lane_carries_into_another() -> None:
    digest = of([(0, (MASK, MASK)), (0, (1, 0))])

    assert digest.sum_of(0) == (0, MASK)
    assert digest.sum_of(1) == (0, 0)
    assert digest.table()[:24].hex() == "0" * 16 + "f" * 16 + "0" * 15 + "2"
    assert (digest.root().lane0, digest.root().lane1) == (0, MASK)


@ANY_SPEED
@given(FACTS, FACTS)
def test_a_table_says_everything(facts: list[Any], gone: list[Any]) -> None:
    digest = of(facts)
    for bucket, lanes in gone:
        digest.subtract(bucket, lanes)  # Counts below zero are sums mod 2^64 like the rest.
    back = Digest.from_table(digest.table())

    assert len(digest.table()) == 24 * 2**BITS
    assert (back.bits, back.table(), back.root()) == (BITS, digest.table(), digest.root())
    assert back.differing(digest) == digest.differing(back) == []


@ANY_SPEED
@given(FACTS, st.dictionaries(st.integers(0, 2**BITS - 1), LANES, max_size=4))
def test_differing_are_exactly_the_buckets_that_changed(
    facts: list[Any], changes: dict[int, Lanes]
) -> None:
    digest = of(facts)
    other = digest.copy()
    for bucket, lanes in changes.items():
        other.add(bucket, lanes)

    assert digest.differing(other) == other.differing(digest) == sorted(changes)
    assert digest.table() == of(facts).table()  # The copy was independent.


@ANY_SPEED
@given(FACTS, st.lists(LANES, max_size=5), st.integers(0, 2**BITS - 1))
def test_replacing_a_bucket_says_whether_it_was_right(
    facts: list[Any], now: list[Lanes], bucket: int
) -> None:
    digest = of(facts)
    held = [lanes for place, lanes in facts if place == bucket]
    rest = [(place, lanes) for place, lanes in facts if place != bucket]

    assert digest.replace(bucket, held)
    assert digest.table() == of(facts).table()
    was_right = (sum_lanes(now), len(now)) == (sum_lanes(held), len(held))
    assert digest.replace(bucket, now) == was_right
    assert digest.table() == of(rest + [(bucket, lanes) for lanes in now]).table()


@ANY_SPEED
@given(LANES)
def test_lanes_go_through_hexadecimal_unchanged(lanes: Lanes) -> None:
    assert lanes_from_hex(lanes_hex(lanes)) == lanes
    assert lanes_hex((lanes[0] + 2**64, lanes[1] - 2**64)) == lanes_hex(lanes)


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "0x" * 16, "1_" * 16, " " * 15 + "1" * 17]
)
def test_what_is_no_hexadecimal_of_lanes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        lanes_from_hex(text)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 25, 72, 24 * 6, 24 * 2**21])
def test_a_table_of_a_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"24 \* 2\*\*bits"):
        Digest.from_table(bytes(size))


@pytest.mark.parametrize("bits", [-1, 0, 21])
def test_a_digest_of_a_wrong_size_is_refused(bits: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 20"):
        Digest(bits)


def test_tables_of_different_size_are_not_compared() -> None:
    with pytest.raises(ConfigurationError, match="different size"):
        Digest(3).differing(Digest(4))


@ANY_SPEED
@given(st.text(), st.text(), st.integers(1, 20))
def test_a_bucket_of_more_bits_lies_within_that_of_fewer(
    kind: str, subject: str, bits: int
) -> None:
    assert Digest(20).bucket(kind, subject) >> (20 - bits) == Digest(bits).bucket(kind, subject)


@pytest.mark.parametrize(
    "other",
    [
        ("b", "user:1", "x", 1),
        ("a", "user:2", "x", 1),
        ("a", "user:1", "y", 1),
        ("a", "user:1", "x", 2),
        ("a", "user:1", "x", True),
        ("a", "user:1", "x", "1"),
        ("a", "user:1", "x", [1]),
        ("a", "user:1x", "", 1),
    ],
    ids=repr,
)
def test_a_fact_that_differs_in_one_thing_has_other_lanes(other: tuple[Any, ...]) -> None:
    hasher = Hasher()
    assert hasher.fact("a", "user:1", "x", 1) != hasher.fact(*other)
    assert hasher.fact("a", "user:1", "x", 1) == Hasher().fact("a", "user:1", "x", 1.0)


def test_lists_that_python_holds_for_equal_are_different_facts() -> None:
    lanes = {HASHER.fact("a", "s", "x", value) for value in ([1], [True], [1.0], [1, None])}

    assert len(lanes) == 3


def test_an_applied_event_depends_on_all_that_it_is_made_of() -> None:
    lanes = [HASHER.applied(*a) for a in ((1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3))]

    assert len(set(lanes)) == 4


@pytest.mark.parametrize(
    "algorithm, key",
    [
        ("md5", b""),
        ("xxh3-128", b"k"),
        ("blake2b-128", b""),
        ("blake2b-128", b"k" * 15),
        ("blake2b-128", b"k" * 65),
    ],
)
def test_a_hash_that_cannot_be_is_refused(algorithm: str, key: bytes) -> None:
    with pytest.raises(ConfigurationError):
        Hasher(algorithm, key)


def test_a_hasher_remembers_no_large_values() -> None:
    hasher = Hasher()
    first = hasher.fact("a", "s", "x", "x" * 100_000)

    assert hasher._recent == {}
    assert hasher.fact("a", "s", "x", "x" * 100_000) == first


@pytest.mark.parametrize("value", ["\ud800", 2**64, b"bytes"], ids=repr)
def test_what_has_no_canonical_form_has_no_lanes_either(value: Any) -> None:
    with pytest.raises(InvalidEventError):
        Hasher().fact("a", "s", "x", value)


def test_another_key_is_another_algorithm() -> None:
    one, same, other = (Hasher("blake2b-128", bytes([n]) * 32) for n in (1, 1, 2))

    assert one.algorithm == same.algorithm != other.algorithm
    assert one.algorithm.startswith("blake2b-128:")
    assert one.fact("a", "s", "x", 1) == same.fact("a", "s", "x", 1) != other.fact("a", "s", "x", 1)


def test_a_hasher_forgets_and_is_right_all_the_same() -> None:
    hasher = Hasher()
    count = digest_module.MAXIMUM_RECENT + 10
    lanes = [hasher.fact("a", "s", "x", number) for number in range(count)]

    assert len(hasher._recent) <= digest_module.MAXIMUM_RECENT
    assert [hasher.fact("a", "s", "x", number) for number in range(count)] == lanes
