"""A replica's facts in the memory of its process: gone with it, and rebuilt from the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

from msgspec.structs import replace

from synchroscope.digest import aggregate_hash, aggregate_hashes
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, Swept

_SLOT_BITS = 12
_SPLIT_BITS = 4
_SPLIT_RECORDS = 64
"""A slot of more aggregates is split, so that few are passed over on the way to a single one."""
_MAXIMUM_SPLIT_BITS = 48


class _Divided:
    """The slots that the keys of one were divided among by the next bits of their hashes."""

    __slots__ = ("slots",)

    def __init__(self, slots: list[_Slot]) -> None:
        self.slots = slots


_Slot = list[AggregateKey] | _Divided


class MemoryStorage:
    """The executable specification of `ReplicaStorage`.

    Aggregates are put in order of their hashes when a bucket is asked for, not when they come.
    """

    def __init__(self) -> None:
        self._incarnation: str | None = None
        self._records: dict[AggregateKey, AggregateRecord] = {}
        self._placed = 0
        self._slots: list[_Slot] = []
        self._states: dict[int, bytes] = {}
        self._chunks: dict[int, deque[JournalChunk]] = {}
        self._wipe()

    def _wipe(self) -> None:
        self._records.clear()
        self._placed = 0
        self._slots = [[] for _ in range(1 << _SLOT_BITS)]
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
        return self._records.get(key)

    def _place_all(self) -> None:
        # New keys stand at the end of a dictionary.
        keys = list(islice(reversed(self._records), len(self._records) - self._placed))
        keys.reverse()
        for key, hashed in zip(keys, aggregate_hashes(keys), strict=True):
            slot = self._slots[hashed >> (64 - _SLOT_BITS)]
            if type(slot) is list and len(slot) < _SPLIT_RECORDS:
                slot.append(key)
            else:
                self._place(key, hashed)
            self._placed += 1

    def _place(self, key: AggregateKey, hashed: int) -> None:
        slots, place, bits = self._slots, hashed >> (64 - _SLOT_BITS), _SLOT_BITS
        slot = slots[place]
        while isinstance(slot, _Divided):
            bits += _SPLIT_BITS
            slots, place = slot.slots, (hashed >> (64 - bits)) & ((1 << _SPLIT_BITS) - 1)
            slot = slots[place]
        slot.append(key)
        if len(slot) > _SPLIT_RECORDS and bits < _MAXIMUM_SPLIT_BITS:
            parts: list[list[AggregateKey]] = [[] for _ in range(1 << _SPLIT_BITS)]
            for one, own in zip(slot, aggregate_hashes(slot), strict=True):
                parts[(own >> (64 - bits - _SPLIT_BITS)) % len(parts)].append(one)
            slots[place] = _Divided(list(parts))

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Nothing is gained by it here."""

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket."""
        self._place_all()
        slots: list[_Slot]
        if bits >= _SLOT_BITS:
            slot = self._slots[bucket >> (bits - _SLOT_BITS)]
            depth = _SLOT_BITS
            while isinstance(slot, _Divided) and depth + _SPLIT_BITS <= bits:
                depth += _SPLIT_BITS
                slot = slot.slots[(bucket >> (bits - depth)) & ((1 << _SPLIT_BITS) - 1)]
            slots = [slot]
        else:
            width = 1 << (_SLOT_BITS - bits)
            slots = self._slots[bucket * width : (bucket + 1) * width]
        for leaf in _leaves(slots):
            for key in leaf:
                record = self._records.get(key)
                if (
                    record is not None
                    and record.partition == partition
                    and (bits <= _SLOT_BITS or aggregate_hash(*key) >> (64 - bits) == bucket)
                ):
                    yield record

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Take into `partition` what bears a partition that there is not."""
        self._place_all()
        slot, looked, mended = int.from_bytes(place, "big"), 0, 0
        while slot < len(self._slots) and looked < limit:
            for key in chain(*_leaves(self._slots[slot : slot + 1])):
                looked += 1
                record = self._records.get(key)
                if record is not None and record.partition not in self._states:
                    self._records[key] = replace(record, partition=partition)
                    mended += 1
            slot += 1
        is_end = slot >= len(self._slots)
        return Swept(b"" if is_end else slot.to_bytes(2, "big"), looked, mended)

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
        self._records.update(records)
        if state is not None:
            self._states[partition] = state
        chunks = self._chunks.setdefault(partition, deque())
        if chunk is not None:
            chunks.append(chunk)
        while chunks and chunks[0].end <= journal_floor:
            chunks.popleft()

    def close(self) -> None:
        """Nothing is held."""


def _leaves(slots: Sequence[_Slot]) -> Iterator[list[AggregateKey]]:
    for slot in slots:
        if isinstance(slot, _Divided):
            yield from _leaves(slot.slots)
        else:
            yield slot
