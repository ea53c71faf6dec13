"""Which rows have to be read? Where both stores sum up buckets themselves: those that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from validator.stores.digesting import SUM_BYTES, BucketDigests
from validator.stores.port import Key

ROWS_PER_BUCKET = 16
"""More of them move fewer digests and more rows."""
MAXIMUM_BUCKET_BITS = 20
BUCKETS_PER_GROUP_BITS = 4
MINIMUM_GROUP_BITS = 4
_SUM = np.dtype([("sum", ">i8"), ("rows", ">i4")])
assert _SUM.itemsize == SUM_BYTES
_MODULUS = np.uint64(2**63)


def sizes(rows: int) -> tuple[int, int]:
    """Return bits of buckets and of groups for about so many rows.

    >>> sizes(1_000_000), sizes(100), sizes(10**9)
    ((16, 12), (8, 4), (20, 16))
    """
    wanted = max(rows // ROWS_PER_BUCKET, 1).bit_length()
    bits = min(max(wanted, MINIMUM_GROUP_BITS + BUCKETS_PER_GROUP_BITS), MAXIMUM_BUCKET_BITS)
    return bits, bits - BUCKETS_PER_GROUP_BITS


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

    def _both(self, act: Callable[[BucketDigests], bytes]) -> list[NDArray[np.void]]:
        asked = [
            worker.submit(act, side)
            for worker, side in zip(self._workers, self._sides, strict=True)
        ]
        return [np.frombuffer(one.result(), _SUM) for one in asked]

    def differing_buckets(self) -> list[int]:
        """Return the buckets whose digests differ, after one reading of each table."""
        rows = max(side.estimate() for side in self._sides)
        bucket_bits, group_bits = sizes(rows)
        self.buckets_total = 1 << bucket_bits
        left, right = self._both(lambda side: side.sum_up(bucket_bits, group_bits))
        self.rows_read = [int(one["rows"].sum(dtype=np.int64)) for one in (left, right)]
        groups = np.flatnonzero(_differ(left, right))
        if not len(groups):
            return []
        asked = groups.tolist()
        left, right = self._both(lambda side: side.buckets(asked))
        below = np.arange(1 << (bucket_bits - group_bits))
        numbers = ((groups[:, None] << (bucket_bits - group_bits)) + below).ravel()
        found: list[int] = numbers[_differ(left, right)].tolist()
        self.buckets_differing = len(found)
        return found

    def rows(self, side: int, buckets: Sequence[int]) -> Iterator[tuple[Key, bytes]]:
        """Return key and digest of a side's rows in these buckets."""
        return self._sides[side].rows(buckets)

    def close(self) -> None:
        """Release both snapshots."""
        for side in self._sides:
            side.close()


def _differ(left: NDArray[np.void], right: NDArray[np.void]) -> NDArray[np.bool_]:
    # Remainders have the sign of the sum: -1 and 2^63 - 1 are one number.
    sums = [one["sum"].astype(np.int64).view(np.uint64) % _MODULUS for one in (left, right)]
    different: NDArray[np.bool_] = (sums[0] != sums[1]) | (left["rows"] != right["rows"])
    return different
