"""Which recent records of each partition are at hand, so that what is fetched once serves many.

The readers of one process follow the same partitions at nearly the same positions. A `Follower`
keeps a window of consecutive records of each partition: a read within it costs no request, and at
its end it takes what the client has fetched meanwhile.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from operator import attrgetter

from pipeline.kafka_client import Chunk, OnWait, Reader, payload_bytes
from pipeline.kafka_errors import unavailable
from pipeline.kafka_settings import KafkaSettings
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import Batch, Record, TopicPartition

SLICE_SECONDS = 1.0
#: A window is trimmed when it is over its size by this share, so that trimming is rare and cheap.
TRIM_SHARE = 8

_offset_of = attrgetter("offset")


class Window:
    """Consecutive records of one partition: all there are from position `start` up to `end`."""

    __slots__ = (
        "bytes",
        "end",
        "error",
        "is_lost",
        "is_paused",
        "known_end",
        "pieces",
        "read",
        "records",
        "start",
    )

    def __init__(self, start: int, end: int, known_end: int) -> None:
        self.start = start
        self.end = end
        #: Where the partition ended when the window was begun: up to there nothing is "not yet".
        self.known_end = known_end
        self.records: list[Record] = []
        self.bytes = 0
        #: Number and bytes of the records that came together; together they go.
        self.pieces: deque[tuple[int, int]] = deque()
        #: How many of the records some reader has had.
        self.read = 0
        self.is_paused = False
        #: The position asked for is gone, or not there yet: ask the broker anew.
        self.is_lost = False
        self.error: SynchroscopeError | None = None

    def covers(self, position: int) -> bool:
        """Say whether the window knows what is at a position."""
        return self.start <= position <= self.end

    def holds_any_from(self, position: int) -> bool:
        """Say whether there is a record at or after a position."""
        return bool(self.records) and self.records[-1].offset >= position

    def index(self, position: int) -> int:
        """Return the place in `records` of the first at or after a position."""
        return bisect_left(self.records, position, key=_offset_of)

    def capacity(self, settings: KafkaSettings) -> int:
        """Return how many records of the present size the window is to hold."""
        if not self.records:
            return settings.window_records
        fitting = settings.window_bytes * len(self.records) // max(self.bytes, 1)
        return max(min(settings.window_records, fitting), 1)

    def add(self, chunk: Chunk) -> None:
        """Take what came next."""
        records, size = chunk.records, chunk.bytes
        if records and records[0].offset < self.end:
            records = [record for record in records if record.offset >= self.end]
            size = payload_bytes(records)
        if records:
            self.records += records
            self.bytes += size
            self.pieces.append((len(records), size))
        self.end = max(self.end, chunk.position)
        self.is_lost = chunk.is_out_of_range
        self.error = chunk.error

    def trim(self, capacity: int) -> None:
        """Drop the oldest pieces of which all was read, as long as the capacity remains."""
        excess = min(len(self.records) - capacity, self.read)
        if excess <= capacity // TRIM_SHARE:
            return
        dropped = 0
        while self.pieces and dropped + self.pieces[0][0] <= excess:
            count, size = self.pieces.popleft()
            dropped += count
            self.bytes -= size
        if dropped:
            self.start = self.records[dropped - 1].offset + 1
            del self.records[:dropped]
            self.read -= dropped


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
        self.windows[place] = Window(position, max(position, first), end)

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
            window.read = len(window.records)
            self._balance(place, window)
            self._fetch(window, position, max(sure, window.known_end))
            if window.error is not None:
                error, window.error = window.error, None
                raise error
            if window.is_lost:
                self.stop(place)
            if window.is_lost or not window.covers(position):
                return None
        index = window.index(position)
        records = window.records[index : index + limit]
        after = index + len(records)
        end = window.end if after == len(window.records) else records[-1].offset + 1
        if after > window.read:
            window.read = after
            self._balance(place, window)
        return Batch(records, max(position, end))

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
        capacity = window.capacity(self._settings)
        window.trim(capacity)
        unread = len(window.records) - window.read
        if not window.is_paused and unread >= capacity:
            self._reader.stop(place)
            window.is_paused = True
        elif window.is_paused and unread <= capacity // 2:
            self._reader.start(place, window.end)
            window.is_paused = False

    def close(self) -> None:
        """Release what is held."""
        self._reader.close()
