"""Is what a store has of an item something that it may have? Pure: no clock, no store.

A field may have the value of any position from `lower` on: every event before it was known for
longer than the settle window when the store was read. Nothing that is under way can be wrong, then.
A value that is older is lag, unless the store is known to have passed the event that it lacks.
All reasons for which a look comes to nothing stand here too, since each of them goes before others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from validator.attached.history import ABSENT_HASH, ROW, Entry, Item, entry_at
from validator.attached.reference import Seen
from validator.attached.row_mapping import RowReader, SeenRow
from validator.attached.unchecked import (
    COMPACTED,
    LOST_DELETE,
    SPREAD,
    UNREAD_TEXT,
    UNREADABLE,
)

State = Literal["agrees", "behind", "strange", "unclear", "doubted", "unknown"]
Result = Literal["agrees", "wrong", "lagging", "unclear", "unknown"]
NOTHING_SEEN = Seen()
NEVER_ENDS = 2**63 - 1
UNIQUE_AMONG = 64
"""A value that is unique among so many versions is taken for unique among the forgotten ones."""

#: Says whether the store has gone past an event: its offset and timestamp.
Passed = Callable[[int, float], bool]


_RESULTS: Sequence[tuple[State, Result]] = (
    ("behind", "lagging"),
    ("unclear", "unclear"),
    ("doubted", "unknown"),
    ("agrees", "agrees"),
)


class FieldLook(Struct, frozen=True):
    """One field of a row.

    ``matched``: offset of the version that the value is (-1: absent before the first event; None:
    of no version). ``following``: offset of the event after that version. ``proven``: the newest
    version that the store has surely reached. ``is_reverted``: a newer one was there before.
    ``reason``: why it cannot be checked at all. ``doubted``: it differs, and may nevertheless be
    what a record says that could not be read, so that nothing can be said of the row.
    """

    name: str
    state: State
    seen: Any
    expected: Any
    expected_offset: int
    matched: int | None = None
    following: int | None = None
    is_deletion: bool = False
    changes_behind: int = 0
    proven: int | None = None
    is_reverted: bool = False
    is_passed: bool = False
    is_of_another_version: bool = False
    is_cut: bool = False
    spans: Sequence[tuple[int, int]] = ()
    is_damaged: bool = False
    reason: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether neither lag nor anything under way can be the reason."""
        excuse = not (self.is_reverted or self.is_passed)
        return self.state == "strange" or (self.state == "behind" and not excuse)


class Look(Struct, frozen=True):
    """What a look at an item's row came to."""

    fields: Sequence[FieldLook]
    is_there: bool

    @property
    def result(self) -> Result:
        """The worst of the fields; ``unknown``: the log, as far as it was folded, has none."""
        if any(field.is_wrong for field in self.fields):
            return "wrong"
        states = {field.state for field in self.fields}
        for state, result in _RESULTS:
            if state in states:
                return result
        return "unknown" if states else "agrees"

    @property
    def unchecked(self) -> str:
        """Why a part of the row cannot be checked; empty where all of it was."""
        return next((field.reason for field in self.fields if field.reason), "")

    @property
    def wrong(self) -> list[FieldLook]:
        """The fields that are wrong."""
        return [field for field in self.fields if field.is_wrong]

    def has_applied(self, offset: int) -> bool:
        """Say whether nothing older than an event is there of what the event changed."""
        return all(
            field.matched is not None and (field.following is None or field.following > offset)
            for field in self.fields
            if field.state != "unknown"
        )

    @property
    def waits_for(self) -> int | None:
        """The first event that the row lacks."""
        missing = [f.following for f in self.fields if f.state == "behind"]
        return min((offset for offset in missing if offset is not None), default=None)

    def positions(self) -> list[tuple[int, int]]:
        """Return the spans of positions, ends included, at which the log had what is wrong here.

        A position is the next offset to read. Fields that are right do not count: a later event may
        have brought them forward.
        """
        spans = [(0, NEVER_ENDS)]
        for field in self.wrong:
            spans = [
                (max(low, other_low), min(high, other_high))
                for low, high in spans
                for other_low, other_high in field.spans
                if max(low, other_low) <= min(high, other_high)
            ]
        return spans


