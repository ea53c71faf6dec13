"""What a store may offer beside the port: digests of buckets, summed where the rows are.

Where both stores of a comparison offer it and speak the same dialect, only buckets that differ have
to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from validator.stores.port import Key

NUMBER_BYTES, SUM_BYTES = 3, 7
"""A bucket's digest: its number, and the sum of its rows' hashes; big-endian."""


class Buckets(Struct, frozen=True):
    """Some buckets: those whose low `bits` of the key's hash are one of `numbers`; None: all."""

    bits: int
    numbers: Sequence[int] | None = None


class Sums(Struct, frozen=True):
    """Digests of buckets that have rows, one after the other in any order, and how many rows."""

    data: bytes
    rows: int


class BucketDigests(Protocol):
    """Digests of one table at one moment: every answer is of the same snapshot.

    A row's bucket is the low bits of a hash of its key, its digest a hash of all of it. The sum of
    the rows' hashes (mod 2^56) is the bucket's, so that two rows never cancel each other.
    """

    def dialect(self) -> str:
        """Return what has to be equal for digests of two stores to be comparable."""
        ...

    def estimate(self) -> int:
        """Return about how many rows there are, without counting them."""
        ...

    def sums(self, within: Buckets, bits: int) -> Sums:
        """Return the digests of all buckets of `bits` bits within some of fewer bits."""
        ...

    def rows(self, within: Buckets) -> Iterator[tuple[Key, bytes]]:
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
        """Return how many rows no key tells; asked for after a walk.

        A column of the key is NULL, or the row's place is no UTF-8 or does not fit the template.
        """
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A store whose answers may take long."""

    def interrupt(self) -> None:
        """Have what is being asked end in an error soon; from any thread."""
        ...
