"""What the audit of the hops has read itself: the store's rows and the log's records, by window.

Neither is taken from what a hop says of itself. Of the log, what a view has to apply is kept apart
from what there is: a record that was published again, or an event ID that came before, is there and
is not to be applied again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from synchroscope.digest import event_hash
from synchroscope.errors import InvalidEventError
from synchroscope.event import decode_wire
from synchroscope.ports import Record
from synchroscope.recorded import recorded_at
from synchroscope.tally import NOTHING, StoredRow, Sum, event_lanes, window_of
from synchroscope.view import View
from validator.repeats import RecentMarks, store_position

REPEAT_WINDOW = 1_024
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
    made_of: str = ""


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
        self._models: dict[str, list[str]] = {}
        for view in views:
            for kind in view.fields:
                self._models.setdefault(kind, []).append(view.model)
        self._recent = {
            number: RecentMarks(REPEAT_WINDOW, place.recent)
            for number, place in books.places.items()
        }

    def enter_rows(self, rows: Sequence[StoredRow]) -> None:
        """Enter rows of the store, in the store's order."""
        for row in rows:
            book = self._book(window_of(row.recorded, self._window_seconds))
            if book is not None:
                book.store += Sum(1, *event_lanes(row.data))
                book.first = book.first or row.position
                book.last = row.position
            self.books.store_position = row.position

    def enter_records(self, number: int, records: Sequence[Record], position: int) -> None:
        """Enter records of one partition of the log, in its order."""
        place, recent = self.books.places[number], self._recent[number]
        for record in records:
            published = store_position(record)
            is_repeat = published is not None and published <= place.published
            place.published = max(place.published, published or 0)
            head = None if is_repeat else _applicable_head(record, published)
            is_new = False
            if head is not None:
                mark = event_hash(head.event_id)
                is_new = mark not in recent
                if is_new:
                    recent.add(mark)
            at = recorded_at(record)
            if at is None:
                continue  # Nobody can say which window it is of.
            book = self._book(window_of(at, self._window_seconds))
            if book is None:
                continue
            models = self._models.get(head.context_type, ()) if head and is_new else ()
            self._enter(book, number, record, models, is_repeat=is_repeat)
        place.position = position

    @staticmethod
    def _enter(
        book: Book, number: int, record: Record, models: Sequence[str], *, is_repeat: bool
    ) -> None:
        part = book.partitions.get(number)
        if part is None:
            part = book.partitions[number] = PartitionBook(first=record.offset)
        one = Sum(1, *event_lanes(record.value))
        part.total += one
        part.last = record.offset
        if is_repeat:
            part.repeated += one
        for model in models:
            part.views[model] = part.views.get(model, NOTHING) + one

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
