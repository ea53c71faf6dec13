"""The whole pipeline under a seeded scheduler, a virtual clock, faulty links and crashes.

The roles are the production code. A seed decides everything: how many partitions, views and
replicas there are, what is produced, whose turn it is, what fails and when. A run has four phases:

1. chaos: roles step in random order; records are dropped, doubled, swapped and delayed, stored
   facts are altered, and any role may die before or after any write and come back;
2. calm: no more crashes or new damage to storage; everything is read, scrubbed and judged;
3. the verdicts and findings are held against the oracle;
4. rebuild: replicas that diverged start anew from the log over a good link, and all must agree.
"""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from chaos.crashing import CrashingLog, CrashingStorage, SimulatedCrash
from chaos.faults import Dice, FaultJournal, FaultSpec, Injected
from chaos.link import FaultyLink
from chaos.oracle import all_events, facts_of_storage, facts_of_view
from chaos.saboteur import Saboteur
from pipeline.commands import CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.partitioner import PARTITIONERS
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.event import ContextDelta, ContextEvent, PropagationRules, Source, Update
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Role
from synchroscope.replica import Replica
from synchroscope.view import View
from validator.finding import Finding, timestamp
from validator.ledger import FindingsReader
from validator.validator import ExpectedReplica, Validator
from validator.watch import Verdict

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CALM_ROUNDS = 3_000
FIELDS = {"behavioural": ("page", "basket"), "financial": ("spend", "limit"), "geographic": ("at",)}
MODELS = ("alpha", "beta", "gamma")


class Broken(AssertionError):
    """A property of the system does not hold."""


class Settings(Struct, frozen=True):
    """What a seed decides about the world as a whole."""

    partitions: int
    partitioner: str
    views: tuple[View, ...]
    replicas: tuple[tuple[str, View, bool], ...]
    """(name, view, whether its storage survives a crash)."""
    faults: tuple[FaultSpec, ...]
    crash_chance: float
    batch_records: int
    marker_interval: int
    bits: int
    steps: int
    subjects: int
    scrub_interval_seconds: float | None


class Outcome(Struct, frozen=True):
    """What a run did."""

    seed: int
    steps: int
    events: int
    crashes: int
    faults: dict[str, int]
    found: int
    masked: int


def draw_settings(rng: random.Random) -> Settings:
    """Draw the world."""
    views = []
    for model in MODELS[: rng.randint(1, 3)]:
        kinds = rng.sample(sorted(FIELDS), rng.randint(1, 3))
        fields = {
            kind: frozenset(rng.choice([(), FIELDS[kind][:1], FIELDS[kind]])) for kind in kinds
        }
        views.append(View(model, fields))
    replicas = []
    for number in range(rng.randint(len(views), 4)):
        view = views[number % len(views)]
        replicas.append((f"{view.model}@{number}", view, rng.random() < 0.6))
    faults = []
    for name, _, _ in replicas:
        for kind in ("drop", "duplicate", "reorder", "delay", "corrupt", "stale"):
            if rng.random() < 0.3:
                faults.append(FaultSpec(kind, name, rng.choice([0.005, 0.02, 0.08])))
    return Settings(
        partitions=rng.randint(1, 3),
        partitioner=rng.choice(sorted(PARTITIONERS)),
        views=tuple(views),
        replicas=tuple(replicas),
        faults=tuple(faults) if rng.random() < 0.9 else (),
        crash_chance=rng.choice([0.0, 0.001, 0.005, 0.02]),
        batch_records=rng.choice([1, 3, 10, 50]),
        marker_interval=rng.choice([4, 16, 64]),
        bits=rng.choice([1, 4, 8]),
        steps=rng.randint(100, 400),
        subjects=rng.choice([2, 5, 20]),
        scrub_interval_seconds=rng.choice([None, 0.05]),
    )


