"""Latencies as counts in logarithmic classes: bounded memory, percentiles within five per cent."""

from __future__ import annotations

import math
from collections.abc import Sequence

SMALLEST_SECONDS = 1e-6
GROWTH = 1.05
CLASSES = 400  # up to about 300 s; longer ones are counted in the last class
LONGEST_SECONDS = 1e10
"""What is longer, some 300 years, is no latency: it would make the sum of all worthless."""
MAXIMUM_COUNT = 10**18
"""As many latencies make no sum that is infinite."""
_SCALE = 1.0 / math.log(GROWTH)


def check_told(counts: Sequence[int], total_seconds: float) -> None:
    """Raise `ValueError` where what another told cannot be the counts and sum of `Latencies`.

    >>> check_told([1, 2, 3], 1.0)
    Traceback (most recent call last):
    ...
    ValueError: latencies have 400 counts, not 3
    """
    if len(counts) not in (0, CLASSES):
        raise ValueError(f"latencies have {CLASSES} counts, not {len(counts)}")
    if not all(0 <= count <= MAXIMUM_COUNT for count in counts):
        raise ValueError(f"a count of latencies is not within 0 and {MAXIMUM_COUNT}")
    if not 0 <= total_seconds <= LONGEST_SECONDS * sum(counts):
        raise ValueError(f"{total_seconds} s is no sum of {sum(counts)} latencies")


class Latencies:
    """How long things took.

    >>> latencies = Latencies()
    >>> for seconds in (0.010, 0.020, 0.030): latencies.add(seconds)
    >>> round(latencies.percentile(0.5), 3)
    0.02
    """

    def __init__(self, counts: Sequence[int] = (), total_seconds: float = 0.0) -> None:
        self.counts = list(counts) or [0] * CLASSES
        self.total_seconds = total_seconds

    @property
    def count(self) -> int:
        """How many were added."""
        return sum(self.counts)

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a latency; negative ones (clocks that disagree) count as none.

        What cannot be one, NaN and all above `LONGEST_SECONDS`, is not counted.
        """
        if not seconds <= LONGEST_SECONDS:
            return
        seconds = max(seconds, 0.0)
        place = 0
        if seconds > SMALLEST_SECONDS:
            place = min(int(math.log(seconds / SMALLEST_SECONDS) * _SCALE) + 1, CLASSES - 1)
        self.counts[place] += times
        self.total_seconds += seconds * times

    def merge(self, other: Latencies) -> None:
        """Add another's counts."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total_seconds += other.total_seconds

    def percentile(self, share: float) -> float | None:
        """Return the seconds that `share` of all do not exceed; None when there are none.

        The value is the middle of its class, so at most 2.5 per cent off.
        """
        total = self.count
        if total == 0:
            return None
        rank, seen = share * total, 0
        for place, count in enumerate(self.counts):
            seen += count
            if seen >= rank and count:
                return float(SMALLEST_SECONDS * GROWTH ** (place - 0.5))
        return None

    def at_most(self, seconds: float) -> int:
        """Return how many were at most that long (whole classes)."""
        if seconds <= SMALLEST_SECONDS:
            return self.counts[0]
        place = int(math.log(seconds / SMALLEST_SECONDS) * _SCALE + 1e-9) + 1
        return sum(self.counts[:place])
