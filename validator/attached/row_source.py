"""Reads a store's rows as items: those of some keys, and all of them in a walk.

A question is put together and its answer taken in the thread that has the checker's state; the
store itself is asked in between, by `answer`, in whatever thread is the store's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from msgspec import Struct

from validator.attached.comparison import NOTHING_SEEN
from validator.attached.history import Item
from validator.attached.key_forms import (
    CASTING,
    PLAIN,
    is_key_readable,
    is_key_told,
    key_form,
)
from validator.attached.reference import KeyedReference, item_key
from validator.attached.row_mapping import RowReader, SeenRow
from validator.attached.unchecked import KEY_FORM, SHARED_KEY
from validator.attached.walk import Walk
from validator.compare.row_equality import TEXT, TYPED, Kinds
from validator.stores.digesting import Keyless
from validator.stores.port import ForeignStore, Key, Page, Row, SeveralReadings
from validator.stores.text_values import Declaring, DeclaringKeys, Kind, Knowing

FIRST_KEYS = 16
"""So many rows are read by their keys at first, then twice as many each time."""
FETCH_SECONDS = 1.0
"""After so long no more rows are read by their keys: some stores take a request for each."""


class Question(Struct):
    """What a store is asked in one go.

    ``places``: item -> key of its row, the most urgent first; ``met``: items of the reference that
    the walk has come to, of which those that are in ``places`` are to be read.
    """

    places: dict[bytes, Key]
    met: Sequence[bytes] = ()
    page: tuple[str | None, int] | None = None
    wants_keyless: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask."""
        return not self.places and self.page is None and not self.wants_keyless


class Answer(Struct):
    """What it said; ``asked``: how many of the places were asked for before the time was over."""

    rows: dict[Key, Row]
    asked: int
    page: Page | None
    keyless: int | None
    kinds: Kinds
    key_kinds: Sequence[Kind] | None = None


