"""The order-independent checksum of a set of facts, split into buckets.

A fact is (context type, subject, field, value). Its 128-bit hash is cut into two lanes of 64 bits;
a bucket is the sum of its facts' lanes, each mod 2^64 (AdHash: Bellare and Micciancio, 1997, "A new
paradigm for collision-free hashing"). Sums, never XOR: twins would cancel. A change is one
subtraction and one addition, so a fold needs no state per key. ``docs/digest-spec.md`` is the
reference; its test vectors are run against this file.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from synchroscope import native_hashing
from synchroscope.canonical import encode
from synchroscope.errors import ConfigurationError
from synchroscope.native_hashing import Key

MASK = (1 << 64) - 1
DEFAULT_BITS = 8
MAXIMUM_BITS = 20

MAXIMUM_RECENT = 8_192
"""Facts whose hashes a `Hasher` remembers."""
MAXIMUM_RECENT_BYTES = 256
"""Values larger than this are hashed each time, so that what is remembered stays small."""

_LANES = struct.Struct(">QQ")
_HEX_DIGITS = frozenset("0123456789abcdef")
_pack = msgspec.msgpack.Encoder().encode
Lanes = tuple[int, int]
Column = NDArray[np.uint64]


class Hasher:
    """Turns facts and applied events into pairs of 64-bit lanes.

    Parameters
    ----------
    algorithm: ``"xxh3-128"`` (default; against accidents and bugs) or ``"blake2b-128"``, keyed,
        where somebody may choose values on purpose to make two states look alike.
    key: 16 to 64 secret bytes for the keyed algorithm; every replica and the validator need it.

    The attribute ``algorithm`` is the name in reports; of the keyed one it ends in a check of the
    key, so that a wrong key is seen as such and not as a divergence. ``is_native`` says whether the
    extension can compute it.
    """

    def __init__(self, algorithm: str = "xxh3-128", key: bytes = b"") -> None:
        self.algorithm = algorithm
        self.is_native = algorithm == "xxh3-128"
        self._recent: dict[tuple[bytes, bytes], Lanes] = {}
        self.applied: Callable[[int, str, int], Lanes] = lru_cache(MAXIMUM_RECENT)(self._applied)
        """(offset, event ID, prior sequence) -> lanes of "applied there, after that sequence"."""
        self.digest: Callable[[bytes], bytes]
        """Canonical bytes -> the 16 bytes of the hash, lane 0 first."""
        if algorithm == "xxh3-128":
            if key:
                raise ConfigurationError("xxh3-128 takes no key; choose blake2b-128")
            self.digest = xxh3_128_digest
        elif algorithm == "blake2b-128":
            if not 16 <= len(key) <= 64:
                raise ConfigurationError("blake2b-128 needs a key of 16 to 64 bytes")
            self.digest = lambda data: hashlib.blake2b(data, digest_size=16, key=key).digest()
            # Another key is another algorithm: nothing that the two say can be compared.
            self.algorithm = f"{algorithm}:{self.digest(b'').hex()[:8]}"
        else:
            raise ConfigurationError(f"unknown hash {algorithm!r}: use xxh3-128 or blake2b-128")

    def fact(self, context_type: str, subject: str, field: str, value: Any) -> Lanes:
        """Return the lanes of one fact."""
        native = native_hashing.extension
        if native is not None and self.is_native:
            found = native.hash_fact(context_type, subject, field, value)
            if found is not None:
                return found
        head = _fact_head(context_type, subject, field)
        # The same facts come again and again: as `current`, as `previous`, in every replica.
        try:
            known = (head, _pack(value))
        except (OverflowError, RecursionError, TypeError, UnicodeEncodeError):
            known = (head, b"")
        lanes = self._recent.get(known)
        if lanes is None:
            lanes = _LANES.unpack(self.digest(head + encode(value)))
            if not 0 < len(known[1]) <= MAXIMUM_RECENT_BYTES:
                return lanes
            if len(self._recent) >= MAXIMUM_RECENT:
                self._recent.clear()
            self._recent[known] = lanes
        return lanes

    def _applied(self, offset: int, event_id: str, prior: int) -> Lanes:
        data = b"\x83" + encode(offset) + encode(event_id) + encode(prior)
        return _LANES.unpack(self.digest(data))


@lru_cache(maxsize=16_384)
def _fact_head(context_type: str, subject: str, field: str) -> bytes:
    return b"\x84" + encode(context_type) + encode(subject) + encode(field)


@lru_cache(maxsize=16_384)
def aggregate_hash(context_type: str, subject: str) -> int:
    """Return the 64-bit hash whose leading bits name an aggregate's bucket."""
    return aggregate_hashes([(context_type, subject)])[0]


def aggregate_hashes(keys: list[Key]) -> list[int]:
    """Return the `aggregate_hash` of each of the aggregates."""
    native = native_hashing.extension
    found = None if native is None else native.hash_aggregates(keys)
    if found is not None:
        return found
    return [xxh3_64_intdigest(b"\x82" + encode(kind) + encode(subject)) for kind, subject in keys]


def event_hash(event_id: str) -> int:
    """Return the 64-bit hash by which a journal entry names an event."""
    return xxh3_64_intdigest(event_id.encode())


class Root(Struct, frozen=True, array_like=True):
    """The sum over all buckets, and how many facts there are."""

    lane0: int
    lane1: int
    facts: int


