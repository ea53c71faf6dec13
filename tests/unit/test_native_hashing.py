"""What the extension hashes is what Python hashes, to the bit; what it is not sure of it leaves."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope import native_hashing
from synchroscope.digest import MASK, Digest, Hasher, aggregate_hashes
from synchroscope.errors import InvalidEventError
from synchroscope.hashed_changes import add_changes, hash_applied
from synchroscope.memory_storage import MemoryStorage
from synchroscope.native_hashing import Exchange, Extension, Step
from synchroscope.ports import Record
from synchroscope.replica import Replica
from synchroscope.sketch import Sketches
from synchroscope.view import View

pytestmark = pytest.mark.skipif(
    not native_hashing.is_native(), reason="the extension was not built, or is not to be used"
)

VECTORS = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "digest-vectors.json").read_text()
)
ANY_SPEED = settings(deadline=None)
KEY = ("financial", "user:1")


class Number(int):
    """Compares like an integer and is none."""


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    """Reads like text and is none."""


TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["", "limit", "grüße", "😀", "x" * 23, "x" * 24, "x" * 255, "x" * 256, "ü" * 40_000, "a\ud800"]
)
EDGES = st.sampled_from(
    [
        *(0, 1, -1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53),
        *(2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30),
        *(0.0, -0.0, 1.5, -1.5, 65504.0, 65505.0, 65520.0, 2.0**-24, 2.0**-25, 5e-324, 0.1),
        *(3.4028234663852886e38, 3.4028235677973366e38, 1e300, -1e300),
        *(
            2.0**53,
            2.0**63,
            2.0**64,
            -(2.0**63),
            -(2.0**63) * (1 + 2**-52),
            math.nextafter(2.0**64, 0),
        ),
        *(math.nan, -math.nan, math.inf, -math.inf),
        *(Number(5), Colour.RED, Text("x"), True, False),
    ]
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | EDGES | TEXTS
WHOLE = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=20)
        | st.dictionaries(PLAIN, inner, max_size=2)
        | st.dictionaries(TEXTS, inner, max_size=2).map(OrderedDict)
    ),
    max_leaves=20,
)


@contextmanager
def in_python() -> Iterator[None]:
    """Have everything hashed in Python."""
    held, native_hashing.extension = native_hashing.extension, None
    try:
        yield
    finally:
        native_hashing.extension = held


def extension() -> Extension:
    assert native_hashing.extension is not None
    return native_hashing.extension


def nested(depth: int) -> Any:
    value: Any = 1
    for turn in range(depth):
        value = [value] if turn % 2 else {"a": value}
    return value


def outcome(work: Any) -> Any:
    try:
        return work()
    except (InvalidEventError, UnicodeEncodeError) as error:
        return type(error), str(error)


def changed(changes: list[Exchange], bits: int = 3) -> Any:
    """Return everything that a digest makes of changes."""
    digest = Digest(bits)
    columns = add_changes(digest, Hasher(), changes)
    return digest.table(), [column.tolist() for column in columns]


def same(work: Any) -> Any:
    """Do it both ways, see that they agree, and return what came of it."""
    native = outcome(work)
    with in_python():
        assert native == outcome(work)
    return native


@ANY_SPEED
@given(WHOLE, TEXTS, TEXTS, TEXTS)
def test_every_fact_has_the_same_lanes(value: Any, kind: str, subject: str, field: str) -> None:
    same(lambda: Hasher().fact(kind, subject, field, value))
    same(lambda: Hasher().fact(*KEY, "limit", value))


@ANY_SPEED
@given(
    st.lists(st.tuples(st.tuples(st.sampled_from("abc"), TEXTS), TEXTS, WHOLE, WHOLE), max_size=6),
    st.sampled_from([1, 3, 12]),
)
def test_changes_make_the_same_digest_and_columns(changes: list[Exchange], bits: int) -> None:
    same(lambda: changed(changes, bits))


@ANY_SPEED
@given(st.lists(st.tuples(EDGES | st.integers(0, 2**63), TEXTS, EDGES, st.integers()), max_size=6))
def test_applied_events_make_the_same_entries_and_audit(steps: list[Step]) -> None:
    same(lambda: hash_applied(Hasher(), steps))


@ANY_SPEED
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6))
def test_aggregates_have_the_same_hashes(keys: list[tuple[str, str]]) -> None:
    same(lambda: aggregate_hashes(keys))


@pytest.mark.parametrize("vector", VECTORS["facts"], ids=lambda v: v["fact"][2])
def test_facts_of_the_specification_are_taken(vector: dict[str, Any]) -> None:
    lanes = extension().hash_fact(*vector["fact"])
    (hashed,) = extension().hash_aggregates([tuple(vector["fact"][:2])]) or []

    assert lanes is not None and f"{lanes[0]:016x}{lanes[1]:016x}" == vector["xxh3-128"]
    assert f"{hashed:016x}" == vector["aggregate_hash"]


def test_applied_events_of_the_specification_are_taken() -> None:
    for vector in VECTORS["applied"]:
        step = (vector["offset"], vector["event_id"], 7, vector["prior"])
        found = extension().hash_applied([step])
        assert found is not None
        assert f"{found[1]:016x}{found[2]:016x}" == vector["xxh3-128"]
        assert found[0] == [(step[0], int(vector["event_hash"], 16), 7, step[3])]


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, -0.0, math.nan, -math.inf, 2**64 - 1, -(2**63), "grüße", [], {}, (1, [2])),
        *({"b": 1, "a": 2, "aa": 3}, {str(n): n for n in range(4_096)}, nested(32)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_json_has_is_taken(value: Any) -> None:
    assert extension().hash_fact(*KEY, "limit", value) is not None
    same(lambda: Hasher().fact(*KEY, "limit", value))


@pytest.mark.parametrize(
    "value",
    [
        *(2**64, -(2**63) - 1, Number(1), Colour.RED, Text("x"), "a\ud800", {1: 2}, {Text("x"): 1}),
        *({"a\udc00": 1}, b"x", {1}, OrderedDict(a=1), nested(33), 1j),
        {str(n): n for n in range(4_097)},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_odd_is_left_to_python_with_all_of_its_list(value: Any) -> None:
    assert extension().hash_fact(*KEY, "limit", value) is None
    good: Exchange = (KEY, "limit", None, 1)
    digest = Digest(3)
    for changes in ([good, (KEY, "limit", value, 1)], [good, (KEY, "limit", 1, [value])]):
        columns = (digest.lane0, digest.lane1, digest.counts)
        assert extension().hash_changes(changes, *columns, 3) is None
        assert digest.table() == Digest(3).table()
        same(partial(changed, changes))


def test_a_value_that_holds_itself_is_left_to_python() -> None:
    value: list[Any] = []
    value.append(value)

    assert extension().hash_fact(*KEY, "limit", value) is None


def test_a_digest_of_another_size_is_refused() -> None:
    for bits in (0, 2, 4, 21, 2**40):
        digest = Digest(3)
        with pytest.raises(ValueError):
            extension().hash_changes([], digest.lane0, digest.lane1, digest.counts, bits)
    with pytest.raises(TypeError):
        wrong: Any = ()
        extension().hash_changes(wrong, digest.lane0, digest.lane1, digest.counts, 3)


def test_a_keyed_hash_is_made_in_python() -> None:
    hasher = Hasher("blake2b-128", b"0" * 16)

    lanes = hasher.fact(*KEY, "limit", 1)
    digest = Digest(3)
    add_changes(digest, hasher, [(KEY, "limit", None, 1)])
    _, audit = hash_applied(hasher, [(0, "a", 1, 0)])

    assert lanes != Hasher().fact(*KEY, "limit", 1)
    assert (digest.root().lane0, digest.root().lane1) == lanes
    assert audit == hasher.applied(0, "a", 0)


# -- whole batches -------------------------------------------------------------------------------

VIEW = View("scorer", {"financial": frozenset()})
EVENT = st.fixed_dictionaries(
    {
        "user": st.sampled_from("ab"),
        "sequence": st.integers(1, 6) | st.none(),
        "field": st.sampled_from(["limit", "risk"]),
        "current": st.sampled_from([None, 1, True, 1.0, [1], [True], {"a": 1}, "ü"]),
        "previous": st.sampled_from([None, 1, True, 1.0, [1], [True], {"a": 1}, "ü"]),
        "targets": st.sampled_from([None, ["scorer"], []]),
    }
)


def record(offset: int, made: dict[str, Any]) -> Record:
    event = {
        "eventId": f"event {offset}",
        "contextType": "financial",
        "contextDelta": {
            "userId": made["user"],
            "updates": {made["field"]: {"current": made["current"], "previous": made["previous"]}},
        },
        "propagationRules": {"targetModels": made["targets"]},
        "sequence": made["sequence"],
    }
    return Record(offset, b"", json.dumps(event).encode(), (), 0.0)


def told(records: list[Record], cut: int) -> Any:
    """Return everything that a replica says and stores after two batches."""
    storage = MemoryStorage()
    replica = Replica("scorer@1", VIEW, storage, incarnation="life", bits=2, marker_interval=3)
    replica.scrub(0, range(4))
    replica.apply(0, records[:cut], cut)
    replica.apply(0, records[cut:], len(records))
    sketches = replica._partition(0).sketches
    assert sketches is not None
    return (
        replica.report(0.0, [0]),
        storage.partition_state(0),
        [chunk.data for chunk in storage.journal(0, 0)],
        [sketches.is_built(bucket) for bucket in range(4)],
        sketches.cells(range(4)).tolist(),
    )


@ANY_SPEED
@given(st.lists(EVENT, max_size=14), st.integers(0, 14))
def test_a_replica_says_and_stores_the_same(made: list[dict[str, Any]], cut: int) -> None:
    records = [record(offset, one) for offset, one in enumerate(made)]

    same(lambda: told(records, min(cut, len(records))))


def test_a_long_batch_is_hashed_in_parts_and_comes_to_the_same() -> None:
    made = [
        {"user": str(n % 90), "sequence": n // 90 + 1, "field": "limit", "targets": None}
        | {"current": n, "previous": n - 90 if n >= 90 else None}
        for n in range(700)
    ]
    records = [record(offset, one) for offset, one in enumerate(made)]

    report = same(lambda: told(records, 0))[0]

    assert report.notes[-1].facts == 90 and report.notes[-1].anomalies == 0
    lanes = [Hasher().fact("financial", f"user:{n % 90}", "limit", n) for n in range(610, 700)]
    root = [sum(lane) & MASK for lane in zip(*lanes, strict=True)]
    assert report.notes[-1].state == f"{root[0]:016x}{root[1]:016x}"


# -- sums ----------------------------------------------------------------------------------------

NUMBERS = st.lists(st.integers(0, 2**64 - 1), max_size=30)


@ANY_SPEED
@given(st.integers(0, 5), NUMBERS, NUMBERS, st.sets(st.integers(0, 31)))
def test_sketches_count_the_same(
    bits: int, hashes: list[int], lanes: list[int], built: set[int]
) -> None:
    rows = min(len(hashes), len(lanes))
    columns = (np.array(side[:rows], np.uint64) for side in (hashes, lanes))
    hashed, lane = (np.repeat(column, 2)[::2] for column in columns)  # Not in one piece.

    def counted() -> Any:
        made = Sketches(bits)
        for bucket in built:
            if bucket < 1 << bits:
                made.build(bucket, [])
        made.add(hashed, lane)
        return made.cells(range(1 << bits)).tolist(), made.cells([0], 8).tolist()

    same(counted)


@ANY_SPEED
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**64 - 1)), max_size=30))
def test_sums_are_those_of_numpy(rows: list[tuple[int, int]]) -> None:
    places = np.array([place for place, _ in rows], np.intp)
    values = np.array([value for _, value in rows], np.uint64)

    def summed() -> Any:
        sums = np.zeros(7, np.uint64)
        native_hashing.add_at(sums, places, values)
        return sums.tolist()

    same(summed)


@pytest.mark.parametrize("place", [3, -1, 2**40])
def test_there_is_no_sum_beyond_the_last(place: int) -> None:
    sums = np.zeros(3, np.uint64)
    with pytest.raises(IndexError):
        extension().add_at(sums, np.array([0, place], np.intp), np.array([5, 6], np.uint64))
    assert sums.tolist() == [5, 0, 0]


def test_columns_of_other_kinds_are_refused() -> None:
    sums, places = np.zeros(3, np.uint64), np.zeros(2, np.intp)
    values = np.ones(2, np.uint64)
    wrong: list[tuple[Any, ...]] = [
        (sums, places, values[:1]),
        (sums, places, values.astype(np.uint32)),
        (sums[::2], places, values),
    ]
    for arguments in wrong:
        with pytest.raises((ValueError, BufferError)):
            extension().add_at(*arguments)
    frozen = np.zeros(3, np.uint64)
    frozen.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        extension().add_at(frozen, places, values)
    with pytest.raises(ValueError, match="cells"):
        extension().add_to_sketches(sums, values, values, 1)
    with pytest.raises(ValueError, match="arguments"):
        extension().add_to_sketches(sums, values, values, 13)
    assert sums.tolist() == [0, 0, 0]
