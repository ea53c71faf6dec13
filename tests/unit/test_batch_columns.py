"""Batches that the extension reads give the same fold as those read in Python, to the bit."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope import native_hashing
from synchroscope.digest import Hasher
from synchroscope.event import decode_wire
from synchroscope.ports import Batch, Headers, Record
from synchroscope.records import Records
from synchroscope.view import View
from validator import batch_columns
from validator.batch_fold import BatchFold, Ordinary
from validator.batch_plan import Plan
from validator.reference import BATCH_RECORDS, Reference
from validator.repeats import RecentMarks

pytestmark = pytest.mark.skipif(
    not batch_columns.is_native(), reason="the extension was not built, or is not to be used"
)

VIEWS = (
    View("scorer", {"financial": frozenset({"limit", "risk"}), "geographic": frozenset()}),
    View("other", {"financial": frozenset(), "general": frozenset()}),
    View("third", {"geographic": frozenset({"limit", "grüße"}), "tempo\n": frozenset()}),
)
SEEDED_VALUES = 1_500


class Given:
    """A log of one partition that holds what it is given."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = list(records)

    def partitions(self, topic: str) -> int:
        return 1

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        found = [record for record in self._records if record.offset >= position][:limit]
        return Batch(found, found[-1].offset + 1 if found else position)


@contextmanager
def in_python() -> Iterator[None]:
    """Have every batch read in Python, and hashed there too."""
    read, batch_columns._read = batch_columns._read, None
    extension, native_hashing.extension = native_hashing.extension, None
    try:
        yield
    finally:
        batch_columns._read, native_hashing.extension = read, extension


def folded(records: Sequence[Record], hasher: Hasher | None = None) -> Any:
    """Return everything that a reference holds after the records."""
    made = Reference(Given(records), VIEWS, bits=4, marker_interval=7, hasher=hasher)  # type: ignore[arg-type]
    while made.advance(0, 40):
        pass
    views = made.current(0).views.values()
    sketches = [v.sketches.cells(range(16)).tolist() for v in views if v.sketches is not None]
    points = [made.at(0, position) for position in range(0, 40, 7)]
    tables = [{m: v.digest.table() for m, v in p.views.items()} for p in points if p is not None]
    return made.store(), sketches, tables


def are_taken(records: Sequence[Record]) -> bool:
    """Say whether the extension reads the records, and does not leave them to Python."""
    return batch_columns.read_columns(Records.of(records), 0, Plan(VIEWS)) is not None


def same(records: Sequence[Record], hasher: Hasher | None = None) -> Any:
    """Fold both ways, see that they agree, and return what they made."""
    native = folded(records, hasher)
    with in_python():
        assert native == folded(records, hasher)
    return native


def is_taken(values: Sequence[bytes]) -> bool:
    """Say whether the extension takes such a batch."""
    return are_taken(made_of(values))


def made_of(values: Sequence[bytes], headers: Headers = ()) -> list[Record]:
    """Return records with these values, filled up with others to a batch."""
    filler = [plain(number) for number in range(BATCH_RECORDS)]
    return [
        Record(300 + offset, b"", value, headers, 0.0)
        for offset, value in enumerate([*filler, *values])
    ]


def plain(number: int, **more: Any) -> bytes:
    event = {
        "eventId": f"filler-{number}",
        "contextType": "financial",
        "contextDelta": {"userId": "u", "updates": {"limit": {"current": number}}},
        "sequence": number + 1,
    }
    return json.dumps({**event, **more}).encode()


# -- what events look like ---------------------------------------------------------------------

