"""Windows over a partition, with a reader that brings what it was told to follow."""

from __future__ import annotations

import pytest

from pipeline.kafka_client import Chunk
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_windows import Follower, Window
from synchroscope.errors import DamagedPartitionError
from synchroscope.ports import Record, TopicPartition
from synchroscope.records import Records

PLACE = ("events", 0)
END = 1_000


def records_from(start: int, end: int) -> Records:
    return Records.of([Record(offset, b"k", b"xy", (), 0.0) for offset in range(start, end)])


class InPieces:
    """A reader of records 0 to `END` that brings a hundred of what it follows at every poll."""

    def __init__(self) -> None:
        self.followed: dict[TopicPartition, int] = {}

    def start(self, place: TopicPartition, position: int) -> None:
        self.followed[place] = position

    def stop(self, place: TopicPartition) -> None:
        self.followed.pop(place, None)

    def poll(self, timeout_seconds: float) -> list[Chunk]:
        chunks = []
        for place, position in self.followed.items():
            end = min(position + 100, END)
            records = records_from(position, end)
            chunks.append(Chunk(place, records, end, bytes=records.payload_bytes()))
            self.followed[place] = end
        return chunks

    def close(self) -> None:
        self.followed.clear()


def follower(*, window_records: int) -> tuple[Follower, InPieces]:
    reader = InPieces()
    settings = KafkaSettings(
        bootstrap_servers="127.0.0.1:9", window_records=window_records, request_timeout_seconds=1.0
    )
    return Follower(reader, settings), reader


def test_a_reader_that_comes_from_another_window_to_the_end_of_a_full_one_goes_on() -> None:
    full, reader = follower(window_records=50)
    full.start(PLACE, 0, 0, END)
    first = full.read(PLACE, 0, 7, END)
    assert first is not None and first.position == 7
    assert not reader.followed, "a window that is full is not filled on"
    batch = full.read(PLACE, 100, 10, END)
    assert batch is not None
    assert [record.offset for record in batch.records] == list(range(100, 110))


def test_a_window_that_is_read_slowly_is_filled_on_when_half_of_it_is_read() -> None:
    slow, _ = follower(window_records=50)
    slow.start(PLACE, 0, 0, END)
    position, seen = 0, list[int]()
    while position < END:
        batch = slow.read(PLACE, position, 3, END)
        assert batch is not None
        seen += [record.offset for record in batch.records]
        position = batch.position
        window = slow.windows[PLACE]
        assert len(window) <= 200
        assert window.bytes == 3 * len(window)
        assert window.start == window.end - len(window)
    assert seen == list(range(END))


def window_of(*sizes: int, settings: KafkaSettings | None = None) -> Window:
    """Return a window that got so many records at a time, from offset 0 on."""
    window = Window(0, 0, 0, settings or KafkaSettings(bootstrap_servers="127.0.0.1:9"))
    for size in sizes:
        records = records_from(window.end, window.end + size)
        window.add(Chunk(PLACE, records, window.end + size, bytes=records.payload_bytes()))
    return window


def test_what_comes_in_little_is_read_in_one() -> None:
    window = window_of(*[1] * 100)
    batch = window.take(3, 50)
    assert [record.offset for record in batch.records] == list(range(3, 53))
    assert (batch.position, window.read) == (53, 53)


def test_what_was_handed_out_stays_as_it_was_when_more_comes_and_when_it_is_dropped() -> None:
    window = window_of(5)
    batch = window.take(0, 10)
    window.add(Chunk(PLACE, records_from(5, 8), 8, bytes=9))
    assert [record.offset for record in batch.records] == list(range(5))
    window.take(0, 10)
    window.trim(0)
    assert len(window) == 0
    assert [record.offset for record in batch.records] == list(range(5))


def test_what_overlaps_is_taken_once() -> None:
    window = window_of(5)
    window.add(Chunk(PLACE, records_from(2, 9), 9, bytes=21))
    batch = window.take(0, 100)
    assert [record.offset for record in batch.records] == list(range(9))
    assert window.bytes == 27


