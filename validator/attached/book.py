"""The findings of attached mode: opened once, kept on disk, resolved by a look that agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from synchroscope.ports import AggregateKey
from validator.attached.reference import KeyedReference, item_key, rows_of
from validator.finding import (
    Finding,
    Position,
    Since,
    decode_finding,
    encode_finding,
    finding_id,
    subjects_of,
    timestamp,
)

_FINDINGS, _MEMBERS, _COUNTS = "finding", "members", "counts"
MAXIMUM_OPEN = 2_000
MAXIMUM_RESOLVED = 1_000
MAXIMUM_MEMBERS = 20_000


def stored_findings(path: Path) -> list[Finding]:
    """Return the findings that are kept in a folder, which another process may be using."""
    return [decode_finding(data) for data in rows_of(path, _FINDINGS).values()]


class Members(Struct):
    """The items of a bulk finding that are still wrong, as far as they are remembered."""

    keys: set[bytes]
    positions: dict[int, tuple[int, int]]
    is_cut: bool = False
    opened_in_walk: int = 0


class Book:
    """All findings of all stores; those that are open are in memory, at most `MAXIMUM_OPEN`."""

    def __init__(self, reference: KeyedReference) -> None:
        self._reference = reference
        self._of_item: dict[tuple[str, bytes], dict[str, Finding]] = {}
        self.open: dict[str, Finding] = {}
        self.resolved: dict[str, Finding] = {}
        self.members: dict[str, Members] = {}
        self.opened_total: Counter[str] = Counter()
        self.resolved_total: Counter[str] = Counter()
        self.refused_total = 0
        self._news: list[Finding] = []
        self._load()

    def _load(self) -> None:
        for data in self._reference.stored(_FINDINGS).values():
            finding = decode_finding(data)
            if finding.state == "resolved":
                self.resolved[finding.id] = finding
            else:
                self._enter(finding)
        for name, data in self._reference.stored(_MEMBERS).items():
            self.members[name] = msgspec.msgpack.decode(data, type=Members)
        for name, data in self._reference.stored(_COUNTS).items():
            counts = msgspec.msgpack.decode(data, type=dict[str, int])
            getattr(self, name).update(counts)

    def _enter(self, finding: Finding) -> None:
        self.open[finding.id] = finding
        for context_type, subject in finding.keys:
            place = (finding.replica or "", item_key(context_type, subject))
            self._of_item.setdefault(place, {})[finding.id] = finding

    # -- asking ----------------------------------------------------------------------------------

    def of_item(self, store: str, key: bytes) -> Mapping[str, Finding]:
        """Return the open findings of an item, those of many items apart."""
        return self._of_item.get((store, key), {})

    def open_of(self, store: str) -> list[Finding]:
        """Return the open findings of a store."""
        return [finding for finding in self.open.values() if finding.replica == store]

    def open_keys(self, store: str) -> list[bytes]:
        """Return the items of a store that have open findings of their own."""
        return [key for name, key in self._of_item if name == store]

    def bulk_of(self, store: str) -> list[tuple[Finding, Members]]:
        """Return the open findings of many items of a store."""
        found = ((self.open[name], members) for name, members in self.members.items())
        return [(finding, members) for finding, members in found if finding.replica == store]

    def take_news(self) -> list[Finding]:
        """Return what was opened or resolved since the last call."""
        news, self._news = self._news, []
        return news

    # -- changing --------------------------------------------------------------------------------

    def open_finding(self, finding: Finding, members: Members | None = None) -> None:
        """Enter a finding; one that is open already stays as it is."""
        if finding.id in self.open:
            return
        if len(self.open) >= MAXIMUM_OPEN and members is None:
            self.refused_total += 1
            return
        rows: dict[str, bytes | None] = {finding.id: encode_finding(finding)}
        self._enter(finding)
        if members is not None:
            self.members[finding.id] = members
            self._store_members(finding.id)
        self.resolved.pop(finding.id, None)
        self.opened_total[f"{finding.replica} {finding.kind}"] += 1
        self._news.append(finding)
        self._reference.store(_FINDINGS, rows)
        self._store_counts()

    def amend(self, name: str, evidence: dict[str, Any]) -> None:
        """Replace the evidence of an open finding by what is known now."""
        finding = msgspec.structs.replace(self.open[name], evidence=evidence)
        self._enter(finding)
        self._news.append(finding)
        self._reference.store(_FINDINGS, {name: encode_finding(finding)})

    def agree(self, store: str, keys: Iterable[bytes], now: float) -> None:
        """Resolve every finding of items that a look found to be what they must be."""
        keys = list(keys)
        for key in keys:
            for finding in list(self.of_item(store, key).values()):
                self.resolve(finding.id, now)
        for finding, members in self.bulk_of(store):
            if not members.keys.isdisjoint(keys):
                members.keys.difference_update(keys)
                self._store_members(finding.id)

    def withdraw(self, store: str, key: bytes, reason: str, now: float) -> None:
        """Resolve the findings of an item of which the log is not known any more, and say so."""
        for name, finding in list(self.of_item(store, key).items()):
            self.amend(name, {**finding.evidence, "withdrawn": f"such keys {reason}"})
            self.resolve(name, now)
        self.agree(store, [key], now)

    def keep_only(self, store: str, key: bytes, names: Iterable[str], now: float) -> None:
        """Resolve those findings of an item that a confirmed look does not repeat."""
        wanted = set(names)
        for name in list(self.of_item(store, key)):
            if name not in wanted:
                self.resolve(name, now)

    def resolve(self, name: str, now: float) -> None:
        """Close a finding."""
        finding = self.open.pop(name)
        for context_type, subject in finding.keys:
            place = (finding.replica or "", item_key(context_type, subject))
            self._of_item.get(place, {}).pop(name, None)
            if not self._of_item.get(place):
                self._of_item.pop(place, None)
        finding = msgspec.structs.replace(finding, state="resolved", resolved_at=timestamp(now))
        self.resolved[name] = finding
        self.resolved_total[f"{finding.replica} {finding.kind}"] += 1
        self._news.append(finding)
        rows: dict[str, bytes | None] = {name: encode_finding(finding)}
        while len(self.resolved) > MAXIMUM_RESOLVED:
            oldest = next(iter(self.resolved))
            del self.resolved[oldest]
            rows[oldest] = None
        self._reference.store(_FINDINGS, rows)
        if self.members.pop(name, None) is not None:
            self._reference.store(_MEMBERS, {name: None})
        self._store_counts()

    def add_members(self, finding: Finding, keys: Sequence[bytes]) -> None:
        """Count more items to a finding of many."""
        members = self.members[finding.id]
        members.keys.update(keys)
        members.is_cut = members.is_cut or len(members.keys) > MAXIMUM_MEMBERS
        while len(members.keys) > MAXIMUM_MEMBERS:
            members.keys.pop()
        evidence = {**finding.evidence, "items": finding.evidence["items"] + len(keys)}
        finding = msgspec.structs.replace(finding, evidence=evidence)
        self.open[finding.id] = finding
        self._news.append(finding)
        self._reference.store(_FINDINGS, {finding.id: encode_finding(finding)})
        self._store_members(finding.id)

    def _store_members(self, name: str) -> None:
        self._reference.store(_MEMBERS, {name: msgspec.msgpack.encode(self.members[name])})

    def _store_counts(self) -> None:
        rows: dict[str, bytes | None] = {
            name: msgspec.msgpack.encode(dict(getattr(self, name)))
            for name in ("opened_total", "resolved_total")
        }
        self._reference.store(_COUNTS, rows)


def make_finding(
    store: str,
    kind: Any,
    keys: Sequence[AggregateKey],
    *,
    partition: int,
    first_bad: int | None,
    since: Since | None,
    evidence: dict[str, Any],
    now: float,
    mark: object,
) -> Finding:
    """Return an open finding; the same store, kind, keys and mark give the same ID again."""
    return Finding(
        id=finding_id(store, kind, *keys[:1], mark),
        state="open",
        kind=kind,
        replica=store,
        context_type=keys[0][0] if keys else None,
        subjects=subjects_of(keys),
        first_bad_position=None if first_bad is None else Position(partition, first_bad),
        since=since,
        detected_at=timestamp(now),
        resolved_at=None,
        evidence=evidence,
        partition=partition,
        keys=list(keys),
    )