class World:
    """One simulated run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = draw_settings(self.rng)
        self.now = START.timestamp()
        self.crashes = 0
        self.may_crash = False
        self.events_made = 0
        self.acknowledged: list[str] = []
        self.log = MemoryLog({EVENTS: self.settings.partitions, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.store = MemoryEventStore()
        self.journal = FaultJournal()
        self.dice = Dice(seed)
        self.storages = {name: MemoryStorage() for name, _, _ in self.settings.replicas}
        self.lost_lives: Counter[str] = Counter()
        self.damage: list[tuple[int, int]] = []
        self.good_links = False
        self.findings = FindingsReader(self.log)
        self.saboteurs: dict[str, Saboteur] = {}
        self.commands: CommandSide | None = None
        self.relay: Relay | None = None
        self.validator: Validator | None = None
        self.projectors: dict[str, Projector | None] = dict.fromkeys(self.storages)

    # -- life and death of roles -------------------------------------------------------------

    def crash_point(self) -> None:
        if self.may_crash and self.rng.random() < self.settings.crash_chance:
            self.crashes += 1
            raise SimulatedCrash

    def clock(self) -> float:
        return self.now

    def place(self, kind: str, subject: str) -> int:
        count = self.settings.partitions
        return PARTITIONERS[self.settings.partitioner](kind, subject, count)

    def crashing_log(self) -> CrashingLog:
        return CrashingLog(self.log, self.crash_point)

    def make_projector(self, name: str) -> Projector:
        view = next(view for other, view, _ in self.settings.replicas if other == name)
        storage = self.storages[name]
        log = self.crashing_log()
        specs = () if self.good_links else self.settings.faults
        link = FaultyLink(log, view, name, specs, self.dice, self.journal, self.clock, timestamp)
        replica = Replica(
            name,
            view,
            CrashingStorage(storage, self.crash_point),
            incarnation=f"{self.rng.getrandbits(64):016x}",
            bits=self.settings.bits,
            marker_interval=self.settings.marker_interval,
        )
        self.saboteurs[name] = Saboteur(
            link, storage, replica.position, self.dice, self.journal, timestamp
        )
        return Projector(
            replica,
            log,
            events=link,
            batch_records=self.settings.batch_records,
            report_interval_seconds=0.05,
            heartbeat_seconds=0.2,
            scrub_interval_seconds=self.settings.scrub_interval_seconds,
        )

    def make_validator(self) -> Validator:
        return Validator(
            self.crashing_log(),
            self.settings.views,
            [ExpectedReplica(name, view.model) for name, view, _ in self.settings.replicas],
            self.store,
            self.place,
            bits=self.settings.bits,
            marker_interval=self.settings.marker_interval,
            fold_records=self.settings.batch_records,
            request_timeout_seconds=0.5,
            checkpoint_interval_seconds=0.1,
        )

    def make_relay(self) -> Relay:
        return Relay(
            self.store,
            self.crashing_log(),
            partitioner=PARTITIONERS[self.settings.partitioner],
            batch_records=self.settings.batch_records,
        )

    def kill_projector(self, name: str) -> None:
        self.projectors[name] = None
        durable = next(d for other, _, d in self.settings.replicas if other == name)
        if not durable:
            self.storages[name] = MemoryStorage()
            self.lost_lives[name] += 1

    # -- one turn of each role ---------------------------------------------------------------

    def turn(self, actor: str) -> None:
        """Let one role take a step; it may die of it."""
        try:
            if actor == "producer":
                self.produce()
            elif actor == "relay":
                self.relay = self.relay or self.make_relay()
                self.relay.step(self.now)
            elif actor == "validator":
                self.validator = self.validator or self.make_validator()
                self.validator.step(self.now)
            else:
                self.step_replica(actor)
        except SimulatedCrash:
            self.bury(actor)

    def bury(self, actor: str) -> None:
        if actor == "producer":
            self.commands = None
        elif actor == "relay":
            self.relay = None
        elif actor == "validator":
            self.validator = None
        else:
            self.kill_projector(actor)

    def step_replica(self, name: str) -> None:
        projector = self.projectors[name] or self.make_projector(name)
        self.projectors[name] = projector
        projector.step(self.now)
        if self.may_crash:
            before = len(self.journal.faults())
            self.saboteurs[name].step(self.now)
            life = self.lost_lives[name]
            self.damage += [(i, life) for i in range(before, len(self.journal.faults()))]

    def produce(self) -> None:
        self.commands = self.commands or CommandSide(self.store, {})
        made: list[str] = []
        tracked = self.store.tracking("simulation")
        number = int(tracked or 0)
        with self.commands.batch(self.now) as batch:
            for _ in range(self.rng.randint(1, 5)):
                event = self.draw_event(number)
                number += 1
                batch.submit(event)
                made.append(str(event.event_id))
            batch.track("simulation", str(number))
            self.crash_point()
        self.acknowledged += made
        self.crash_point()

    def draw_event(self, number: int) -> ContextEvent:
        rng = self.rng
        kind = rng.choice(sorted(FIELDS))
        names = rng.sample(FIELDS[kind], rng.randint(1, len(FIELDS[kind])))
        models = rng.sample(MODELS, rng.randint(0, 3))
        return ContextEvent(
            event_id=uuid.UUID(int=rng.getrandbits(128)),
            timestamp=dt.datetime.fromtimestamp(self.now, dt.UTC),
            event_type="context.updated",
            source=Source("simulation", "one"),
            context_delta=ContextDelta(
                updates={name: Update(current=self.draw_value()) for name in names},
                user_id=str(rng.randrange(self.settings.subjects)),
            ),
            propagation_rules=PropagationRules(
                target_models=None if rng.random() < 0.6 else tuple(models),
                priority=rng.choice(["high", "normal"]),
                ttl=rng.choice([None, None, None, 1, 5]),
            ),
            context_type=kind,
        )

    def draw_value(self) -> Any:
        rng = self.rng
        choices: list[Callable[[], Any]] = [
            lambda: rng.randrange(1_000),
            lambda: rng.random() * 100,
            lambda: f"v{rng.randrange(1_000)}",
            lambda: {"n": rng.randrange(1_000)},
            lambda: [rng.randrange(9) for _ in range(rng.randrange(4))],
            lambda: rng.random() < 0.5,
            lambda: None,
        ]
        return rng.choice(choices)()

    # -- the phases --------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run all phases; raise `Broken` when a property does not hold."""
        actors = ["producer", "relay", "validator", *self.storages]
        self.may_crash = True
        for _ in range(self.settings.steps):
            self.turn(self.rng.choice(actors))
            self.now += self.rng.choice([0.0, 0.01, 0.05, 0.3])
        self.may_crash = False
        self.settle()
        found, masked = self.check_findings()
        self.check_log()
        self.check_verdicts()
        self.check_counts()
        self.rebuild()
        return Outcome(
            self.seed,
            self.settings.steps,
            self.store.count(),
            self.crashes,
            dict(Counter(fault.kind for fault in self.journal.faults())),
            found,
            masked,
        )

    def roles(self) -> list[Role]:
        self.relay = self.relay or self.make_relay()
        self.validator = self.validator or self.make_validator()
        for name in self.storages:
            self.projectors[name] = self.projectors[name] or self.make_projector(name)
        running = [p for p in self.projectors.values() if p is not None]
        return [self.relay, *running, self.validator]

    def settle(self) -> None:
        """Let everything be read and judged, without further damage."""
        for _ in range(CALM_ROUNDS):
            for role in self.roles():
                role.step(self.now)
            self.now += 0.05
            assert self.validator is not None and self.relay is not None
            heads = {p: self.log.head(EVENTS, p) for p in range(self.settings.partitions)}
            caught_up = self.relay.position == self.store.count() and all(
                projector is not None and projector.replica.position(p) == head
                for projector in self.projectors.values()
                for p, head in heads.items()
            )
            if caught_up:
                if self.validator.is_settled():
                    return
                self.validator.scrub(self.now)
        raise Broken("not settled: a replica or the validator is stuck")

    # -- the properties ----------------------------------------------------------------------

    def check_log(self) -> None:
        """Nothing acknowledged is lost, nothing is published twice or out of order."""
        stored = [str(event.event_id) for event in all_events(self.store)]
        missing = set(self.acknowledged) - set(stored)
        if missing:
            raise Broken(f"acknowledged and not stored: {sorted(missing)[:3]}")
        published: list[str] = []
        for partition in range(self.settings.partitions):
            last: dict[bytes, int] = {}
            for record in self.log.read(EVENTS, partition, 0, 10**9).records:
                published.append((record.header("ce_id") or b"").decode())
                position = int(record.header("store-position") or b"0")
                if position <= last.get(b"", 0):
                    raise Broken(f"partition {partition} is not in the store's order")
                last[b""] = position
        if Counter(published) != Counter(stored):
            raise Broken(f"{len(stored)} stored events, {len(published)} published")

    def check_verdicts(self) -> None:
        """DIVERGED exactly where the content differs from the truth, CONSISTENT everywhere else."""
        assert self.validator is not None
        events = all_events(self.store)
        for name, view, _ in self.settings.replicas:
            truth = facts_of_view(events, view)
            held = facts_of_storage(self.storages[name], self.settings.partitions)
            verdict = self.validator.judge(name, self.now)
            wanted = Verdict.CONSISTENT if held == truth else Verdict.DIVERGED
            if verdict.verdict != wanted:
                raise Broken(f"{name} is {wanted} and was judged {verdict}")
            named = {
                key
                for finding in self.validator.open_findings()
                if finding.replica == name
                for key in finding.keys
            }
            odd = {key[:2] for key in truth.keys() | held.keys() if truth.get(key) != held.get(key)}
            if odd != named:
                raise Broken(f"{name}: deviating {sorted(odd)}, named {sorted(named)}")

    def check_counts(self) -> None:
        """Every late event is proven by the audit; an unharmed replica never shows any news."""
        assert self.validator is not None
        harmless = ("duplicate", "delay")
        harmed = {f.replica for f in self.journal.faults() if f.kind not in harmless}
        for status in self.validator.status(self.now):
            if status.late != status.ordering_violations:
                raise Broken(
                    f"{status.name}: {status.late} late, {status.ordering_violations} proven"
                )
            if status.name not in harmed and status.agreements != status.markers_compared:
                raise Broken(f"{status.name} is unharmed and did not always agree: {status}")

    def check_findings(self) -> tuple[int, int]:
        """Every fault that had an effect is found where it struck; nothing is found without cause."""
        findings = self.findings.read()
        found = masked = 0
        lives = dict(self.damage)
        faults = self.journal.faults()
        for index, fault in enumerate(faults):
            if fault.kind not in ("drop", "corrupt", "stale"):
                continue
            if any(_explains(finding, fault) for finding in findings):
                found += 1
            elif index in lives and lives[index] < self.lost_lives[fault.replica]:
                masked += 1  # the storage died before anything could read it
            elif any(_overwrites(later, fault) for later in faults[index + 1 :]):
                masked += 1  # a second damage undid it before anything could read it
            else:
                raise Broken(f"not found: {fault}")
        for finding in findings:
            if not any(_explains(finding, fault) for fault in self.journal.faults()):
                raise Broken(f"found without cause: {finding}")
        ids = Counter(finding.id for finding in findings)
        if ids and max(ids.values()) > 1:
            raise Broken("a finding was opened twice")
        return found, masked

    def rebuild(self) -> None:
        """After a replay over a good link everything converges and every finding is resolved."""
        assert self.validator is not None
        self.good_links = True
        for name in self.storages:
            if self.validator.judge(name, self.now).verdict is Verdict.DIVERGED:
                self.storages[name] = MemoryStorage()
                self.projectors[name] = None
        self.settle()
        for name in self.storages:
            verdict = self.validator.judge(name, self.now)
            if verdict.verdict is not Verdict.CONSISTENT:
                raise Broken(f"{name} does not converge: {verdict}")
        if self.validator.open_findings():
            raise Broken(f"still open: {self.validator.open_findings()[0]}")
        self.check_verdicts()


def _overwrites(later: Injected, fault: Injected) -> bool:
    """Say whether a later fault struck the storage of the same aggregate."""
    return later.kind in ("corrupt", "stale") and (
        later.replica,
        later.context_type,
        later.subject,
    ) == (fault.replica, fault.context_type, fault.subject)


def _explains(finding: Finding, fault: Injected) -> bool:
    """Say whether a fault is the cause of a finding."""
    if finding.replica != fault.replica or finding.context_type != fault.context_type:
        return False
    if fault.subject not in finding.subjects:
        return False
    where = finding.first_bad_position
    if fault.kind == "drop":
        return (
            finding.kind == "missed"
            and where is not None
            and (where.partition, where.offset)
            == (fault.position["partition"], fault.position["offset"])
        )
    if fault.kind in ("corrupt", "stale"):
        return finding.kind in ("corrupted", "stale")
    return fault.kind == "reorder" and finding.kind == "reordered"


def simulate(seed: int) -> Outcome:
    """Run one seed; raise `Broken` (or whatever the code under test raises) on failure."""
    return World(seed).run()
