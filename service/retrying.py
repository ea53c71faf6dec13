"""When to try again what failed: soon at first, then later each time, up to a bound."""

from __future__ import annotations

from typing import Literal

FAILURES_TO_OPEN = 3
RETRY_SECONDS = 0.2
PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 5.0

Circuit = Literal["closed", "open", "half-open"]


def probe_seconds(failures: int) -> float:
    """Return how long an open circuit waits after so many failures in a row.

    >>> [probe_seconds(failures) for failures in (3, 4, 5, 6, 7, 2_000)]
    [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    """
    growth = min(max(failures - FAILURES_TO_OPEN, 0), 16)
    return min(PROBE_SECONDS * 2.0**growth, LONGEST_PROBE_SECONDS)


class Retry:
    """A circuit breaker that is told the time.

    >>> retry = Retry()
    >>> for now in (1.0, 1.2, 1.4): retry.failed(now)
    >>> retry.circuit, retry.is_due(2.0), retry.is_due(2.5), retry.circuit
    ('open', False, True, 'half-open')
    """

    def __init__(self) -> None:
        self.failures = 0
        self._failed_at = 0.0
        self._wait_seconds = 0.0
        self._is_trying = True

    @property
    def circuit(self) -> Circuit:
        """Its state, as for metrics."""
        if self.failures < FAILURES_TO_OPEN:
            return "closed"
        return "half-open" if self._is_trying else "open"

    def is_due(self, now: float) -> bool:
        """Say whether an attempt may be made now."""
        if not self._is_trying:
            # Negative: a clock was set back since.
            self._is_trying = not 0 <= now - self._failed_at < self._wait_seconds
        return self._is_trying

    def failed(self, now: float) -> None:
        """Note that an attempt failed."""
        self.failures += 1
        is_open = self.failures >= FAILURES_TO_OPEN
        self._wait_seconds = probe_seconds(self.failures) if is_open else RETRY_SECONDS
        self._failed_at = now
        self._is_trying = False

    def succeeded(self) -> None:
        """Note that an attempt did what it was made for: the row of failures ends."""
        self.failures = 0
