"""A log on Kafka: distributed mode's transport.

A consumer's positions are a record of `sync.state` under the key ``positions/CONSUMER``, so that
they are stored in the transaction of the records they belong to. `read` does not show them.

Offsets have gaps: Kafka's own control records take some, and so do aborted records.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from pipeline.kafka_client import OnWait, Writer, open_client
from pipeline.kafka_errors import unavailable
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_table import KeyTable
from pipeline.kafka_topics import check_partitions
from pipeline.kafka_windows import Follower
from pipeline.log_topics import Topics
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.foreign import PassedOver, decoded
from synchroscope.ports import STATE, Batch, NewRecord, Record, TopicPartition

#: Readers of one partition at positions far apart that are served without seeking to and fro.
FOLLOWERS = 3
#: How long the broker waits for new records before it says that there are none. The first follower
#: stays at the end of the log, the others are sought to and fro and must not wait for an answer.
FOLLOW_WAIT_MILLISECONDS = 100
SEEK_WAIT_MILLISECONDS = 10
COMMIT_POLL_SECONDS = 0.002
_POSITIONS_KEY = b"positions/"
_Index = Annotated[int, msgspec.Meta(ge=0)]
_PositionRows = list[tuple[str, _Index, _Index]]
_decode_positions = msgspec.json.Decoder(_PositionRows).decode


class KafkaLog:
    """The `Log` port on Kafka; used by one thread at a time.

    Parameters
    ----------
    settings: Where Kafka is and how it is used. The topics must exist.
    writer: Name of the one who appends. Whoever opens a log under that name takes it over: the next
        append of its earlier holder raises `FencedError` and stores nothing.
    atomic: With a writer, append in transactions. False costs less time an append, and may store
        a part of it when it fails: of each partition the first records, without a gap; and then
        nobody is fenced.
    on_wait: Called about once a second while something waits for the server.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        writer: str = "",
        atomic: bool = True,
        on_wait: OnWait | None = None,
    ) -> None:
        self._settings = settings
        self._on_wait = on_wait
        self._client = open_client(settings, on_wait)
        self._is_atomic = atomic and bool(writer)
        self._writer: Writer | None = None
        self._broken: SynchroscopeError | None = None
        self._followers: list[Follower] = []
        self._used: dict[tuple[int, TopicPartition], int] = {}
        self._reads = 0
        self._read_since_wait: dict[TopicPartition, set[int]] = {}
        self._unseen: set[TopicPartition] = set()
        self._tables: dict[str, KeyTable] = {}
        self._positions: dict[str, dict[TopicPartition, int]] = {}
        self._passed_over = PassedOver(STATE)
        try:
            self._topics = Topics(check_partitions(settings, self._client), {})
            self._names = {topic: settings.topic(topic) for topic in self._topics.counts}
            if self._is_atomic:
                self._writer = self._client.writer(f"{settings.name}.{writer}")
        except SynchroscopeError:
            self.close()
            raise

    def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        return self._topics.count(topic)

    # -- appending -----------------------------------------------------------------------------

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append all records and move the consumer; after an error open a new log.

        Raises
        ------
        FencedError: Another process writes under this name now. Nothing is stored.
        UnavailableError: The server did not answer in time: what is stored is not known.
        ConfigurationError: The records cannot be stored as they are; or the server refuses.
        """
        positions = positions or {}
        if not records and not positions:
            return
        self._topics.check_append(records, consumer, positions)
        merged: dict[TopicPartition, int] = {}
        if positions:
            self._check_usable()
            merged = {**self._known_positions(consumer), **positions}
            records = [*records, _positions_record(consumer, merged)]
        self._send(records, now, wait=True)
        self._unseen.update((self._names[record.topic], record.partition) for record in records)
        if positions:
            self._positions[consumer] = merged

    def post(self, records: Sequence[NewRecord], now: float) -> None:
        """Append records without waiting for the server, for who has something better to do.

        They are stored in order, and before what is appended later; but not yet when this returns,
        so that they may be lost with this process, and `read` may not show them. What keeps them
        from being stored, the next `post` or `append` raises. A log that appends in transactions
        waits all the same.
        """
        self._topics.check_append(records, "", {})
        if records:
            self._send(records, now, wait=False)

    def _send(self, records: Sequence[NewRecord], now: float, *, wait: bool) -> None:
        self._check_usable()
        self._check_sizes(records)
        if self._settings.topic_prefix:
            records = [self._renamed(record) for record in records]
        if self._writer is None:
            self._writer = self._client.writer()
        try:
            self._writer.send(records, round(now * 1000), wait=wait)
        except SynchroscopeError as error:
            self._broken = error
            raise

    def _check_usable(self) -> None:
        if self._broken is None:
            return
        if isinstance(self._broken, FencedError):
            raise FencedError(str(self._broken))
        raise UnavailableError(
            self._settings.server,
            "an earlier append failed, and what it stored is not known: open a new log and go on "
            f"from its positions; the failure was: {self._broken}",
        )

    def _check_sizes(self, records: Sequence[NewRecord]) -> None:
        limit = self._settings.message_bytes
        for record in records:
            size = len(record.value) + len(record.key)
            size += sum(len(name) + len(value) for name, value in record.headers)
            if size > limit:
                raise ConfigurationError(
                    f"a record for {record.topic} has {size} bytes, kafka message_bytes allows "
                    f"{limit}: raise it, and max.message.bytes of the topic; nothing was appended"
                )

    def _renamed(self, record: NewRecord) -> NewRecord:
        return NewRecord(
            self._names[record.topic], record.partition, record.key, record.value, record.headers
        )

    # -- reading -------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return up to `limit` records from `position` on.

        Where a reader follows the log this returns at once what has been fetched. Elsewhere it
        waits for the broker's answer, so that an empty batch says that nothing is there.
        """
        self._topics.check(topic, partition)
        if limit < 1:
            return Batch([], position)
        place = self._names[topic], partition
        batch = self._read(place, max(position, 0), limit)
        if topic == STATE:
            shown = [r for r in batch.records if not r.key.startswith(_POSITIONS_KEY)]
            batch = Batch(shown, batch.position)
        return batch if batch.records or batch.position > position else Batch([], position)

    def _read(self, place: TopicPartition, position: int, limit: int) -> Batch:
        sure = 0
        if place in self._unseen:
            sure = self._client.end(place, committed=False)
        number = self._follower_at(place, position)
        if number < 0:
            found = self._seek(place, position, sure)
            if found is None:
                return Batch([], position)
            number, sure = found
        self._reads += 1
        self._used[number, place] = self._reads
        self._read_since_wait.setdefault(place, set()).add(number)
        batch = self._followers[number].read(place, position, limit, sure)
        if batch is None:  # What was at the window's end is not there any more.
            return self._read(place, position, limit)
        if sure and batch.position >= sure:
            self._unseen.discard(place)
        return batch

    def _follower_at(self, place: TopicPartition, position: int) -> int:
        for number, follower in enumerate(self._followers):
            window = follower.windows.get(place)
            if window is not None and window.covers(position):
                return number
        return -1

    def _seek(self, place: TopicPartition, position: int, sure: int) -> tuple[int, int] | None:
        """Have some follower start at a position; None where that is beyond the end."""
        number = self._follower_to_move(place)
        follower = self._followers[number]
        first, end = self._client.range(place)
        end = max(end, sure)
        if position > end:
            return None
        follower.start(place, position, first, end)
        return number, end

    def _follower_to_move(self, place: TopicPartition) -> int:
        for number, follower in enumerate(self._followers):
            if place not in follower.windows:
                return number
        if len(self._followers) < FOLLOWERS:
            wait = SEEK_WAIT_MILLISECONDS if self._followers else FOLLOW_WAIT_MILLISECONDS
            reader = self._client.reader(wait_milliseconds=wait)
            self._followers.append(Follower(reader, self._settings, self._on_wait))
            return len(self._followers) - 1
        # The first one is left where it is: readers that catch up come to it.
        return min(range(1, FOLLOWERS), key=lambda number: self._used[number, place])

    def head(self, topic: str, partition: int) -> int:
        """Ask for the end of what is committed; never a position within an open transaction."""
        self._topics.check(topic, partition)
        place = self._names[topic], partition
        head = self._client.end(place, committed=True)
        if place not in self._unseen:
            return head
        end = self._client.end(place, committed=False)
        deadline = time.monotonic() + self._settings.request_timeout_seconds
        while head < end:
            if time.monotonic() >= deadline:
                raise unavailable(
                    self._settings, f"waiting for {topic} to be committed", "no end of it"
                )
            time.sleep(COMMIT_POLL_SECONDS)
            head = self._client.end(place, committed=True)
        return head

    def known_head(self, topic: str, partition: int) -> int:
        """Return the furthest position that is known without asking; 0 where nothing was read."""
        self._topics.check(topic, partition)
        place = self._names[topic], partition
        windows = [f.windows[place] for f in self._followers if place in f.windows]
        return max((window.end for window in windows), default=0)

    def wait(self, seconds: float) -> None:
        """Return when something new has come on a partition that is being read, or time is over.

        What an idle role does instead of sleeping.
        """
        read, self._read_since_wait = self._read_since_wait, {}
        if not self._followers:
            time.sleep(seconds)
            return
        self._gather(read)
        windows = [
            f.windows[place] for f in self._followers for place in read if place in f.windows
        ]
        if all(window.read == window.count for window in windows):
            self._followers[0].poll(seconds)

    def _gather(self, read: Mapping[TopicPartition, set[int]]) -> None:
        """Have the first follower follow what is being read, and the others nothing else."""
        first = self._followers[0]
        for number, follower in enumerate(self._followers[1:], 1):
            for place, window in list(follower.windows.items()):
                numbers = read.get(place, set())
                if 0 not in numbers and number == max(numbers, default=0):
                    follower.stop(place)
                    first.adopt(place, window)
                elif number not in numbers:
                    follower.stop(place)

    # -- what is known of keys -------------------------------------------------------------------

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return where the consumer stands; absent too where that cannot be decoded."""
        key = _POSITIONS_KEY + consumer.encode()
        record = self._table(STATE).get(key)
        if record is None:
            return {}
        rows = decoded(_decode_positions, record.value)
        if rows is None:
            # Who does not know where it stands looks for it, as without a checkpoint.
            self._passed_over.note(key.decode(), f"where {consumer} stands is not known")
            return {}
        return {(topic, partition): position for topic, partition, position in rows}

    def _known_positions(self, consumer: str) -> dict[TopicPartition, int]:
        if consumer not in self._positions:
            self._positions[consumer] = self.positions(consumer)
        return self._positions[consumer]

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key in a compacted topic, as of now."""
        self._topics.check_compacted(topic)
        return self._table(topic).get(key)

    def _table(self, topic: str) -> KeyTable:
        if topic not in self._tables:
            place = self._names[topic], 0
            self._tables[topic] = KeyTable(self._client, self._settings, place, self._on_wait)
        return self._tables[topic]

    def close(self) -> None:
        """Release what is held; nothing more is sent."""
        for follower in self._followers:
            follower.close()
        for table in self._tables.values():
            table.close()
        if self._writer is not None:
            self._writer.close()
        self._client.close()


def _positions_record(consumer: str, positions: Mapping[TopicPartition, int]) -> NewRecord:
    rows = [(topic, partition, position) for (topic, partition), position in positions.items()]
    return NewRecord(STATE, 0, _POSITIONS_KEY + consumer.encode(), msgspec.json.encode(rows))
