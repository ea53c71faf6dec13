"""The vectors against a second implementation, written from docs/digest-spec.md alone.

It uses `cbor2` and `xxhash` and nothing of the product, so the page, the vectors and the product
are held against each other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cbor2
import pytest
import xxhash

from tests.make_digest_vectors import make

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "digest-vectors.json").read_text()
)
KEY = bytes.fromhex(VECTORS["blake2b_key_hex"])
WRAP = 1 << 64


def reduced(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and -(2.0**63) <= value < 2.0**64:
        return int(value)
    if isinstance(value, list):
        return [reduced(item) for item in value]
    if isinstance(value, dict):
        return {key: reduced(item) for key, item in value.items()}
    return value


def canonical(value: Any) -> bytes:
    return cbor2.dumps(reduced(value), canonical=True)


def hash_of(data: bytes, algorithm: str = "xxh3-128") -> bytes:
    if algorithm == "xxh3-128":
        return xxhash.xxh3_128(data).digest()
    return hashlib.blake2b(data, digest_size=16, key=KEY).digest()


def lanes(data: bytes) -> tuple[int, int]:
    found = hash_of(data)
    return int.from_bytes(found[:8], "big"), int.from_bytes(found[8:], "big")


def hexed(pair: tuple[int, int]) -> str:
    return f"{pair[0] % WRAP:016x}{pair[1] % WRAP:016x}"


def bucket_of(kind: str, subject: str, bits: int) -> int:
    return xxhash.xxh3_64(canonical([kind, subject])).intdigest() >> (64 - bits)


def test_the_committed_vectors_are_what_the_product_says_now() -> None:
    assert make() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda v: v["json"][:30])
def test_values_have_these_bytes(vector: dict[str, str]) -> None:
    assert canonical(json.loads(vector["json"])).hex() == vector["cbor_hex"]


@pytest.mark.parametrize("vector", VECTORS["facts"], ids=lambda v: v["fact"][2])
def test_facts_have_these_hashes_and_buckets(vector: dict[str, Any]) -> None:
    kind, subject, _, _ = vector["fact"]

    assert hash_of(canonical(vector["fact"])).hex() == vector["xxh3-128"]
    assert hash_of(canonical(vector["fact"]), "blake2b-128").hex() == vector["blake2b-128"]
    assert bucket_of(kind, subject, 64) == int(vector["aggregate_hash"], 16)
    assert bucket_of(kind, subject, 8) == vector["bucket_of_256"]


def test_applied_events_have_these_hashes() -> None:
    for vector in VECTORS["applied"]:
        data = canonical([vector["offset"], vector["event_id"], vector["prior"]])

        assert hash_of(data).hex() == vector["xxh3-128"]
        assert xxhash.xxh3_64(vector["event_id"].encode()).hexdigest() == vector["event_hash"]


def test_a_table_is_laid_out_like_this() -> None:
    vector = VECTORS["table_of_facts"]
    columns = [[0, 0, 0] for _ in range(1 << vector["bits"])]
    for item in VECTORS["facts"]:
        column = columns[bucket_of(*item["fact"][:2], vector["bits"])]
        for index, number in enumerate((*lanes(canonical(item["fact"])), 1)):
            column[index] += number
    table = b"".join((n % WRAP).to_bytes(8, "big") for column in columns for n in column)

    assert base64.b64encode(table).decode() == vector["table_base64"]
    assert hexed((sum(c[0] for c in columns), sum(c[1] for c in columns))) == vector["state"]
    assert sum(c[2] for c in columns) == vector["facts"]


def number_of(kind: str, subject: str, bits: int) -> int:
    return int(xxhash.xxh3_64(canonical([kind, subject])).intdigest()) >> (40 - bits)


@pytest.mark.parametrize("vector", VECTORS["sketches"], ids=lambda v: f"{v['bits']}-{v['cells']}")
def test_sketches_are_made_like_this(vector: dict[str, Any]) -> None:
    bits, size = vector["bits"], vector["cells"]
    cells = [[0, 0] for _ in range(size)]
    for item in VECTORS["facts"]:
        kind, subject = item["fact"][:2]
        if bits and bucket_of(kind, subject, bits) not in vector["buckets"]:
            continue
        number = number_of(kind, subject, bits)
        lane = lanes(canonical(item["fact"]))[0]
        for place in range(4):
            mixed = number * 0x9E3779B97F4A7C15 % WRAP
            cell = (mixed >> (56 - 8 * place)) % (size // 4) * 4 + place
            cells[cell][0] += lane
            cells[cell][1] += lane * number
    written = b"".join((one % WRAP).to_bytes(8, "big") for cell in cells for one in cell)

    assert base64.b64encode(written).decode() == vector["base64"]


@pytest.mark.parametrize("vector", VECTORS["numbers"], ids=lambda v: str(v["bits"]))
def test_numbers_are_written_like_this(vector: dict[str, Any]) -> None:
    width = -(-(vector["bits"] + 24) // 8)
    numbers = [number_of(*aggregate, vector["bits"]) for aggregate in vector["aggregates"]]

    written = b"".join(number.to_bytes(width, "big") for number in numbers)
    assert base64.b64encode(written).decode() == vector["base64"]


class SecondReplica:
    """A replica in forty lines, by the rules of section 5; sums are rebuilt instead of kept."""

    def __init__(self, view: dict[str, Any]) -> None:
        self.model, self.fields = view["model"], view["fields"]
        self.sequences: dict[tuple[str, str], int] = defaultdict(int)
        self.passed_over: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.held: dict[tuple[str, str], dict[str, tuple[Any, int]]] = defaultdict(dict)
        self.audit = (0, 0)
        self.counts = dict.fromkeys(("applied", "duplicates", "gaps", "late"), 0)
        self.entries: list[list[int]] = []

    def sees(self, targets: list[str] | None) -> bool:
        return targets is None or self.model in targets

    def apply(self, offset: int, event: dict[str, Any]) -> None:
        kind = event["contextType"]
        if kind not in self.fields:
            return
        key = (kind, "user:" + event["contextDelta"]["userId"])
        sequence, prior = event["sequence"], self.sequences[key]
        late = sequence <= prior
        if late and sequence not in self.passed_over[key]:
            self.counts["duplicates"] += 1
            return
        if late:
            self.passed_over[key].remove(sequence)
            self.counts["late"] += 1
            self.counts["gaps"] -= 1
        else:
            self.passed_over[key].update(range(prior + 1, sequence))
            self.counts["gaps"] += sequence - prior - 1
            self.sequences[key] = sequence
        added = lanes(canonical([offset, event["eventId"], prior]))
        self.audit = (self.audit[0] + added[0], self.audit[1] + added[1])
        self.counts["applied"] += 1
        mark = xxhash.xxh3_64(event["eventId"].encode()).intdigest()
        self.entries.append([offset, mark, sequence, prior])
        for name, update in event["contextDelta"]["updates"].items():
            if self.fields[kind] and name not in self.fields[kind]:
                continue
            if late and self.held[key].get(name, (None, 0))[1] > sequence:
                continue
            seen = self.sees(event["propagationRules"].get("targetModels"))
            self.held[key][name] = (update["current"] if seen else None, sequence)

    def note(self) -> dict[str, Any]:
        facts = [
            [kind, subject, name, value]
            for (kind, subject), fields in self.held.items()
            for name, (value, _) in fields.items()
            if value is not None
        ]
        sums = [lanes(canonical(fact)) for fact in facts]
        return {
            "state": hexed((sum(s[0] for s in sums), sum(s[1] for s in sums))),
            "facts": len(facts),
            "audit": hexed(self.audit),
            **self.counts,
        }


def test_the_scenario_gives_these_notes_entries_and_facts() -> None:
    scenario = VECTORS["scenario"]
    view = scenario["view"]
    replica = SecondReplica(view)
    notes = [(note["position"], note["marker"], note) for note in scenario["notes"]]
    marker = scenario["marker_interval"]
    for record in scenario["records"]:
        while marker <= record["offset"]:
            position, is_marker, note = notes.pop(0)
            assert (position, is_marker) == (marker, True)
            assert note.items() >= replica.note().items()
            marker += scenario["marker_interval"]
        replica.apply(record["offset"], record["event"])
    notes = [(p, m, n) for p, m, n in notes if replica.note().items() <= n.items()]

    assert [(p, m) for p, m, _ in notes][-1] == (scenario["position"], False)
    assert replica.entries == scenario["entries"]
    fields = sorted([kind, sorted(names)] for kind, names in view["fields"].items())
    assert xxhash.xxh3_64(canonical([view["model"], fields])).hexdigest() == view["view_hash"]
    for aggregate in scenario["aggregates"]:
        key = (aggregate["contextType"], aggregate["subject"])
        assert aggregate["sequence"] == replica.sequences[key]
        for fact in aggregate["facts"]:
            value, sequence = replica.held[key][fact["field"]]
            whole = [*key, fact["field"], value]
            wanted = None if value is None else hash_of(canonical(whole)).hex()
            assert (fact["hash"], fact["sequence"]) == (wanted, sequence)
