"""Records that the extension unpacks are those that kafka-python unpacks; others it leaves."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.ports import Record

with catch_warnings():
    simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas the old way.
    from kafka import TopicPartition
    from kafka.consumer.fetcher import Fetcher
    from kafka.errors import CorruptRecordError
    from kafka.protocol.consumer import IsolationLevel
    from kafka.record import MemoryRecords
    from kafka.record.default_records import DefaultRecordBatch

    from pipeline import kafka_python_records
    from pipeline.kafka_python_records import (
        STRETCH_RECORDS,
        DamagedBatchError,
        Unpacking,
        mend_and_unpack,
        records_of,
        unpacked,
    )

from tests.kafka_batches import (
    COMPLETE_AT,
    LAST_DELTA_AT,
    NO_COMPRESSION,
    Message,
    batch_bytes,
    with_sum,
)

native = pytest.mark.skipif(
    not kafka_python_records.is_native(),
    reason="the extension was not built, or is not to be used",
)

LOG_APPEND_TIME = 0x08
PLACE = TopicPartition("events", 0)

BYTES = st.none() | st.binary(max_size=200)
HEADERS = st.lists(
    st.tuples(st.sampled_from(["ce_id", "ü", ""]) | st.text(max_size=4), BYTES), max_size=20
)
MESSAGES = st.lists(
    st.tuples(st.integers(0, 2**50), BYTES, BYTES, HEADERS), min_size=1, max_size=20
)


def by_rule(data: bytes) -> list[Record]:
    return list(records_of(DefaultRecordBatch(data)))


def plain(number: int = 0) -> Message:
    return 1_700_000_000_123, b"k%d" % number, b"v%d" % number, [("n", b"%d" % number)]


# -- one batch -----------------------------------------------------------------------------------


@native
@settings(deadline=None)
@given(
    MESSAGES,
    st.integers(0, 2**40),
    st.sampled_from([0, 1, 2, 3, 4]),
    st.sampled_from([0, LOG_APPEND_TIME]),
)
def test_the_extension_unpacks_the_same(
    messages: list[Message], base: int, codec: int, attributes: int
) -> None:
    data = batch_bytes(messages, base=base, codec=codec, attributes=attributes)
    found = unpacked(DefaultRecordBatch(data))
    assert found == by_rule(data)
    assert found is not None
    assert [record.offset for record in found] == [base + n for n in range(len(messages))]
    for record in found:
        assert (type(record.offset), type(record.timestamp)) == (int, float)


@native
@settings(deadline=None, max_examples=300)
@given(MESSAGES, st.data())
def test_what_is_damaged_is_left_to_the_rule_or_read_alike(
    messages: list[Message], data: st.DataObject
) -> None:
    made = bytearray(batch_bytes(messages))
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(COMPLETE_AT, len(made) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    damaged = bytes(made[: len(made) - cut])
    batch = DefaultRecordBatch(damaged)
    found = unpacked(batch)
    if found is None:  # As it was: the rule finds all of it, and says what is wrong.
        try:
            assert list(records_of(batch)) == by_rule(damaged)
        except CorruptRecordError:
            with pytest.raises(CorruptRecordError):
                by_rule(damaged)
    else:
        assert found == by_rule(damaged)


@native
def test_a_batch_that_is_left_is_as_it_was_though_it_was_packed() -> None:
    data = batch_bytes([(2**60, b"k", b"v" * 100, [])], codec=4)  # later than floats can tell
    batch = DefaultRecordBatch(data)
    assert unpacked(batch) is None
    assert batch.validate_crc()
    assert [message.value for message in batch] == [b"v" * 100]


@native
@pytest.mark.parametrize("count", [-1, 0, 2, 2**31 - 1])
def test_a_wrong_count_is_left_to_the_rule(count: int) -> None:
    data = bytearray(batch_bytes([plain()]))
    struct.pack_into(">i", data, COMPLETE_AT, count)
    assert unpacked(DefaultRecordBatch(bytes(data))) is None


@native
def test_offsets_that_do_not_rise_or_lie_beyond_the_batch_are_left_to_the_rule() -> None:
    data = bytearray(batch_bytes([(1, b"", b"", [])] * 2))
    second = COMPLETE_AT + 4 + 7  # A record is a byte for each number.
    assert data[second : second + 4] == b"\x0c\0\0\x02"
    struct.pack_into(">i", data, LAST_DELTA_AT, 2)
    for delta, is_left in ((2, False), (4, False), (6, True), (0, True), (1, True)):  # zigzag
        data[second + 3] = delta
        assert (unpacked(DefaultRecordBatch(bytes(data))) is None) is is_left


# -- an answer -----------------------------------------------------------------------------------


def answer(kind: Any, data: bytes, *, start: int = 0, aborted: Sequence[Any] = ()) -> Any:
    return kind(
        start,
        PLACE,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=list(aborted),
    )


def by_kafka_python(data: bytes, **more: Any) -> tuple[list[Record], int]:
    """Return what kafka-python's own unpacking brings, with the position after it."""
    part = answer(Fetcher.PartitionRecords, data, **more)
    messages: list[Any] = []
    while part:
        messages += part.take(3)
    return list(records_of(messages)), part.next_fetch_offset


