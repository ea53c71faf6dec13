"""How far a reader is behind: in records, and in seconds by the records' own timestamps."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from synchroscope.errors import DamagedPartitionError
from synchroscope.ports import EVENTS, Log

CLOCK_TOLERANCE_SECONDS = 1.0
"""By so much the clock of who wrote a record may be ahead of the reader's."""
SHORTEST_SECONDS = 0.001
"""The age of a record that was written just now, by either clock."""


class Lag(Struct, frozen=True):
    """``events`` not yet read, and the age of the first of them; None: not known.

    ``seconds`` is 0 only where nothing is unread.
    """

    events: int | None
    seconds: float | None


def lag_of(log: Log, partition: int, position: int, head: int, now: float) -> Lag:
    """Return the lag of a reader of `context.events` that stands at `position`.

    Nothing to read is no lag at all; a first unread record that does not come is "not known", never
    a lag of 0. Nor is a position beyond the head, which only a log has that was lost and made anew,
    or the age of a record that has no time or one that is still to come.

    Parameters
    ----------
    now: When `head` was asked for, or later.
    """
    if position > head:
        return Lag(None, None)
    if position == head:
        return Lag(0, 0.0)
    try:
        batch = log.read(EVENTS, partition, position, 1)
    except DamagedPartitionError:
        return Lag(head - position, None)
    if batch.records:
        return Lag(head - position, _age(batch.records[0].timestamp, now))
    if batch.position >= head:
        return Lag(0, 0.0)
    return Lag(head - position, None)


def known(lags: Mapping[int, Lag]) -> tuple[dict[int, int], dict[int, float]]:
    """Return events and seconds by partition, of those where they are known.

    >>> known({0: Lag(3, 1.5), 1: Lag(2, None), 2: Lag(None, None)})
    ({0: 3, 1: 2}, {0: 1.5})
    """
    return (
        {number: lag.events for number, lag in lags.items() if lag.events is not None},
        {number: lag.seconds for number, lag in lags.items() if lag.seconds is not None},
    )


def _age(timestamp: float, now: float) -> float | None:
    """Return the age of a record that is not read; None where its time cannot be.

    >>> _age(7.0, 9.0), _age(9.5, 9.0), _age(90.0, 9.0), _age(-0.001, 9.0)
    (2.0, 0.001, None, None)
    """
    if timestamp <= 0 or timestamp - now > CLOCK_TOLERANCE_SECONDS:
        return None
    return max(now - timestamp, SHORTEST_SECONDS)
