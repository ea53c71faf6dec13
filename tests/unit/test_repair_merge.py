"""What a repair makes of one stored aggregate: the rules, and the law behind them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchroscope.ports import AggregateRecord
from synchroscope.repairing import merge
from synchroscope.report import AggregateRepair, RepairedField, StoredAggregate, StoredFact

Fields = dict[str, tuple[Any, int]]
FIELDS = ("a", "b", "c")


def hash_of(field: str, value: Any) -> str | None:
    return None if value is None else f"{field}={value!r}"


def stored(sequence: int, fields: Fields, missing: tuple[int, ...] = ()) -> AggregateRecord:
    return AggregateRecord("financial", "user:1", 0, sequence, dict(fields), list(missing))


def told(sequence: int, fields: Fields, seen: AggregateRecord) -> AggregateRepair:
    return AggregateRepair(
        "financial",
        "user:1",
        sequence,
        [RepairedField(name, value, wrote) for name, (value, wrote) in fields.items()],
        StoredAggregate(
            "financial",
            "user:1",
            seen.sequence,
            [StoredFact(n, hash_of(n, value), wrote) for n, (value, wrote) in seen.fields.items()],
        ),
    )


SEEN = stored(4, {"a": (1, 1), "b": (2, 4)}, (2, 3))
TRUTH: Fields = {"a": (7, 3), "b": (2, 4)}

CASES: dict[str, tuple[AggregateRecord, AggregateRecord | None]] = {
    "as it was seen": (SEEN, stored(4, TRUTH)),
    "a newer event wrote another field": (
        stored(5, {"a": (1, 1), "b": (9, 5)}, (2, 3)),
        stored(5, {"a": (7, 3), "b": (9, 5)}),
    ),
    "a newer event wrote the very field": (
        stored(6, {"a": (8, 6), "b": (2, 4)}, (2, 3, 5)),
        stored(6, {"a": (8, 6), "b": (2, 4)}, (5,)),
    ),
    "a newer event removed the very field": (
        stored(5, {"a": (None, 5), "b": (2, 4)}, (2, 3)),
        stored(5, {"a": (None, 5), "b": (2, 4)}),
    ),
    "a late event wrote it": (stored(4, {"a": (7, 3), "b": (2, 4)}, (2,)), None),
    "another value of the same sequence": (stored(5, {"a": (1, 1), "b": (3, 4)}), None),
    "true where there was 1": (stored(4, {"a": (True, 1), "b": (2, 4)}), None),
    "an older version": (stored(1, {"a": (1, 1)}), None),
    "a field is gone": (stored(5, {"b": (9, 5)}), None),
    "a field nobody saw": (stored(4, {"a": (1, 1), "b": (2, 4), "c": (0, 2)}), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rules_by_which_an_aggregate_is_repaired(name: str) -> None:
    held, wanted = CASES[name]
    before = held.copy()
    assert merge(held, told(4, TRUTH, SEEN), hash_of) == wanted
    assert held == before


def test_a_sequence_that_no_event_has_is_taken_back_only_where_nothing_came_since() -> None:
    seen = stored(99, {"a": (1, 99)})
    assert merge(seen, told(4, TRUTH, seen), hash_of) == stored(4, TRUTH)
    newer = stored(100, {"a": (1, 99), "b": (5, 100)})
    assert merge(newer, told(4, TRUTH, seen), hash_of) == stored(100, newer.fields)


def test_what_nobody_ever_wrote_loses_its_facts() -> None:
    foreign = stored(3, {"a": (1, 2), "b": (None, 3)})
    assert merge(foreign, told(0, {}, foreign), hash_of) == stored(0, {})


events = st.lists(
    st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.none(), st.integers(0, 3)), min_size=1),
    min_size=1,
    max_size=12,
)


def applied(history: list[dict[str, Any]], taken: list[bool], end: int) -> AggregateRecord:
    """Return what a replica holds that applied those of the first events which it was given."""
    record = stored(0, {})
    for number, updates in enumerate(history[:end], 1):
        if taken[number - 1]:
            record.missing.extend(range(record.sequence + 1, number))
            record.sequence = number
            record.fields.update({name: (value, number) for name, value in updates.items()})
    return record


@given(history=events, data=st.data())
def test_a_repair_leaves_the_truth_of_then_with_whatever_came_since(
    history: list[dict[str, Any]], data: st.DataObject
) -> None:
    seen_at = data.draw(st.integers(0, len(history)))
    taken = data.draw(st.lists(st.booleans(), min_size=len(history), max_size=len(history)))
    seen, now = applied(history, taken, seen_at), applied(history, taken, len(history))
    truth = applied(history, [True] * len(history), seen_at)

    mended = merge(now, told(truth.sequence, truth.fields, seen), hash_of)

    must = applied(history, [*[True] * seen_at, *taken[seen_at:]], len(history))
    assert mended is not None
    assert (mended.fields, mended.sequence) == (must.fields, must.sequence)
    assert mended.missing == [number for number in must.missing if number > seen_at]
    assert all(mended.fields[name][1] >= wrote for name, (_, wrote) in now.fields.items())
