"""A log as one replica sees it over a faulty link: loses, repeats, swaps and delays records.

Positions move exactly as a poll would report them, so a lost record is lost for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from chaos.faults import Dice, FaultJournal, FaultSpec, Injected
from synchroscope.errors import InvalidEventError
from synchroscope.event import decode_wire
from synchroscope.ports import (
    EVENTS,
    AggregateKey,
    Batch,
    Log,
    NewRecord,
    Record,
    TopicPartition,
)
from synchroscope.view import View

SHORTEST_DELAY_SECONDS = 0.02
LONGEST_DELAY_SECONDS = 0.2


class FaultyLink:
    """Reads of `context.events` pass through here; everything else goes to the log itself.

    Parameters
    ----------
    log, view, replica: What is read, by whom.
    specs: The faults of this replica. `corrupt` and `stale` are only triggered here.
    dice, journal: Decide, and write down.
    clock, stamp: Wall time in seconds, and the same as text.
    """

    def __init__(
        self,
        log: Log,
        view: View,
        replica: str,
        specs: Sequence[FaultSpec],
        dice: Dice,
        journal: FaultJournal,
        clock: Callable[[], float],
        stamp: Callable[[float], str],
    ) -> None:
        self._log = log
        self._view = view
        self._replica = replica
        self._specs = {spec.kind: spec for spec in specs if spec.replica == replica}
        self._dice = dice
        self._journal = journal
        self._clock = clock
        self._stamp = stamp
        self._waits: dict[int, tuple[int, float]] = {}
        self._waited: dict[int, int] = {}
        self.triggers: list[tuple[FaultSpec, int, int]] = []
        self.seen: dict[AggregateKey, int] = {}

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return what the link delivers."""
        batch = self._log.read(topic, partition, position, limit)
        if topic != EVENTS or not self._specs or not batch.records:
            return batch
        keys = [self._key(record) for record in batch.records]
        batch, keys = self._delay(partition, position, batch, keys)
        delivered: list[tuple[Record, AggregateKey | None]] = []
        for record, key in zip(batch.records, keys, strict=True):
            if key is not None and self._strikes("drop", partition, record):
                self._note("drop", key, partition, record.offset)
                continue
            delivered.append((record, key))
            if key is None:
                continue
            self.seen[key] = partition
            if self._strikes("duplicate", partition, record):
                self._note("duplicate", key, partition, record.offset)
                delivered.append((record, key))
            for kind in ("corrupt", "stale"):
                if self._strikes(kind, partition, record):
                    self.triggers.append((self._specs[kind], partition, record.offset))
        self._reorder(partition, delivered)
        return Batch([record for record, _ in delivered], batch.position)

    def _key(self, record: Record) -> AggregateKey | None:
        try:
            event = decode_wire(record.value)
        except InvalidEventError:
            return None
        if event.context_type not in self._view.fields:
            return None
        return (event.context_type, event.subject)

    def _strikes(self, kind: str, partition: int, record: Record) -> bool:
        spec = self._specs.get(kind)
        return spec is not None and self._dice.strikes(spec, partition, record.offset)

    def _note(self, kind: str, key: AggregateKey | None, partition: int, offset: int) -> None:
        self._journal.add(
            Injected(
                kind,
                self._replica,
                None if key is None else key[1],
                None if key is None else key[0],
                None,
                {"partition": partition, "offset": offset},
                self._stamp(self._clock()),
            )
        )

    def _delay(
        self, partition: int, position: int, batch: Batch, keys: list[AggregateKey | None]
    ) -> tuple[Batch, list[AggregateKey | None]]:
        waiting = self._waits.get(partition)
        if waiting is not None:
            offset, until = waiting
            if self._clock() < until and position >= offset:
                return Batch((), position), []
            del self._waits[partition]
            self._waited[partition] = offset
        for index, record in enumerate(batch.records):
            if record.offset <= self._waited.get(partition, -1) or keys[index] is None:
                continue
            if self._strikes("delay", partition, record):
                share = self._dice.number("delay-length", partition, record.offset) / 2.0**64
                span = LONGEST_DELAY_SECONDS - SHORTEST_DELAY_SECONDS
                until = self._clock() + SHORTEST_DELAY_SECONDS + share * span
                self._waits[partition] = (record.offset, until)
                self._note("delay", keys[index], partition, record.offset)
                return Batch(batch.records[:index], record.offset), keys[:index]
        return batch, keys

    def _reorder(self, partition: int, delivered: list[tuple[Record, AggregateKey | None]]) -> None:
        swapped: set[int] = set()
        for index, (record, key) in enumerate(delivered):
            if key is None or index in swapped or not self._strikes("reorder", partition, record):
                continue
            for later in range(index + 1, len(delivered)):
                other, other_key = delivered[later]
                if other_key != key or later in swapped or other.offset == record.offset:
                    continue
                self._note("reorder", key, partition, record.offset)
                delivered[index], delivered[later] = delivered[later], delivered[index]
                swapped.update((index, later))
                break

    # -- everything else ---------------------------------------------------------------------

    def partitions(self, topic: str) -> int:
        """Return the log's partition count."""
        return self._log.partitions(topic)

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Append to the log."""
        self._log.append(records, now, consumer=consumer, positions=positions)

    def head(self, topic: str, partition: int) -> int:
        """Return the log's head."""
        return self._log.head(topic, partition)

    def positions(self, consumer: str) -> dict[TopicPartition, int]:
        """Return the consumer's positions."""
        return self._log.positions(consumer)

    def latest(self, topic: str, key: bytes) -> Record | None:
        """Return the newest record of a key."""
        return self._log.latest(topic, key)
