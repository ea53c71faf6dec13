"""Small builders of events, records and replicas, shared by tests of every room.

>>> record(0, 1, {"limit": 5}).offset
0
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from synchroscope.digest import Digest, Hasher
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import Record
from synchroscope.replica import Replica
from synchroscope.view import View

VIEW = View("scorer", {"financial": frozenset({"limit", "risk"}), "geographic": frozenset()})
"""The view of most tests: two fields of one context type, every field of another."""


def event_id(number: int) -> str:
    """Return the event ID with that number, always the same."""
    return str(UUID(int=number + 1, version=4))


def update(
    current: Any, previous: Any = None, *, previous_targets: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return one entry of ``updates`` as the JSON has it."""
    made = {"current": current}
    if previous is not None:
        made["previous"] = previous
    if previous_targets is not None:
        made["previousTargets"] = list(previous_targets)
    return made


def event(
    sequence: int | None,
    updates: Mapping[str, Any],
    *,
    number: int = 0,
    kind: str = "financial",
    user: str | None = "1",
    session: str | None = None,
    targets: Iterable[str] | None = None,
    priority: str | None = None,
) -> dict[str, Any]:
    """Return a valid event as the JSON has it.

    ``updates`` maps a field to its new value, or to what `update` made.
    """
    delta: dict[str, Any] = {
        "updates": {
            name: value if isinstance(value, dict) and "current" in value else update(value)
            for name, value in updates.items()
        }
    }
    delta |= {} if user is None else {"userId": user}
    delta |= {} if session is None else {"sessionId": session}
    rules: dict[str, Any] = {} if targets is None else {"targetModels": list(targets)}
    rules |= {} if priority is None else {"priority": priority}
    return {
        "eventId": event_id(number),
        "timestamp": "2026-03-01T12:00:00Z",
        "eventType": "context.updated",
        "source": {"modelId": "risk-assessment", "instanceId": "ra-1"},
        "contextType": kind,
        "contextDelta": delta,
        **({"propagationRules": rules} if rules else {}),
        **({} if sequence is None else {"sequence": sequence}),
    }


def record(offset: int, sequence: int | None, updates: Mapping[str, Any], **more: Any) -> Record:
    """Return a record of `event`; its event ID is numbered by the offset unless ``number`` is."""
    more.setdefault("number", offset)
    return raw_record(offset, msgspec.json.encode(event(sequence, updates, **more)))


def raw_record(offset: int, value: bytes) -> Record:
    """Return a record of any bytes."""
    return Record(offset, b"", value, (), 0.0)


def replica_of(storage: MemoryStorage | None = None, view: View = VIEW, **more: Any) -> Replica:
    """Return a replica with a digest of 16 buckets and a marker at every fourth offset."""
    more = {"incarnation": "life", "bits": 4, "marker_interval": 4, **more}
    return Replica(f"{view.model}@1", view, storage or MemoryStorage(), **more)


def rebuilt(storage: MemoryStorage, partition: int = 0, bits: int = 4) -> Digest:
    """Return the digest of exactly what the storage holds, summed from nothing."""
    digest, hasher = Digest(bits), Hasher()
    for bucket in range(1 << bits):
        for held in storage.scan(partition, bucket, bits):
            for name, (value, _) in held.fields.items():
                if value is not None:
                    digest.add(bucket, hasher.fact(held.context_type, held.subject, name, value))
    return digest
