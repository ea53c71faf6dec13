"""A log as a server keeps it: control records between the others, writers that are fenced.

`MarkedLog` is the server; the other two are what a process has of it, each with the moments at
which the process may die, be cut off or be paused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from chaos.crashing import CrashPoint
from pipeline.log_memory import MemoryLog
from synchroscope.errors import FencedError
from synchroscope.ports import EVENTS, STATE, Batch, Log, NewRecord, Record, TopicPartition
from validator.standing import STANDING_PREFIX, decode_standing


class MarkedLog(MemoryLog):
    """Leaves an offset to itself after each atomic append, in every partition it touched.

    Parameters
    ----------
    partitions: As for `MemoryLog`.
    marks: Whether it does so at all.
    leaps: Whether a read that gives a partition's last record moves past what comes after it.
    """

    def __init__(self, partitions: Mapping[str, int], *, marks: bool, leaps: bool) -> None:
        super().__init__(partitions)
        self._marks = marks
        self._leaps = leaps
        self._epochs: dict[str, int] = {}
        self.standings: list[tuple[bytes, str]] = []
        """(key, worker) of every standing that was ever published, in order."""

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append in one transaction."""
        self.store(records, now, consumer=consumer, positions=positions)
        if not self._marks:
            return
        places = {(record.topic, record.partition) for record in records}
        if positions:
            places.add((STATE, 0))
        for place in places:
            self._streams[place].head += 1

    def store(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append without a transaction."""
        super().append(records, now, consumer=consumer, positions=positions)
        for record in records:
            if record.topic == STATE and record.key.startswith(STANDING_PREFIX.encode()):
                standing = decode_standing(record.value)
                assert standing is not None
                self.standings.append((record.key, standing.worker))

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return records; what the log left to itself is passed over now or at the next read."""
        batch = super().read(topic, partition, position, limit)
        if self._leaps and batch.records:
            stream = self._streams[topic, partition]
            if batch.records[-1] is stream.records[-1]:
                return Batch(batch.records, stream.head)
        return batch

    def fence(self, writer: str) -> int:
        """Shut out whoever wrote under this name; return the number of the one who does now."""
        self._epochs[writer] = self._epochs.get(writer, 0) + 1
        return self._epochs[writer]

    def is_fenced(self, writer: str, epoch: int) -> bool:
        """Say whether another one writes under this name now."""
        return self._epochs[writer] != epoch


class _Handle:
    """What reads of a log; appends are another matter."""

    def __init__(self, log: MarkedLog) -> None:
        self._log = log

    def partitions(self, topic: str) -> int:
        """Return the partition count."""
        return self._log.partitions(topic)

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Read."""
        return self._log.read(topic, partition, position, limit)

    def head(self, topic: str, partition: int) -> int:
        """Return the head."""
        return self._log.head(topic, partition)

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return the consumer's positions."""
        return self._log.positions(consumer)

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key."""
        return self._log.latest(topic, key)


class ProducerLog(_Handle):
    """Appends record by record: who dies in between leaves a first part of each partition's.

    Parameters
    ----------
    log: The server.
    moment: Called between two records; may raise.
    rng: Draws how the partitions' records come to stand beside each other, and the positions'
        record, which is one more.
    """

    def __init__(self, log: MarkedLog, moment: CrashPoint, rng: Random) -> None:
        super().__init__(log)
        self._moment = moment
        self._rng = rng

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append one after the other, in order within each partition."""
        queues: dict[TopicPartition | None, list[NewRecord]] = {}
        for record in records:
            queues.setdefault((record.topic, record.partition), []).append(record)
        if positions:
            queues[None] = []
        while queues:
            self._moment()
            place = self._rng.choice(list(queues))
            if place is None:
                self._log.store([], now, consumer=consumer, positions=positions)
            else:
                self._log.store([queues[place].pop(0)], now)
            if not queues[place]:
                del queues[place]


class FencedLog(_Handle):
    """Appends in one step, until another one is made for the same writer.

    Parameters
    ----------
    log: The server.
    writer: The name under which it appends.
    """

    def __init__(self, log: MarkedLog, writer: str) -> None:
        super().__init__(log)
        self._writer = writer
        self._epoch = log.fence(writer)

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append all of it, or raise `FencedError`."""
        if self._log.is_fenced(self._writer, self._epoch):
            raise FencedError(f"another process writes as {self._writer}")
        self._log.append(records, now, consumer=consumer, positions=positions)


def repeats_of(log: Log, partition: int) -> dict[int, int]:
    """Return offset -> offset of the record that it repeats, of the events of a partition."""
    first: dict[int, int] = {}
    found: dict[int, int] = {}
    for record in log.read(EVENTS, partition, 0, 10**9).records:
        position = int(record.header("store-position") or b"0")
        if position in first:
            found[record.offset] = first[position]
        first.setdefault(position, record.offset)
    return found
