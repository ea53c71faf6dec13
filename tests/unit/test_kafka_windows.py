"""Windows over a partition, with a reader that brings what it was told to follow."""

from __future__ import annotations

from pipeline.kafka_client import Chunk, payload_bytes
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_windows import Follower
from synchroscope.ports import Record, TopicPartition

PLACE = ("events", 0)
END = 1_000


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
            records = [Record(offset, b"k", b"xy", (), 0.0) for offset in range(position, end)]
            chunks.append(Chunk(place, records, end, bytes=payload_bytes(records)))
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
        assert len(window.records) <= 200
        assert window.bytes == payload_bytes(window.records) == 3 * len(window.records)
        assert window.start == (window.records[0].offset if window.records else position)
    assert seen == list(range(END))
