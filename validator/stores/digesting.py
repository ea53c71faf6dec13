"""What a store may offer beside the port: digests of buckets, summed where the rows are.

Where both stores of a comparison offer it and speak the same dialect, only buckets that differ have
to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from validator.stores.port import Key

SUM_BYTES = 12
"""A bucket's digest: 8 bytes sum of its rows' hashes, 4 bytes count of rows; big-endian."""


class BucketDigests(Protocol):
    """Digests of one table at one moment: every answer is of the same snapshot.

    A row's bucket is given by a hash of its key, its digest by a hash of all of it. The sum of the
    rows' hashes is the bucket's, so that two rows never cancel each other.
    """

    def dialect(self) -> str:
        """Return what has to be equal for digests of two stores to be comparable."""
        ...

    def estimate(self) -> int:
        """Return about how many rows there are, without counting them."""
        ...

    def sum_up(self, bucket_bits: int, group_bits: int) -> bytes:
        """Read all rows, keep the digests of 2^bucket_bits buckets, return those of 2^group_bits.

        A group is that many neighbouring buckets; `SUM_BYTES` each, in order.
        """
        ...

    def buckets(self, groups: Sequence[int]) -> bytes:
        """Return the digests of all buckets of these groups, in order."""
        ...

    def rows(self, buckets: Sequence[int]) -> Iterator[tuple[Key, bytes]]:
        """Return key and digest of all rows in these buckets."""
        ...

    def close(self) -> None:
        """Release the snapshot."""
        ...


class Digesting(Protocol):
    """A store that offers digests."""

    def digests(self) -> BucketDigests:
        """Begin a snapshot."""
        ...


class Keyless(Protocol):
    """A store whose rows may lack a key."""

    def keyless(self) -> int:
        """Return how many rows cannot be told by a key, because a column of it is NULL."""
        ...
