"""Which records kafka-python's answers hold.

Ordinary batches are unpacked by the extension `_batches`, where it was built: in kafka-python
itself that takes most of the time of all reading. What is out of the ordinary (transactions, old
formats, anything damaged), and all that follows it in an answer, is left to kafka-python, which is
the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch

from synchroscope.native_hashing import loaded
from synchroscope.ports import Record

_MAGIC = 2
_extension = loaded("pipeline._batches")
_unpack: Callable[..., list[Record] | None] | None = _extension and _extension.unpack
_Rule: Any = getattr(Fetcher, "PartitionRecords", object)
#: What is used of kafka-python beside its documented interface.
_INSIDE = {
    _Rule: ("_unpack_records",),
    DefaultRecordBatch: ("_buffer", "_pos", "_decompressed", "_maybe_uncompress"),
}


def is_native() -> bool:
    """Say whether batches are unpacked by the extension."""
    return _unpack is not None


def unpack_natively(consumer: Any) -> bool:
    """Have a consumer unpack with the extension, where there is one and kafka-python is as known.

    What it hands out then are records, or its own messages (`record_of`); say whether it does.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    is_known = all(hasattr(part, name) for part, names in _INSIDE.items() for name in names)
    if _unpack is None or fetcher is None or not is_known:
        return False
    fetcher.PartitionRecords = Unpacking
    return True


def record_of(message: Any) -> Record:
    """Return the record of a message."""
    if type(message) is Record:
        return message
    headers = tuple([(name, value or b"") for name, value in message.headers])
    return Record(
        message.offset,
        message.key or b"",
        message.value or b"",
        headers,
        message.timestamp / 1000,
    )


class Unpacking(_Rule):  # type: ignore[misc]
    """The records of one partition in one answer."""

    next_fetch_offset: int

    def _unpack_records(self, place: Any, batches: Any, *deserializers: Any) -> Iterator[Any]:
        while True:
            batch = batches.next_batch()
            records = None if batch is None else self._ordinary(batch)
            if records is None:
                break
            self.leader_epoch = batch.leader_epoch
            for record in records:
                self.next_fetch_offset = record.offset + 1
                yield record
            # Of a compacted batch the last record may be missing.
            self.next_fetch_offset = batch.next_offset
        yield from super()._unpack_records(place, _Rest(batch, batches), *deserializers)

    def _ordinary(self, batch: Any) -> list[Record] | None:
        """Return the records of a batch; None where it is for kafka-python to say."""
        if batch.magic != _MAGIC or batch.is_transactional or batch.is_control_batch:
            return None
        if self.check_crcs and not batch.validate_crc():
            return None
        return unpacked(batch)


class _Rest:
    """A batch, and those after it."""

    def __init__(self, batch: Any, batches: Any) -> None:
        self._batch = batch
        self._batches = batches

    def next_batch(self) -> Any:
        """Return the next batch; None: there is none."""
        batch, self._batch = self._batch, None
        return self._batches.next_batch() if batch is None else batch


def unpacked(batch: Any) -> list[Record] | None:
    """Return the records of a batch of kafka-python; None, and nothing changed: by the rule."""
    if _unpack is None:
        return None
    packed = batch._buffer, batch._pos, batch._decompressed
    batch._maybe_uncompress()
    is_appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    records = _unpack(
        batch._buffer,
        batch._pos,
        batch.records_count,
        batch.base_offset,
        batch.max_timestamp if is_appended else batch.first_timestamp,
        is_appended,
        Record,
    )
    if records is None:
        batch._buffer, batch._pos, batch._decompressed = packed
    return records
