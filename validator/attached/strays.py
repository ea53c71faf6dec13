"""What one key lacks and another should not have: an event that was applied to the wrong one."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct

from validator.attached.book import Book
from validator.attached.classification import OTHER_WRITE, UNKNOWN_VALUE, Cause
from validator.attached.confirmed import Confirmed
from validator.attached.history import Item, entry_at
from validator.attached.row_mapping import RowReader

REMEMBERED = 10_000
OTHER_SUBJECT = "an event of another subject"
_T = TypeVar("_T")


class _Lacking(Struct, frozen=True):
    """What an event would have brought a key that missed it."""

    subject: str
    partition: int
    offset: int
    values: dict[str, int]


class _Stray(Struct, frozen=True):
    """Values that a key has from nowhere: field -> hashes of what they may mean."""

    finding_id: str
    values: dict[str, frozenset[int]]


class Strays:
    """Matches the two, whichever is found first, and amends the finding of the stray."""

    def __init__(self, reader: RowReader, book: Book) -> None:
        self._reader = reader
        self._book = book
        self._lacking: dict[int, dict[str, _Lacking]] = {}
        self._strays: dict[int, dict[str, _Stray]] = {}

    def note(self, found: Confirmed, cause: Cause, finding_id: str) -> None:
        """Take a finding that was opened."""
        if cause.kind == "missed" and found.item is not None and cause.first_bad is not None:
            values = _values_at(found.item, cause.first_bad)
            lacking = _Lacking(found.name[1], found.item.partition, cause.first_bad, values)
            for hashed in values.values():
                _remember(self._lacking, hashed, finding_id, lacking)
                for stray in list(self._strays.get(hashed, {}).values()):
                    self._match(stray, lacking)
        elif cause.text in (OTHER_WRITE, UNKNOWN_VALUE):
            meanings = {f.name: self._reader.hashes(f.seen) for f in cause.fields}
            stray = _Stray(finding_id, meanings)
            for hashed in {one for hashes in meanings.values() for one in hashes}:
                _remember(self._strays, hashed, finding_id, stray)
                for lacking in list(self._lacking.get(hashed, {}).values()):
                    self._match(stray, lacking)

    def _match(self, stray: _Stray, lacking: _Lacking) -> None:
        if not all(lacking.values.get(name) in hashes for name, hashes in stray.values.items()):
            return
        finding = self._book.open.get(stray.finding_id)
        if finding is None or "belongs_to" in finding.evidence:
            return
        position = {"partition": lacking.partition, "offset": lacking.offset}
        belongs = {"subject": lacking.subject, "position": position}
        evidence = {**finding.evidence, "cause": OTHER_SUBJECT, "belongs_to": belongs}
        self._book.amend(stray.finding_id, evidence)


def _values_at(item: Item, offset: int) -> dict[str, int]:
    """Return what an event made of the item's fields, those included that it did not change."""
    values = {}
    for name, history in item.fields.items():
        entries = history.entries(is_complete=False)
        place = entry_at(entries, offset + 1)
        if place >= 0:
            values[name] = entries[place].value_hash
    return values


def _remember(known: dict[int, dict[str, _T]], hashed: int, name: str, what: _T) -> None:
    while len(known) >= REMEMBERED:
        del known[next(iter(known))]
    known.setdefault(hashed, {})[name] = what
