"""A replica's facts in the memory of its process: gone with it, and rebuilt from the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from synchroscope.digest import aggregate_hash
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk

_SLOT_BITS = 12


class MemoryStorage:
    """The executable specification of `ReplicaStorage`."""

    def __init__(self) -> None:
        self._incarnation: str | None = None
        self._slots: list[dict[AggregateKey, AggregateRecord]] = []
        self._states: dict[int, bytes] = {}
        self._chunks: dict[int, deque[JournalChunk]] = {}
        self._wipe()

    def _wipe(self) -> None:
        self._slots = [{} for _ in range(1 << _SLOT_BITS)]
        self._states.clear()
        self._chunks.clear()

    def incarnation(self) -> str | None:
        """Return the name of this storage's life."""
        return self._incarnation

    def begin(self, incarnation: str) -> None:
        """Empty the storage."""
        self._wipe()
        self._incarnation = incarnation

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit stored."""
        return self._states.get(partition)

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        return self._slots[aggregate_hash(*key) >> (64 - _SLOT_BITS)].get(key)

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Nothing is gained by it here."""

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket."""
        if bits >= _SLOT_BITS:
            slots = [bucket >> (bits - _SLOT_BITS)]
        else:
            width = 1 << (_SLOT_BITS - bits)
            slots = list(range(bucket * width, (bucket + 1) * width))
        for slot in slots:
            for key, record in self._slots[slot].items():
                if record.partition == partition and (
                    bits <= _SLOT_BITS or aggregate_hash(*key) >> (64 - bits) == bucket
                ):
                    yield record

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`."""
        return [chunk for chunk in self._chunks.get(partition, ()) if chunk.end > position]

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Store all of it."""
        for key, record in records.items():
            self._slots[aggregate_hash(*key) >> (64 - _SLOT_BITS)][key] = record
        if state is not None:
            self._states[partition] = state
        chunks = self._chunks.setdefault(partition, deque())
        if chunk is not None:
            chunks.append(chunk)
        while chunks and chunks[0].end <= journal_floor:
            chunks.popleft()

    def close(self) -> None:
        """Nothing is held."""
