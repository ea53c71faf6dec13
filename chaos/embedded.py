"""The embedded mode: one process, a log that appends in one step, storages of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from chaos.crashing import CrashingLog
from chaos.drawing import Settings, draw_settings
from chaos.faults import Injected
from chaos.saboteur import Saboteur
from chaos.world import CALM_ROUNDS, World, topics
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import ReplicaStorage, Role
from validator.finding import timestamp
from validator.status import ReplicaStatus
from validator.validator import Validator
from validator.watch import Judged


class EmbeddedWorld(World):
    """One relay, one validator, and a projector and a storage for each replica.

    Parameters
    ----------
    seed: Decides about everything.
    settings: The world as a whole; by default the seed decides about that, too.
    """

    mode = "embedded"

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        rng = random.Random(seed)
        settings = draw_settings(rng) if settings is None else settings
        super().__init__(seed, rng, settings, MemoryLog(topics(settings)))
        self._durable = {name: durable for name, _, durable in settings.replicas}
        self._storages = {name: MemoryStorage() for name in self.views}
        self._lost_lives: Counter[str] = Counter()
        self._damage: dict[int, int] = {}
        self._saboteurs: dict[str, Saboteur] = {}
        self._relay: Relay | None = None
        self._validator: Validator | None = None
        self._projectors: dict[str, Projector | None] = dict.fromkeys(self._storages)

    def actors(self) -> list[str]:
        """Return the producer and every role."""
        return ["producer", "relay", "validator", *self._storages]

    def act(self, actor: str) -> None:
        """Let one role take a step."""
        if actor == "producer":
            self.produce()
        elif actor == "relay":
            self._running_relay().step(self.now)
        elif actor == "validator":
            self._running_validator().step(self.now)
        else:
            self._step_replica(actor)

    def bury(self, actor: str) -> None:
        """Forget a role, and its storage where it was in memory."""
        if actor == "producer":
            self.commands = None
        elif actor == "relay":
            self._relay = None
        elif actor == "validator":
            self._validator = None
        else:
            self._projectors[actor] = None
            if not self._durable[actor]:
                self._storages[actor] = MemoryStorage()
                self._lost_lives[actor] += 1

    def _step_replica(self, name: str) -> None:
        self._running_projector(name).step(self.now)
        if self.may_crash:
            before = len(self.journal.faults())
            self.strikes[name] += self._saboteurs[name].step(self.now).consumed
            struck = range(before, len(self.journal.faults()))
            self._damage.update(dict.fromkeys(struck, self._lost_lives[name]))

    # -- roles, started where they are dead ----------------------------------------------------

    def _log(self) -> CrashingLog:
        return CrashingLog(self.log, self.crash_point)

    def _running_relay(self) -> Relay:
        self._relay = self._relay or self.make_relay(self._log())
        return self._relay

    def _running_validator(self) -> Validator:
        self._validator = self._validator or self.make_validator(self._log())
        return self._validator

    def _running_projector(self, name: str) -> Projector:
        running = self._projectors[name] or self._make_projector(name)
        self._projectors[name] = running
        return running

    def _make_projector(self, name: str) -> Projector:
        storage = self._storages[name]
        log = self._log()
        link = self.make_link(log, name, self.views[name])
        replica = self.make_replica(name, storage, self.crash_point)
        self._saboteurs[name] = Saboteur(
            link, storage, replica.position, self.dice, self.journal, timestamp
        )
        return self.make_projector(replica, log, link)

    def _running_roles(self) -> list[Role]:
        return [
            self._running_relay(),
            *[self._running_projector(name) for name in self._storages],
            self._running_validator(),
        ]

    # -- when everything is calm ---------------------------------------------------------------

    def settle(self) -> bool:
        """Let every role step in turn until everything is judged."""
        for _ in range(CALM_ROUNDS):
            for role in self._running_roles():
                role.step(self.now)
            self.now += 0.05
            if self.is_caught_up(self._running_relay()):
                if self._running_validator().is_settled():
                    return True
                self._running_validator().scrub(self.now)
        return False

    def position_in(self, name: str, partition: int) -> int:
        """Return a replica's position."""
        return self._running_projector(name).replica.position(partition)

    def held(self, name: str) -> ReplicaStorage:
        """Return a replica's storage."""
        return self._storages[name]

    def empty(self, name: str) -> None:
        """Start the replica anew on a new storage."""
        self._storages[name] = MemoryStorage()
        self._projectors[name] = None

    def is_undone(self, index: int, fault: Injected) -> bool:
        """Say whether the storage that was struck died with its process."""
        return index in self._damage and self._damage[index] < self._lost_lives[fault.replica]

    def fell_back(self, name: str | None) -> bool:
        """Say whether the replica ever lost its storage."""
        return name is not None and self._lost_lives[name] > 0

    def validators(self) -> Sequence[Validator]:
        """Return the validator if it lives."""
        return [] if self._validator is None else [self._validator]

    def judge(self, name: str) -> Judged:
        """Return the validator's verdict."""
        return self._running_validator().judge(name, self.now)

    def statuses(self) -> list[ReplicaStatus]:
        """Return every replica's status."""
        return self._running_validator().status(self.now)
