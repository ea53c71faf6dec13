"""One value, one sequence of bytes: in every language, in every spelling of a number."""

from __future__ import annotations

import json
import math
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.canonical import encode
from synchroscope.errors import InvalidEventError

ANY_SPEED = settings(deadline=None)  # A law does not depend on how busy the machine is.

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=16, allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-(2**53), 2**53).map(float),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reduced(value: Any) -> Any:
    """Return the value with numeric reduction done, so that equality is that of JSON."""
    if isinstance(value, float) and value.is_integer() and -(2.0**63) <= value < 2.0**64:
        return int(value)
    if isinstance(value, list):
        return [reduced(item) for item in value]
    if isinstance(value, dict):
        return {key: reduced(item) for key, item in value.items()}
    return value


def typed(value: Any) -> Any:
    """Return what compares like JSON: Python holds 1 and True for equal."""
    if isinstance(value, list):
        return ("list", tuple(map(typed, value)))
    if isinstance(value, dict):
        return ("map", frozenset((key, typed(item)) for key, item in value.items()))
    kind = "number" if type(value) in (int, float) else type(value).__name__
    return (kind, value)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@ANY_SPEED
@given(VALUES)
def test_the_bytes_are_those_of_a_second_encoder(value: Any) -> None:
    assert encode(value) == cbor2.dumps(reduced(value), canonical=True)


@ANY_SPEED
@given(VALUES)
def test_the_bytes_say_the_value_and_nothing_else(value: Any) -> None:
    assert typed(cbor2.loads(encode(value))) == typed(reduced(value))


@ANY_SPEED
@given(VALUES, VALUES)
def test_values_have_the_same_bytes_exactly_when_json_holds_them_for_equal(
    one: Any, other: Any
) -> None:
    assert (encode(one) == encode(other)) == (typed(reduced(one)) == typed(reduced(other)))


@ANY_SPEED
@given(NUMBERS, NUMBERS)
def test_numbers_have_the_same_bytes_exactly_when_they_are_equal(one: Any, other: Any) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@ANY_SPEED
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_and_the_integer_equal_to_it_have_the_same_bytes(number: float) -> None:
    if not number.is_integer():
        return
    try:
        as_integer = encode(int(number))
    except InvalidEventError:
        assert not -(2.0**63) <= number < 2.0**64
    else:
        assert encode(number) == as_integer


@ANY_SPEED
@given(VALUES)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    assert encode(shuffled(value)) == encode(value)


@ANY_SPEED
@given(VALUES)
def test_the_way_through_json_text_changes_nothing(value: Any) -> None:
    assert encode(json.loads(json.dumps(value))) == encode(value)


@pytest.mark.parametrize(
    "value, expected",
    [
        (0.0, "00"),
        (-0.0, "00"),
        (23, "17"),
        (24, "1818"),
        (2**32, "1b0000000100000000"),
        (-1.0, "20"),
        (2.0**63, "1b8000000000000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (2.0**64, "fa5f800000"),
        (-(2.0**63), "3b7fffffffffffffff"),
        (math.nextafter(-(2.0**63), -math.inf), "fbc3e0000000000001"),
        (65_504.5, "fa477fe080"),
        (2.0**-24, "f90001"),
        (2.0**-25, "fa33000000"),
        (2.0**-149, "fa00000001"),
        (5e-324, "fb0000000000000001"),
        (math.nan, "f97e00"),
        (-math.inf, "f9fc00"),
        ("u\u0308", "6375cc88"),
        ("\u00fc", "62c3bc"),
        ({"aa": 1, "b": 2}, "a261620262616101"),
        ((1, 2), "820102"),
    ],
    ids=str,
)
def test_a_value_at_a_border_has_exactly_these_bytes(value: Any, expected: str) -> None:
    assert encode(value).hex() == expected


@pytest.mark.parametrize("length", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_a_length_takes_the_shortest_head(length: int) -> None:
    for value in ("x" * length, [0] * length, {f"{n:05}": 0 for n in range(length)}):
        assert encode(value) == cbor2.dumps(value, canonical=True)


@pytest.mark.parametrize(
    "value, reason",
    [
        (2**64, "value out of range"),
        (-(2**63) - 1, "value out of range"),
        (b"bytes", "schema violation"),
        ({1, 2}, "schema violation"),
        ("\ud800", "malformed JSON"),
        ({"\udfff": 1}, "malformed JSON"),
        ([range(1)], "schema violation"),
    ],
    ids=repr,
)
def test_what_has_no_canonical_form_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        encode(value)
    assert caught.value.reason == reason


def test_equal_numbers_that_no_range_holds_in_common_do_not_encode_apart() -> None:
    # Below -2^63 a float stays a float, so an integer there must not have bytes of its own.
    assert encode(-9.3e18).hex() == "fbc3e02207973f6440"
    with pytest.raises(InvalidEventError):
        encode(-9_300_000_000_000_000_000)
