"""What all simulated worlds have in common: time, dice, event store, log, how roles are made."""

from __future__ import annotations

import datetime as dt
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from chaos.crashing import CrashingStorage, CrashPoint, SimulatedCrash
from chaos.drawing import Settings, draw_event, draw_whole_facts
from chaos.faults import Dice, FaultJournal, FaultSpec, Injected
from chaos.link import FaultyLink
from pipeline.commands import CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.partitioner import PARTITIONERS
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Log, ReplicaStorage
from synchroscope.replica import Replica
from synchroscope.view import View
from validator.finding import Finding, timestamp
from validator.ledger import FindingsReader
from validator.reference import REPEAT_WINDOW
from validator.status import ReplicaStatus
from validator.validator import ExpectedReplica, Validator
from validator.watch import Judged

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CALM_ROUNDS = 3_000
ANSWER_BUCKETS = 5
"""So few that an answer takes many steps."""


class World(ABC):
    """Everything that exists in one run; `turn` lets one actor take a step.

    Parameters
    ----------
    seed: Decides about everything.
    rng: Its stream, from which `settings` are drawn already.
    log: The log.
    """

    mode = ""
    has_zombies = False
    """Whether a process may work on after it lost its place."""
    repeat_window = REPEAT_WINDOW

    def __init__(self, seed: int, rng: random.Random, settings: Settings, log: MemoryLog) -> None:
        self.seed = seed
        self.rng = rng
        self.settings = settings
        self.log = log
        self.now = START.timestamp()
        self.crashes = 0
        self.pauses = 0
        self.may_crash = False
        self.acknowledged: list[str] = []
        self.store = MemoryEventStore()
        self.journal = FaultJournal()
        self.dice = Dice(seed)
        self.whole_facts = draw_whole_facts(seed)
        self.good_links = False
        self.more_faults: tuple[FaultSpec, ...] = ()
        self.strikes: Counter[str] = Counter()
        """How often each replica's storage was changed behind its back."""
        self.findings = FindingsReader(log)
        self.commands: CommandSide | None = None
        self.views = {name: view for name, view, _ in settings.replicas}

    # -- what each mode does its own way -----------------------------------------------------

    @abstractmethod
    def actors(self) -> list[str]:
        """Return who may take a turn."""

    @abstractmethod
    def act(self, actor: str) -> None:
        """Let an actor take a step; it may die of it."""

    @abstractmethod
    def bury(self, actor: str) -> None:
        """Throw away what an actor that died held in memory."""

    @abstractmethod
    def held(self, name: str) -> ReplicaStorage:
        """Return what a replica's storage really holds."""

    @abstractmethod
    def empty(self, name: str) -> None:
        """Have a replica built again from the log."""

    @abstractmethod
    def is_undone(self, index: int, fault: Injected) -> bool:
        """Say whether what a fault did was gone before anything had to read it."""

    @abstractmethod
    def fell_back(self, name: str | None) -> bool:
        """Say whether a replica's storage ever came back as it had been before."""

    @abstractmethod
    def validators(self) -> Sequence[Validator]:
        """Return the validators that live."""

    @abstractmethod
    def judge(self, name: str) -> Judged:
        """Return a replica's verdict over all partitions, when everything is calm."""

    @abstractmethod
    def statuses(self) -> list[ReplicaStatus]:
        """Return every replica's status on some partitions, when everything is calm."""

    @abstractmethod
    def settle(self) -> bool:
        """Let everything be read and judged without further damage; False when it gets stuck."""

    # -- what all have -----------------------------------------------------------------------

    def turn(self, actor: str) -> None:
        """Let one actor take a step, and clear away what it leaves if it dies."""
        try:
            self.act(actor)
        except SimulatedCrash:
            self.bury(actor)

    def open_findings(self) -> list[Finding]:
        """Return the findings that are open, of all partitions."""
        return [finding for validator in self.validators() for finding in validator.open_findings()]

    @abstractmethod
    def position_in(self, name: str, partition: int) -> int:
        """Return the position that a replica's storage holds."""

    def crash_point(self) -> None:
        """Perhaps die here."""
        if self.may_crash and self.rng.random() < self.settings.crash_chance:
            self.crashes += 1
            raise SimulatedCrash

    def clock(self) -> float:
        """Return wall time."""
        return self.now

    def place(self, kind: str, subject: str) -> int:
        """Return an aggregate's partition."""
        count = self.settings.partitions
        return PARTITIONERS[self.settings.partitioner](kind, subject, count)

    def is_caught_up(self, relay: Relay) -> bool:
        """Say whether everything accepted is published and stands in every storage."""
        heads = {p: self.log.head(EVENTS, p) for p in range(self.settings.partitions)}
        return relay.position == self.store.count() and all(
            self.position_in(name, number) == head
            for name in self.views
            for number, head in heads.items()
        )

    # -- how roles are made ------------------------------------------------------------------

    def make_link(self, log: Log, name: str, view: View) -> FaultyLink:
        """Return the link of a replica."""
        specs = () if self.good_links else (*self.settings.faults, *self.more_faults)
        return FaultyLink(log, view, name, specs, self.dice, self.journal, self.clock, timestamp)

    def make_replica(self, name: str, storage: ReplicaStorage, crash: CrashPoint) -> Replica:
        """Return a replica on a storage."""
        return Replica(
            name,
            self.views[name],
            CrashingStorage(storage, crash),
            incarnation=f"{self.rng.getrandbits(64):016x}",
            bits=self.settings.bits,
            marker_interval=self.settings.marker_interval,
        )

    def make_projector(
        self, replica: Replica, log: Log, link: FaultyLink, *, shared: bool = False
    ) -> Projector:
        """Return a replica's projector."""
        return Projector(
            replica,
            log,
            events=link,
            batch_records=self.settings.batch_records,
            report_interval_seconds=0.05,
            heartbeat_seconds=0.2,
            scrub_interval_seconds=self.settings.scrub_interval_seconds,
            shared=shared,
            answer_buckets=ANSWER_BUCKETS,
        )

    def make_validator(
        self, log: Log, partitions: Sequence[int] | None = None, worker: str = ""
    ) -> Validator:
        """Return a validator of some partitions."""
        return Validator(
            log,
            self.settings.views,
            [ExpectedReplica(name, view.model) for name, view in self.views.items()],
            self.store,
            self.place,
            bits=self.settings.bits,
            marker_interval=self.settings.marker_interval,
            fold_records=self.settings.batch_records,
            request_timeout_seconds=0.5,
            checkpoint_interval_seconds=0.1,
            partitions=partitions,
            worker=worker,
            repeat_window=self.repeat_window,
            whole_facts=self.whole_facts,
            store=self.store,
        )

    def make_relay(self, log: Log) -> Relay:
        """Return a relay."""
        return Relay(
            self.store,
            log,
            partitioner=PARTITIONERS[self.settings.partitioner],
            batch_records=self.settings.batch_records,
        )

    def produce(self) -> None:
        """Have a few events accepted."""
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
            self.crash_point()
        self.acknowledged += made
        self.crash_point()


def topics(settings: Settings) -> dict[str, int]:
    """Return the partition counts of all topics."""
    return {EVENTS: settings.partitions, **dict.fromkeys(CONTROL_TOPICS, 1)}
