"""Which rows have to be read? Where both stores sum up buckets themselves: those that differ.

One reading of each table sums up buckets of some hundred rows. Where few of them differ, their rows
are read; where many do, those are summed up once more, in buckets of some rows each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from validator.stores.digesting import NUMBER_BYTES, SUM_BYTES, BucketDigests, Buckets, Sums
from validator.stores.port import Key

ROWS_PER_BUCKET = 128
"""Of the first reading. More of them move fewer digests then, and more of them or rows later."""
ROWS_PER_SMALL_BUCKET = 8
ROWS_AT_ONCE = 20_000
"""Where so many rows lie in buckets that differ, these are summed up in smaller ones first."""
MINIMUM_BITS, MAXIMUM_BITS, MAXIMUM_SMALL_BITS = 4, 16, 22
_SUM = struct.Struct(f">BH{SUM_BYTES}s")
assert _SUM.size == NUMBER_BYTES + SUM_BYTES
assert 8 * NUMBER_BYTES >= MAXIMUM_SMALL_BITS
_NO_ROWS = bytes(SUM_BYTES)
_Answer = TypeVar("_Answer")


def bits_for(rows: int, rows_per_bucket: int) -> int:
    """Return how many bits tell buckets of about so many rows.

    >>> bits_for(1_000_000, 128), bits_for(1_000_000, 16), bits_for(10, 16)
    (13, 16, 4)
    """
    return max((rows // rows_per_bucket).bit_length(), MINIMUM_BITS)


class Narrowing:
    """Two stores of one dialect; every question goes to both at once.

    Parameters
    ----------
    left, right: The stores' digests.
    workers: One executor a side; what is called of a side is called there.
    """

    def __init__(
        self, left: BucketDigests, right: BucketDigests, workers: Sequence[Executor]
    ) -> None:
        self._sides = (left, right)
        self._workers = workers
        self.rows_read = [0, 0]
        self.buckets_differing = 0
        self.buckets_total = 0

    def _both(self, act: Callable[[BucketDigests], _Answer]) -> list[_Answer]:
        asked = [
            worker.submit(act, side)
            for worker, side in zip(self._workers, self._sides, strict=True)
        ]
        return [one.result() for one in asked]

    def differing_buckets(self) -> Buckets:
        """Return the buckets whose digests differ."""
        rows = max(self._both(lambda side: side.estimate()))
        bits = min(bits_for(rows, ROWS_PER_BUCKET), MAXIMUM_BITS)
        found = self._differing(Buckets(bits), bits)
        rows = max(self.rows_read)
        expected = rows * len(found.numbers or ()) >> bits
        small = min(bits_for(rows, ROWS_PER_SMALL_BUCKET), MAXIMUM_SMALL_BITS)
        if expected > ROWS_AT_ONCE and small > bits:
            found = self._differing(found, small)
        self.buckets_differing = len(found.numbers or ())
        self.buckets_total = 1 << found.bits
        return found

    def _differing(self, within: Buckets, bits: int) -> Buckets:
        left, right = self._both(lambda side: side.sums(within, bits))
        if within.numbers is None:
            self.rows_read = [left.rows, right.rows]
        mine, other = _by_bucket(left), _by_bucket(right)
        different = [n for n, total in mine.items() if other.get(n, _NO_ROWS) != total]
        different += [n for n, total in other.items() if total != _NO_ROWS and n not in mine]
        return Buckets(bits, sorted(different))

    def rows(self, side: int, within: Buckets) -> Iterator[tuple[Key, bytes]]:
        """Return key and digest of a side's rows in these buckets."""
        return self._sides[side].rows(within)

    def close(self) -> None:
        """Release both snapshots."""
        for side in self._sides:
            side.close()


def _by_bucket(sums: Sums) -> dict[int, bytes]:
    return {high << 16 | low: total for high, low, total in _SUM.iter_unpack(sums.data)}
