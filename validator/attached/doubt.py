"""What a look proves although some records could not be read: nothing that they may have done."""

from __future__ import annotations

import msgspec

from validator.attached.comparison import FieldLook, Look, Passed, timestamp_of
from validator.attached.history import Item
from validator.attached.log_view import LogView
from validator.attached.reference import Seen
from validator.attached.unchecked import NO_FIELD, NO_SUBJECT


def doubted(found: Look, item: Item | None, memory: Seen, log: LogView, passed: Passed) -> Look:
    """Return the look with that in doubt which the log does not surely contradict.

    Lag stays lag: nothing is said against the store by it.
    """
    unread = log.unread_in(None if item is None else item.partition)
    if not log.is_fieldless and unread < 0:
        return found

    def doubt(field: FieldLook) -> FieldLook:
        if field.is_wrong and not field.is_damaged:
            if log.is_fieldless:
                return msgspec.structs.replace(field, state="doubted", reason=NO_FIELD)
            if _may_be_of(unread, field.name, item, memory, passed):
                return msgspec.structs.replace(field, state="doubted", reason=NO_SUBJECT)
        return field

    return msgspec.structs.replace(found, fields=[doubt(field) for field in found.fields])


def _may_be_of(unread: int, name: str, item: Item | None, memory: Seen, passed: Passed) -> bool:
    """Say whether a record at `unread`, of nobody knows whom, may have written what is there.

    It may until the store has applied the field's first event after it.
    """
    history = None if item is None else item.history_of(name)
    entries = [] if history is None else history.entries(is_complete=False)
    after = next((entry.offset for entry in entries if entry.offset > unread), None)
    if after is None:
        return True
    return memory.fields.get(name, -1) < after and not passed(
        after, timestamp_of(item, name, after)
    )
