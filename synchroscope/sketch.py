"""Which aggregates of a bucket differ between two sides, in as many bytes as there are differences.

A digest's bucket says that something differs. A *sketch* of it says what: 64 cells, in four of
which every fact is counted, as its lane 0 and as that times its aggregate's number. Sketches are
sums, so the difference of two of them is the sketch of what differs; where a cell holds one
aggregate alone, a division gives its number, which is then taken out of its other cells (an
invertible Bloom lookup table: Goodrich and Mitzenmacher, 2011, "Invertible Bloom lookup tables").
Sketches of several buckets can be added, and one can be folded to a half or a quarter of its cells.

Nothing is decided by a sketch alone: it says where to look. ``docs/digest-spec.md`` is the rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from synchroscope import native_hashing
from synchroscope.digest import MASK

CELLS = 64
"""Cells of one bucket's sketch."""
POSITIONS = 4
"""In how many cells each fact is counted."""
BELOW_BUCKET_BITS = 24
"""An aggregate's number has so many bits of its hash behind those of the bucket."""
MAXIMUM_SKETCH_BITS = 12
"""With more buckets they are small enough to be looked at whole, and no sketches are kept."""
SIZES = (8, 16, 32, 64)
"""To how many cells a sketch can be folded."""
MAXIMUM_PENDING = 4_096
MAXIMUM_PENDING_COLUMNS = 256
_MIXER = 0x9E3779B97F4A7C15
_MAXIMUM_ZEROS = 64 - MAXIMUM_SKETCH_BITS - BELOW_BUCKET_BITS

Numbers = NDArray[np.uint64]
Part = tuple[int, int]
"""The hash of an aggregate, and lane 0 of one of its facts (of what is taken away: negative)."""


def number_of(aggregate_hash: int, bits: int) -> int:
    """Return an aggregate's number among ``2**(bits + 24)``.

    >>> number_of(0xABCDEF0123456789, 8) == 0xABCDEF01
    True
    """
    return aggregate_hash >> (64 - bits - BELOW_BUCKET_BITS)


class Sketches:
    """The sketches of one view of one partition, for each bucket that was built.

    A bucket that is not built takes no changes: what it holds is not known.

    Parameters
    ----------
    bits: The digest's.
    is_empty: Whether there are no facts yet, so that every bucket is built.
    """

    __slots__ = (
        "_bucket_shift",
        "_built",
        "_cells",
        "_column_rows",
        "_columns",
        "_is_built",
        "_pending",
        "_shift",
        "bits",
    )

    def __init__(self, bits: int, *, is_empty: bool = False) -> None:
        if bits > MAXIMUM_SKETCH_BITS:
            raise ValueError(f"there are no sketches for {bits} bits")
        self.bits = bits
        self._shift = np.uint64(64 - bits - BELOW_BUCKET_BITS)
        self._bucket_shift = np.uint64(64 - bits)
        self._is_built = np.full(1 << bits, is_empty)
        self._built = (1 << bits) if is_empty else 0
        self._cells: NDArray[np.uint64] | None = None
        self._pending: list[Part] = []
        self._columns: list[tuple[Numbers, Numbers]] = []
        self._column_rows = 0

    def is_built(self, bucket: int) -> bool:
        """Say whether a bucket's sketch can be asked for."""
        return bool(self._is_built[bucket])

    def change(self, parts: Iterable[Part]) -> None:
        """Count facts that came or went."""
        if not self._built:
            return
        self._pending.extend(parts)
        if len(self._pending) > MAXIMUM_PENDING:
            self._flush()

    def change_columns(self, hashes: Numbers, lanes: Numbers) -> None:
        """Count facts as `change` does, by columns as of `add`, which must stay as they are."""
        if not self._built:
            return
        self._columns.append((hashes, lanes))
        self._column_rows += len(hashes)
        if self._column_rows > MAXIMUM_PENDING or len(self._columns) > MAXIMUM_PENDING_COLUMNS:
            self._flush()

    def add(self, hashes: Numbers, lanes: Numbers) -> None:
        """Count facts by columns: hashes of their aggregates, and lanes 0."""
        if not len(hashes) or not self._built:
            return
        if self._cells is None:
            self._cells = np.zeros((2, CELLS << self.bits), np.uint64)
        if self._built < len(self._is_built):
            wanted = self._is_built[hashes >> self._bucket_shift]
            hashes, lanes = hashes[wanted], lanes[wanted]
        if native_hashing.extension is not None:
            columns = np.ascontiguousarray(hashes), np.ascontiguousarray(lanes)
            native_hashing.extension.add_to_sketches(self._cells, *columns, self.bits)
            return
        numbers = hashes >> self._shift
        buckets = (numbers >> np.uint64(BELOW_BUCKET_BITS)).astype(np.intp)
        mixed = numbers * np.uint64(_MIXER)
        weighed = lanes * numbers
        buckets *= CELLS
        for position in range(POSITIONS):
            row = (mixed >> np.uint64(56 - 8 * position)) & np.uint64(CELLS // POSITIONS - 1)
            places = buckets + (row.astype(np.intp) * POSITIONS + position)
            np.add.at(self._cells[0], places, lanes)
            np.add.at(self._cells[1], places, weighed)

    def build(self, bucket: int, parts: Collection[Part]) -> None:
        """Set a bucket to exactly these facts."""
        self.forget([bucket])
        self._is_built[bucket] = True
        self._built += 1
        if parts:
            self.add(*_columns(parts))

    def add_all(self, other: Sketches, buckets: Sequence[int]) -> None:
        """Add the other's sketches of these buckets, as far as they are built here."""
        for number in buckets:
            if self._is_built[number]:
                self._flush()
                if self._cells is None:
                    self._cells = np.zeros((2, CELLS << self.bits), np.uint64)
                self._cells[:, number * CELLS : (number + 1) * CELLS] += other.cells([number])

    def forget(self, buckets: Iterable[int]) -> None:
        """Take buckets for not built."""
        for bucket in buckets:
            self._flush()
            self._built -= bool(self._is_built[bucket])
            self._is_built[bucket] = False
            if self._cells is not None:
                self._cells[:, bucket * CELLS : (bucket + 1) * CELLS] = 0

    def cells(self, buckets: Sequence[int], size: int = CELLS) -> Numbers:
        """Return the sum of the buckets' sketches in `size` cells: sums, and weighed sums.

        `size` is 8, 16, 32 or 64.
        """
        self._flush()
        total = np.zeros((2, CELLS), np.uint64)
        if self._cells is not None:
            places = np.asarray(buckets, np.intp)
            total = self._cells.reshape(2, -1, CELLS)[:, places].sum(axis=1, dtype=np.uint64)
        while total.shape[1] > size:
            half = total.shape[1] // 2
            total = total[:, :half] + total[:, half:]
        return cast(Numbers, total)

    def _flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, []
            self.add(*_columns(pending))
        if self._columns:
            columns, self._columns, self._column_rows = self._columns, [], 0
            hashes, lanes = zip(*columns, strict=True)
            self.add(np.concatenate(hashes), np.concatenate(lanes))


def _columns(parts: Collection[Part]) -> tuple[Numbers, Numbers]:
    hashes = np.fromiter((hashed for hashed, _ in parts), np.uint64, len(parts))
    return hashes, np.fromiter((lane & MASK for _, lane in parts), np.uint64, len(parts))


def to_bytes(cells: Numbers) -> bytes:
    """Return cells as a message carries them: sum, weighed sum of cell 0, of cell 1, … ."""
    return cells.T.astype(">u8").tobytes()


def from_bytes(data: bytes) -> Numbers:
    """Return the cells that `to_bytes` wrote; raise ValueError on a wrong length."""
    size = len(data) // 16
    if len(data) % 16 or size not in SIZES:
        raise ValueError(f"a sketch has 16 bytes a cell and {SIZES} cells, not {len(data)} bytes")
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2).T.copy()


