"""What happened to one aggregate, as tables of what was applied and what is held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from synchroscope.report import Entry, Mismatch, StoredAggregate, StoredFact
from validator.judgement import Actual, Case, Judgement, Version, judge, state_after

KEY = ("financial", "user:1")


def h(value: object) -> str:
    return f"{value!s:0>32}"


def version(sequence: int, /, **fields: Any) -> Version:
    """Return event number `sequence`, at offset 10 x sequence; None removes a field."""
    return Version(
        sequence,
        f"e{sequence}",
        sequence,
        f"c{sequence}",
        10 * sequence,
        {name: None if value is None else h(value) for name, value in fields.items()},
        {},
    )


def entry(sequence: int, prior: int, offset: int | None = None, event: int | None = None) -> Entry:
    place = 10 * sequence if offset is None else offset
    return Entry(place, sequence if event is None else event, sequence, prior)


def stored(sequence: int, /, **fields: tuple[Any, int]) -> StoredAggregate:
    facts = [
        StoredFact(name, None if value is None else h(value), wrote)
        for name, (value, wrote) in fields.items()
    ]
    return StoredAggregate(*KEY, sequence, facts)


def mismatch(
    offset: int, field: str, value: Any, prior: int = 2
) -> dict[tuple[int, str], Mismatch]:
    seen = None if value is None else h(value)
    return {(offset, field): Mismatch(offset, *KEY, field, 3, prior, None, seen)}


ONE, TWO, THREE = version(1, a=1), version(2, a=2, b=2), version(3, a=3)
CASE = Case(KEY, [ONE, TWO, THREE], 0, [], {}, False, None, None, 0, 99)


def summary(judged: Judgement) -> dict[str, Any]:
    found = {
        "missed": [v.sequence for v in judged.missed],
        "doubled": [v.sequence for v in judged.doubled],
        "foreign": [e.offset for e in judged.foreign],
        "late": [v.sequence for v in judged.late],
        "faults": [(f.kind, f.offset, sorted(f.fields)) for f in judged.faults],
        "unexplained": sorted(judged.unexplained),
        "deviates": judged.deviates,
    }
    return {name: what for name, what in found.items() if what}


RIGHT = [entry(1, 0), entry(2, 1), entry(3, 2)]
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything applied in order": ({"entries": RIGHT}, {}),
    "and storage shows it": (
        {"entries": RIGHT, "shown": True, "stored": stored(3, a=(3, 3), b=(2, 2))},
        {},
    ),
    "one missed, overwritten since in one field": (
        {"entries": [entry(1, 0), entry(3, 1)]},
        {"missed": [2], "deviates": True},
    ),
    "one missed and wholly overwritten since": (
        {"versions": [ONE, version(2, a=2), THREE], "entries": [entry(1, 0), entry(3, 1)]},
        {"missed": [2]},
    ),
    "the last missed": (
        {"entries": [entry(1, 0), entry(2, 1)]},
        {"missed": [3], "deviates": True},
    ),
    "all missed": ({}, {"missed": [1, 2, 3], "deviates": True}),
    "a stale previous that the missed event explains is no second cause": (
        {"entries": [entry(1, 0), entry(3, 1)], "mismatches": mismatch(30, "a", 1, 1)},
        {"missed": [2], "deviates": True},
    ),
    "doubled": (
        {"entries": [*RIGHT[:2], entry(2, 2, 21, 2), entry(3, 2)]},
        {"doubled": [2], "late": [2]},
    ),
    "reordered without differing state": (
        {"entries": [entry(1, 0), entry(3, 1), entry(2, 3)]},
        {"late": [2]},
    ),
    "reordered by a replica that overwrites newer values": (
        {
            "entries": [entry(1, 0), entry(3, 1), entry(2, 3)],
            "shown": True,
            "stored": stored(3, a=(2, 2), b=(2, 2)),
        },
        {"late": [2], "faults": [("stale", 99, ["a"])], "deviates": True},
    ),
    "a value met that no event wrote": (
        {"entries": RIGHT, "mismatches": mismatch(30, "a", 77)},
        {"faults": [("corrupted", 30, ["a"])]},
    ),
    "an older value met": (
        {"entries": RIGHT, "mismatches": mismatch(30, "a", 1)},
        {"faults": [("stale", 30, ["a"])]},
    ),
    "the older version of the aggregate met": (
        {"entries": [*RIGHT[:2], entry(3, 1)]},
        {"faults": [("stale", 30, ["a", "b"])], "deviates": True},
    ),
    "a version met that was never applied": (
        {"entries": [entry(1, 0), entry(2, 5), entry(3, 5)], "versions": [ONE, TWO, THREE]},
        {"late": [2, 3], "faults": [("foreign", 20, ["a", "b"])], "deviates": True},
    ),
    "stored values that no event wrote": (
        {"entries": RIGHT, "shown": True, "stored": stored(3, a=(3, 3), b=(9, 2))},
        {"faults": [("corrupted", 99, ["b"])], "deviates": True},
    ),
    "the whole record gone": (
        {"entries": RIGHT, "shown": True},
        {"faults": [("corrupted", 99, ["a", "b"])], "deviates": True},
    ),
    "a record that nobody wrote": (
        {"versions": [], "shown": True, "stored": stored(1, z=(9, 1))},
        {"faults": [("corrupted", 99, ["z"])], "deviates": True},
    ),
    "an event that is not of the history, and what it wrote": (
        {
            "versions": [ONE],
            "entries": [entry(1, 0), entry(2, 1, 21, 888)],
            "shown": True,
            "stored": stored(2, a=(66, 2)),
        },
        {"foreign": [21], "deviates": True},
    ),
    "a mismatch after a foreign event is that event's doing": (
        {
            "versions": [ONE, version(3, a=3)],
            "entries": [entry(1, 0), entry(2, 1, 21, 888), entry(3, 2)],
            "mismatches": mismatch(30, "a", 66),
        },
        {"foreign": [21]},
    ),
    "no journal: what differs, not why": (
        {"entries": None, "shown": True, "stored": stored(3, a=(1, 1), b=(2, 2))},
        {"unexplained": ["a"], "deviates": True},
    ),
    "no journal and nothing shown: nothing is said": ({"entries": None}, {}),
    "known before and unchanged is not found again": (
        {
            "before": 3,
            "known": Actual(3, {"a": (h(77), 3), "b": (h(2), 2)}),
            "known_before": 3,
            "shown": True,
            "stored": stored(3, a=(77, 3), b=(2, 2)),
        },
        {"deviates": True},
    ),
    "known before and put right by what came since": (
        {
            "before": 2,
            "known": Actual(2, {"a": (h(77), 2), "b": (h(2), 2)}),
            "known_before": 2,
            "entries": [entry(3, 2)],
            "mismatches": mismatch(30, "a", 77),
        },
        {},
    ),
    "several faults at once keep their places": (
        {
            "entries": [entry(1, 0), entry(3, 1)],
            "mismatches": mismatch(30, "a", 55, 1),
            "shown": True,
            "stored": stored(3, a=(44, 3)),
        },
        {
            "missed": [2],
            "faults": [("corrupted", 30, ["a"]), ("corrupted", 99, ["a"])],
            "deviates": True,
        },
    ),
}


@pytest.mark.parametrize("known, found", TABLE.values(), ids=TABLE)
def test_the_judgement_is(known: dict[str, Any], found: dict[str, Any]) -> None:
    assert summary(judge(replace(CASE, **known))) == found


FIELDS = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(1, 3), min_size=1)


@given(st.lists(FIELDS, max_size=8), st.data())
def test_a_replica_that_did_everything_right_is_never_blamed(
    changes: list[dict[str, Any]], data: st.DataObject
) -> None:
    versions = [version(number, **fields) for number, fields in enumerate(changes, 1)]
    before = data.draw(st.integers(0, len(versions)))
    held = state_after(versions)
    shown = StoredAggregate(
        *KEY, held.sequence, [StoredFact(n, v, s) for n, (v, s) in held.fields.items()]
    )
    case = replace(
        CASE,
        versions=versions,
        before=before,
        entries=[entry(v.sequence, v.sequence - 1) for v in versions[before:]],
        shown=data.draw(st.booleans()) and bool(versions),
        stored=shown,
    )

    assert summary(judge(case)) == {}


@given(st.lists(FIELDS, min_size=1, max_size=8), st.data())
def test_exactly_the_events_that_were_lost_are_missed_and_nothing_else_is_the_cause(
    changes: list[dict[str, Any]], data: st.DataObject
) -> None:
    versions = [version(number, **fields) for number, fields in enumerate(changes, 1)]
    lost = data.draw(st.sets(st.sampled_from(versions).map(lambda v: v.sequence)))
    kept = [v for v in versions if v.sequence not in lost]
    entries, mismatches, prior = [], {}, 0
    held: dict[str, str | None] = {}
    for applied in kept:
        entries.append(entry(applied.sequence, prior))
        before, prior = prior, applied.sequence
        truth = state_after(versions[: applied.sequence - 1]).fields
        for name, mark in applied.fields.items():
            if held.get(name) != truth.get(name, (None, 0))[0]:
                odd = Mismatch(10 * applied.sequence, *KEY, name, 0, before, None, held.get(name))
                mismatches[odd.offset, name] = odd
            held[name] = mark
    judged = judge(replace(CASE, versions=versions, entries=entries, mismatches=mismatches))

    assert [v.sequence for v in judged.missed] == sorted(lost)
    assert not (judged.faults or judged.doubled or judged.foreign or judged.late)
    assert judged.actual.facts() == {n: m for n, m in held.items() if m is not None}


def test_a_fault_begins_at_the_write_of_its_own_field_and_not_of_another_damaged_one() -> None:
    history = [version(1, a=1, b=1), version(2, b=2), version(3, a=3), version(4, b=4)]
    case = replace(
        CASE,
        versions=history,
        entries=[entry(n, n - 1) for n in (1, 2, 3, 4)],
        mismatches={**mismatch(30, "a", 99), **mismatch(40, "b", 98, 3)},
    )

    faults = judge(case).faults

    assert [(f.offset, sorted(f.fields), f.wrote) for f in faults] == [
        (30, ["a"], 1),
        (40, ["b"], 2),
    ]


def test_an_event_that_was_never_applied_wrote_nothing() -> None:
    case = replace(
        CASE, entries=[entry(1, 0)], shown=True, stored=stored(1, a=(99, 1)), versions=[ONE, THREE]
    )

    [fault] = judge(case).faults

    assert fault.wrote == 1


def test_what_storage_lost_is_not_doubled_when_it_is_applied_again() -> None:
    fell_back = [entry(1, 0), entry(2, 1), entry(2, 1, offset=25), entry(3, 2)]
    judged = judge(replace(CASE, entries=fell_back))

    assert [version.sequence for version in judged.doubled] == []
    assert [(fault.kind, fault.offset) for fault in judged.faults] == [("stale", 25)]
