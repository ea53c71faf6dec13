"""The rolling scrub of one replica: which bucket is read next, and what was read when.

Stored facts are summed again bucket by bucket, in the background, so that what changed behind the
replica's back is found. Beside that everything stored is looked at in the storage's own order, so
that what stands where no bucket's scan comes by is put where one does. How much was summed, and how
long ago, tells how far that can be relied on.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence

from msgspec import Struct

from synchroscope.ports import Swept
from synchroscope.replica import Replica

COVERAGE_SECONDS = 3_600.0
"""What was read longer ago is not covered any more."""
DEFAULT_SCRUB_INTERVAL_SECONDS = 0.05
DEFAULT_SCRUB_KEYS_PER_SECOND = 10_000.0
SWEPT_KEYS = 20
"""How many keys are looked at beside a bucket that holds fewer."""
_NEVER = float("-inf")


class ScrubStanding(Struct, frozen=True, rename="camel"):
    """How much of one partition was read again from storage.

    ``coverage_ratio`` is the share of its buckets that were in the last `COVERAGE_SECONDS`;
    ``oldest_at`` when the one was that was read longest ago. None: some bucket was not read at all
    since this process took the partition.
    """

    coverage_ratio: float
    oldest_at: float | None


class Scrubbing:
    """Reads buckets in turn, and remembers when each one was read.

    Parameters
    ----------
    replica: Whose storage is read.
    interval_seconds: Least time between two buckets; None: only what is asked for is read.
    keys_per_second: Budget: a bucket is read in one step, and the next one not before that many
        keys have taken their time. Higher: damage is found sooner, at a higher load of the storage.
    """

    def __init__(
        self,
        replica: Replica,
        interval_seconds: float | None = DEFAULT_SCRUB_INTERVAL_SECONDS,
        keys_per_second: float = DEFAULT_SCRUB_KEYS_PER_SECOND,
    ) -> None:
        self._replica = replica
        self._interval_seconds = interval_seconds
        self._keys_per_second = keys_per_second
        self._now = 0.0
        self._read_at: dict[int, array[float]] = {}
        self._place = 0
        self._sweep_place = b""
        self._stepped_at = 0.0
        self._wait_seconds = 0.0
        self.keys = 0
        """How many stored aggregates were read to sum buckets."""
        self.mended = 0
        """How many were put where a scan finds them."""

    def own(self, partitions: Collection[int]) -> None:
        """Look after exactly these partitions."""
        self._read_at = {
            number: self._read_at.get(number) or self._unread() for number in partitions
        }

    def lost(self, partition: int) -> None:
        """Forget what was read of a partition that another process may go on with."""
        self._read_at.pop(partition, None)

    def step(self, now: float) -> bool:
        """Read the next bucket if it is time; say whether it was not what the digest said."""
        self._now = now
        interval = self._interval_seconds
        if interval is None or 0 <= now - self._stepped_at < self._wait_seconds:
            return False
        self._stepped_at = now
        self._wait_seconds = interval
        if not self._read_at:
            return False
        numbers = list(self._read_at)
        partition = numbers[self._place % len(numbers)]
        bucket = self._place // len(numbers) % (1 << self._replica.bits)
        self._place += 1
        before = self.keys
        wrong = self.scrub(partition, (bucket,))
        summed = self.keys - before
        fewest = min(SWEPT_KEYS, int(interval * self._keys_per_second))
        swept = self.sweep(partition, self._sweep_place, max(summed, fewest, 1))
        self._sweep_place = swept.place
        self._wait_seconds = max(interval, (summed + swept.keys) / self._keys_per_second)
        return wrong > 0

    def scrub(self, partition: int, buckets: Sequence[int]) -> int:
        """Read these buckets, as of the last step's time; return how many were wrong."""
        before = self._replica.keys_summed
        wrong = self._replica.scrub(partition, buckets)
        self.keys += self._replica.keys_summed - before
        read_at = self._read_at.get(partition)
        if read_at is not None:
            for bucket in buckets:
                read_at[bucket] = self._now
        return wrong

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Look at some of what is stored, wherever it stands, and mend what scans find it by."""
        swept = self._replica.sweep(partition, place, limit)
        self.mended += swept.mended
        return swept

    def standings(self, now: float) -> dict[int, ScrubStanding]:
        """Return how much of each partition was read, and when."""
        return {
            number: ScrubStanding(
                sum(at > now - COVERAGE_SECONDS for at in read_at) / len(read_at),
                None if (oldest := min(read_at)) == _NEVER else oldest,
            )
            for number, read_at in self._read_at.items()
        }

    def _unread(self) -> array[float]:
        return array("d", [_NEVER]) * (1 << self._replica.bits)