def pack_numbers(numbers: Iterable[int], bits: int) -> bytes:
    """Return aggregates' numbers as a message carries them, each in as few bytes as all need.

    >>> unpack_numbers(pack_numbers([1, 2**36 - 1], 12), 12) == [1, 2**36 - 1]
    True
    """
    width = _width(bits)
    return b"".join(number.to_bytes(width, "big") for number in numbers)


def unpack_numbers(data: bytes, bits: int) -> list[int]:
    """Return the numbers that `pack_numbers` wrote; raise ValueError for what are none."""
    width, end = _width(bits), 1 << (bits + BELOW_BUCKET_BITS)
    places = range(0, len(data), width)
    numbers = [int.from_bytes(data[start : start + width], "big") for start in places]
    if len(data) % width or any(number >= end for number in numbers):
        raise ValueError(f"these are not numbers of {bits} + {BELOW_BUCKET_BITS} bits")
    return numbers


def _width(bits: int) -> int:
    return (bits + BELOW_BUCKET_BITS + 7) // 8


def differing(cells: Numbers, buckets: Collection[int]) -> list[int] | None:
    """Return the numbers of the aggregates that a difference of two sketches stands for.

    None where there are too many for its cells. `buckets` are those that the sketches are of.
    """
    sums: list[int] = cells[0].tolist()
    weighed: list[int] = cells[1].tolist()
    inside = frozenset(buckets)
    size = len(sums)
    rows = size // POSITIONS
    found: list[int] = []
    waiting = list(range(size))
    # Something wrongly taken for an aggregate could go on for ever.
    for _ in range(8 * size):
        if not waiting:
            break
        cell = waiting.pop()
        number = _only_one(sums[cell], weighed[cell])
        if number is None or number >> BELOW_BUCKET_BITS not in inside:
            continue
        places = _places(number, rows)
        if places[cell % POSITIONS] != cell:
            continue
        lane = sums[cell]
        for place in places:
            sums[place] = (sums[place] - lane) & MASK
            weighed[place] = (weighed[place] - lane * number) & MASK
        found.append(number)
        waiting.extend(place for place in places if place != cell)
    if any(sums) or any(weighed):
        return None
    return sorted(set(found))


def _places(number: int, rows: int) -> list[int]:
    mixed = number * _MIXER & MASK
    return [
        (mixed >> (56 - 8 * position)) % rows * POSITIONS + position
        for position in range(POSITIONS)
    ]


def _only_one(lane: int, weighed: int) -> int | None:
    """Return the number of the aggregate that a cell holds alone; None where it cannot be so."""
    if not lane:
        return None
    zeros = (lane & -lane).bit_length() - 1
    if zeros > _MAXIMUM_ZEROS or weighed & ((1 << zeros) - 1):
        return None
    modulus = 1 << (64 - zeros)
    return (weighed >> zeros) * pow(lane >> zeros, -1, modulus) % modulus