def look(
    item: Item | None,
    row: SeenRow,
    memory: Seen,
    reader: RowReader,
    *,
    lower: int,
    passed: Passed,
    is_complete: bool,
    known_from: int = 0,
    unknown_because: str = "",
    is_compacted: bool = False,
    is_all_passed: bool = False,
    lost_delete: int = -1,
    key_doubt: str = "",
) -> Look:
    """Compare a row with the log.

    Parameters
    ----------
    item: What the log says; None: nothing. It must know everything that the store could have.
    row: What the store has.
    memory: What it was seen to have before.
    reader: How its values are to be understood.
    lower: Every event before this offset must be there.
    passed: What the store has gone past.
    is_complete: The log is known from its beginning.
    known_from: What the log says before this offset is not known to be all of it.
    unknown_because: Why something is not known, where that is to be told.
    is_compacted: Any version but the newest may be gone from the log.
    is_all_passed: The store has gone past all that was due, in every partition.
    lost_delete: Offset of the last record that deleted nobody knows whom.
    key_doubt: Why it is not known whether the row is the item's.
    """
    if key_doubt:
        return Look(_all_unknown(item, row, reader, key_doubt), row.is_there)
    if item is not None and item.is_spread:
        return Look(_all_unknown(item, row, reader, SPREAD), row.is_there)
    if item is not None and row.is_damaged and item.is_present:
        # Whatever is under way, no event makes a row unreadable.
        offset = item.presence.recent[-1].offset
        return Look([FieldLook(ROW, "strange", None, True, offset, is_damaged=True)], True)
    if item is not None and not row.is_there and item.touched < lost_delete and item.is_alive:
        return Look(_all_unknown(item, row, reader, LOST_DELETE), row.is_there)
    at = _stated_offset(item, row)
    if is_compacted and item is not None and not _is_event_of(item, at):
        at = None
    # A row that was deleted may be all that is left of a key, until the store has come that far.
    is_complete = is_complete and (not is_compacted or (item is None and is_all_passed))
    known = _Known(is_complete, known_from, unknown_because, is_compacted)
    names = reader.fields_of(item, row)
    fields = [_field(name, item, row, memory, reader, at, lower, passed, known) for name in names]
    if row.is_there and not row.fields and (item is None or item.presence.recent):
        found = _field(ROW, item, row, memory, reader, at, lower, passed, known)
        fields.append(msgspec.structs.replace(found, proven=None))
    return Look(fields, row.is_there)


def _all_unknown(
    item: Item | None, row: SeenRow, reader: RowReader, reason: str
) -> list[FieldLook]:
    return [
        FieldLook(name, "unknown", row.fields.get(name), None, -1, reason=reason)
        for name in reader.fields_of(item, row) or [ROW]
    ]


class _Known(Struct, frozen=True):
    """How much of the log is known of an item, as `look` is told."""

    is_complete: bool
    known_from: int
    because: str
    is_compacted: bool


def _is_event_of(item: Item, at: int | None) -> bool:
    """Say whether what the item was after an event is known, though others are gone."""
    if at is None or at >= item.touched:
        return True
    histories = item.fields.values()
    return any(at == e.offset for history in histories for e in history.entries(is_complete=False))


def _stated_offset(item: Item | None, row: SeenRow) -> int | None:
    if item is not None and row.version is not None:
        return item.offset_of_version(row.version)
    return row.offset


