"""What the tests of a replica have in common: an aggregate, a first event, and what is asked."""

from __future__ import annotations

from typing import Any

from synchroscope.digest import Hasher, lanes_hex
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey
from synchroscope.replica import Replica
from synchroscope.report import Explanation, Note, Request
from tests.builders import rebuilt, record

KEY: AggregateKey = ("financial", "user:1")
HASHER = Hasher()
FIRST = record(0, 1, {"limit": 5, "risk": "low"})
COUNTERS = ("applied", "anomalies", "duplicates", "gaps", "late", "undecodable", "unsequenced")


def newest(replica: Replica) -> Note:
    return replica.report(0.0, [0]).notes[-1]


def explained(replica: Replica, *, scrub: bool = False, since: int = 0) -> Explanation:
    return replica.explain(Request("r", replica.name, 0, since, list(range(16)), scrub))


def hash_of(field: str, value: Any, key: AggregateKey = KEY) -> str:
    return lanes_hex(HASHER.fact(*key, field, value))


def assert_digest_is_that_of_storage(replica: Replica, storage: MemoryStorage) -> None:
    assert explained(replica).table == rebuilt(storage).table()
