"""What one key lacks and another should not have: an event that was applied to the wrong one."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import Struct

from validator.attached.book import Book
from validator.attached.classification import OTHER_WRITE, UNKNOWN_VALUE, Cause
from validator.attached.confirmed import Confirmed
from validator.attached.history import Item, entry_at
from validator.attached.row_mapping import RowReader

REMEMBERED = 10_000
LONGEST_TEXT = 64
"""Of longer values only hashes are kept: what a column writes otherwise than the log is short."""
OTHER_SUBJECT = "an event of another subject"
_T = TypeVar("_T")


class _Lacking(Struct, frozen=True):
    """What an event would have brought a key that missed it: field -> hash; short texts too."""

    subject: str
    partition: int
    offset: int
    values: dict[str, int]
    texts: dict[str, str]


class _Stray(Struct, frozen=True):
    """Values that a key has from nowhere: field -> hashes of what they may mean; short ones too."""

    finding_id: str
    values: dict[str, frozenset[int]]
    shorts: dict[str, Any]


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
            values, texts = _values_at(found.item, cause.first_bad)
            place = found.item.partition, cause.first_bad
            lacking = _Lacking(found.name[1], *place, values, texts)
            for hashed in values.values():
                _remember(self._lacking, hashed, finding_id, lacking)
                for stray in list(self._strays.get(hashed, {}).values()):
                    self._match(stray, lacking)
        elif cause.text in (OTHER_WRITE, UNKNOWN_VALUE):
            meanings = {f.name: self._reader.hashes(f.seen, f.name) for f in cause.fields}
            stray = _Stray(
                finding_id, meanings, {f.name: f.seen for f in cause.fields if _is_short(f.seen)}
            )
            for hashed in {one for hashes in meanings.values() for one in hashes}:
                _remember(self._strays, hashed, finding_id, stray)
                for lacking in list(self._lacking.get(hashed, {}).values()):
                    self._match(stray, lacking)

    def _is_same(self, stray: _Stray, lacking: _Lacking, name: str) -> bool:
        if lacking.values.get(name) in stray.values[name]:
            return True
        text, short = lacking.texts.get(name), stray.shorts.get(name)
        return self._reader.means(name, text, short)

    def _match(self, stray: _Stray, lacking: _Lacking) -> None:
        if not all(self._is_same(stray, lacking, name) for name in stray.values):
            return
        finding = self._book.open.get(stray.finding_id)
        if finding is None or "belongs_to" in finding.evidence:
            return
        position = {"partition": lacking.partition, "offset": lacking.offset}
        belongs = {"subject": lacking.subject, "position": position}
        evidence = {**finding.evidence, "cause": OTHER_SUBJECT, "belongs_to": belongs}
        self._book.amend(stray.finding_id, evidence)


def _is_short(value: Any) -> bool:
    return value is None or not isinstance(value, list | dict | str) or len(value) <= LONGEST_TEXT


def _values_at(item: Item, offset: int) -> tuple[dict[str, int], dict[str, str]]:
    """Return what an event made of the item's fields, those included that it did not change."""
    values, texts = {}, {}
    for name, history in item.fields.items():
        entries = history.entries(is_complete=False)
        place = entry_at(entries, offset + 1)
        if place >= 0:
            values[name] = entries[place].value_hash
            known = (v.value for v in history.recent if v.offset == entries[place].offset)
            text = next(known, None)
            if isinstance(text, str) and _is_short(text):
                texts[name] = text
    return values, texts


def _remember(known: dict[int, dict[str, _T]], hashed: int, name: str, what: _T) -> None:
    while len(known) >= REMEMBERED:
        del known[next(iter(known))]
    known.setdefault(hashed, {})[name] = what
