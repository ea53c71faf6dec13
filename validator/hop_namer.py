"""Reads a window again, from store and log, to say which of its events they are."""

from __future__ import annotations

from typing import Protocol

from synchroscope.ports import EVENTS, Log
from synchroscope.recorded import recorded_at, within_era
from synchroscope.tally import StoredRow, window_of
from validator.hop_books import Book
from validator.hop_naming import Suspect, differing, doubled, lost, name
from validator.hop_verdicts import LOG_REPLICA, PRODUCER_STORE, Comparison

MAXIMUM_READ_AGAIN = 20_000
"""Events of a window that are read again to name some of them."""


class EventRows(Protocol):
    """The event store, as the audit reads it."""

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return events in total order, from the one after position `after` on, as bytes."""
        ...

    def count(self) -> int:
        """Return the highest position."""
        ...


class HopNamer:
    """Names events by reading a window once more.

    Parameters
    ----------
    log, store: Where from.
    window_seconds: Length of a window.
    """

    def __init__(self, log: Log, store: EventRows, window_seconds: float) -> None:
        self._log = log
        self._store = store
        self._window_seconds = window_seconds

    def name(self, window: int, book: Book, one: Comparison) -> list[Suspect] | None:
        """Return the events that make up the difference, read again from store and log."""
        hop, partition = one.place.hop, one.place.partition
        stored = self._stored_values(window, book)
        logged = self._logged_values(window, book, partition if hop == LOG_REPLICA else None)
        if stored is None or logged is None:
            return None
        if hop == PRODUCER_STORE:  # What the store does not have, nobody else can name.
            return name(one.difference, doubled(stored))
        if hop == LOG_REPLICA:
            found = name(one.difference, lost(logged))
            return found or name(one.difference, doubled(logged))
        return name(one.difference, differing(stored, logged)) or name(
            one.difference, doubled(stored)
        )

    def _stored_values(self, window: int, book: Book) -> list[bytes] | None:
        span = book.last - book.first + 1 if book.last else 0
        if span > MAXIMUM_READ_AGAIN:
            return None
        rows = self._store.rows(book.first - 1, span) if span else []
        length = self._window_seconds
        return [
            row.data
            for row in rows
            if within_era(row.recorded) is not None and window_of(row.recorded, length) == window
        ]

    def _logged_values(self, window: int, book: Book, only: int | None) -> list[bytes] | None:
        found: list[bytes] = []
        length = self._window_seconds
        for number, part in book.partitions.items():
            if only not in (None, number):
                continue
            if part.last - part.first >= MAXIMUM_READ_AGAIN:
                return None
            position = part.first
            while position <= part.last:
                batch = self._log.read(EVENTS, number, position, part.last + 1 - position)
                if batch.position <= position:
                    return None
                for record in batch.records:
                    at = recorded_at(record)
                    if at is not None and window_of(at, length) == window:
                        found.append(record.value)
                position = batch.position
        return found
