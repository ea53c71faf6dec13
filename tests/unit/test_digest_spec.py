"""The worked example on the page of the digest, computed without the project's own code."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

import cbor2
import pytest
import xxhash

from synchroscope.digest import Hasher

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "digest-spec.md").read_text("utf-8")
EXAMPLE = PAGE[PAGE.index("## 8.") : PAGE.index("## 9.")]
OLD = cbor2.dumps(["geographic", "user:17850", "country", "United Kingdom"])
NEW = cbor2.dumps(["geographic", "user:17850", "country", "France"])
AGGREGATE = cbor2.dumps(["geographic", "user:17850"])
EVENT_ID = "123e4567-e89b-12d3-a456-426614174000"
APPLIED = cbor2.dumps([0, EVENT_ID, 0])
VIEW = cbor2.dumps(["scorer", [["financial", ["limit", "spend"]], ["geographic", []]]])
TABLE = bytes(24) + xxhash.xxh3_128(OLD).digest() + bytes(7) + b"\x01"
CHANGE = "".join(
    f"{(int(new, 16) - int(old, 16)) % 2**64:016x}"
    for new, old in (
        (xxhash.xxh3_128(NEW).hexdigest()[part], xxhash.xxh3_128(OLD).hexdigest()[part])
        for part in (slice(16), slice(16, 32))
    )
)
STEPS = {
    "fact bytes": OLD.hex(),
    "fact": xxhash.xxh3_128(OLD).hexdigest(),
    "next fact": xxhash.xxh3_128(NEW).hexdigest(),
    "change": CHANGE,
    "aggregate bytes": AGGREGATE.hex(),
    "aggregate hash": xxhash.xxh3_64(AGGREGATE).hexdigest(),
    "table": TABLE.hex(),
    "table in base64": b64encode(TABLE).decode(),
    "applied bytes": APPLIED.hex(),
    "applied": xxhash.xxh3_128(APPLIED).hexdigest(),
    "event hash": xxhash.xxh3_64(EVENT_ID.encode()).hexdigest(),
    "event hash in decimal": str(xxhash.xxh3_64(EVENT_ID.encode()).intdigest()),
    "view bytes": VIEW.hex(),
    "view hash": xxhash.xxh3_64(VIEW).hexdigest(),
}


@pytest.mark.parametrize("step", STEPS)
def test_the_worked_example_on_the_page_is_right(step: str) -> None:
    assert f" {STEPS[step]}" in EXAMPLE or f"`{STEPS[step]}`" in EXAMPLE


def test_the_keyed_algorithm_is_named_with_the_check_that_the_page_defines() -> None:
    key = bytes(range(32))
    check = hashlib.blake2b(b"", digest_size=16, key=key).hexdigest()[:8]

    assert Hasher("blake2b-128", key).algorithm == f"blake2b-128:{check}"
