"""Which recent records of each partition are at hand, so that what is fetched once serves many.

The readers of one process follow the same partitions at nearly the same positions. A `Follower`
keeps a window of consecutive records of each partition: a read within it costs no request, and at
its end it takes what the client has fetched meanwhile.
"""

from __future__ import annotations

import time
from bisect import bisect_right

import numpy as np
from msgspec import Struct

from pipeline.kafka_client import Chunk, OnWait, Reader
from pipeline.kafka_errors import damaged, leaping, unavailable
from pipeline.kafka_settings import KafkaSettings
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import Batch, TopicPartition
from synchroscope.records import Records

SLICE_SECONDS = 1.0
#: What comes in little is put together up to this share of a window, that it can be read in one;
#: what is put together goes together.
PIECE_SHARE = 8
_NO_END = 2**63 - 1


class _Piece(Struct):
    """Records that came together, or nearly; ``number`` is the first one's, since the window was
    begun."""

    records: Records
    number: int
    bytes: int


class Window:
    """Consecutive records of one partition: all there are from position `start` up to `end`.

    They are kept in pieces as they came, and handed out as views of these: where millions go by,
    putting them together and cutting them apart would cost as much as fetching them.
    """

    __slots__ = (
        "_pieces",
        "_settings",
        "bytes",
        "count",
        "end",
        "error",
        "is_lost",
        "is_paused",
        "known_end",
        "read",
        "start",
    )

    def __init__(self, start: int, end: int, known_end: int, settings: KafkaSettings) -> None:
        self.start = start
        self.end = end
        #: Where the partition ended when the window was begun: up to there nothing is "not yet".
        self.known_end = known_end
        self._settings = settings
        self._pieces: list[_Piece] = []
        self.bytes = 0
        #: How many records came since it was begun, and up to which of them some reader has had.
        self.count = 0
        self.read = 0
        self.is_paused = False
        #: The position asked for is gone, or not there yet: ask the broker anew.
        self.is_lost = False
        self.error: SynchroscopeError | None = None

    def __len__(self) -> int:
        return self.count - self._dropped

    @property
    def _dropped(self) -> int:
        return self._pieces[0].number if self._pieces else self.count

    def covers(self, position: int) -> bool:
        """Say whether the window knows what is at a position."""
        return self.start <= position <= self.end

    def holds_any_from(self, position: int) -> bool:
        """Say whether there is a record at or after a position."""
        return bool(self._pieces) and self._pieces[-1].records.last_offset >= position

    def capacity(self) -> int:
        """Return how many records of the present size the window is to hold."""
        if not self._pieces:
            return self._settings.window_records
        fitting = self._settings.window_bytes * len(self) // max(self.bytes, 1)
        return max(min(self._settings.window_records, fitting), 1)

    def add(self, chunk: Chunk) -> None:
        """Take what came next; nothing any more where the place is lost."""
        if self.is_lost:
            return
        records, size = chunk.records, chunk.bytes
        position = chunk.position
        self.is_lost = chunk.is_out_of_range
        self.error = chunk.error
        if chunk.damaged_at >= 0:
            self.error, self.is_lost = damaged(self._settings, chunk.place, chunk.damaged_at), True
            records, position = records[: records.place_of(chunk.damaged_at)], chunk.damaged_at
            size = records.payload_bytes()
        sound = self._sound_count(records) if records else 0
        if sound < len(records):
            offset = records[sound].offset
            self.error, self.is_lost = leaping(self._settings, chunk.place, offset), True
            records, position = records[:sound], records[sound - 1].offset + 1 if sound else -1
            size = records.payload_bytes()
        if records and records.first_offset < self.end:
            records = records[records.place_of(self.end) :]
            size = records.payload_bytes()
        if records:
            self._add(records, size)
        self.end = max(self.end, position)

    def _sound_count(self, records: Records) -> int:
        """Return how many of the first records stand where their offsets say.

        The broker does not check the offsets within a batch. Whoever may write can have one leap,
        and what comes after it then lies before it.
        """
        if records.first_offset < self.end and not self._may_come_again(records.first_offset):
            return 0
        offsets = np.frombuffer(records.columns.offsets, np.int64)[records.start : records.stop]
        bounds = np.append(offsets[1:], _NO_END)
        if (offsets < bounds).all():
            return len(records)
        bounds = np.minimum.accumulate(bounds[::-1])[::-1]
        return int(np.argmax(offsets >= bounds))

    def _may_come_again(self, offset: int) -> bool:
        """Say whether the window holds a record of that offset, or held one."""
        if not self._pieces or offset < self._pieces[0].records.first_offset:
            return True
        records = self._pieces[bisect_right(self._pieces, offset, key=_first_offset) - 1].records
        place = records.place_of(offset)
        return place < len(records) and records[place].offset == offset

    def _add(self, records: Records, size: int) -> None:
        last = self._pieces[-1] if self._pieces else None
        if (
            last is not None
            and len(last.records) + len(records) <= self._settings.window_records // PIECE_SHARE
            and last.bytes + size <= self._settings.window_bytes // PIECE_SHARE
        ):
            last.records.extend(records)
            last.bytes += size
        else:
            self._pieces.append(_Piece(records, self.count, size))
        self.count += len(records)
        self.bytes += size

    def take(self, position: int, limit: int) -> Batch:
        """Return records from a position on, of one piece; note that some reader has had them."""
        if not self.holds_any_from(position):
            self.read = self.count
            return Batch([], max(position, self.end))
        place = max(bisect_right(self._pieces, position, key=_first_offset) - 1, 0)
        if self._pieces[place].records.last_offset < position:
            place += 1
        piece = self._pieces[place]
        first = piece.records.place_of(position)
        records = piece.records[first : first + limit]
        after = piece.number + first + len(records)
        self.read = max(self.read, after)
        return Batch(records, self.end if after == self.count else records.last_offset + 1)

    def trim(self, capacity: int) -> None:
        """Drop the oldest pieces of which all was read, as long as the capacity remains."""
        end = min(self.count - capacity, self.read)
        dropped = 0
        for piece in self._pieces:
            if piece.number + len(piece.records) > end:
                break
            dropped += 1
            self.bytes -= piece.bytes
            self.start = piece.records.last_offset + 1
        if dropped:
            del self._pieces[:dropped]


