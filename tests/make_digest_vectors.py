"""Writes docs/digest-vectors.json: `python -m tests.make_digest_vectors`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec

from synchroscope.canonical import encode
from synchroscope.digest import Digest, Hasher, aggregate_hash, event_hash, lanes_hex
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import Record
from synchroscope.replica import Replica
from synchroscope.report import Request
from synchroscope.sketch import Sketches, number_of, pack_numbers, to_bytes
from synchroscope.view import View

FILE = Path(__file__).resolve().parents[1] / "docs" / "digest-vectors.json"
KEY = bytes(range(32))
VALUES: list[Any] = [
    None, False, True, 0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1,
    -1, -24, -25, -256, -257, -(2**63), 0.0, -0.0, 1.0, -5.0, 1.5, -1.5, 0.1, 1e5, 1e20,
    5.960464477539063e-08, 65_504.0, 65_505.5, 3.4028234663852886e38, 1.1, 1e300,
    "", "a", "ü", "水", "𐅑", "x" * 24,
    [], [1, [2, 3]], {}, {"b": 1, "aa": [], "a": {"z": None, "y": 2.5}},
]  # fmt: skip
FACTS: list[tuple[str, str, str, Any]] = [
    ("geographic", "user:17850", "country", "United Kingdom"),
    ("financial", "user:17850", "spend", 15.3),
    ("financial", "user:17850", "spend", 15),
    ("behavioural", "session:536365", "basket", {"invoice": "536365", "lines": 7, "units": 40}),
    ("financial", "user:12346", "cancellations", 0),
]
VIEW = View("scorer", {"financial": frozenset({"spend", "limit"}), "geographic": frozenset()})


def _event(
    number: int, sequence: int, updates: dict[str, Any], kind: str = "financial", **rules: Any
) -> dict[str, Any]:
    return {
        "eventId": f"00000000-0000-4000-8000-{number:012x}",
        "timestamp": "2026-01-01T00:00:00Z",
        "eventType": "context.updated",
        "source": {"modelId": "vectors", "instanceId": "1"},
        "contextDelta": {"userId": "7", "updates": updates},
        "propagationRules": rules,
        "contextType": kind,
        "sequence": sequence,
    }


def scenario() -> list[dict[str, Any]]:
    """Return records of one partition: a repeat, a gap, a late one, a withdrawal and a null."""
    first = _event(1, 1, {"spend": {"current": 1.5}, "other": {"current": "x"}})
    second = _event(2, 2, {"spend": {"previous": 1.5, "current": 2}, "limit": {"current": 10}})
    third = _event(3, 3, {"spend": {"previous": 2, "current": 3}}, targetModels=["scorer"])
    fourth = _event(4, 4, {"limit": {"previous": 10, "current": 20}}, targetModels=["another"])
    fifth = _event(
        5, 5,
        {"limit": {"previous": 20, "current": 30, "previousTargets": ["another"]},
         "spend": {"previous": 3, "current": None, "previousTargets": ["scorer"]}},
    )  # fmt: skip
    place = _event(6, 1, {"country": {"current": "France"}}, "geographic")
    unseen = _event(7, 1, {"page": {"current": "home"}}, "behavioural")
    order = [first, place, first, unseen, second, fourth, third, fifth]
    return [{"offset": 2 * index, "event": event} for index, event in enumerate(order)]


def sketch(bits: int) -> Sketches:
    """Return the sketches of the facts."""
    sketches = Sketches(bits, is_empty=True)
    hasher = Hasher()
    sketches.change((aggregate_hash(*fact[:2]), hasher.fact(*fact)[0]) for fact in FACTS)
    return sketches


def make() -> dict[str, Any]:
    """Return all vectors."""
    plain, keyed = Hasher(), Hasher("blake2b-128", KEY)
    digest = Digest(bits=4)
    for kind, subject, field, value in FACTS:
        digest.add(digest.bucket(kind, subject), plain.fact(kind, subject, field, value))
    root = digest.root()
    records = scenario()
    replica = Replica("scorer@1", VIEW, MemoryStorage(), incarnation="i", bits=4, marker_interval=4)
    replica.apply(
        0,
        [Record(r["offset"], b"", msgspec.json.encode(r["event"]), (), 0.0) for r in records],
        17,
    )
    report = replica.report(0.0, [0])
    told = replica.explain(Request("q", "scorer@1", 0, 0, list(range(16))))
    return {
        "format": 1,
        "blake2b_key_hex": KEY.hex(),
        "values": [{"json": json.dumps(v), "cbor_hex": encode(v).hex()} for v in VALUES],
        "facts": [
            {
                "fact": [kind, subject, field, value],
                "xxh3-128": lanes_hex(plain.fact(kind, subject, field, value)),
                "blake2b-128": lanes_hex(keyed.fact(kind, subject, field, value)),
                "aggregate_hash": f"{aggregate_hash(kind, subject):016x}",
                "bucket_of_256": aggregate_hash(kind, subject) >> 56,
            }
            for kind, subject, field, value in FACTS
        ],
        "applied": [
            {
                "offset": offset,
                "event_id": identity,
                "prior": prior,
                "xxh3-128": lanes_hex(plain.applied(offset, identity, prior)),
                "event_hash": f"{event_hash(identity):016x}",
            }
            for offset, identity, prior in [
                (0, "123e4567-e89b-12d3-a456-426614174000", 0),
                (70_000, "00000000-0000-4000-8000-000000000001", 41),
            ]
        ],
        "sketches": [
            {
                "bits": bits,
                "cells": size,
                "buckets": buckets,
                "base64": base64.b64encode(to_bytes(sketch(bits).cells(buckets, size))).decode(),
            }
            for bits, size, buckets in [
                (0, 64, [0]),
                (0, 8, [0]),
                (4, 32, list(range(16))),
                (12, 16, [aggregate_hash(*fact[:2]) >> 52 for fact in FACTS[:1]]),
            ]
        ],
        "numbers": [
            {
                "bits": bits,
                "aggregates": [list(fact[:2]) for fact in FACTS[:2]],
                "base64": base64.b64encode(
                    pack_numbers(
                        [number_of(aggregate_hash(*fact[:2]), bits) for fact in FACTS[:2]], bits
                    )
                ).decode(),
            }
            for bits in (0, 8, 12)
        ],
        "table_of_facts": {
            "bits": 4,
            "table_base64": base64.b64encode(digest.table()).decode(),
            "state": lanes_hex((root.lane0, root.lane1)),
            "facts": root.facts,
        },
        "scenario": {
            "view": {
                "model": VIEW.model,
                "fields": {k: sorted(v) for k, v in sorted(VIEW.fields.items())},
                "view_hash": VIEW.hash(),
            },
            "bits": 4,
            "marker_interval": 4,
            "records": records,
            "position": 17,
            "notes": msgspec.to_builtins(report.notes),
            "entries": msgspec.to_builtins(told.entries),
            "aggregates": msgspec.to_builtins(told.aggregates),
        },
    }


def main() -> None:
    """Write the file."""
    text = json.dumps(make(), indent=1, ensure_ascii=True)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
