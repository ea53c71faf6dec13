"""The validator's checkpoint, in as many records of `sync.state` as it takes.

All of them are appended in one transaction. One that fits into a record is that record; of a larger
one the record says how many pages there are and what they hash to, so that pages of different
checkpoints are never taken together. Pages of a larger one before stay and are not read.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from xxhash import xxh3_128_digest

from synchroscope.ports import STATE, Log, NewRecord
from validator.finding import Finding
from validator.folds import StoredFold
from validator.watch import ReplicaWatch

PAGE_BYTES = 500_000


class Checkpoint(Struct, array_like=True):
    """The validator's state: constant, and what is known of what deviates, within its bounds."""

    reports: int
    folds: dict[int, StoredFold]
    watches: list[ReplicaWatch]
    open: list[Finding]
    opened_total: dict[str, int]
    resolved_total: dict[str, int]
    checks: dict[str, int]
    requests: int


class _Pages(Struct, array_like=True, frozen=True, tag="pages"):
    """Stands for a checkpoint that is stored in pages."""

    count: int
    digest: bytes


def checkpoint_records(checkpoint: Checkpoint, consumer: str) -> list[NewRecord]:
    """Return the records that store a checkpoint, each of `PAGE_BYTES` at most."""
    data = msgspec.msgpack.encode(checkpoint)
    if len(data) <= PAGE_BYTES:
        return [NewRecord(STATE, 0, consumer.encode(), data)]
    starts = range(0, len(data), PAGE_BYTES)
    pages = [
        NewRecord(STATE, 0, _page_key(consumer, number), data[start : start + PAGE_BYTES])
        for number, start in enumerate(starts)
    ]
    head = msgspec.msgpack.encode(_Pages(len(pages), xxh3_128_digest(data)))
    return [*pages, NewRecord(STATE, 0, consumer.encode(), head)]


def stored_checkpoint(log: Log, consumer: str) -> Checkpoint | None:
    """Return the newest checkpoint; None where there is none, or none that can be read."""
    record = log.latest(STATE, consumer.encode())
    if record is None:
        return None
    data = record.value
    try:
        head = msgspec.msgpack.decode(data, type=_Pages)
    except msgspec.DecodeError:
        pass  # It is the checkpoint itself.
    else:
        pages = [log.latest(STATE, _page_key(consumer, number)) for number in range(head.count)]
        data = b"".join(page.value for page in pages if page is not None)
        if xxh3_128_digest(data) != head.digest:
            return None
    try:
        return msgspec.msgpack.decode(data, type=Checkpoint)
    except msgspec.DecodeError:
        return None


def _page_key(consumer: str, number: int) -> bytes:
    return f"{consumer}/page/{number}".encode()
