"""How far a reader is behind: in records, and in seconds by the records' own timestamps."""

from __future__ import annotations

from msgspec import Struct

from synchroscope.ports import EVENTS, Log


class Lag(Struct, frozen=True):
    """``events`` not yet read, and the age of the first of them; None: not known."""

    events: int | None
    seconds: float | None


def lag_of(log: Log, partition: int, position: int, head: int, now: float) -> Lag:
    """Return the lag of a reader of `context.events` that stands at `position`.

    Nothing to read is no lag at all; a first unread record that does not come is "not known", never
    a lag of 0. Nor is a position beyond the head, which only a log has that was lost and made anew.
    """
    if position > head:
        return Lag(None, None)
    if position == head:
        return Lag(0, 0.0)
    batch = log.read(EVENTS, partition, position, 1)
    if batch.records:
        return Lag(head - position, max(now - batch.records[0].timestamp, 0.0))
    if batch.position >= head:
        return Lag(0, 0.0)
    return Lag(head - position, None)
