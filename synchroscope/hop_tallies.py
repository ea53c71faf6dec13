"""What the hops count of themselves: a producer what was accepted, a replica what it applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from synchroscope.ports import (
    STATE,
    AggregateKey,
    AggregateRecord,
    JournalChunk,
    Log,
    NewRecord,
    Progress,
    Record,
    ReplicaStorage,
)
from synchroscope.recorded import recorded_at
from synchroscope.report import Entry
from synchroscope.tally import (
    DEFAULT_TELL_SECONDS,
    DEFAULT_WINDOW_SECONDS,
    PRODUCER,
    REPLICA,
    Tally,
    ToldTally,
    decode_tally,
    sum_of,
    tally_key,
    tally_note,
)

MAXIMUM_FAREWELLS = 1_000


class ProducerTally:
    """What a producer's command side has accepted. Its process steps it between batches.

    Parameters
    ----------
    name: Of the producer; no other process has it at the same time.
    life: A new unique name of this process.
    log: Where it is published.
    started_at: Time before the first batch of this life.
    """

    def __init__(
        self,
        name: str,
        life: str,
        log: Log,
        started_at: float,
        *,
        window_seconds: float = DEFAULT_WINDOW_SECONDS,
        tell_seconds: float = DEFAULT_TELL_SECONDS,
    ) -> None:
        self._name = name
        self._life = life
        self._log = log
        self._started_at = started_at
        self._tell_seconds = tell_seconds
        self._told_at: float | None = None
        self._predecessor: ToldTally | None = None
        self.tally = Tally(window_seconds)
        self._predecessor = self._last_words()

    def _last_words(self) -> ToldTally | None:
        record = self._log.latest(STATE, tally_key(self._told(0.0, final=False)))
        told = None if record is None else decode_tally(record.value)
        return None if told is None else replace(told, predecessor=None)

    def accept(self, at: float, values: Sequence[bytes]) -> None:
        """Count the events of a batch that is stored."""
        self.tally.add(at, sum_of(values))

    def doubt(self, at: float) -> None:
        """Note that a batch may have been stored or not."""
        self.tally.doubt(at)

    def step(self, now: float) -> Progress:
        """Publish the tally when it is time: it covers every batch that was begun before."""
        is_due = self._told_at is None or not 0 <= now - self._told_at < self._tell_seconds
        if is_due or self.tally.should_be_told():
            self.tell(now)
        return Progress(0)

    def tell(self, now: float, *, final: bool = False) -> None:
        """Publish the tally; `final` when this process writes nothing any more."""
        self._log.append([tally_note(self._told(now, final=final))], now)
        self._told_at, self.tally.new_windows = now, 0

    def _told(self, now: float, *, final: bool) -> ToldTally:
        tally = self.tally
        return ToldTally(
            PRODUCER,
            self._name,
            self._life,
            now,
            tally.window_seconds,
            tally.floor,
            tally.rows(),
            started_at=self._started_at,
            doubtful=sorted(tally.doubtful),
            final=final,
            predecessor=self._predecessor,
        )


class _Segment(Struct):
    """What was counted of a partition without interruption."""

    start: int
    end: int
    tally: Tally
    is_news: bool = True


class TalliedStorage:
    """A replica's storage that remembers which offsets the last commit says were applied."""

    def __init__(self, storage: ReplicaStorage) -> None:
        self._storage = storage
        self._applied: list[int] = []
        self.incarnation = storage.incarnation
        self.begin = storage.begin
        self.partition_state = storage.partition_state
        self.get = storage.get
        self.prefetch = storage.prefetch
        self.sweep = storage.sweep
        self.journal = storage.journal
        self.close = storage.close

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the partition's aggregates of a bucket."""
        return self._storage.scan(partition, bucket, bits)

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Store all of it, and remember what the journal says once it is stored."""
        self._applied = []
        self._storage.commit(records, partition, state, chunk, journal_floor)
        if chunk is not None:
            self._applied = [entry.offset for entry in _decode_chunk(chunk.data).entries]

    def take(self) -> list[int]:
        """Return the offsets of the last commit, and forget them."""
        applied, self._applied = self._applied, []
        return applied


class _Chunk(Struct, array_like=True):
    """The beginning of a journal chunk, as a replica stores it; the rest is not decoded."""

    entries: list[Entry]


_decode_chunk = msgspec.msgpack.Decoder(_Chunk).decode


class ReplicaTally:
    """What a replica has applied, by its own journal; what its projector publishes beside reports.

    Parameters
    ----------
    name: Of the replica.
    life: A new unique name of this process.
    storage: The one that the replica writes through.
    """

    def __init__(
        self,
        name: str,
        life: str,
        storage: TalliedStorage,
        *,
        window_seconds: float = DEFAULT_WINDOW_SECONDS,
        tell_seconds: float = DEFAULT_TELL_SECONDS,
    ) -> None:
        self._name = name
        self._life = life
        self._storage = storage
        self._window_seconds = window_seconds
        self._tell_seconds = tell_seconds
        self._told_at: float | None = None
        self._segments: dict[int, _Segment] = {}
        self._farewells: list[tuple[int, _Segment]] = []

    def forget(self, partition: int) -> None:
        """Another process may go on with a partition: what comes later is counted anew.

        What was counted and not told yet is told with the next notes.
        """
        segment = self._segments.pop(partition, None)
        if segment is not None and segment.is_news:
            self._farewells.append((partition, segment))
            del self._farewells[:-MAXIMUM_FAREWELLS]

    def begin(self, partition: int, position: int) -> None:
        """Note where the replica stands before it applies: elsewhere than it was, count anew."""
        segment = self._segments.get(partition)
        if segment is None or segment.end != position:
            tally = Tally(self._window_seconds)
            self._segments[partition] = _Segment(position, position, tally)

    def applied(self, partition: int, records: Sequence[Record], position: int) -> None:
        """Count what was applied of the records; the replica stands at `position` now."""
        segment = self._segments[partition]
        offsets = self._storage.take()
        by_offset = {record.offset: record for record in records}
        applied = [record for offset in offsets if (record := by_offset.get(offset)) is not None]
        segment.tally.add_all(
            (at, partition, record.value)
            for record in applied
            if (at := recorded_at(record)) is not None
        )
        segment.end = position
        segment.is_news = True

    def notes(self, now: float) -> list[NewRecord]:
        """Return what is to be published now, if it is time."""
        is_due = self._told_at is None or not 0 <= now - self._told_at < self._tell_seconds
        is_due = is_due or any(one.tally.should_be_told() for one in self._segments.values())
        farewells, self._farewells = self._farewells, []
        notes = [tally_note(self._told(number, segment, now)) for number, segment in farewells]
        if not is_due:
            return notes
        self._told_at = now
        for partition, segment in self._segments.items():
            if segment.is_news:
                segment.is_news = False
                segment.tally.new_windows = 0
                notes.append(tally_note(self._told(partition, segment, now)))
        return notes

    def _told(self, partition: int, segment: _Segment, now: float) -> ToldTally:
        return ToldTally(
            REPLICA,
            self._name,
            self._life,
            now,
            self._window_seconds,
            segment.tally.floor,
            segment.tally.rows(),
            partition=partition,
            start=segment.start,
            end=segment.end,
        )
