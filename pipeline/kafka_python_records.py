"""Which records kafka-python's answers hold.

Ordinary batches are unpacked by the extension `_batches`, where it was built: in kafka-python
itself that takes most of the time of all reading. What is out of the ordinary (transactions, old
formats, anything damaged), and all that follows it in an answer, is left to kafka-python, which is
the rule.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import dropwhile
from typing import Any, cast

from kafka import TopicPartition as Place
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch

from synchroscope.native_hashing import loaded
from synchroscope.ports import Record
from synchroscope.records import Columns, Records

#: Batches are handed out together until they are so many records, or so many bytes; larger ones in
#: parts.
STRETCH_RECORDS = 500
STRETCH_BYTES = 262_144
_MAGIC = 2
_extension = loaded("pipeline._batches")
_unpack: Callable[..., Any] | None = _extension and _extension.unpack
_Rule: Any = getattr(Fetcher, "PartitionRecords", object)
#: What is used of kafka-python beside its documented interface.
_INSIDE = {
    _Rule: ("_unpack_records", "_maybe_skip_record", "take", "drain"),
    DefaultRecordBatch: ("_buffer", "_pos", "_decompressed", "_maybe_uncompress"),
}


def is_native() -> bool:
    """Say whether batches are unpacked by the extension."""
    return _unpack is not None


def mend_and_unpack(consumer: Any) -> bool:
    """Have a consumer go on after a damaged batch, and unpack with the extension, where there is
    one; both where kafka-python is as known.

    What it hands out then are stretches of records (`Unpacking`) in place of messages; say whether
    it does.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    is_known = all(hasattr(part, name) for part, names in _INSIDE.items() for name in names)
    if fetcher is None or not is_known:
        return False
    fetcher.PartitionRecords = Answer if _unpack is None else Unpacking
    return _unpack is not None


def records_of(messages: Iterable[Any]) -> Records:
    """Return the records of kafka-python's own messages."""
    return Records.of(map(_record_of, messages))


def _record_of(message: Any) -> Record:
    headers = tuple([(name, value or b"") for name, value in message.headers])
    return Record(
        message.offset,
        message.key or b"",
        message.value or b"",
        headers,
        message.timestamp / 1000,
    )


class DamagedBatchError(Exception):
    """A batch of a partition, at an offset, is not as it was written."""

    def __init__(self, place: Any, offset: int) -> None:
        super().__init__(place, offset)
        self.place: Place = place
        self.offset = offset


class Answer(_Rule):  # type: ignore[misc]
    """What one answer holds of one partition."""

    topic_partition: Place
    next_fetch_offset: int

    def take(self, n: int | None = None) -> list[Any]:
        """Return so much of it; after an error that this raised the answer is done with.

        kafka-python would ask it for more without end, where nothing comes any more.
        """
        try:
            return cast(list[Any], super().take(n))
        except CorruptRecordError as error:
            self.drain()
            raise DamagedBatchError(self.topic_partition, self.next_fetch_offset) from error
        except Exception:
            self.drain()
            raise


class Unpacking(Answer):
    """What one answer holds of one partition, in stretches of `Records`, no message for each.

    Where a stretch ends, ``next_fetch_offset`` is the position after it, as it is after a message
    in kafka-python itself.
    """

    fetch_offset: int

    def _maybe_skip_record(self, record: Any) -> bool:
        return False  # What lies before `fetch_offset` is left out in `_pieces`.

    def _unpack_records(self, place: Any, batches: Any, *deserializers: Any) -> Iterator[Records]:
        return _gathered(self._pieces(place, batches, *deserializers))

    def _pieces(self, place: Any, batches: Any, *deserializers: Any) -> Iterator[Records]:
        while True:
            batch = batches.next_batch()
            records = None if batch is None else self._ordinary(batch)
            if records is None:
                break
            self.leader_epoch = batch.leader_epoch
            left = records[records.place_of(self.fetch_offset) :]
            while len(left) > STRETCH_RECORDS:
                first, left = left[:STRETCH_RECORDS], left[STRETCH_RECORDS:]
                self.next_fetch_offset = left.first_offset
                yield first
            # Of a compacted batch the last record may be missing.
            self.next_fetch_offset = batch.next_offset
            yield left
        rest = super()._unpack_records(place, _Rest(batch, batches), *deserializers)
        yield from _grouped(dropwhile(super()._maybe_skip_record, rest))

    def _ordinary(self, batch: Any) -> Records | None:
        """Return the records of a batch; None where it is for kafka-python to say."""
        if batch.magic != _MAGIC or batch.is_transactional or batch.is_control_batch:
            return None
        if self.check_crcs and not batch.validate_crc():
            return None
        return unpacked(batch)


def _grouped(messages: Iterator[Any]) -> Iterator[Records]:
    """Yield messages as records, many at once; an exception when those before it are out."""
    taken: list[Any] = []
    failure: Exception | None = None
    try:
        for message in messages:
            taken.append(message)
            if len(taken) == STRETCH_RECORDS:
                yield records_of(taken)
                taken = []
    except Exception as error:
        failure = error
    if taken:
        yield records_of(taken)
    if failure is not None:
        raise failure


def _gathered(pieces: Iterator[Records]) -> Iterator[Records]:
    """Put small pieces together; an exception is raised when those before it are out."""
    stretch, size = Records.of(()), 0
    failure: Exception | None = None
    try:
        for piece in pieces:
            if stretch:
                stretch.extend(piece)
            else:
                stretch, size = piece, 0
            if len(stretch) < STRETCH_RECORDS:
                size += piece.payload_bytes()
            if len(stretch) >= STRETCH_RECORDS or size >= STRETCH_BYTES:
                yield stretch
                stretch = Records.of(())
    except Exception as error:
        failure = error
    if stretch:
        yield stretch
    if failure is not None:
        raise failure


class _Rest:
    """A batch, and those after it."""

    def __init__(self, batch: Any, batches: Any) -> None:
        self._batch = batch
        self._batches = batches

    def next_batch(self) -> Any:
        """Return the next batch; None: there is none."""
        batch, self._batch = self._batch, None
        return self._batches.next_batch() if batch is None else batch


def unpacked(batch: Any) -> Records | None:
    """Return the records of a batch of kafka-python; None, and nothing changed: by the rule."""
    if _unpack is None:
        return None
    packed = batch._buffer, batch._pos, batch._decompressed
    batch._maybe_uncompress()
    is_appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    columns = _unpack(
        batch._buffer,
        batch._pos,
        batch.records_count,
        batch.base_offset,
        batch.max_timestamp if is_appended else batch.first_timestamp,
        is_appended,
    )
    if columns is not None:
        offsets, keys, values, headers, seconds = columns
        found = Columns(array("q", offsets), keys, values, headers, array("d", seconds))
        # The broker does not check the offsets within a batch.
        if not values or found.offsets[-1] < batch.next_offset:
            return Records(found)
    batch._buffer, batch._pos, batch._decompressed = packed
    return None