TEXTS = st.text(max_size=6) | st.sampled_from(
    ["limit", "risk", "grüße", '"\\/\b\f\n\r\t', "😀", "x" * 24, "y" * 300, "", "\x00"]
)
NUMBERS = st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False)
EDGES = st.sampled_from(
    [
        *(0, -1, 23, 24, 255, 256, 65535, 65536, 2**32, 2**53),
        *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1),
        *(0.0, -0.0, 1.5, 65504.0, 65505.0, 2.0**-24, 2.0**-25, 3.4028234663852886e38, 1e300),
        *(5.0, 2.0**63, 2.0**64, -(2.0**63), 5e-324, 0.1, 1 / 3),
    ]
)
PLAIN = st.none() | st.booleans() | NUMBERS | EDGES | TEXTS
VALUES = st.recursive(
    PLAIN, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=5), max_leaves=8
)
TARGETS = st.none() | st.lists(st.sampled_from(["scorer", "other", "third", "nobody"]), max_size=3)
UPDATE = st.fixed_dictionaries(
    {"current": VALUES},
    optional={"previous": VALUES, "previousTargets": TARGETS, "confidence": st.floats(0, 1)},
)
DELTA = st.fixed_dictionaries(
    {"updates": st.dictionaries(TEXTS, UPDATE, max_size=4)},
    optional={"userId": st.none() | TEXTS, "sessionId": st.none() | TEXTS, "other": VALUES},
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "targetModels": TARGETS,
        "priority": st.sampled_from(["high", "low", "normal", "critical"]),
        "ttl": st.integers(),
    },
)
SOURCES: list[Any] = [
    {"modelId": "m"},
    {"modelId": "m", "instanceId": "i"},
    {"modelId": "m}"},
    {},
    [],
    "m",
    5,
    55,
]
EVENTS = st.fixed_dictionaries(
    {
        "eventId": st.uuids().map(str) | TEXTS,
        "contextDelta": DELTA,
        "sequence": st.integers(1, 2**53) | st.sampled_from([1, 24, 25, 1025]),
    },
    optional={
        "contextType": st.sampled_from(["financial", "geographic", "tempo\n", "unseen"]),
        "propagationRules": RULES,
        "unknown": VALUES,
        "source": st.sampled_from(SOURCES) | VALUES,
        "eventType": TEXTS,
        "correlationId": TEXTS,
        "sequencer": VALUES,
    },
)


@st.composite
def values(draw: st.DrawFn) -> bytes:
    event = draw(EVENTS)
    names = draw(st.permutations(sorted(event)))
    text = json.dumps(
        {name: event[name] for name in names},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1, "\t"])),
        separators=draw(st.sampled_from([None, (",", ":"), (",", ":"), (" ,", " : ")])),
    )
    return text.encode()


@settings(deadline=None, max_examples=25)
@given(st.lists(values(), min_size=1, max_size=6))
def test_events_of_every_shape_fold_alike_both_ways(found: list[bytes]) -> None:
    same(made_of(found))


def test_what_the_command_side_writes_is_read_by_the_extension() -> None:
    rich = {
        "limit": {"current": 12.5, "previous": None, "confidence": 0.87, "previousTargets": []},
        "risk": {"current": ["a", 1, {"z": 1.0, "a": None}], "previous": 'she said "ü😀"\n'},
    }
    delta = {"userId": None, "sessionId": "s", "updates": rich}
    rules = {"targetModels": ["scorer"], "priority": "high", "ttl": 300}
    event = plain(99, contextDelta=delta, propagationRules=rules, correlationId="ü")

    assert is_taken([event])
    assert is_taken([json.dumps(json.loads(event), ensure_ascii=False, indent=2).encode()])
    stored = same(made_of([event]))[0][0]
    assert stored.unproven == "" and stored.views["scorer"][2] == BATCH_RECORDS + 1


# -- what is left to the rule ------------------------------------------------------------------

