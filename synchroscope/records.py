"""Many records at once, kept column by column.

Where millions of records go by, an object for each costs more than reading it; who reads all values
of a stretch never needs one. `Records` is a sequence of records like any other, and its columns are
there for those who go over many.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, overload

from synchroscope.ports import Headers, Record


class Columns(NamedTuple):
    """The columns, all of one length: signed integers of 64 bits, and seconds since 1970."""

    offsets: array[int]
    keys: list[bytes]
    values: list[bytes]
    headers: list[Headers]
    timestamps: array[float]


class Records(Sequence[Record]):
    """The records from place ``start`` up to ``stop`` of columns, in the order of their offsets.

    A record is made when it is asked for. A slice shares the columns: nothing is copied.

    >>> records = Records.of([Record(4, b"k", b"v", (), 1.5), Record(7, b"k", b"w", (), 2.5)])
    >>> records[1].value, records.values, records.place_of(5), records[1:].first_offset
    (b'w', [b'v', b'w'], 1, 7)
    """

    __slots__ = ("columns", "start", "stop")

    def __init__(self, columns: Columns, start: int = 0, stop: int | None = None) -> None:
        self.columns = columns
        self.start = start
        self.stop = len(columns.values) if stop is None else stop

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        """Return these records in columns; themselves where they are."""
        if type(records) is cls:
            return records
        known = list(records)
        columns = Columns(
            array("q", [record.offset for record in known]),
            [record.key for record in known],
            [record.value for record in known],
            [record.headers for record in known],
            array("d", [record.timestamp for record in known]),
        )
        return cls(columns)

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> Records: ...

    def __getitem__(self, place: int | slice) -> Record | Records:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                return Records.of(list(self)[place])
            return Records(self.columns, self.start + start, self.start + max(start, stop))
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(f"no record at place {place} of {len(self)}")
        offsets, keys, values, headers, timestamps = self.columns
        at = self.start + number
        return Record(offsets[at], keys[at], values[at], headers[at], timestamps[at])

    def __iter__(self) -> Iterator[Record]:
        # Of copies: the columns may grow meanwhile, and what stands before is not to be made too.
        columns: Iterable[Any] = self.columns
        return map(Record, *[column[self.start : self.stop] for column in columns])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (Records, list)) else NotImplemented

    def __repr__(self) -> str:
        return f"Records.of({list(self)!r})"

    @property
    def is_whole(self) -> bool:
        """Whether these are all the columns hold."""
        return self.start == 0 and self.stop == len(self.columns.values)

    @property
    def offsets(self) -> Sequence[int]:
        """The records' offsets."""
        return self.columns.offsets[self.start : self.stop]

    @property
    def values(self) -> list[bytes]:
        """The records' values."""
        return self.columns.values[self.start : self.stop]

    @property
    def headers(self) -> list[Headers]:
        """The records' headers."""
        return self.columns.headers[self.start : self.stop]

    @property
    def first_offset(self) -> int:
        """The first record's offset; there must be one."""
        return self.columns.offsets[self.start]

    @property
    def last_offset(self) -> int:
        """The last record's offset; there must be one."""
        return self.columns.offsets[self.stop - 1]

    def place_of(self, offset: int) -> int:
        """Return the place of the first record at or after an offset; their number: none is."""
        return bisect_left(self.columns.offsets, offset, self.start, self.stop) - self.start

    def payload_bytes(self) -> int:
        """Return the bytes of all keys and values."""
        _, keys, values, _, _ = self.columns
        sizes = map(len, islice(keys, self.start, self.stop))
        return sum(sizes) + sum(map(len, islice(values, self.start, self.stop)))

    def extend(self, others: Records) -> None:
        """Take records that come after these.

        Slices that were made before are as they were.
        """
        if others.columns is self.columns and others.start == self.stop:
            self.stop = others.stop
            return
        if self.stop < len(self.columns.values):
            mine: Iterable[Any] = self.columns
            self.columns = Columns(*[column[self.start : self.stop] for column in mine])
            self.start, self.stop = 0, len(self)
        columns: Iterable[tuple[Any, Any]] = zip(self.columns, others.columns, strict=True)
        for column, more in columns:
            column.extend(more if others.is_whole else more[others.start : others.stop])
        self.stop += len(others)
