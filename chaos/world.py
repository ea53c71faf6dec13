"""A simulated world: the production roles on ports that may kill them, and what survives them."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter

from chaos.crashing import CrashingLog, CrashingStorage, SimulatedCrash
from chaos.drawing import draw_event, draw_settings
from chaos.faults import Dice, FaultJournal
from chaos.link import FaultyLink
from chaos.saboteur import Saboteur
from pipeline.commands import CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.partitioner import PARTITIONERS
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Role
from synchroscope.replica import Replica
from validator.finding import timestamp
from validator.ledger import FindingsReader
from validator.validator import ExpectedReplica, Validator

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CALM_ROUNDS = 3_000


class World:
    """Everything that exists in one run; `turn` lets one role take a step."""

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

    def _crash_point(self) -> None:
        if self.may_crash and self.rng.random() < self.settings.crash_chance:
            self.crashes += 1
            raise SimulatedCrash

    def _clock(self) -> float:
        return self.now

    def _place(self, kind: str, subject: str) -> int:
        count = self.settings.partitions
        return PARTITIONERS[self.settings.partitioner](kind, subject, count)

    def _crashing_log(self) -> CrashingLog:
        return CrashingLog(self.log, self._crash_point)

    def _make_projector(self, name: str) -> Projector:
        view = next(view for other, view, _ in self.settings.replicas if other == name)
        storage = self.storages[name]
        log = self._crashing_log()
        specs = () if self.good_links else self.settings.faults
        link = FaultyLink(log, view, name, specs, self.dice, self.journal, self._clock, timestamp)
        replica = Replica(
            name,
            view,
            CrashingStorage(storage, self._crash_point),
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

    def _make_validator(self) -> Validator:
        return Validator(
            self._crashing_log(),
            self.settings.views,
            [ExpectedReplica(name, view.model) for name, view, _ in self.settings.replicas],
            self.store,
            self._place,
            bits=self.settings.bits,
            marker_interval=self.settings.marker_interval,
            fold_records=self.settings.batch_records,
            request_timeout_seconds=0.5,
            checkpoint_interval_seconds=0.1,
        )

    def _make_relay(self) -> Relay:
        return Relay(
            self.store,
            self._crashing_log(),
            partitioner=PARTITIONERS[self.settings.partitioner],
            batch_records=self.settings.batch_records,
        )

    def _kill_projector(self, name: str) -> None:
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
                self._produce()
            elif actor == "relay":
                self.relay = self.relay or self._make_relay()
                self.relay.step(self.now)
            elif actor == "validator":
                self.validator = self.validator or self._make_validator()
                self.validator.step(self.now)
            else:
                self._step_replica(actor)
        except SimulatedCrash:
            self._bury(actor)

    def _bury(self, actor: str) -> None:
        if actor == "producer":
            self.commands = None
        elif actor == "relay":
            self.relay = None
        elif actor == "validator":
            self.validator = None
        else:
            self._kill_projector(actor)

    def _step_replica(self, name: str) -> None:
        projector = self.projectors[name] or self._make_projector(name)
        self.projectors[name] = projector
        projector.step(self.now)
        if self.may_crash:
            before = len(self.journal.faults())
            self.saboteurs[name].step(self.now)
            life = self.lost_lives[name]
            self.damage += [(i, life) for i in range(before, len(self.journal.faults()))]

    def _produce(self) -> None:
        self.commands = self.commands or CommandSide(self.store, {})
        made: list[str] = []
        tracked = self.store.tracking("simulation")
        number = int(tracked or 0)
        with self.commands.batch(self.now) as batch:
            for _ in range(self.rng.randint(1, 5)):
                event = draw_event(self.rng, self.settings, self.now)
                number += 1
                batch.submit(event)
                made.append(str(event.event_id))
            batch.track("simulation", str(number))
            self._crash_point()
        self.acknowledged += made
        self._crash_point()

    def running_roles(self) -> list[Role]:
        """Return every role but the producer, started where it is dead."""
        self.relay = self.relay or self._make_relay()
        self.validator = self.validator or self._make_validator()
        for name in self.storages:
            self.projectors[name] = self.projectors[name] or self._make_projector(name)
        running = [p for p in self.projectors.values() if p is not None]
        return [self.relay, *running, self.validator]

    def running_validator(self) -> Validator:
        """Return the validator, started if it is dead."""
        self.validator = self.validator or self._make_validator()
        return self.validator

    def settle(self) -> bool:
        """Let everything be read and judged without further damage; False when it gets stuck."""
        for _ in range(CALM_ROUNDS):
            for role in self.running_roles():
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
                    return True
                self.validator.scrub(self.now)
        return False
