"""A topic, stores and consumers in memory, with attached mode's role over them and a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from synchroscope.errors import SynchroscopeError, UnavailableError
from validator.attached.book import Book
from validator.attached.checker import StoreChecker
from validator.attached.port import MemoryTopic
from validator.attached.record_mapping import RecordMapping, RecordReader
from validator.attached.reference import KeyedReference
from validator.attached.row_mapping import RowMapping, RowReader
from validator.attached.store_settings import StoreSettings
from validator.attached.validator import AttachedValidator, Begin
from validator.finding import Finding
from validator.stores.port import DamagedRow, Key, Page, Row

SETTINGS = StoreSettings(
    name="store", settle_seconds=2.0, recheck_seconds=1.0, walk_seconds=5.0, order_seconds=0.5
)
MAPPING = RecordMapping(subject="key", type="t")
ROWS = RowMapping(subject="id", type="t")


class MemoryStore:
    """The `ForeignStore` port on a dictionary."""

    name, is_typed = "memory", True
    key_columns: tuple[str, ...] = ("id",)

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.is_away = False
        self.broken: SynchroscopeError | None = None
        self.without_key = 0
        self.reads = 0

    def columns(self) -> list[str] | None:
        return None

    def scan(self, cursor: str | None, limit: int) -> Page:
        self._ask()
        keys = sorted(key for key in self.rows if cursor is None or key > cursor)[:limit]
        self.reads += len(keys)
        rows: list[tuple[Key, Row]] = [((key,), self._row(key)) for key in keys]
        return Page(rows, keys[-1] if len(keys) == limit else None)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        self._ask()
        keys = list(keys)
        self.reads += len(keys)
        return {key: self._row(key[0]) for key in keys if key[0] in self.rows}

    def _row(self, key: str) -> Row:
        row = self.rows[key]
        return row if isinstance(row, DamagedRow) else dict(row)

    def _ask(self) -> None:
        if self.is_away:
            raise UnavailableError("memory", "is away")
        if self.broken is not None:
            raise self.broken

    def keyless(self) -> int:
        return self.without_key

    def close(self) -> None:
        """Nothing is held."""


class HeldAsking:
    """The `Asking` port of a store that can be made to hang."""

    def __init__(self) -> None:
        self.is_held = False
        self._held: list[tuple[Callable[[], Any], Future[Any]]] = []

    def ask(self, act: Callable[[], Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        self._held.append((act, answer))
        if not self.is_held:
            self.release()
        return answer

    def release(self) -> None:
        """Go on."""
        self.is_held = False
        for act, answer in self._held:
            try:
                answer.set_result(act())
            except Exception as error:
                answer.set_exception(error)
        self._held.clear()

    def close(self, act: Callable[[], Any]) -> Future[Any]:
        return self.ask(act)


class AttachedWorld:
    """Time passes in `run`; the consumer applies what is sent at once, unless it is stopped."""

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings = SETTINGS,
        begin: Begin = "earliest",
        topic: MemoryTopic | None = None,
        rows: RowMapping = ROWS,
        records: RecordMapping = MAPPING,
    ) -> None:
        self.now = 1_000.0
        self.topic = topic or MemoryTopic(2)
        self.store = MemoryStore()
        self.asking = HeldAsking()
        self.is_consuming = True
        self._folder, self._settings, self._begin = folder, settings, begin
        self._rows, self.records = rows, records
        self._consumed: dict[int, int] = {}
        self._lost: set[tuple[int, int]] = set()
        self.news: list[Finding] = []
        self.open()

    def open(self) -> None:
        """Start the role, anew or again."""
        reference = KeyedReference(self._folder, "x", map_bytes=1 << 20)
        book = Book(reference)
        reader = RowReader(self._rows, self.store.key_columns)
        number = reference.number_of("store")
        self.checker = StoreChecker(
            self._settings, number, self.store, reader, reference, book, [1.0, 10.0], self.asking
        )
        self.validator = AttachedValidator(
            self.topic,
            RecordReader(self.records),
            reference,
            [self.checker],
            book,
            begin=self._begin,
        )

    def send(self, user: str, fields: dict[str, Any] | None, *, is_lost: bool = False) -> int:
        """Append an event; return its offset. A lost one is passed over by the consumer."""
        value = b"" if fields is None else json.dumps(fields).encode()
        partition = self.partition(user)
        offset = self.topic.append(partition, user.encode(), value, self.now)
        if is_lost:
            self._lost.add((partition, offset))
        self.consume()
        return offset

    def send_bytes(self, user: str, value: bytes) -> int:
        """Append what the consumer passes over; return its offset."""
        partition = self.partition(user)
        offset = self.topic.append(partition, user.encode(), value, self.now)
        self._lost.add((partition, offset))
        return offset

    def partition(self, user: str) -> int:
        """Return the partition of a user."""
        return sum(user.encode()) % 2

    def consume(self) -> None:
        """Apply what has come since, in order."""
        if not self.is_consuming:
            return
        for partition in range(2):
            batch = self.topic.read(partition, self._consumed.get(partition, 0), 1_000_000)
            self._consumed[partition] = batch.position
            for record in batch.records:
                if (partition, record.offset) in self._lost:
                    continue
                if not record.value:
                    self.store.rows.pop(record.key.decode(), None)
                else:
                    row = self.store.rows.setdefault(record.key.decode(), {})
                    row.update(json.loads(record.value))

    def run(self, seconds: float, *, traffic: bool = True) -> None:
        """Let time pass, with an event of some other user each half second."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            if traffic and round(self.now * 10) % 5 == 0:
                for number in range(2):
                    self.send(f"busy-{number}", {"n": round(self.now * 10)})
            self.validator.step(lambda: self.now)
            self.news += self.validator.book.take_news()

    def verdict(self) -> tuple[str, str]:
        """Return the store's verdict and why."""
        (standing,) = self.validator.standings(self.now)
        return standing.verdict, standing.reason

    def verdict_of(self, store: str) -> str:
        """Return the verdict of one of several stores."""
        return {one.name: one.verdict for one in self.validator.standings(self.now)}[store]

    def open_findings(self) -> list[Finding]:
        """Return the findings that are open."""
        return list(self.validator.book.open.values())
