"""What the audit of the hops has read itself: the store's rows and the log's records, by window.

Neither is taken from what a hop says of itself. Of the log, what a view has to apply is kept apart
from what there is: a record that was published again, or an event ID that came before, is there and
is not to be applied again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from synchroscope.digest import event_hash
from synchroscope.errors import InvalidEventError
from synchroscope.event import decode_wire
from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import Record
from synchroscope.recorded import recorded_at, within_era
from synchroscope.tally import NOTHING, StoredRow, Sum, sum_of, window_of
from synchroscope.view import View
from validator.repeats import RecentMarks, store_position

REPEAT_WINDOW = 256
"""Event IDs of a partition that are remembered, for records that no relay of ours published."""
MAXIMUM_BOOKS = 60
"""Windows that are kept, to be judged again when something comes late: the newest ones."""


class EventHead(Struct, frozen=True, rename="camel", gc=False):
    """What is needed to know an event by: the rest is skipped while decoding."""

    event_id: str
    context_type: str = "general"


_decode_head = msgspec.json.Decoder(EventHead).decode


def _applicable_head(record: Record, published: int | None) -> EventHead | None:
    """Return the head of what a replica applies; the command side has checked its own."""
    if published is None:
        try:
            decode_wire(record.value)
        except InvalidEventError:
            return None
    return head_of(record.value)


def head_of(value: bytes) -> EventHead | None:
    """Return the event's head; None for what is no event."""
    try:
        return _decode_head(value)
    except UNDECODABLE:
        return None


class PartitionBook(Struct):
    """One window of one partition of the log.

    ``total`` is everything in it, ``repeated`` what was published before, and ``views`` what each
    view has to apply. ``first`` and ``last`` are offsets.
    """

    total: Sum = NOTHING
    repeated: Sum = NOTHING
    views: dict[str, Sum] = {}
    first: int = 0
    last: int = -1

    @property
    def published(self) -> Sum:
        """What is there without repetitions."""
        return self.total - self.repeated


class Book(Struct):
    """One window: the store's rows in it, from position ``first`` to ``last``, and the log's."""

    store: Sum = NOTHING
    first: int = 0
    last: int = 0
    partitions: dict[int, PartitionBook] = {}


class LogPlace(Struct):
    """Where a partition of the log is read, and what is known of it there."""

    position: int
    start: int
    published: int = 0
    recent: list[int] = []


class Books(Struct):
    """All windows, and how far store and log are read. Windows before ``floor`` are not known."""

    store_position: int
    store_start: int
    places: dict[int, LogPlace]
    floor: int
    windows: dict[int, Book] = {}

    def newest(self, count: int) -> Books:
        """Return the same books with the newest windows only."""
        kept = sorted(self.windows)[len(self.windows) - count :]
        floor = max(self.windows, default=self.floor) + 1 if not kept else kept[0]
        return replace(self, floor=floor, windows={number: self.windows[number] for number in kept})


class BookKeeper:
    """Enters rows and records into the books.

    Parameters
    ----------
    books: Where to go on.
    views: The views whose replicas are audited.
    """

    def __init__(self, books: Books, views: Iterable[View], window_seconds: float) -> None:
        self.books = books
        self._window_seconds = window_seconds
        self._models: dict[str, tuple[str, ...]] = {}
        for view in views:
            for kind in view.fields:
                self._models[kind] = (*self._models.get(kind, ()), view.model)
        self._recent = {
            number: RecentMarks(REPEAT_WINDOW, place.recent)
            for number, place in books.places.items()
        }

    def enter_rows(self, rows: Sequence[StoredRow]) -> None:
        """Enter rows of the store, in the store's order."""
        by_window: dict[int, list[StoredRow]] = {}
        for row in rows:
            if within_era(row.recorded) is not None:
                window = window_of(row.recorded, self._window_seconds)
                by_window.setdefault(window, []).append(row)
        for window, mine in by_window.items():
            book = self._book(window)
            if book is not None:
                book.store += sum_of(row.data for row in mine)
                book.first = book.first or mine[0].position
                book.last = mine[-1].position
        if rows:
            self.books.store_position = rows[-1].position

    def enter_records(self, number: int, records: Sequence[Record], position: int) -> None:
        """Enter records of one partition of the log, in its order."""
        place = self.books.places[number]
        groups: dict[tuple[int, bool, tuple[str, ...]], list[bytes]] = {}
        for record in records:
            published = store_position(record.headers)
            is_repeat = published is not None and published <= place.published
            place.published = max(place.published, published or 0)
            models = () if is_repeat else self._to_apply(number, record, published)
            at = recorded_at(record)
            if at is None:
                continue  # Nobody can say which window it is of.
            window = window_of(at, self._window_seconds)
            part = self._part(window, number, record.offset)
            if part is not None:
                part.last = record.offset
                groups.setdefault((window, is_repeat, models), []).append(record.value)
        # Few sums for many records: those of a batch are alike.
        for (window, is_repeat, models), values in groups.items():
            part, total = self.books.windows[window].partitions[number], sum_of(values)
            part.total += total
            if is_repeat:
                part.repeated += total
            for model in models:
                part.views[model] = part.views.get(model, NOTHING) + total
        place.position = position

    def _to_apply(self, number: int, record: Record, published: int | None) -> tuple[str, ...]:
        """Return the models whose replicas have to apply a record."""
        head = _applicable_head(record, published)
        if head is None:
            return ()
        mark, recent = event_hash(head.event_id), self._recent[number]
        if mark in recent:
            return ()
        recent.add(mark)
        return self._models.get(head.context_type, ())

    def _part(self, window: int, number: int, offset: int) -> PartitionBook | None:
        book = self._book(window)
        if book is None:
            return None
        part = book.partitions.get(number)
        if part is None:
            part = book.partitions[number] = PartitionBook(first=offset)
        return part

    def _book(self, window: int) -> Book | None:
        if window < self.books.floor:
            return None
        book = self.books.windows.get(window)
        if book is None:
            book = self.books.windows[window] = Book()
        return book

    def forget(self, end: int) -> Mapping[int, Book]:
        """Close the books of windows before `end`, and of more where there are too many."""
        numbers = sorted(self.books.windows)
        if len(numbers) > MAXIMUM_BOOKS:
            end = max(end, numbers[-MAXIMUM_BOOKS])
        self.books.floor = max(self.books.floor, end)
        return {number: self.books.windows.pop(number) for number in numbers if number < end}

    def stored(self) -> Books:
        """Return the books as they are to be kept."""
        for number, place in self.books.places.items():
            place.recent = list(self._recent[number])
        return self.books
