"""Records in columns are a sequence like a list of the same records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchroscope.ports import Record
from synchroscope.records import Records

OFFSETS = st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=12).map(sorted)
BYTES = st.binary(max_size=3)
PLACES = st.none() | st.integers(-15, 15)


@st.composite
def lists(draw: st.DrawFn) -> list[Record]:
    headers = st.lists(st.tuples(st.text(max_size=2), BYTES), max_size=2).map(tuple)
    seconds = st.floats(0, 2e9)
    return [
        Record(offset, draw(BYTES), draw(BYTES), draw(headers), draw(seconds))
        for offset in draw(OFFSETS)
    ]


def plain(*offsets: int) -> list[Record]:
    return [Record(offset, b"k", b"%d" % offset, (("n", b"1"),), 0.5) for offset in offsets]


@given(lists(), PLACES, PLACES, st.sampled_from([None, 1, 2, -1]))
def test_slices_and_items_are_those_of_a_list(
    known: list[Record], start: int | None, stop: int | None, step: int | None
) -> None:
    records = Records.of(known)
    assert list(records) == known
    assert records == known
    assert Records.of(records) is records
    part, wanted = records[start:stop:step], known[start:stop:step]
    assert (list(part), len(part)) == (wanted, len(wanted))
    assert [part[place] for place in range(len(part))] == wanted
    assert list(part.offsets) == [record.offset for record in wanted]
    assert part.values == [record.value for record in wanted]
    assert part.headers == [record.headers for record in wanted]
    assert part.payload_bytes() == sum(len(r.key) + len(r.value) for r in wanted)
    if wanted:
        assert (part[-1], part[0]) == (wanted[-1], wanted[0])
        if step in (None, 1):
            assert (part.first_offset, part.last_offset) == (wanted[0].offset, wanted[-1].offset)
    for record in part:
        assert (type(record.offset), type(record.timestamp)) == (int, float)


@given(lists(), PLACES, PLACES, st.integers(0, 2**63 - 1))
def test_a_place_is_that_of_the_first_at_or_after_an_offset(
    known: list[Record], start: int | None, stop: int | None, offset: int
) -> None:
    part = Records.of(known)[start:stop]
    before = [record for record in known[start:stop] if record.offset < offset]
    assert part.place_of(offset) == len(before)


@given(lists(), PLACES)
def test_what_is_added_is_seen_here_and_not_in_slices_made_before(
    known: list[Record], cut: int | None
) -> None:
    first, second = Records.of(known[:cut]), Records.of(known)[len(known[:cut]) :]
    view = first[:]
    first.extend(second)
    assert first == known
    assert view == known[:cut]
    assert second == known[len(known[:cut]) :]


@given(lists(), lists(), PLACES, PLACES)
def test_a_slice_can_be_added_to_wherever_it_lies(
    known: list[Record], others: list[Record], start: int | None, stop: int | None
) -> None:
    records, more = Records.of(known), Records.of(others)
    part, rest = records[start:stop], more[start:]
    part.extend(rest)
    assert part == known[start:stop] + others[start:]
    assert (records, more) == (known, others)


def test_slices_that_meet_become_one_without_a_copy() -> None:
    records = Records.of(plain(1, 2, 3))
    part = records[:1]
    part.extend(records[1:2])
    assert part == plain(1, 2)
    assert part.columns is records.columns


def test_what_is_added_while_a_slice_is_gone_over_is_not_of_it() -> None:
    records = Records.of(plain(1, 2))
    going = iter(records[:])
    assert next(going) == plain(1)[0]
    records.extend(Records.of(plain(3)))
    assert list(going) == plain(2)


@pytest.mark.parametrize("place", [2, -3, 100])
def test_there_is_no_record_beyond_them(place: int) -> None:
    with pytest.raises(IndexError, match=f"{place} of 2"):
        Records.of(plain(1, 2, 3))[1:][place]


@pytest.mark.parametrize("other", [None, 3, tuple(plain(1))], ids=str)
def test_they_are_equal_to_lists_and_their_like_alone(other: Any) -> None:
    assert Records.of(plain(1)) != other
    assert plain(1) == Records.of(plain(1))
    unlike: list[Callable[[], object]] = [lambda: plain(2), lambda: Records.of(plain(1, 2))]
    assert all(Records.of(plain(1)) != make() for make in unlike)