class Digest:
    """A table of ``2**bits`` buckets, each two lanes and a count of facts, all mod 2^64.

    The columns are there to be read; they are changed by its methods alone.

    >>> hasher, digest = Hasher(), Digest(bits=4)
    >>> fact = hasher.fact("geographic", "user:1", "country", "France")
    >>> digest.add(3, fact); digest.root().facts
    1
    >>> digest.subtract(3, fact); digest.root() == Digest(bits=4).root()
    True
    """

    __slots__ = ("bits", "counts", "lane0", "lane1", "shift")

    def __init__(self, bits: int = DEFAULT_BITS) -> None:
        if not 0 < bits <= MAXIMUM_BITS:
            raise ConfigurationError(f"digest bits must be 1 to {MAXIMUM_BITS}, not {bits}")
        self.bits = bits
        self.shift = 64 - bits
        # Arrays, since single numbers of them are as quick as a list's, and all of them numpy's.
        self.lane0 = array("Q", bytes(8 << bits))
        self.lane1 = self.lane0[:]
        self.counts = self.lane0[:]

    def bucket(self, context_type: str, subject: str) -> int:
        """Return the bucket of an aggregate."""
        return aggregate_hash(context_type, subject) >> self.shift

    def add(self, bucket: int, lanes: Lanes) -> None:
        """Add one fact."""
        self._change(bucket, lanes[0], lanes[1], 1)

    def subtract(self, bucket: int, lanes: Lanes) -> None:
        """Take one fact out."""
        self._change(bucket, -lanes[0], -lanes[1], -1)

    def _change(self, bucket: int, lane0: int, lane1: int, count: int) -> None:
        self.lane0[bucket] = (self.lane0[bucket] + lane0) & MASK
        self.lane1[bucket] = (self.lane1[bucket] + lane1) & MASK
        self.counts[bucket] = (self.counts[bucket] + count) & MASK

    def add_sums(
        self, buckets: NDArray[np.intp], lane0: Column, lane1: Column, counts: Column
    ) -> None:
        """Add sums of many facts, one of each column to each of the buckets, all distinct."""
        for own, sums in ((self.lane0, lane0), (self.lane1, lane1), (self.counts, counts)):
            _view(own)[buckets] += sums

    def sum_of(self, bucket: int) -> Lanes:
        """Return one bucket's lanes."""
        return self.lane0[bucket], self.lane1[bucket]

    def replace(self, bucket: int, facts: Collection[Lanes]) -> bool:
        """Set a bucket to exactly these facts; say whether that is what it held already."""
        held = (*self.sum_of(bucket), self.counts[bucket])
        total = sum_lanes(facts)
        self.lane0[bucket], self.lane1[bucket] = total
        self.counts[bucket] = len(facts)
        return held == (*total, len(facts))

    def root(self) -> Root:
        """Return the sum over all buckets."""
        columns = (self.lane0, self.lane1, self.counts)
        return Root(*(int(np.add.reduce(_view(column))) for column in columns))

    def table(self) -> bytes:
        """Return all buckets: lane 0, lane 1, count of bucket 0, of bucket 1, … (big-endian)."""
        rows = np.empty((len(self.counts), 3), ">u8")
        for place, own in enumerate((self.lane0, self.lane1, self.counts)):
            rows[:, place] = _view(own)
        return rows.tobytes()

    def differing(self, other: Digest) -> list[int]:
        """Return the buckets whose sums or counts differ from the other table's."""
        if self.bits != other.bits:
            raise ConfigurationError("tables of different size cannot be compared")
        is_other = (
            (_view(self.lane0) != _view(other.lane0))
            | (_view(self.lane1) != _view(other.lane1))
            | (_view(self.counts) != _view(other.counts))
        )
        return np.flatnonzero(is_other).tolist()

    def copy(self) -> Digest:
        """Return an independent copy."""
        twin = Digest.__new__(Digest)
        twin.bits, twin.shift = self.bits, self.shift
        twin.lane0, twin.lane1, twin.counts = self.lane0[:], self.lane1[:], self.counts[:]
        return twin

    @classmethod
    def from_table(cls, table: bytes) -> Digest:
        """Return the digest that `table` was made from; raise ValueError on a wrong length."""
        size = len(table) // 24
        if len(table) % 24 or size & (size - 1) or not 2 <= size <= 1 << MAXIMUM_BITS:
            raise ValueError(f"a digest table has 24 * 2**bits bytes, not {len(table)}")
        digest = cls(size.bit_length() - 1)
        columns = np.frombuffer(table, ">u8").astype(np.uint64).reshape(-1, 3).T
        digest.lane0, digest.lane1, digest.counts = (
            array("Q", column.tobytes()) for column in columns
        )
        return digest


def _view(column: array[int]) -> Column:
    return np.frombuffer(column, np.uint64)


def sum_lanes(items: Iterable[Lanes]) -> Lanes:
    """Return the lane-wise sum mod 2^64."""
    lane0 = lane1 = 0
    for first, second in items:
        lane0 += first
        lane1 += second
    return lane0 & MASK, lane1 & MASK


def lanes_hex(lanes: Lanes) -> str:
    """Return 32 hexadecimal digits, lane 0 first."""
    return f"{lanes[0] & MASK:016x}{lanes[1] & MASK:016x}"


def lanes_from_hex(text: str) -> Lanes:
    """Return the lanes that `lanes_hex` wrote."""
    if len(text) != 32 or not _HEX_DIGITS.issuperset(text):
        raise ValueError(f"lanes are 32 hexadecimal digits, not {text!r}")
    return int(text[:16], 16), int(text[16:], 16)