def _field(
    name: str,
    item: Item | None,
    row: SeenRow,
    memory: Seen,
    reader: RowReader,
    at: int | None,
    lower: int,
    passed: Passed,
    known: _Known,
) -> FieldLook:
    history = None if item is None else item.history_of(name)
    if history is not None and history.is_unreadable:
        offset = history.recent[-1].offset
        return FieldLook(name, "unknown", row.fields.get(name), None, offset, reason=UNREADABLE)
    if history is None and item is not None and item.is_unreadable and name in row.fields:
        return FieldLook(name, "unknown", row.fields[name], None, -1, reason=UNREADABLE)
    if history is None:
        entries = [Entry(-1, ABSENT_HASH)] if known.is_complete else []
        expected, is_cut = None, not known.is_complete
    else:
        entries = history.entries(is_complete=known.is_complete)
        expected, is_cut = history.current, history.is_cut or not known.is_complete
        if known.known_from > 0:
            entries = [entry for entry in entries if entry.offset >= known.known_from]
    value = True if name == ROW else row.fields.get(name)
    entries, matching, is_blurred = reader.versions_of(name, history, entries, value)
    is_cut = is_cut or is_blurred
    due = entry_at(entries, lower)
    allowed = [place for place in matching if place >= due]
    stated = None if at is None or not row.is_there else entry_at(entries, at + 1)
    before = memory.fields.get(name, -1)
    proven = _proven(entries, matching, before, is_cut, passed, item) if value is not None else None
    is_of_another = stated is not None and stated >= 0 and stated not in matching
    if stated is not None and stated in matching:
        matching = [stated, *allowed]
        if value is not None:
            proven = max(entries[stated].offset, before)

    def found(
        state: State, place: int | None = None, waits_for: int | None = None, **more: Any
    ) -> FieldLook:
        following = None
        if place is not None and place + 1 < len(entries):
            following = entries[place + 1]
        return FieldLook(
            name,
            state,
            value,
            expected,
            entries[-1].offset if entries else -1,
            None if place is None else entries[place].offset,
            waits_for if following is None else following.offset,
            following is not None and following.value_hash == ABSENT_HASH,
            0 if place is None else len(entries) - 1 - place,
            proven,
            is_cut=is_cut,
            **more,
        )

    def is_past(offset: int) -> bool:
        return passed(offset, timestamp_of(item, name, offset))

    def newest_is_passed() -> bool:
        return is_past(entries[-1].offset)

    if value is not None and name != ROW and (is_of_another or not allowed):
        possible = {entry.offset for entry in entries[max(due, 0) :]}
        possible |= {entries[stated].offset} if stated is not None and stated >= 0 else set()
        if reader.is_unread(name, history, possible, value):
            return found("doubted", reason=UNREAD_TEXT)
    if not entries:
        if value is None and expected is None:
            return found("agrees")
        return found("unknown", reason=known.because)
    if is_of_another:
        # It is known what the log had there, so lag is no excuse.
        return found(
            "strange",
            max(matching, default=None),
            is_of_another_version=True,
            spans=[(entries[at].offset + 1, _end(entries, at)) for at in matching],
            is_passed=newest_is_passed(),
        )
    if allowed:
        return found("agrees", max(allowed))
    if matching:
        place = max(matching)
        # A version between that one and the newest may have had the same value, and be gone.
        superseded = entries[-1 if known.is_compacted else place + 1].offset
        return found(
            "behind",
            place,
            is_reverted=before >= superseded,
            spans=[(entries[at].offset + 1, _end(entries, at)) for at in matching],
            is_passed=is_past(superseded),
        )
    was_newest = before >= entries[-1].offset
    if known.is_compacted and item is not None and not (was_newest or newest_is_passed()):
        return found("unknown", reason=COMPACTED)
    if due < 0:
        return found("unclear")
    oldest = entries[0].offset
    if is_cut and before < oldest and not passed(oldest, timestamp_of(item, name, oldest)):
        # It may be of a version that is forgotten here, and the store that far behind.
        return found("behind", waits_for=oldest)
    return found("strange", is_passed=newest_is_passed())


def _end(entries: Sequence[Entry], place: int) -> int:
    return entries[place + 1].offset if place + 1 < len(entries) else NEVER_ENDS


def _proven(
    entries: Sequence[Entry],
    matching: Sequence[int],
    before: int,
    is_cut: bool,
    passed: Passed,
    item: Item | None,
) -> int | None:
    """Return the oldest version that the value may be: the store has reached at least that."""
    candidates = [place for place in matching if entries[place].offset >= max(before, 0)]
    if not candidates:
        return None
    first, last = candidates[0], len(entries) - 1
    if (
        candidates[-1] == last
        and item is not None
        and passed(entries[last].offset, item.touched_at)
    ):
        return entries[last].offset
    is_sure = not is_cut or before >= entries[0].offset
    if is_sure or (len(entries) >= UNIQUE_AMONG and len(candidates) == 1):
        return entries[first].offset
    return None


def timestamp_of(item: Item | None, name: str, offset: int) -> float:
    """Return when a version was recorded; where that is forgotten, when the next known one was."""
    history = None if item is None else item.history_of(name)
    if item is None or history is None:
        return 0.0
    recent = history.recent
    return next((v.timestamp for v in recent if v.offset >= offset), item.touched_at)
