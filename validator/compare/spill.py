"""Joins two sides of (key, digest) pairs of any size in bounded memory, over files if need be.

Each side is divided by a hash of the key (a Grace hash join): a part is small enough to be held,
and the two parts of one number hold the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from synchroscope.errors import ConfigurationError, StorageError
from validator.stores.port import Key

PARTS = 256
BUFFERED_BYTES = 32 << 20
_LENGTH_BYTES = 4
TWICE = b"twice: "
"""Begins the digest of a row that was shown twice, not alike."""


class Pair(Struct, frozen=True):
    """A key, and what each side has of it; None: nothing."""

    key: Key
    left: bytes | None
    right: bytes | None
    written: tuple[Key | None, Key | None] = (None, None)
    """How the sides write the key, where it is not alike."""

    @property
    def shown_key(self) -> Key:
        """The key as the left side writes it, or else the right one."""
        left, right = self.written
        return left or (self.key if self.left is not None else right or self.key)


class _Side:
    """What one store has: (key, digest), written to files once there is much of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._buffers = [bytearray() for _ in range(PARTS)]
        self._buffered_bytes = 0
        self.count = 0

    def add(self, key: Key, digest: bytes, written: Key | None = None) -> None:
        """Take a row; ``written``: its key as the store has it, where that is another."""
        try:
            data = msgspec.msgpack.encode((key, digest, written))
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{self._name} has the key {', '.join(map(ascii, key))}, which is no Unicode: "
                "correct the row, or name other key columns"
            ) from None
        buffer = self._buffers[xxh3_64_intdigest("\x1f".join(key).encode()) % PARTS]
        buffer += len(data).to_bytes(_LENGTH_BYTES, "little") + data
        self._buffered_bytes += len(data) + _LENGTH_BYTES
        self.count += 1
        if self._buffered_bytes >= BUFFERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        try:
            for number, buffer in enumerate(self._buffers):
                if buffer:
                    with (self._folder / str(number)).open("ab") as file:
                        file.write(buffer)
                    buffer.clear()
        except OSError as error:
            raise StorageError(
                f"{self._folder}: {error.strerror}: set TMPDIR to a folder with more room"
            ) from error
        self._buffered_bytes = 0

    def part(self, number: int) -> Iterator[tuple[Key, bytes, Key | None]]:
        """Return one part's rows, in the order in which they were taken."""
        path = self._folder / str(number)
        for data in (path.read_bytes() if path.exists() else b"", bytes(self._buffers[number])):
            place = 0
            while place < len(data):
                size = int.from_bytes(data[place : place + _LENGTH_BYTES], "little")
                place += _LENGTH_BYTES
                yield _DECODER.decode(data[place : place + size])
                place += size


_DECODER = msgspec.msgpack.Decoder(tuple[tuple[str, ...], bytes, tuple[str, ...] | None])


class HashJoin:
    """Takes the rows of two sides, and tells the keys on which they differ.

    Parameters
    ----------
    left_name, right_name: For messages.
    unique: Whether a key that comes twice is an error, left and right. Else one row was shown
        twice; where it was not shown alike, the key counts as differing.
    """

    def __init__(self, left_name: str, right_name: str, *, unique: Sequence[bool]) -> None:
        self._temporary = TemporaryDirectory(prefix="synchroscope-compare-")
        self._names = (left_name, right_name)
        self._unique = unique
        self._sides = []
        for side, name in (("left", left_name), ("right", right_name)):
            folder = Path(self._temporary.name) / side
            folder.mkdir()
            self._sides.append(_Side(folder, name))
        self.left, self.right = self._sides

    def differing(self) -> Iterator[Pair]:
        """Return the keys whose digests differ, or that only one side has."""
        for number in range(PARTS):
            left, mine = self._keyed(0, number)
            right, other = self._keyed(1, number)
            for key, digest in left.items():
                found = right.pop(key, None)
                if found != digest:
                    yield Pair(key, digest, found, (mine.get(key), other.get(key)))
            for key, digest in right.items():
                yield Pair(key, None, digest, (None, other.get(key)))

    def _keyed(self, side: int, number: int) -> tuple[dict[Key, bytes], dict[Key, Key]]:
        """Return digests by key, and keys that are written otherwise."""
        keyed: dict[Key, bytes] = {}
        written: dict[Key, Key] = {}
        for key, digest, form in self._sides[side].part(number):
            if key in keyed and (self._unique[side] or written.get(key) != form):
                raise ConfigurationError(
                    f"{self._names[side]} has two rows with the key {', '.join(key)}: "
                    "name more key columns"
                )
            if form is not None:
                written[key] = form
            if keyed.setdefault(key, digest) != digest:
                keyed[key] = TWICE + bytes([side])
        return keyed, written

    def __enter__(self) -> HashJoin:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._temporary.cleanup()
