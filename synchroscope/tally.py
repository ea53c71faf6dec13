"""How many events passed a hop, and the sum of their hashes, by the time they were recorded.

A window is named by its number: the time at which the command side recorded the event, divided by
the window's length. Every hop knows that time, so all hops agree on an event's window. The sum is
that of the 128-bit hashes of the events' bytes, in two lanes: what is lost, comes twice or is
altered changes it, the order does not. Sums, never XOR: twins would cancel.

A hop publishes its tally on `sync.state`. It says from where to where it counted, and from which
window on it still knows; so nobody takes what was not counted for what was lost.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct
from xxhash import xxh3_128_digest

from synchroscope.digest import MASK, Lanes, lanes_from_hex, lanes_hex
from synchroscope.errors import ConfigurationError
from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import STATE, NewRecord
from synchroscope.recorded import within_era

TALLY_PREFIX = "tally/"
DEFAULT_WINDOW_SECONDS = 10.0
MAXIMUM_WINDOWS = 40
"""Windows that a hop keeps: the newest ones."""
DEFAULT_TELL_SECONDS = 1.0
RELAY, PRODUCER, REPLICA = "relay", "producer", "replica"

_LANES = struct.Struct(">QQ")
Place = tuple[int, int]
"""Partition and window; the partition is 0 where a hop knows none."""


def event_lanes(value: bytes) -> Lanes:
    """Return the two lanes of an event's bytes as they are stored and sent."""
    lane0, lane1 = _LANES.unpack(xxh3_128_digest(value))
    return lane0, lane1


class Sum(Struct, frozen=True, array_like=True):
    """How many events, and the sums of their lanes mod 2^64."""

    count: int = 0
    lane0: int = 0
    lane1: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.count + other.count,
            (self.lane0 + other.lane0) & MASK,
            (self.lane1 + other.lane1) & MASK,
        )

    def __sub__(self, other: Sum) -> Sum:
        return Sum(
            self.count - other.count,
            (self.lane0 - other.lane0) & MASK,
            (self.lane1 - other.lane1) & MASK,
        )


NOTHING = Sum()


def sum_of(values: Iterable[bytes]) -> Sum:
    """Return the sum of these events.

    >>> sum_of([b"a", b"b"]) == sum_of([b"b"]) + sum_of([b"a"])
    True
    >>> sum_of([b"a", b"a"]) == NOTHING
    False
    """
    count = lane0 = lane1 = 0
    for value in values:
        first, second = _LANES.unpack(xxh3_128_digest(value))
        lane0 += first
        lane1 += second
        count += 1
    return Sum(count, lane0 & MASK, lane1 & MASK)