class RowSource:
    """One store through its mapping.

    Parameters
    ----------
    store, number: The store, and the number under which its memory is kept.
    reader: How its rows are to be understood.
    reference: Says which items there are.
    clock: Seconds that only grow.
    """

    def __init__(
        self,
        store: ForeignStore,
        number: int,
        reader: RowReader,
        reference: KeyedReference,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows_read = 0
        self._store = store
        self._number = number
        self._reader = reader
        self._reference = reference
        self._clock = clock
        self._is_casting: bool | None = None
        """Whether it answers to a key that its column writes otherwise; None: not known yet."""
        self._kind: Kind = PLAIN
        """Of the subject's column."""
        self._aside: dict[bytes, bytes] = {}
        """Rows until that is known: their own key -> that of the item that they may be."""

    # -- the question ----------------------------------------------------------------------------

    def question(self, keys: Sequence[bytes], walk: Walk | None, limit: int) -> Question:
        """Return what reads these items, and up to `limit` of what the walk comes to next."""
        keys = [*(self._aside if self._is_casting is False else self._aside.values()), *keys]
        if walk is None:
            return Question(self._places(keys))
        if walk.phase == "rows":
            return Question(self._places(keys), page=(walk.cursor, limit))
        if walk.phase == "items":
            met = self._reference.walk(walk.after, limit)
            mine = [
                key
                for key, item in met
                if self._reader.key_of(item.context_type, item.subject) is not None
                and item.is_alive
            ]
            seen = self._reference.seen(self._number, mine)
            left = [key for key in mine if seen.get(key, NOTHING_SEEN).walk != walk.number]
            return Question(self._places([*keys, *left]), met=[key for key, _ in met])
        return Question(self._places(keys), wants_keyless=True)

    def _places(self, keys: Sequence[bytes]) -> dict[bytes, Key]:
        items = self._reference.items(keys)
        places: dict[bytes, Key] = {}
        for key in keys:
            item = items.get(key)
            known = None if item is None else (item.context_type, item.subject)
            place = self._reader.key_of(*(known or self._reference.name_of(key)))
            if place is not None:
                places[key] = place
        return places

    # -- asking ----------------------------------------------------------------------------------

    def answer(self, question: Question) -> Answer:
        """Ask the store."""
        places = list(dict.fromkeys(question.places.values()))
        rows: dict[Key, Row] = {}
        began, asked, size = self._clock(), 0, FIRST_KEYS
        while asked < len(places) and (not asked or self._clock() - began < FETCH_SECONDS):
            rows |= self._store.fetch(places[asked : asked + size])
            asked, size = asked + size, 2 * size
        page = None if question.page is None else self._store.scan(*question.page)
        keyless = self._keyless() if question.wants_keyless else None
        return Answer(
            rows,
            min(asked, len(places)),
            page,
            keyless,
            self._kinds(),
            self._key_kinds(),
        )

    def _kinds(self) -> Kinds:
        """Return what the store can tell apart."""
        knows = (TYPED if self._store.is_typed else TEXT).knows
        if hasattr(self._store, "knows"):
            knows = cast(Knowing, self._store).knows
        if not hasattr(self._store, "kinds"):
            return Kinds(knows)
        return Kinds(knows, cast(Declaring, self._store).kinds())

    def _key_kinds(self) -> Sequence[Kind] | None:
        """Return of which kinds the key's columns are; None where they have none."""
        if not hasattr(self._store, "key_kinds"):
            return None
        return cast(DeclaringKeys, self._store).key_kinds()

    def _keyless(self) -> int:
        """Return how many rows cannot be met, because a column of their key is NULL."""
        if not hasattr(self._store, "keyless"):
            return 0
        return cast(Keyless, self._store).keyless()

    # -- the answer ------------------------------------------------------------------------------

    def fetched(self, question: Question, answer: Answer) -> dict[bytes, SeenRow]:
        """Return what the store has of the items that were asked for, as far as it came."""
        self._reader.declare(answer.kinds.knows, answer.kinds.declared)
        if answer.key_kinds is not None:
            self._kind = self._reader.subject_kind(answer.key_kinds)
            if self._kind in CASTING:
                self._is_casting = True
        asked = set(list(dict.fromkeys(question.places.values()))[: answer.asked])
        places = {key: place for key, place in question.places.items() if place in asked}
        items = self._reference.items(places)
        owned = self._owned([place for key, place in places.items() if key not in items])
        others = {self._formed(key): row for key, row in answer.rows.items() if key not in asked}
        self._note_casting(places, is_casting=bool(others))
        self.rows_read += len(places)

        def row_of(place: Key) -> Row | None:
            found = answer.rows.get(place)
            return others.get(self._formed(place)) if found is None and others else found

        return {
            key: self._reader.read(row_of(place) if owned.get(place, [key]) == [key] else None)
            for key, place in places.items()
        }

    def _note_casting(self, fetched: Mapping[bytes, Key], *, is_casting: bool) -> None:
        """Learn whether an item's row was there under a key that its column writes otherwise."""
        if is_casting:
            self._is_casting = True
        elif self._is_casting is None and any(item in fetched for item in self._aside.values()):
            self._is_casting = False  # It has the row, and does not call it so.
            return
        looked = {own for own, item in self._aside.items() if own in fetched or item in fetched}
        self._aside = {own: item for own, item in self._aside.items() if own not in looked}

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

    def walked(
        self, question: Question, answer: Answer, fetched: dict[bytes, SeenRow], walk: Walk
    ) -> dict[bytes, SeenRow]:
        """Move the walk on; return the rows of the page that it asked for."""
        if answer.page is not None:
            return self._paged(answer.page, walk)
        for key in question.met:
            if key in question.places and key not in fetched:
                break  # There was no time for it.
            walk.after = key
            walk.items += 1
        return {}

    def _paged(self, page: Page, walk: Walk) -> dict[bytes, SeenRow]:
        names: dict[bytes, tuple[str, str]] = {}
        places: dict[Key, bytes] = {}
        for key, _ in page.rows:
            name = self._reader.name_of(key)
            place = item_key(*name)
            names[place], places[key] = name, place
        aliases: dict[bytes, bytes] = {}
        if self._is_casting is not False:
            forms = {item_key(*name): self._form_of(name) for name in names.values()}
            aliases = self._reference.aliases(forms, self._kind)
        if self._is_casting is None:
            self._aside |= aliases
            places = {key: place for key, place in places.items() if place not in aliases}
        else:
            places = {key: aliases.get(place, place) for key, place in places.items()}
        self._reference.keep_names(names)
        owned = self._owned(list(places))
        rows = {
            place: self._reader.read(row)
            for key, row in page.rows
            if key in places
            for place in owned.get(key, [places[key]])
        }
        self.rows_read += len(page.rows)
        walk.rows += len(page.rows)
        walk.cursor = page.cursor
        if page.cursor is None:
            walk.phase = "items"
        return rows

    # -- keys that the store writes otherwise ----------------------------------------------------

    def key_doubts(
        self, rows: Mapping[bytes, SeenRow], items: Mapping[bytes, Item]
    ) -> dict[bytes, str]:
        """Return of which keys it is not known whether a row is the item's, and why."""
        shared = self._reference.shared(items, self._kind) if self._is_casting else set()
        found = dict.fromkeys(shared, SHARED_KEY)
        if self._kind not in CASTING:
            return found
        for key, row in rows.items():
            item = items.get(key)
            if item is None:
                is_known = not row.is_there or is_key_told(
                    self._kind, self._reference.name_of(key)[1]
                )
            else:
                is_known = row.is_there or is_key_readable(self._kind, item.subject)
            if not is_known:
                found.setdefault(key, KEY_FORM)
        return found

    def _form_of(self, name: tuple[str, str]) -> bytes:
        return item_key(name[0], key_form(self._kind, name[1]))

    def _formed(self, key: Key) -> Key:
        return tuple(key_form(self._kind, part) for part in key)

    def close(self) -> None:
        """Close the store."""
        self._store.close()
