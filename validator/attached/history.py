"""What a subject was at which position: the last versions of each field, bounded.

Only changes are kept: an event that writes the value again makes no version. The newest versions
keep their values, older ones a hash alone; None is "absent", in the log and in stores alike.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from validator.attached.record_mapping import Change
from validator.value_form import encode_value, packable, unpacked

RECENT_VERSIONS = 6
OLDER_VERSIONS = 120
HISTORY_VERSIONS = RECENT_VERSIONS + OLDER_VERSIONS
ROW = "(row)"
"""The name under which a row itself is compared, where it has no field that could be."""
_ENTRY = struct.Struct(">QQ")
_encode = msgspec.msgpack.Encoder().encode


def value_hash(value: Any) -> int:
    """Return the hash by which values are the same or not; 5 and 5.0 are."""
    return xxh3_64_intdigest(encode_value(value))


ABSENT_HASH = value_hash(None)


class Version(Struct, frozen=True, array_like=True):
    """A value that a field had from an offset on."""

    offset: int
    timestamp: float
    value: Any


class Entry(Struct, frozen=True):
    """A version as far as it is known: offset -1 is the absence before the first event."""

    offset: int
    value_hash: int


class FieldHistory(Struct, array_like=True):
    """One field's versions in order: ``older`` as (offset, hash), then ``recent``.

    ``is_unreadable``: the newest is a value that could not be read, and is not known.
    """

    recent: list[Version]
    older: bytes = b""
    is_cut: bool = False
    is_unreadable: bool = False

    def lose(self, offset: int, timestamp: float) -> None:
        """Note an event that nobody can read: what it made of the field, any value may be."""
        self.recent, self.older = [Version(offset, timestamp, None)], b""
        self.is_cut = self.is_unreadable = True

    def append(self, version: Version) -> None:
        """Add the newest version, and forget the oldest beyond the bounds."""
        if self.is_unreadable:
            self.recent, self.is_unreadable = [], False
        self.recent.append(version)
        if len(self.recent) > RECENT_VERSIONS:
            oldest = self.recent.pop(0)
            self.older += _ENTRY.pack(oldest.offset, value_hash(oldest.value))
            if len(self.older) > OLDER_VERSIONS * _ENTRY.size:
                self.older = self.older[_ENTRY.size :]
                self.is_cut = True

    def entries(self, *, is_complete: bool) -> list[Entry]:
        """Return every version that is known, oldest first."""
        found = [] if self.is_cut or not is_complete else [Entry(-1, ABSENT_HASH)]
        found += [Entry(offset, hashed) for offset, hashed in _ENTRY.iter_unpack(self.older)]
        found += [Entry(version.offset, value_hash(version.value)) for version in self.recent]
        return found

    @property
    def current(self) -> Any:
        """The value as of now."""
        return self.recent[-1].value

    def values(self) -> Sequence[Any]:
        """Return the values that are still known, newest first."""
        return [version.value for version in reversed(self.recent)]


class Item(Struct, array_like=True):
    """A context type of a subject: its fields' histories.

    ``first_offset``: of its first event that the fold saw; ``touched``: of its last one.
    ``versions``: the subject's own (version, offset), where the mapping names one.
    ``is_spread``: it has records in several partitions, so that nobody knows which came first.
    ``presence``: True from a record on, None from a deletion on, whatever the fields.
    ``is_unreadable``: an event that could not be read may have given it fields beside those.
    """

    context_type: str
    subject: str
    partition: int
    first_offset: int
    touched: int
    touched_at: float
    fields: dict[str, FieldHistory] = {}
    versions: bytes = b""
    is_spread: bool = False
    is_unreadable: bool = False
    presence: FieldHistory = msgspec.field(default_factory=lambda: FieldHistory([]))

    def apply(self, change: Change, known_from: int = 0) -> bool:
        """Take a change; say whether any value changed.

        What was said before offset `known_from` may have changed unseen, so it is said anew.
        """
        self.touched, self.touched_at = change.offset, change.timestamp
        values: Mapping[str, Any] = change.fields
        if change.is_delete or change.is_replacement:
            values = {**dict.fromkeys(self.fields), **({} if change.is_delete else values)}
            self.is_unreadable = False
        if change.version is not None and change.version >= 0:
            self.versions += _ENTRY.pack(change.version, change.offset)
            self.versions = self.versions[-OLDER_VERSIONS * _ENTRY.size :]
        is_there = None if change.is_delete else True
        known = self.presence.recent
        if not known or known[-1].offset < known_from or known[-1].value != is_there:
            self.presence.append(Version(change.offset, change.timestamp, is_there))
        is_changed = bool(change.unreadable) or change.is_unreadable
        for name, value in values.items():
            history = self.fields.get(name)
            if history is None:
                if value is None:
                    continue
                history = self.fields[name] = FieldHistory([])
            elif (
                history.recent[-1].offset >= known_from
                and not history.is_unreadable
                and value_hash(value) == value_hash(history.current)
            ):
                continue
            history.append(Version(change.offset, change.timestamp, value))
            is_changed = True
        self.is_unreadable = self.is_unreadable or change.is_unreadable
        for name in self.fields if change.is_unreadable else change.unreadable:
            self.fields.setdefault(name, FieldHistory([])).lose(change.offset, change.timestamp)
        return is_changed

    def history_of(self, name: str) -> FieldHistory | None:
        """Return a field's history, or that of the row itself under `ROW`."""
        if name != ROW:
            return self.fields.get(name)
        return self.presence if self.presence.recent else None

    @property
    def is_alive(self) -> bool:
        """Whether any field has a value, as far as is known."""
        return any(h.current is not None or h.is_unreadable for h in self.fields.values())

    @property
    def is_present(self) -> bool:
        """Whether the last event was no deletion."""
        return bool(self.presence.recent) and self.presence.current is True

    def offset_of_version(self, version: int) -> int | None:
        """Return the offset of the event that bore a version; the last one, if several did."""
        found = None
        for known, offset in _ENTRY.iter_unpack(self.versions):
            if known == version:
                found = offset
        return found


def entry_at(entries: Sequence[Entry], position: int) -> int:
    """Return the index of the version that holds before `position`; -1 where none is known.

    >>> entry_at([Entry(-1, 0), Entry(5, 1)], 5), entry_at([Entry(-1, 0), Entry(5, 1)], 6)
    (0, 1)
    """
    return bisect_left(entries, position, key=lambda entry: entry.offset) - 1


def encode_item(item: Item) -> bytes:
    """Return the item as bytes."""
    try:
        return _encode(item)
    except OverflowError:  # An integer of over 64 bits.
        return _encode(msgspec.structs.replace(item, fields=_packable(item.fields)))


def _packable(fields: Mapping[str, FieldHistory]) -> dict[str, FieldHistory]:
    found = {}
    for name, history in fields.items():
        recent = [Version(v.offset, v.timestamp, packable(v.value)) for v in history.recent]
        found[name] = msgspec.structs.replace(history, recent=recent)
    return found


decode_item = msgspec.msgpack.Decoder(Item, ext_hook=unpacked).decode
