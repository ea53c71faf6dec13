"""Checkpoints of any size in `sync.state`, in as many records as it takes.

The records have to be appended in one transaction. What fits into a record is that record; of what
is larger the record says how many pages there are and what they hash to, so that pages of different
checkpoints are never taken together. Pages of a larger one before stay and are not read.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from xxhash import xxh3_128_digest

from synchroscope.foreign import decoded
from synchroscope.ports import STATE, Log, NewRecord

PAGE_BYTES = 500_000
MAXIMUM_PAGES = 10_000


class _Pages(Struct, array_like=True, frozen=True, tag="pages"):
    """Stands for what is stored in pages."""

    count: int
    digest: bytes


_decode_head = msgspec.msgpack.Decoder(_Pages).decode


def paged(key: bytes, data: bytes) -> list[NewRecord]:
    """Return the records that store `data` under a key, each of `PAGE_BYTES` at most."""
    if len(data) <= PAGE_BYTES:
        return [NewRecord(STATE, 0, key, data)]
    starts = range(0, len(data), PAGE_BYTES)
    pages = [
        NewRecord(STATE, 0, _page_key(key, number), data[start : start + PAGE_BYTES])
        for number, start in enumerate(starts)
    ]
    head = msgspec.msgpack.encode(_Pages(len(pages), xxh3_128_digest(data)))
    return [*pages, NewRecord(STATE, 0, key, head)]


def stored(log: Log, key: bytes) -> bytes | None:
    """Return what is stored under a key; None where there is nothing, or not all of it."""
    record = log.latest(STATE, key)
    if record is None:
        return None
    head = decoded(_decode_head, record.value)
    if head is None:
        return record.value
    if not 0 <= head.count <= MAXIMUM_PAGES:
        return None
    pages = [log.latest(STATE, _page_key(key, number)) for number in range(head.count)]
    data = b"".join(page.value for page in pages if page is not None)
    return data if xxh3_128_digest(data) == head.digest else None


def _page_key(key: bytes, number: int) -> bytes:
    return b"%s/page/%d" % (key, number)
