"""Changes what a replica has stored, behind its back: digest and position stay as they were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from chaos.faults import Dice, FaultJournal, FaultSpec, Injected, changed_value
from chaos.link import FaultyLink
from synchroscope.ports import AggregateKey, AggregateRecord, Progress, ReplicaStorage

KEPT_COPIES = 512
RECENT_KEYS = 256


class Saboteur:
    """Carries out the `corrupt` and `stale` faults that its link triggers.

    ``corrupt`` changes one stored value of an aggregate seen lately. ``stale`` puts one back
    to a version that the storage held earlier.
    """

    def __init__(
        self,
        link: FaultyLink,
        storage: ReplicaStorage,
        position: Callable[[int], int],
        dice: Dice,
        journal: FaultJournal,
        stamp: Callable[[float], str],
    ) -> None:
        self._link = link
        self._storage = storage
        self._position = position
        self._dice = dice
        self._journal = journal
        self._stamp = stamp
        self._recent: OrderedDict[AggregateKey, None] = OrderedDict()
        self._copies: OrderedDict[AggregateKey, AggregateRecord] = OrderedDict()

    def step(self, now: float) -> Progress:
        """Carry out what was triggered since the last step; call it between the replica's steps."""
        for key in self._link.seen:
            self._recent[key] = None
            self._recent.move_to_end(key)
            if len(self._recent) > RECENT_KEYS:
                self._recent.popitem(last=False)
        done = 0
        for spec, partition, offset in self._link.triggers:
            strike = self._corrupt if spec.kind == "corrupt" else self._make_stale
            done += strike(spec, partition, offset, now)
        self._link.triggers.clear()
        for key in self._link.seen:
            stored = self._storage.get(key)
            if stored is not None and key not in self._copies:
                self._copies[key] = stored.copy()
                if len(self._copies) > KEPT_COPIES:
                    self._copies.popitem(last=False)
        self._link.seen.clear()
        return Progress(done)

    def _candidates(self, spec: FaultSpec, partition: int, offset: int) -> list[AggregateKey]:
        keys = list(self._recent)
        start = self._dice.number("victim", spec.kind, spec.replica, partition, offset)
        turn = start % len(keys) if keys else 0
        return keys[turn:] + keys[:turn]

    def _corrupt(self, spec: FaultSpec, partition: int, offset: int, now: float) -> int:
        for key in self._candidates(spec, partition, offset):
            stored = self._storage.get(key)
            if stored is None:
                continue
            names = sorted(name for name, (value, _) in stored.fields.items() if value is not None)
            if not names:
                continue
            name = names[self._dice.number("field", partition, offset) % len(names)]
            altered = stored.copy()
            value, sequence = altered.fields[name]
            altered.fields[name] = (changed_value(value), sequence)
            self._write(spec, altered, name, now)
            return 1
        return 0

    def _make_stale(self, spec: FaultSpec, partition: int, offset: int, now: float) -> int:
        for key in self._candidates(spec, partition, offset):
            stored, older = self._storage.get(key), self._copies.get(key)
            if stored is None or older is None or older.sequence >= stored.sequence:
                continue
            name = _differing_field(older, stored)
            if name is None:
                continue
            self._write(spec, older.copy(), name, now)
            del self._copies[key]
            return 1
        return 0

    def _write(self, spec: FaultSpec, record: AggregateRecord, field: str, now: float) -> None:
        place = {"partition": record.partition, "offset": self._position(record.partition)}
        self._journal.add(
            Injected(
                spec.kind,
                spec.replica,
                record.subject,
                record.context_type,
                field,
                place,
                self._stamp(now),
            )
        )
        key = (record.context_type, record.subject)
        self._storage.commit({key: record}, record.partition, None)


def _differing_field(older: AggregateRecord, newer: AggregateRecord) -> str | None:
    """Return the first field whose fact is another one now."""
    for name in sorted(set(older.fields) | set(newer.fields)):
        before = older.fields.get(name, (None, 0))[0]
        if before != newer.fields.get(name, (None, 0))[0]:
            return name
    return None