HEAD = b'{"eventId":"e","contextType":"financial","sequence":7,"contextDelta":{"userId":"u",'
ODD: dict[str, bytes] = {
    "a value beyond 64 bits": HEAD + b'"updates":{"limit":{"current":9223372036854775808}}}}',
    "a float beyond all floats": HEAD + b'"updates":{"limit":{"current":1e400}}}}',
    "a lone surrogate": HEAD + b'"updates":{"limit":{"current":"\\ud800"}}}}',
    "no UTF-8": HEAD + b'"updates":{"limit":{"current":"\xff"}}}}',
    "a surrogate in UTF-8": HEAD + b'"updates":{"limit":{"current":"\xed\xa0\x80"}}}}',
    "a field said twice": HEAD + b'"updates":{"limit":{"current":1},"limit":{"current":2}}}}',
    "a field said twice, once escaped": HEAD
    + b'"updates":{"limit":{"current":1},"l\\u0069mit":{"current":2}}}}',
    "current said twice": HEAD + b'"updates":{"limit":{"current":1,"current":2}}}}',
    "a key of a value said twice": HEAD + b'"updates":{"limit":{"current":{"a":1,"a":2}}}}}',
    "an escaped key": HEAD + b'"updates":{"limit":{"curr\\u0065nt":1}}}}',
    "no current": HEAD + b'"updates":{"limit":{"previous":1}}}}',
    "too deep a value": HEAD + b'"updates":{"limit":{"current":%s1%s}}}}' % (b"[" * 17, b"]" * 17),
    "something behind": HEAD + b'"updates":{}}}x',
    "a comma too many": HEAD + b'"updates":{"limit":{"current":1,}}}}',
    "a leading zero": HEAD + b'"updates":{"limit":{"current":01}}}}',
    "an unknown priority": HEAD + b'"updates":{}},"propagationRules":{"priority":"urgent"}}',
    "rules that are null": HEAD + b'"updates":{}},"propagationRules":null}',
    "a sequence that is null": b'{"eventId":"e","contextDelta":{"userId":"u","updates":{}},'
    b'"sequence":null}',
    "no sequence": b'{"eventId":"e","contextDelta":{"userId":"u","updates":{}}}',
    "sequence 0": b'{"eventId":"e","contextDelta":{"userId":"u","updates":{}},"sequence":0}',
    "a sequence that is a float": b'{"eventId":"e","contextDelta":{"userId":"u","updates":{}},'
    b'"sequence":1.0}',
    "too high a sequence": b'{"eventId":"e","contextDelta":{"userId":"u","updates":{}},'
    b'"sequence":9007199254740993}',
    "no subject": b'{"eventId":"e","contextDelta":{"updates":{}},"sequence":1}',
    "a control character": HEAD + b'"updates":{"limit":{"current":"\n"}}}}',
    "nothing": b"",
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_what_is_odd_is_left_to_python(value: bytes) -> None:
    assert not is_taken([value])
    same(made_of([value]))


def test_another_hash_is_left_to_python() -> None:
    hasher = Hasher("blake2b-128", b"k" * 16)
    assert same(made_of([plain(50)]), hasher) != same(made_of([plain(50)]))


@pytest.mark.parametrize(
    "stored",
    [b"1", b"12", b"", b"x", b"-1", b"1" * 18, b"1" * 19, "\N{ARABIC-INDIC DIGIT ONE}".encode()],
)
def test_store_positions_are_read_alike(stored: bytes) -> None:
    for headers in (
        (("store-position", stored),),
        (("other", b"7"), ("store-position", stored), ("store-position", b"99")),
    ):
        same(made_of([], headers))  # All alike: at most the first leads on.
        records = [
            Record(r.offset, r.key, r.value, (("store-position", b"%d" % place),), 0.0)
            for place, r in enumerate(made_of([plain(50)]), 1)
        ]
        assert same(records)[0][0].store_position == len(records)
        same([*records[:-1], Record(400, b"", plain(51), headers, 0.0)])


def test_an_event_that_comes_again_is_found_in_a_batch() -> None:
    assert same(made_of([plain(3)]))[0][0].repeated == 1


# -- bytes changed at random -------------------------------------------------------------------

PIECES = [
    *(b"0 1 -0 -1 1.0 0.1 1e5 1E+5 1e-5 1e400 1e-400 5e-324 9007199254740993 01 +1 .5".split()),
    *(b"1. -".split()),
    *(b"18446744073709551615 18446744073709551616 123456789012345678901234567890".split()),
    b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809",
    *(b'null true false nul "" {} [] [1,2] {"a":1} {"b":1,"a":2} {"a":1,"a":2} "\\u00e9"'.split()),
    b'"\\ud83d\\ude00"', b'"\\ud83d"', b'"\\ude00"', b'"\\u0000"', b'"\\x"', b'"\xc3\xa9"',
    b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'"\xed\xa0\x80"', b'"\x7f"', b'"\x1f"', b" ", b"\t\n\r",
    b"\x0c", b"\x00", b",", b":", b'"', b"\\", b"{", b"}", b"[", b"]", b"[[[[[[[[[[[[[[[[[1]",
    *(f'"{name}":1'.encode() for name in ("current", "sequence", "eventId", "previous", "x")),
    b'"userId":null', b'"sessionId":"s"', b'"targetModels":[]', b'"priority":"low"',
]  # fmt: skip
TOKEN = re.compile(rb'"[^"]*"|[-+.\w]+|[\[\]{},:]')


def mutated(rng: random.Random, value: bytes) -> bytes:
    """Return the bytes with a few changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.randrange(6)
        place = rng.randrange(len(value) + 1)
        if kind == 0 and value:
            place = rng.randrange(len(value))
            value = value[:place] + bytes([rng.randrange(256)]) + value[place + 1 :]
        elif kind == 1:
            value = value[:place]
        elif kind == 2:
            value = value[:place] + rng.choice(PIECES) + value[place:]
        else:
            tokens = list(TOKEN.finditer(value))
            if not tokens:
                continue
            one, other = rng.choice(tokens), rng.choice(tokens)
            new = rng.choice(PIECES) if kind < 5 else other.group()
            value = value[: one.start()] + new + value[one.end() :]
    return value


def _seeds() -> list[bytes]:
    """Return events that are changed at random."""
    updates: dict[str, Any] = {
        "limit": {
            "current": 1.5,
            "previous": "é",
            "previousTargets": ["scorer"],
            "confidence": 0.5,
        },
        "risk": {"current": {"b": [1, None], "a": True}, "previous": -70000},
    }
    delta = {"userId": "u1", "sessionId": None, "updates": updates}
    rules = {"targetModels": ["scorer", "other"], "priority": "high", "ttl": 300}
    rich = plain(77, contextDelta=delta, propagationRules=rules, source={"a": [1.5e3, {}]})
    event = json.loads(rich)
    return [
        plain(60),
        rich,
        json.dumps(event, separators=(",", ":")).encode(),
        json.dumps(event, ensure_ascii=False, indent=1).encode(),
    ]


SEEDS = _seeds()
FOLD = BatchFold(VIEWS, 4, Hasher())


def told(ordinary: Ordinary | None) -> Any:
    """Return what a batch of two records changes, in an order of its own; None: no batch."""
    if ordinary is None:
        return None
    found = {}
    for model, change in ordinary.changes(0, 2).items():
        sums = zip(change.buckets, change.lane0, change.lane1, change.counts, strict=True)
        parts = sorted(zip(change.hashes.tolist(), change.parts.tolist(), strict=True))
        audit = change.audit, change.applied
        found[model] = [row for row in sums if any(row[1:])], parts, audit
    return found, list(ordinary.marks), ordinary.store_positions


def check_values(before: bytes, value: bytes) -> bool:
    """See that the extension gives what Python gives, or nothing; say whether it gave anything."""
    records = [Record(69_999, b"", before, (), 0.0), Record(70_000, b"", value, (), 0.0)]
    is_read = are_taken(records)
    if is_read:
        native = told(FOLD.read(Records.of(records), 0, RecentMarks(8)))
        with in_python():
            rule = told(FOLD.read(Records.of(records), 0, RecentMarks(8)))
        assert rule is not None and native == rule, value
        decode_wire(value)
    return is_read


def check_seed(seed: int) -> bool:
    """Check an event that is changed at random, after one that is like it."""
    rng = random.Random(seed)
    event = rng.choice(SEEDS)
    return check_values(event.replace(b"filler-", b"before-"), mutated(rng, event))


def test_bytes_changed_at_random_are_taken_as_python_takes_them() -> None:
    read = sum(map(check_seed, range(SEEDED_VALUES)))

    assert SEEDED_VALUES // 30 < read < SEEDED_VALUES


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_with_a_changed_event_folds_alike_both_ways(seed: int) -> None:
    rng = random.Random(seed)
    same(made_of([mutated(rng, rng.choice(SEEDS))]))
