"""Faults of one kind in one of two instrumented replicas, over the production roles.

A seed decides about partitions, buckets, batches, subjects, events, scrub, and when and where which
fault strikes. Time is virtual, so a run repeats exactly.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from benchmarks.accuracy_score import Run
from chaos.drawing import FIELDS, Settings, draw_value
from chaos.embedded import EmbeddedWorld
from chaos.faults import FaultSpec, Injected
from pipeline.partitioner import PARTITIONERS
from synchroscope.ports import AggregateRecord
from synchroscope.view import View
from validator.finding import Finding, timestamp

LINK_KINDS = {
    "missed": "drop",
    "delivered twice": "duplicate",
    "reordered": "reorder",
    "older version": "stale",
    "lagging only": "delay",
}
OWN_KINDS = ("bit flip", "out-of-band write", "out-of-band delete", "stale restore")
KINDS = (
    "no fault",
    "lagging only",
    "delivered twice",
    "missed",
    "reordered",
    "bit flip",
    "out-of-band write",
    "out-of-band delete",
    "older version",
    "stale restore",
    "all at once",
)
HARMLESS = frozenset({"delay", "duplicate"})
VIEW = View("alpha", {kind: frozenset() for kind in FIELDS})
VICTIM, WITNESS = "alpha@victim", "alpha@witness"
SAME_FACTS = "-"
"""Stands for the field of a row that went back to an older version with the same facts."""
STORAGE_CAUSES = frozenset({"corrupted", "stale"})


def draw(kind: str, rng: random.Random) -> Settings:
    """Draw a world in which faults of one kind strike the victim about five times."""
    steps = 400
    share = rng.choice([0.005, 0.01, 0.03])
    subjects, batch = rng.choice([20, 50, 200]), rng.choice([1, 3, 10, 50])
    if kind == "reordered":  # Two events of one key must come in one batch.
        share, subjects, batch = 0.3, rng.choice([5, 20]), rng.choice([10, 50])
    kinds = [LINK_KINDS[kind]] if kind in LINK_KINDS else []
    if kind == "all at once":
        kinds, share = list(LINK_KINDS.values()), 0.003
    if kind == "lagging only":
        share = 0.2
    return Settings(
        partitions=rng.randint(1, 3),
        partitioner=rng.choice(sorted(PARTITIONERS)),
        views=(VIEW,),
        replicas=((VICTIM, VIEW, True), (WITNESS, VIEW, True)),
        faults=tuple(FaultSpec(one, VICTIM, share) for one in kinds),
        crash_chance=0.0,
        batch_records=batch,
        marker_interval=rng.choice([4, 16, 64]),
        bits=rng.choice([1, 4, 8]),
        steps=steps,
        subjects=subjects,
        scrub_interval_seconds=rng.choice([None, 0.05]),
    )


class AccuracyWorld(EmbeddedWorld):
    """Two replicas, of which one is harmed; adds the faults that somebody does to a storage."""

    def __init__(self, kind: str, seed: int) -> None:
        self._fate = random.Random(f"{kind} {seed}")
        super().__init__(seed, draw(kind, self._fate))
        self._own = [kind] if kind in OWN_KINDS else []
        if kind == "all at once":
            self._own = [one for one in OWN_KINDS if one != "stale restore"]
        self._chance = 0.03 / max(len(self._own), 1)
        self._copy: list[AggregateRecord] = []

    def run(self) -> None:
        """Let it live, and then be judged."""
        actors = self.actors()
        self.may_crash = True  # Saboteurs work only then; nothing crashes at a chance of 0.
        for number in range(self.settings.steps):
            self.turn(self.rng.choice(actors))
            self.now += self.rng.choice([0.0, 0.01, 0.05, 0.3])
            if "stale restore" in self._own:
                self._perhaps_restore(number)
        self.may_crash = False
        if not self.settle():
            raise RuntimeError("not settled: something is stuck")

    def act(self, actor: str) -> None:
        """Let one role take a step, and perhaps somebody harm the victim's storage after it."""
        super().act(actor)
        if actor == VICTIM:
            for kind in self._own:
                if kind != "stale restore" and self._fate.random() < self._chance:
                    self._harm(kind)

    def _records(self) -> list[AggregateRecord]:
        storage = self.held(VICTIM)
        return [
            record.copy()
            for partition in range(self.settings.partitions)
            for bucket in range(2)
            for record in storage.scan(partition, bucket, 1)
        ]

    def _harm(self, kind: str) -> None:
        records = sorted(self._records(), key=lambda r: (r.context_type, r.subject))
        facts = [
            (record, name)
            for record in records
            for name, (value, _) in sorted(record.fields.items())
            if value is not None
        ]
        if not facts:
            return
        record, name = self._fate.choice(facts)
        value, sequence = record.fields[name]
        if kind == "out-of-band delete":
            record.fields[name] = (None, sequence)
        elif kind == "bit flip":
            record.fields[name] = (_flipped(value, self._fate), sequence)
        else:
            other = draw_value(self._fate)
            if other is None or other == value:
                return
            record.fields[name] = (other, sequence)
        self._note(kind, record, name)
        self._write([record])

    def _perhaps_restore(self, number: int) -> None:
        if number == self.settings.steps // 2:
            self._copy = self._records()
        if number == self.settings.steps * 3 // 4:
            now = {(one.context_type, one.subject): one for one in self._records()}
            for record in self._copy:
                current = now[record.context_type, record.subject]
                if record != current:
                    is_seen = _facts(record) != _facts(current)
                    self._note("stale restore", record, None if is_seen else SAME_FACTS)
            self._write(self._copy)

    def _note(self, kind: str, record: AggregateRecord, name: str | None) -> None:
        place = {
            "partition": record.partition,
            "offset": self.position_in(VICTIM, record.partition),
        }
        self.journal.add(
            Injected(
                kind, VICTIM, record.subject, record.context_type, name, place, timestamp(self.now)
            )
        )

    def _write(self, records: list[AggregateRecord]) -> None:
        for record in records:
            key = (record.context_type, record.subject)
            self.held(VICTIM).commit({key: record}, record.partition, None)


