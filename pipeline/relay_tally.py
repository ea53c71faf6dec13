"""What the relay has handed to the log, by partition and window; it goes on after a restart."""

from __future__ import annotations

from collections.abc import Sequence

from synchroscope.ports import NewRecord, Record
from synchroscope.tally import (
    DEFAULT_TELL_SECONDS,
    RELAY,
    Tally,
    ToldTally,
    decode_tally,
    tally_key,
    tally_note,
)

Handed = tuple[float, int, bytes]
"""When the event was recorded, its partition, and its bytes."""


class RelayTally:
    """The relay's tally.

    ``end`` is the store position after the last event that is counted. A relay that takes over goes
    on from what was told last and counts again what came after that, be it published already.

    Parameters
    ----------
    name, life: The relay's name, and a new unique one of this process.
    start: Store position up to which earlier relays came, if they told nothing.
    """

    def __init__(self, name: str, life: str, start: int, window_seconds: float) -> None:
        self._name = name
        self._life = life
        self._tally = Tally(window_seconds)
        self._start = self.end = start + 1
        self._told_at: float | None = None
        self._is_news = True
        self.key = tally_key(self._told(0.0))

    def restore(self, record: Record | None) -> None:
        """Go on from what was told last, if that is of use."""
        told = None if record is None else decode_tally(record.value)
        if told is None or told.window_seconds != self._tally.window_seconds:
            return
        self._start, self.end = told.start, told.end
        self._tally.restore(told)

    def hand_over(self, events: Sequence[Handed], last: int) -> None:
        """Count what the log certainly has now, up to store position `last`."""
        self._tally.add_all(events)
        self.end = max(self.end, last + 1)
        self._is_news = True

    def notes(self, now: float) -> list[NewRecord]:
        """Return what is to be published now, if it is time."""
        is_due = self._told_at is None or not 0 <= now - self._told_at < DEFAULT_TELL_SECONDS
        if not self._is_news or not (is_due or self._tally.should_be_told()):
            return []
        self._told_at, self._is_news, self._tally.new_windows = now, False, 0
        return [tally_note(self._told(now))]

    def _told(self, now: float) -> ToldTally:
        tally = self._tally
        return ToldTally(
            RELAY,
            self._name,
            self._life,
            now,
            tally.window_seconds,
            tally.floor,
            tally.rows(),
            start=self._start,
            end=self.end,
        )
