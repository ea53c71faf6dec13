"""From confirmed differences to findings: those that went back together become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from synchroscope.errors import InvalidEventError
from validator.attached.book import MAXIMUM_MEMBERS, Book, Members, make_finding
from validator.attached.classification import (
    DELETED,
    MAYBE_REVERTED,
    REVERSIONS,
    Cause,
    causes,
)
from validator.attached.comparison import NEVER_ENDS, FieldLook
from validator.attached.confirmed import Arrival, Confirmed
from validator.attached.history import ROW, Item, Version, value_hash
from validator.attached.restores import (
    BULK_ITEMS,
    Reversal,
    common_position,
    fits,
)
from validator.attached.row_mapping import RowReader
from validator.attached.store_settings import StoreSettings
from validator.attached.strays import Strays
from validator.attached.told_early import ToldEarly
from validator.attached.unchecked import DOUBTS
from validator.attached.walk import Walk
from validator.finding import Finding, Since, timestamp
from validator.value_form import shown

FEW_REVERSALS = 3
HOLD_SECONDS = 30.0
SAMPLE_PAUSES = 3
"""Pauses between looks for which a reversal is held, so that a sample can be confirmed too."""


class Reporter:
    """Holds what is confirmed for a moment, to see whether it is one of many; then reports it."""

    def __init__(self, settings: StoreSettings, reader: RowReader, book: Book) -> None:
        self._settings = settings
        self._reader = reader
        self._book = book
        self._held: dict[bytes, Confirmed] = {}
        self._held_since = 0.0
        self.wants_sample = False
        """Whether a look at other keys would help to tell one reversal from many."""
        self._strays = Strays(reader, book)
        self._early = ToldEarly(settings.name, book)

    @property
    def is_holding(self) -> bool:
        """Whether something waits to be reported."""
        return bool(self._held)

    def is_member(self, key: bytes) -> bool:
        """Say whether an item is part of an open finding of many."""
        return any(key in members.keys for _, members in self._book.bulk_of(self._settings.name))

    def confirmed(self, found: Confirmed, now: float) -> None:
        """Take a difference that two looks saw."""
        if self.is_member(found.key):
            return
        opened = self._book.of_item(self._settings.name, found.key)
        if opened and self._is_known(found, opened):
            return
        if not self._held:
            self._held_since = now
        self._held[found.key] = found

    def _is_known(self, found: Confirmed, opened: Mapping[str, Any]) -> bool:
        kinds = {cause.kind for cause in self._causes(found)}
        return kinds == {finding.kind for finding in opened.values()}

    def agree(self, keys: Iterable[bytes], now: float) -> None:
        """Take looks that found items to be right."""
        keys = list(keys)
        for key in keys:
            self._held.pop(key, None)
        self._book.agree(self._settings.name, keys, now)

    def withdraw(self, key: bytes, reason: str, now: float) -> None:
        """Take back what was said of an item that turns out not to be known well enough.

        What was found before a record came that cannot be read was proven then, and stays.
        """
        self._held.pop(key, None)
        if reason in DOUBTS:
            return
        self._book.withdraw(self._settings.name, key, reason, now)

    def _causes(self, found: Confirmed) -> list[Cause]:
        return causes(found.item, found.look, is_text=self._reader.is_text)

    # -- release ---------------------------------------------------------------------------------

    def release(self, now: float, *, is_walking: bool, walk: Walk) -> None:
        """Report what was held long enough."""
        held_seconds = now - self._held_since
        if not self._held or held_seconds < self._settings.recheck_seconds:
            return
        explained = {key: self._causes(found) for key, found in self._held.items()}
        reversals = self._reversals(explained)
        seen = sum(row.is_seen for row in reversals)
        if reversals and seen < BULK_ITEMS:
            # More of them may be met: in the sample that is asked for, or while walking.
            self.wants_sample = True
            some = seen >= FEW_REVERSALS and is_walking and held_seconds < HOLD_SECONDS
            if some or held_seconds < SAMPLE_PAUSES * self._settings.recheck_seconds:
                return
        together = self._report_bulk(reversals, walk, now)
        order = sorted(explained.items(), key=lambda row: row[1][0].kind != "missed")
        for key, found_causes in order:
            if key not in together:
                self._report(self._held[key], found_causes, now)
        for row in reversals:
            if row.key not in together:
                self._early.note(row, now)
        self._held.clear()

    def _reversals(self, explained: Mapping[bytes, list[Cause]]) -> list[Reversal]:
        found = []
        for key, found_causes in explained.items():
            confirmed = self._held[key]
            if confirmed.item is None or any(c.text not in MAYBE_REVERTED for c in found_causes):
                continue
            is_seen = all(cause.text in REVERSIONS for cause in found_causes)
            spans = confirmed.look.positions()
            if spans:
                found.append(Reversal(key, confirmed.item.partition, spans, is_seen))
        return found

    def _report_bulk(self, reversals: list[Reversal], walk: Walk, now: float) -> set[bytes]:
        absorbed: set[bytes] = set()
        for finding, members in self._book.bulk_of(self._settings.name):
            if walk.number > members.opened_in_walk + 1:
                continue  # By now all of them were met: what goes back today does so by itself.
            more = [row.key for row in reversals if fits(members.positions, row)]
            if more:
                self._add_members(finding, members, more, now)
                absorbed.update(more)
        left = [row for row in reversals if row.key not in absorbed]
        if sum(row.is_seen for row in left) < BULK_ITEMS:
            return absorbed
        chosen, positions = common_position(left)
        if sum(row.is_seen for row in chosen) < BULK_ITEMS:
            return absorbed
        keys = {row.key for row in chosen[:MAXIMUM_MEMBERS]}
        names = [self._held[row.key].name for row in chosen]
        first = min(chosen, key=lambda row: positions[row.partition])
        # Offsets of other partitions cannot be compared with its own.
        beside = [self._held[row.key] for row in chosen if row.partition == first.partition]
        finding = make_finding(
            self._settings.name,
            "bulk",
            names[:1_000],
            partition=first.partition,
            first_bad=positions[first.partition][0],
            since=Since(
                first.partition,
                max(held.agreed for held in beside) - 1,
                max(held.by_offset for held in beside),
            ),
            evidence={
                "cause": self._bulk_cause(chosen),
                "items": len(chosen),
                "positions": {
                    str(partition): {"from": low, "to": None if high == NEVER_ENDS else high}
                    for partition, (low, high) in sorted(positions.items())
                },
            },
            now=now,
            mark=(timestamp(now), sorted(positions.items())),
        )
        # Its items are members, which come and go; the finding does not hang on any one of them.
        finding = msgspec.structs.replace(finding, keys=[])
        self._book.open_finding(
            finding, Members(keys, positions, len(chosen) > len(keys), walk.number)
        )
        self._add_members(finding, self._book.members[finding.id], [], now)
        return absorbed | {row.key for row in chosen}

    def _add_members(
        self, finding: Finding, members: Members, more: list[bytes], now: float
    ) -> None:
        """Count more items to a finding of many, those too that were told by themselves before."""
        more = more + self._early.join(finding.id, members.positions, now)
        if more:
            self._book.add_members(finding, more)

    def _bulk_cause(self, chosen: list[Reversal]) -> str:
        if all(not self._held[row.key].row.is_there for row in chosen):
            return "many rows were deleted: the store is as it was at these positions"
        return "the store went back: it is as it was at these positions"

    def walked(self, walk: Walk, now: float) -> None:
        """Take the end of a walk: a finding of many ends when one met none of its items."""
        for finding, members in self._book.bulk_of(self._settings.name):
            is_later = walk.is_whole and walk.number > members.opened_in_walk
            if not members.keys and (is_later or not members.is_cut):
                self._book.resolve(finding.id, now)

    # -- single findings -------------------------------------------------------------------------

    def _report(self, found: Confirmed, found_causes: list[Cause], now: float) -> None:
        names = []
        for cause in found_causes:
            partition = -1 if found.item is None else found.item.partition
            evidence = self._evidence(found, cause)
            mark = cause.first_bad if cause.first_bad is not None else evidence["fields"]
            finding = make_finding(
                self._settings.name,
                cause.kind,
                [found.name],
                partition=max(partition, 0),
                first_bad=cause.first_bad,
                since=self._since(found, cause),
                evidence=evidence,
                now=now,
                mark=mark,
            )
            names.append(finding.id)
            self._book.open_finding(finding)
            self._strays.note(found, cause, finding.id)
        self._book.keep_only(self._settings.name, found.key, names, now)

    def _since(self, found: Confirmed, cause: Cause) -> Since | None:
        if found.item is None:
            came = found.arrival
            return None if came is None else Since(0, came.after.get(0), came.by.get(0, 0))
        partition = found.item.partition
        if cause.kind == "missed" and cause.first_bad is not None:
            matched = [f.matched for f in cause.fields if f.matched is not None and f.matched >= 0]
            after = max(matched, default=None)
            recorded = [
                version.timestamp
                for field in cause.fields
                for version in _recent(found.item, field.name)
                if version.offset == cause.first_bad
            ]
            at = timestamp(recorded[0]) if recorded else None
            return Since(partition, after, cause.first_bad, at)
        return Since(partition, _known_right(found, cause), found.by_offset)

    def _evidence(self, found: Confirmed, cause: Cause) -> dict[str, Any]:
        is_deleted = cause.text == DELETED and not found.row.is_there
        return {
            "cause": cause.text,
            "row_is_there": found.row.is_there,
            **({"was_seen_there": found.agreed >= 0} if is_deleted else {}),
            **({} if found.arrival is None else _came(found.arrival)),
            "fields": {field.name: self._shown(field) for field in cause.fields},
        }

    def _shown(self, field: FieldLook) -> dict[str, Any]:
        is_public = field.name in self._settings.public or field.name == ROW
        shown: dict[str, Any] = {
            "expected": _value(field.expected, is_public),
            "seen": _value(field.seen, is_public),
            "expected_since": field.expected_offset if field.expected_offset >= 0 else None,
        }
        if field.matched is not None and field.matched >= 0:
            shown["seen_is_of"] = field.matched
        return shown


def _came(arrival: Arrival) -> dict[str, Any]:
    """Return between what a row came, for every partition: nobody knows whose it is."""
    return {
        "absent_at": timestamp(arrival.absent_at),
        "positions": {
            str(partition): {"from": arrival.after.get(partition), "to": end}
            for partition, end in sorted(arrival.by.items())
        },
    }


def _recent(item: Item, name: str) -> Sequence[Version]:
    history = item.history_of(name)
    return () if history is None else history.recent


def _known_right(found: Confirmed, cause: Cause) -> int | None:
    """Return the last offset at which all was well: a look said so, or an event that had come.

    What it wrote is not there any more, so it was lost after it.
    """
    known = [found.agreed - 1] if found.agreed > 0 else []
    for field in cause.fields:
        if field.state == "strange" and field.is_passed and field.expected_offset >= 0:
            known.append(field.expected_offset)
        elif field.is_reverted and field.following is not None:
            known.append(field.following)
    return max(known, default=None)


def _value(value: Any, is_public: bool) -> Any:
    try:
        hashed = value_hash(value)
    except InvalidEventError:  # What no log can hold, and perhaps nobody write.
        return "hash:none"
    return shown(value) if is_public or value is None else f"hash:{hashed:016x}"
