"""Reads a store's rows as items: those of some keys, and all of them in a walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from validator.attached.comparison import NOTHING_SEEN
from validator.attached.reference import KeyedReference, item_key
from validator.attached.row_mapping import RowReader, SeenRow
from validator.attached.walk import Walk
from validator.stores.digesting import Keyless
from validator.stores.port import ForeignStore, Key, SeveralReadings


class RowSource:
    """One store through its mapping.

    Parameters
    ----------
    store, number: The store, and the number under which its memory is kept.
    reader: How its rows are to be understood.
    reference: Says which items there are.
    """

    def __init__(
        self, store: ForeignStore, number: int, reader: RowReader, reference: KeyedReference
    ) -> None:
        self.rows_read = 0
        self._store = store
        self._number = number
        self._reader = reader
        self._reference = reference

    def fetch(self, keys: Sequence[bytes]) -> dict[bytes, SeenRow]:
        """Return what the store has of these items as of now."""
        items = self._reference.items(keys)
        places: dict[bytes, Key] = {}
        for key in keys:
            item = items.get(key)
            known = None if item is None else (item.context_type, item.subject)
            place = self._reader.key_of(*(known or self._reference.name_of(key)))
            if place is not None:
                places[key] = place
        owned = self._owned([place for key, place in places.items() if key not in items])
        found = self._store.fetch(places.values())
        self.rows_read += len(places)
        return {
            key: self._reader.read(found.get(place) if owned.get(place, [key]) == [key] else None)
            for key, place in places.items()
        }

    def _owned(self, places: Sequence[Key]) -> dict[Key, list[bytes]]:
        """Return the items whose rows these are, where a row's key can be read in several ways."""
        if not places or not hasattr(self._store, "readings"):
            return {}
        store = cast(SeveralReadings, self._store)
        read = {place: store.readings(place) for place in places}
        several = {
            place: [item_key(*self._reader.name_of(reading)) for reading in readings]
            for place, readings in read.items()
            if len(readings) > 1
        }
        known = self._reference.items({key for keys in several.values() for key in keys})
        owned = {place: [key for key in keys if key in known] for place, keys in several.items()}
        return {place: keys for place, keys in owned.items() if keys}

    def walk_rows(self, walk: Walk, limit: int) -> dict[bytes, SeenRow]:
        """Return the store's next rows; after the last one the walk goes on with items."""
        page = self._store.scan(walk.cursor, limit)
        names: dict[bytes, tuple[str, str]] = {}
        places: dict[Key, bytes] = {}
        for key, _ in page.rows:
            name = self._reader.name_of(key)
            place = item_key(*name)
            names[place], places[key] = name, place
        self._reference.keep_names(names)
        owned = self._owned(list(places))
        rows = {
            place: self._reader.read(row)
            for key, row in page.rows
            for place in owned.get(key, [places[key]])
        }
        self.rows_read += len(page.rows)
        walk.rows += len(page.rows)
        walk.cursor = page.cursor
        if page.cursor is None:
            walk.phase = "items"
        return rows

    def walk_items(self, walk: Walk, limit: int) -> dict[bytes, SeenRow]:
        """Return what the store has of the next items whose rows were not met."""
        rows = self._reference.walk(walk.after, limit)
        if not rows:
            walk.phase = "settling"
            return {}
        walk.after = rows[-1][0]
        walk.items += len(rows)
        mine = [
            key
            for key, item in rows
            if self._reader.key_of(item.context_type, item.subject) is not None and item.is_alive
        ]
        seen = self._reference.seen(self._number, mine)
        left = [key for key in mine if seen.get(key, NOTHING_SEEN).walk != walk.number]
        return self.fetch(left) if left else {}

    def keyless(self) -> int:
        """Return how many rows cannot be met, because a column of their key is NULL."""
        if not hasattr(self._store, "keyless"):
            return 0
        return cast(Keyless, self._store).keyless()

    def close(self) -> None:
        """Close the store."""
        self._store.close()
