"""Where the log holds the event of a store position."""

from __future__ import annotations

from bisect import bisect_right, insort

from synchroscope.ports import Record
from validator.reference import Reference


class EventOffsets:
    """Finds offsets in few reads, and keeps for the next one what was read for one location."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._probes: dict[tuple[int, int], Record | None] = {}
        self._places: dict[int, list[tuple[int, int]]] = {}

    def forget(self) -> None:
        """Drop what was read for one location."""
        self._probes.clear()
        self._places.clear()

    def offset_of(self, partition: int, store_position: int) -> int | None:
        """Find the record of an event: without what is repeated, store positions rise.

        They rise about evenly, so every second place that is looked at is where it would then be,
        the others halve what is left. None where it is not known any more what is repeated.
        """
        low, high = (
            self._reference.repeats_known_from(partition),
            self._reference.position(partition),
        )
        below, above = 0, self._reference.current(partition).store_position + 1
        places = self._places.setdefault(partition, [])
        after = bisect_right(places, (store_position, high))
        if after and places[after - 1][0] == store_position:
            return places[after - 1][1]
        if after:
            below, low = places[after - 1][0], places[after - 1][1] + 1
        if after < len(places):
            above, high = places[after]
        is_guessed = True
        while low < high:
            middle = (low + high) // 2
            if is_guessed and below < store_position < above:
                middle = low + (high - low) * (store_position - below) // (above - below)
            is_guessed = not is_guessed
            place = partition, middle
            if place not in self._probes:
                self._probes[place] = self._reference.record_from(*place)
            record = self._probes[place]
            if record is None or record.offset >= high:
                high = middle
                continue
            stored = record.header("store-position")
            if stored is None or not stored.isdigit():
                return None
            found = int(stored)
            insort(places, (found, record.offset))
            if found == store_position:
                return record.offset
            if found < store_position:
                low, below = record.offset + 1, found
            else:
                high, above = middle, found
        return None
