"""Reversals that were told one by one, until it shows whether they were the first of many."""

from __future__ import annotations

from collections.abc import Mapping

from validator.attached.book import Book
from validator.attached.restores import Reversal, fits

REMEMBERED_SECONDS = 120.0
MAXIMUM_TOLD = 1_000


class ToldEarly:
    """The single findings of a store that went back, those of the last minutes."""

    def __init__(self, store: str, book: Book) -> None:
        self._store = store
        self._book = book
        self._told: dict[bytes, tuple[Reversal, float]] = {}

    def note(self, row: Reversal, now: float) -> None:
        """Take one that was told by itself."""
        if len(self._told) >= MAXIMUM_TOLD:
            del self._told[next(iter(self._told))]
        self._told[row.key] = row, now

    def join(self, bulk: str, positions: Mapping[int, tuple[int, int]], now: float) -> list[bytes]:
        """Close what turns out to be part of a finding of many; return its items."""
        joined = []
        for key, (row, told_at) in list(self._told.items()):
            opened = self._book.of_item(self._store, key)
            if not opened or now - told_at > REMEMBERED_SECONDS:
                del self._told[key]
            elif fits(positions, row):
                del self._told[key]
                joined.append(key)
                for name, finding in list(opened.items()):
                    self._book.amend(name, {**finding.evidence, "part_of": bulk})
                    self._book.resolve(name, now)
        return joined