def _facts(record: AggregateRecord) -> dict[str, Any]:
    return {name: value for name, (value, _) in record.fields.items() if value is not None}


def _flipped(value: Any, rng: random.Random) -> Any:
    """Return the value with one bit of a number or of a character the other way."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1 << rng.randrange(16)
    if isinstance(value, float):
        return float(int(value * 1024) ^ 1 << rng.randrange(8)) / 1024
    if isinstance(value, str):
        place = rng.randrange(len(value))
        return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
    if isinstance(value, dict):
        return {name: _flipped(one, rng) for name, one in value.items()}
    return [*value[:-1], _flipped(value[-1], rng)] if value else [1]


def run_seed(kind: str, seed: int) -> Run:
    """Run one world and hold its findings against its faults."""
    world = AccuracyWorld(kind, seed)
    world.run()
    faults = world.journal.faults()
    findings = world.findings.read()
    harmless = [fault for fault in faults if fault.kind in HARMLESS]
    harmful = [fault for fault in faults if fault.kind not in HARMLESS]
    [late] = [one.ordering_violations for one in world.statuses() if one.name == VICTIM]
    causes: Counter[str] = Counter()
    found = inside = masked = counted = 0
    widths: list[int] = []
    for place, fault in enumerate(harmful):
        named = [one for finding in findings for one in _explaining(finding, fault)]
        if not named and fault.kind == "reorder" and late:
            # The replica let the newer value stand; the audit proves the order.
            late, found, counted = late - 1, found + 1, counted + 1
            causes["counted as late"] += 1
            continue
        if not named:
            is_undone = any(_same_key(later, fault) for later in harmful[place + 1 :])
            masked += is_undone or fault.field == SAME_FACTS
            continue
        found += 1
        # A key that was struck twice has two findings: the narrowest that holds this fault is its.
        offset = fault.position["offset"]
        is_inside, kind_told, after, by = min(
            ((after <= offset <= by, kind, after, by) for kind, after, by in named),
            key=lambda one: (not one[0], one[3] - one[2]),
        )
        causes[kind_told] += 1
        inside += is_inside
        widths.append(by - after)
    mine = [finding for finding in findings if finding.replica == VICTIM]
    right = sum(any(_explaining(finding, fault) for fault in faults) for finding in mine)
    return Run(
        injected=len(faults),
        masked=masked + len(harmless),
        found=found,
        causes=dict(causes),
        inside=inside,
        widths=widths,
        findings=len(mine),
        right=right,
        false_alarms=len(findings) - len(mine),
        counted=counted,
    )


def _same_key(one: Injected, other: Injected) -> bool:
    return (one.context_type, one.subject) == (other.context_type, other.subject)


def _explaining(finding: Finding, fault: Injected) -> list[tuple[str, int, int]]:
    """Return kind and interval of what a finding says, where that fault may be its cause."""
    if (finding.replica, finding.context_type) != (VICTIM, fault.context_type):
        return []
    if finding.partition != fault.position["partition"] or fault.subject not in finding.subjects:
        return []
    causes = finding.evidence.get("causes")
    if causes is None:
        where, since = finding.first_bad_position, finding.since
        if where is None or since is None:
            return []
        causes = [
            {"subject": fault.subject, "offset": where.offset, "after_offset": since.after_offset}
        ]
    spans = [
        (finding.kind, cause["after_offset"] or 0, cause["offset"])
        for cause in causes
        if cause["subject"] == fault.subject
    ]
    offset = fault.position["offset"]
    if fault.kind == "drop":
        return [span for span in spans if span[0] == "missed" and span[2] == offset]
    if fault.kind == "reorder":
        return [span for span in spans if span[0] == "reordered"]
    return [span for span in spans if span[0] in STORAGE_CAUSES]
