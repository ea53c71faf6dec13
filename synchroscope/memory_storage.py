"""A replica's facts in the memory of its process: gone with it, and rebuilt from the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synchroscope.digest import aggregate_hash
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk

_SLOT_BITS = 12
_SPLIT_BITS = 4
_SPLIT_RECORDS = 64
"""A slot of more aggregates is split, so that few are passed over on the way to a single one."""
_MAXIMUM_SPLIT_BITS = 48
_Leaf = dict[AggregateKey, AggregateRecord]
_Slot = _Leaf | list[Any]
"""Aggregates, or the slots that these were divided among by the next bits of their hashes."""


class MemoryStorage:
    """The executable specification of `ReplicaStorage`."""

    def __init__(self) -> None:
        self._incarnation: str | None = None
        self._slots: list[_Slot] = []
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
        return self._leaf(aggregate_hash(*key)).get(key)

    def _leaf(self, hashed: int) -> _Leaf:
        slot, shift = self._slots[hashed >> (64 - _SLOT_BITS)], 64 - _SLOT_BITS
        while isinstance(slot, list):
            shift -= _SPLIT_BITS
            slot = slot[(hashed >> shift) & ((1 << _SPLIT_BITS) - 1)]
        return slot

    def _put(self, key: AggregateKey, record: AggregateRecord) -> None:
        hashed = aggregate_hash(*key)
        slots, place, bits = self._slots, hashed >> (64 - _SLOT_BITS), _SLOT_BITS
        slot = slots[place]
        while isinstance(slot, list):
            bits += _SPLIT_BITS
            slots, place = slot, (hashed >> (64 - bits)) & ((1 << _SPLIT_BITS) - 1)
            slot = slots[place]
        slot[key] = record
        if len(slot) > _SPLIT_RECORDS and bits < _MAXIMUM_SPLIT_BITS:
            parts: list[_Leaf] = [{} for _ in range(1 << _SPLIT_BITS)]
            for one, held in slot.items():
                part = (aggregate_hash(*one) >> (64 - bits - _SPLIT_BITS)) % len(parts)
                parts[part][one] = held
            slots[place] = parts

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Nothing is gained by it here."""

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket."""
        if bits >= _SLOT_BITS:
            slot = self._slots[bucket >> (bits - _SLOT_BITS)]
            depth = _SLOT_BITS
            while isinstance(slot, list) and depth + _SPLIT_BITS <= bits:
                depth += _SPLIT_BITS
                slot = slot[(bucket >> (bits - depth)) & ((1 << _SPLIT_BITS) - 1)]
            slots = [slot]
        else:
            width = 1 << (_SLOT_BITS - bits)
            slots = self._slots[bucket * width : (bucket + 1) * width]
        for leaf in _leaves(slots):
            for key, record in leaf.items():
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
            self._put(key, record)
        if state is not None:
            self._states[partition] = state
        chunks = self._chunks.setdefault(partition, deque())
        if chunk is not None:
            chunks.append(chunk)
        while chunks and chunks[0].end <= journal_floor:
            chunks.popleft()

    def close(self) -> None:
        """Nothing is held."""


def _leaves(slots: Sequence[_Slot]) -> Iterator[_Leaf]:
    for slot in slots:
        if isinstance(slot, list):
            yield from _leaves(slot)
        else:
            yield slot