def _first_offset(piece: _Piece) -> int:
    return piece.records.first_offset


class Follower:
    """One reader of the client with the windows it feeds; paused where nobody reads on."""

    def __init__(
        self, reader: Reader, settings: KafkaSettings, on_wait: OnWait | None = None
    ) -> None:
        self._reader = reader
        self._settings = settings
        self._on_wait = on_wait
        self.windows: dict[TopicPartition, Window] = {}

    def start(self, place: TopicPartition, position: int, first: int, end: int) -> None:
        """Begin the window of a partition anew at a position; it keeps `first` up to `end` now."""
        self._reader.start(place, max(position, first))
        self.windows[place] = Window(position, max(position, first), end, self._settings)

    def adopt(self, place: TopicPartition, window: Window) -> None:
        """Go on with a window that another follower has fed so far."""
        self._reader.start(place, window.end)
        window.is_paused = False
        self.windows[place] = window

    def stop(self, place: TopicPartition) -> None:
        """Drop the window of a partition."""
        if self.windows.pop(place, None) is not None:
            self._reader.stop(place)

    def read(self, place: TopicPartition, position: int, limit: int, sure: int) -> Batch | None:
        """Return what is in the window from a position on; None where it covers that no more.

        Waits until it has a record or knows everything up to position `sure`.
        """
        window = self.windows[place]
        if not window.holds_any_from(position):
            # This reader had what is in the window from elsewhere; nobody may come to read it here.
            window.read = window.count
            self._balance(place, window)
            self._fetch(window, position, max(sure, window.known_end))
        if not window.holds_any_from(position):
            if window.is_lost:
                self.stop(place)
            if window.error is not None:
                error, window.error = window.error, None
                raise error
            if window.is_lost or not window.covers(position):
                return None
        before = window.read
        batch = window.take(position, limit)
        if window.read > before:
            self._balance(place, window)
        return batch

    def _fetch(self, window: Window, position: int, sure: int) -> None:
        self.poll(0)
        deadline = time.monotonic() + self._settings.request_timeout_seconds
        while window.end < sure and not window.holds_any_from(position):
            if window.is_lost or window.error is not None:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise unavailable(self._settings, f"reading up to offset {sure}", "no records came")
            if not self.poll(min(left, SLICE_SECONDS)) and self._on_wait is not None:
                self._on_wait()

    def poll(self, timeout_seconds: float) -> bool:
        """Take what the client has, waiting for something up to the timeout; say if any came."""
        chunks = self._reader.poll(timeout_seconds)
        for chunk in chunks:
            window = self.windows.get(chunk.place)
            if window is not None:
                window.add(chunk)
                self._balance(chunk.place, window)
        return bool(chunks)

    def _balance(self, place: TopicPartition, window: Window) -> None:
        capacity = window.capacity()
        window.trim(capacity)
        unread = window.count - window.read
        if not window.is_paused and unread >= capacity:
            self._reader.stop(place)
            window.is_paused = True
        elif window.is_paused and unread <= capacity // 2:
            self._reader.start(place, window.end)
            window.is_paused = False

    def close(self) -> None:
        """Release what is held."""
        self._reader.close()