def window_of(at: float, window_seconds: float) -> int:
    """Return the number of the window that a time lies in.

    >>> window_of(29.9, 10.0)
    2
    """
    return int(at // window_seconds)


class StoredRow(Struct, frozen=True, gc=False):
    """An event as the event store holds it: bytes and all, not decoded."""

    position: int
    recorded: float
    data: bytes


class ToldTally(Struct, frozen=True, rename="camel"):
    """A hop's tally as it is published.

    ``start`` and ``end`` are the positions that were counted, the first and the one after the last:
    of the store for the relay, of the partition for a replica; a producer has none. ``windows`` are
    [partition, window, count, sum as 32 hexadecimal digits]; those before ``floor`` are not known
    any more. In the ``doubtful`` windows something was tried of which nobody knows whether it
    happened. ``life`` tells one process from the next of the same name; ``final``: there will be
    no more of this one. ``predecessor`` is what the life before told last: a log may keep only the
    newest record of a key.
    """

    hop: str
    name: str
    life: str
    at: float
    window_seconds: float
    floor: int
    windows: list[tuple[int, int, int, str]]
    started_at: float = 0.0
    partition: int = 0
    start: int = 0
    end: int = 0
    doubtful: list[int] = []
    final: bool = False
    predecessor: ToldTally | None = None

    def sums(self) -> dict[Place, Sum]:
        """Return what was counted, by partition and window."""
        return {
            (partition, window): Sum(count, *lanes_from_hex(lanes))
            for partition, window, count, lanes in self.windows
        }


class Tally:
    """Counts events by partition and window; keeps the newest windows.

    Parameters
    ----------
    window_seconds: Length of a window. Shorter places a loss in less time, and costs more.
    maximum_windows: How many are kept; what is older is forgotten, and `floor` says so.
    """

    def __init__(
        self,
        window_seconds: float = DEFAULT_WINDOW_SECONDS,
        maximum_windows: int = MAXIMUM_WINDOWS,
    ) -> None:
        if not window_seconds > 0 or maximum_windows < 2:
            raise ConfigurationError("a tally needs windows longer than 0 s, and 2 of them or more")
        self.window_seconds = window_seconds
        self.floor = 0
        self.doubtful: set[int] = set()
        self._maximum_windows = maximum_windows
        self._sums: dict[Place, Sum] = {}
        self._windows: set[int] = set()
        self.new_windows = 0
        """Windows begun since the tally was told last."""

    def add(self, at: float, total: Sum, partition: int = 0) -> None:
        """Count events that were recorded at that time; none where it is no time that can be."""
        if within_era(at) is None:
            return
        place = partition, self._open(at)
        if place[1] >= self.floor:
            self._sums[place] = self._sums.get(place, NOTHING) + total

    def add_all(self, events: Iterable[tuple[float, int, bytes]]) -> None:
        """Count (recorded, partition, bytes) of many events."""
        # Events that were stored together were recorded at the same time: few sums for many.
        groups: dict[tuple[float, int], list[bytes]] = {}
        for at, partition, value in events:
            groups.setdefault((at, partition), []).append(value)
        for (at, partition), values in groups.items():
            self.add(at, sum_of(values), partition)

    def doubt(self, at: float) -> None:
        """Note that something recorded at that time may have passed or not."""
        if within_era(at) is None:
            return
        window = self._open(at)
        if window >= self.floor:
            self.doubtful.add(window)

    def _open(self, at: float) -> int:
        window = window_of(at, self.window_seconds)
        if window not in self._windows and window >= self.floor:
            self._windows.add(window)
            self.new_windows += 1
            if len(self._windows) > self._maximum_windows:
                self._forget(min(self._windows))
        return window

    def _forget(self, oldest: int) -> None:
        self._windows.discard(oldest)
        self.doubtful.discard(oldest)
        self.floor = oldest + 1
        self._sums = {place: total for place, total in self._sums.items() if place[1] != oldest}

    def should_be_told(self) -> bool:
        """Say whether to tell at once, before windows are forgotten that nobody was told of."""
        return self.new_windows >= self._maximum_windows // 2

    def sums(self) -> Mapping[Place, Sum]:
        """Return what was counted, by partition and window; not to be changed."""
        return self._sums

    def rows(self, partition: int | None = None) -> list[tuple[int, int, int, str]]:
        """Return the sums as they are published, of one partition if named."""
        return [
            (number, window, total.count, lanes_hex((total.lane0, total.lane1)))
            for (number, window), total in sorted(self._sums.items())
            if partition in (None, number)
        ]

    def restore(self, told: ToldTally) -> None:
        """Go on from what was told."""
        self.floor = told.floor
        self.doubtful = set(told.doubtful)
        self._sums = told.sums()
        self._windows = {window for _, window in self._sums} | self.doubtful


def tally_key(told: ToldTally) -> bytes:
    """Return the record's key in `sync.state`."""
    part = f"/{told.partition}" if told.hop == REPLICA else ""
    return f"{TALLY_PREFIX}{told.hop}/{told.name}{part}".encode()


def tally_note(told: ToldTally) -> NewRecord:
    """Return the log record that publishes a tally."""
    return NewRecord(STATE, 0, tally_key(told), msgspec.json.encode(told))


def decode_tally(data: bytes) -> ToldTally | None:
    """Return the tally; None for what is none of this release."""
    try:
        told = msgspec.json.decode(data, type=ToldTally)
        told.sums()
    except (*UNDECODABLE, ValueError):
        return None
    return told