def test_pieces_are_bounded_by_the_windows_bytes_and_records() -> None:
    small = KafkaSettings(bootstrap_servers="127.0.0.1:9", window_records=80, window_bytes=240)
    window = window_of(*[1] * 100, settings=small)
    position, pieces = 0, list[int]()
    while position < 100:
        batch = window.take(position, 100)
        pieces.append(len(batch.records))
        position = batch.position
    assert set(pieces) == {10}
    window.trim(window.capacity())
    assert len(window) == 80
    assert window.start == 20


LEAPS = {
    "within": ([0, 1, 73, 2, 3], 2),
    "at once": ([5, 1, 2], 0),
    "the same twice": ([0, 1, 1, 2], 1),
}


def leaping(offsets: list[int]) -> Chunk:
    records = Records.of([Record(offset, b"k", b"xy", (), 0.0) for offset in offsets])
    position, size = max(offsets) + 1, records.payload_bytes()
    return Chunk(PLACE, records, position, bytes=size)


@pytest.mark.parametrize("kind", LEAPS)
def test_where_offsets_leap_nothing_is_taken_from_there_on(kind: str) -> None:
    offsets, sound = LEAPS[kind]
    window = window_of()
    window.add(leaping(offsets))
    window.add(Chunk(PLACE, Records.of(()), max(offsets) + 1))
    assert isinstance(window.error, DamagedPartitionError)
    assert f"at offset {offsets[sound]}, before others" in str(window.error)
    assert window.is_lost
    assert [record.offset for record in window.take(0, 9).records] == offsets[:sound]
    assert (window.end, window.bytes) == (sound, 3 * sound)


def test_nothing_is_taken_from_a_damaged_batch_on() -> None:
    window = window_of()
    chunk = leaping([0, 1, 4, 5])
    chunk.damaged_at = 2
    window.add(chunk)
    window.add(leaping([6]))
    assert "batch at offset 2" in str(window.error)
    assert window.is_lost
    assert (window.end, len(window)) == (2, 2)


def test_what_lies_before_the_end_and_was_never_there_is_no_repetition() -> None:
    window = window_of(3)
    window.add(leaping([73]))  # Nobody knows yet that it leaps.
    window.add(leaping([3, 4, 5]))
    assert window.error is not None and window.is_lost
    assert window.bytes == 12


def test_a_reader_is_told_of_a_leap_at_every_try() -> None:
    class Leaping(InPieces):
        def poll(self, timeout_seconds: float) -> list[Chunk]:
            places, self.followed = self.followed, {}
            return [leaping([1, 2, 70, 3]) for _ in places]

    full = Follower(Leaping(), KafkaSettings(bootstrap_servers="127.0.0.1:9"))
    position = 0
    full.start(PLACE, position, 0, 4)
    batch = full.read(PLACE, position, 7, 4)
    assert batch is not None
    position = batch.position
    for _ in range(3):
        if PLACE not in full.windows:
            full.start(PLACE, position, 0, 4)
        with pytest.raises(DamagedPartitionError, match="malformed batch"):
            full.read(PLACE, position, 7, 4)
        assert PLACE not in full.windows
    assert position == 3


def test_gaps_between_and_within_pieces_are_passed() -> None:
    offsets = [0, 1, 5, 9]
    window = Window(0, 0, 0, KafkaSettings(bootstrap_servers="127.0.0.1:9", window_records=8))
    for offset in offsets:  # A piece each.
        record = Records.of([Record(offset, b"", b"", (), 0.0)])
        window.add(Chunk(PLACE, record, offset + 1))
    window.add(Chunk(PLACE, Records.of(()), 12))
    for position in range(13):
        batch = window.take(position, 1)
        expected = [offset for offset in offsets if offset >= position][:1]
        assert [record.offset for record in batch.records] == expected
        assert batch.position == (12 if expected in ([], [9]) else expected[0] + 1)