def drained(part: Any, portion: int) -> list[tuple[list[Record], int]]:
    """Return what so many stretches at a time bring, with the position after them."""
    portions = []
    while part:
        found = [record for records in part.take(portion) for record in records]
        portions.append((found, part.next_fetch_offset))
    return portions


def abort_marker(base: int, producer: int) -> bytes:
    key = struct.pack(">hh", 0, 0)
    return batch_bytes(
        [(1, key, b"\0\0\0\0\0\0", [])],
        base=base,
        producer=producer,
        is_transactional=True,
        attributes=0x20,
    )


IDEMPOTENT = batch_bytes([plain(n) for n in range(4)], base=0, producer=5, codec=3)
ABORTED = batch_bytes([plain(9)], base=4, producer=7, is_transactional=True)
MARKER = abort_marker(5, 7)
COMMITTED = batch_bytes([plain(n) for n in range(3)], base=6, producer=7, is_transactional=True)
LAST = batch_bytes([plain(n) for n in range(2)], base=9, producer=5)


@native
@pytest.mark.parametrize("portion", [1, 3, 100])
@pytest.mark.parametrize("start", [0, 2, 6, 10])
def test_an_answer_with_transactions_brings_what_kafka_python_brings(
    portion: int, start: int
) -> None:
    data = IDEMPOTENT + ABORTED + MARKER + COMMITTED + LAST
    aborted = [SimpleNamespace(producer_id=7, first_offset=4)]
    mine = drained(answer(Unpacking, data, start=start, aborted=aborted), portion)
    records = [record for found, _ in mine for record in found]
    rule = by_kafka_python(data, start=start, aborted=aborted)
    assert (records, mine[-1][1]) == rule
    offsets = [record.offset for record in records]
    assert offsets == [offset for offset in (0, 1, 2, 3, 6, 7, 8, 9, 10) if offset >= start]
    assert mine[-1][1] == 11


@native
def test_past_what_compaction_took_from_a_batchs_end() -> None:
    data = bytearray(batch_bytes([plain(0), plain(1)], base=3))
    struct.pack_into(">i", data, LAST_DELTA_AT, 8)
    portions = drained(answer(Unpacking, with_sum(data) + LAST, start=3), 2)
    assert [record.offset for record in portions[0][0]] == [3, 4, 9, 10]
    only = drained(answer(Unpacking, with_sum(data), start=3), 5)
    assert only == [(portions[0][0][:2], 12)]


@native
@pytest.mark.parametrize("portion", [1, 100])
def test_a_batch_with_a_wrong_sum_raises_after_the_good_ones(portion: int) -> None:
    damaged = bytearray(LAST)
    damaged[-1] ^= 1
    part = answer(Unpacking, IDEMPOTENT + bytes(damaged))
    taken: list[Any] = []
    with pytest.raises(DamagedBatchError) as caught:
        while part:
            taken += part.take(portion)
    assert [record.offset for records in taken for record in records] == [0, 1, 2, 3]
    assert part.next_fetch_offset == 4
    assert (caught.value.place, caught.value.offset) == (PLACE, 4)
    assert not part, "what is at its end is not asked any more"


@native
@pytest.mark.parametrize("codec", [NO_COMPRESSION, 3])
@pytest.mark.parametrize("is_transactional", [False, True])
def test_stretches_are_bounded_and_small_batches_are_put_together(
    codec: int, is_transactional: bool
) -> None:
    sizes = [1, 2, 600, 3, 450, 60, 1]
    data, base = b"", 0
    for size in sizes:
        data += batch_bytes(
            [plain(n) for n in range(size)],
            base=base,
            codec=codec,
            producer=5,
            is_transactional=is_transactional,
        )
        base += size
    part = answer(Unpacking, data, start=1)
    stretches: list[Any] = []
    while part:
        taken = part.take(1)
        stretches += taken
        assert all(part.next_fetch_offset == records.last_offset + 1 for records in taken)
    assert [record for records in stretches for record in records] == by_kafka_python(
        data, start=1
    )[0]
    assert all(len(records) >= STRETCH_RECORDS for records in stretches[:-1])
    assert len(stretches) in (2, 3)


@native
def test_a_stretch_of_large_records_is_not_put_together() -> None:
    large = [(1, b"k", b"v" * 300_000, [])]
    data = b"".join(batch_bytes(large, base=number) for number in range(3))
    assert [len(records) for records in answer(Unpacking, data).take(9)] == [1, 1, 1]


def test_a_consumer_of_another_kind_is_left_alone() -> None:
    consumer = SimpleNamespace()
    assert not mend_and_unpack(consumer)
    assert vars(consumer) == {}
