"""The distributed mode: every role in several processes that divide the partitions among them.

Beside what the embedded mode suffers, a process may be cut off from a server in any call, or stand
still in it while the others go on and take over what it owned; partitions move; a storage may come
back with an older copy of itself, or with nothing. A role that raises is thrown away and built anew
from its stores, as production does it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import msgspec

from chaos.crashing import CrashingLog, CrashPoint, SimulatedCrash
from chaos.drawing import draw_hazards, draw_settings
from chaos.faults import STORAGE_KINDS, Injected
from chaos.ownership import Ownership
from chaos.remote_log import FencedLog, MarkedLog, ProducerLog
from chaos.remote_storage import CurrentStorage, PlainStorage, SharedStorage, StorageServer
from chaos.saboteur import Saboteur
from chaos.world import CALM_ROUNDS, World, topics
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.errors import FencedError, UnavailableError
from synchroscope.ports import ReplicaStorage
from synchroscope.replica import PartitionState
from validator.finding import timestamp
from validator.status import ReplicaStatus
from validator.validator import Validator
from validator.watch import Judged, Verdict

MAXIMUM_PAUSED = 2
MAXIMUM_PAUSES = 200
"""Pauses lie within pauses; without an end to them a world could last for hours."""
OFTEN = 25
READING_SECONDS = 1e-6
_RANK = (Verdict.DIVERGED, Verdict.UNKNOWN, Verdict.CONSISTENT)


class DividedWorld(World):
    """Some processes of each role, on servers that they share."""

    mode = "divided"

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        settings = draw_settings(rng)
        self.hazards = draw_hazards(rng)
        self.has_zombies = self.hazards.pause_chance > 0.0
        self.repeat_window = self.hazards.repeat_window
        log = MarkedLog(topics(settings), marks=True, leaps=self.hazards.leaps)
        super().__init__(seed, rng, settings, log)
        self.server = log
        processes = self.hazards.processes
        self._processes = range(processes)
        self._groups = {
            "relay": Ownership(1, processes),
            "projector": Ownership(settings.partitions, processes),
            "validator": Ownership(settings.partitions, processes),
        }
        self._storages = {name: StorageServer() for name in self.views}
        self._copies: dict[str, list[tuple[PlainStorage, int]]] = {n: [] for n in self.views}
        self._undone: set[int] = set()
        self._paused: list[str] = []
        self._builds = 0
        self._relays: dict[int, tuple[int, Relay]] = {}
        self._projectors: dict[int, dict[str, Projector]] = {n: {} for n in self._processes}
        self._saboteurs: dict[tuple[int, str], Saboteur] = {}
        self._validators: dict[int, dict[int, tuple[int, Validator]]] = {
            n: {} for n in self._processes
        }
        self.lost_places: Counter[str] = Counter()
        self.fallen: set[str] = set()

    # -- whose turn it is ----------------------------------------------------------------------

    def actors(self) -> list[str]:
        """Return the producer, fate, and every process of every role."""
        roles = [f"{role}/{number}" for role in self._groups for number in self._processes]
        return ["producer", "producer", "fate", *roles]

    def turn(self, actor: str) -> None:
        """Let one actor take a step; what raises is built anew."""
        try:
            super().turn(actor)
        except FencedError:
            self.lost_places[actor.partition("/")[0]] += 1
            self.bury(actor)
        except UnavailableError:
            self.bury(actor)

    def act(self, actor: str) -> None:
        """Let one process take a step."""
        role, _, number = actor.partition("/")
        if role == "producer":
            self.produce()
        elif role == "fate":
            self._strike()
        elif role == "relay":
            self._step_relay(int(number), actor)
        elif role == "validator":
            self._step_validators(int(number), actor)
        else:
            self._step_projectors(int(number), actor)

    def bury(self, actor: str) -> None:
        """Forget what a process held in memory."""
        role, _, number = actor.partition("/")
        if role == "producer":
            self.commands = None
        elif role == "relay":
            self._relays.pop(int(number), None)
        elif role == "validator":
            self._validators[int(number)].clear()
        else:
            self._projectors[int(number)].clear()

    def _clock_of(self, process: int) -> float:
        """Return what a process reads off its clock; time passes between any two readings."""
        self.now += READING_SECONDS
        return self.now + self.hazards.clocks[process]

    # -- what befalls a process ------------------------------------------------------------------

    def _danger(self, actor: str) -> CrashPoint:
        """Return what is called where a process may die, be cut off or be paused."""

        def point() -> None:
            if not self.may_crash:
                return
            if self.rng.random() < self.settings.crash_chance:
                self.crashes += 1
                if self.rng.random() < 0.5:
                    raise UnavailableError("server", "does not answer")
                raise SimulatedCrash
            self._perhaps_pause(actor)

        return point

    def _delay(self, actor: str, times: int = 1) -> CrashPoint:
        """Return what is called where a process may be paused, that many times as likely."""
        return lambda: self._perhaps_pause(actor, times)

    def _perhaps_pause(self, actor: str, times: int = 1) -> None:
        if not self.may_crash or len(self._paused) >= MAXIMUM_PAUSED:
            return
        if self.pauses >= MAXIMUM_PAUSES:
            return
        if self.rng.random() >= self.hazards.pause_chance * times:
            return
        self.pauses += 1
        role, _, number = actor.partition("/")
        group, process = self._groups[role], int(number)
        if self.rng.random() < 0.7:
            for partition in group.of(process):
                group.move(partition, self.rng.choice(self._processes))
        group.deafen(process, self.rng.choice([0, 0, 1, 3]))
        self._paused.append(actor)
        others = [other for other in self.actors() if other not in self._paused]
        # Those who take over go on with what it stands before: their turns come more often.
        rivals = [other for other in others if other.startswith(role)] or others
        for _ in range(self.rng.choice([1, 5, 20])):
            self.turn(self.rng.choice(rivals if self.rng.random() < 0.4 else others))
            self.now += self.rng.choice([0.0, 0.01, 0.05, 0.3])
        self._paused.remove(actor)

    def _strike(self) -> None:
        """Move a partition, keep a copy of a storage, or have a storage come back as it was."""
        hazards, rng = self.hazards, self.rng
        if rng.random() < hazards.move_share:
            self._move(self._groups[rng.choice(sorted(self._groups))])
        name = rng.choice(sorted(self.views))
        if rng.random() < hazards.copy_share:
            copy = self._storages[name].held.copy()
            self._copies[name].append((copy, len(self.journal.faults())))
            del self._copies[name][:-3]
        if rng.random() < hazards.restart_share:
            self._restart(name)

    def _move(self, group: Ownership) -> None:
        partition = self.rng.randrange(group.partitions)
        old = group.owner(partition)
        group.move(partition, self.rng.choice(self._processes))
        if self.has_zombies:
            group.deafen(old, self.rng.choice([0, 1, 3]))

    def _restart(self, name: str) -> None:
        server = self._storages[name]
        copies = self._copies[name]
        if copies and self.rng.random() < 0.7:
            number = self.rng.randrange(len(copies))
            server.held, known_faults = copies[number]
            del copies[number:]
        else:
            server.held, known_faults = PlainStorage(), 0
        server.restarts += self.rng.random() < 0.5
        self.fallen.add(name)
        faults = self.journal.faults()
        self._undone.update(
            index
            for index in range(known_faults, len(faults))
            if faults[index].replica == name and faults[index].kind in STORAGE_KINDS
        )

    # -- the roles -------------------------------------------------------------------------------

    def _producer_log(self, actor: str) -> CrashingLog:
        danger, delay = self._danger(actor), self._delay(actor, OFTEN // 2)

        def moment() -> None:
            delay()
            danger()

        return CrashingLog(ProducerLog(self.server, moment, self.rng), danger)

    def _step_relay(self, process: int, actor: str) -> None:
        term = self._groups["relay"].owned(process).get(0)
        known = self._relays.get(process)
        if known is not None and known[0] != term:
            known = self._relays.pop(process, None) and None
        if term is None:
            return
        if known is None:
            danger = self._danger(actor)
            log = CrashingLog(self.server, danger)
            relay = self.make_relay(log if self.hazards.atomic_relay else self._producer_log(actor))
            known = self._relays[process] = (term, relay)
        known[1].step(self.now)

    def _step_projectors(self, process: int, actor: str) -> None:
        owned = self._groups["projector"].owned(process)
        names = sorted(self.views)
        for name in [self.rng.choice(names)] if self.may_crash and not self._paused else names:
            projector = self._projectors[process].get(name)
            if projector is None:
                projector = self._make_projector(process, actor, name)
                self._projectors[process][name] = projector
            projector.own(owned)
            if owned:
                projector.step(self._clock_of(process))
            # What is changed under a step that is under way could be overwritten unseen.
            if self.may_crash and not self._paused:
                self.strikes[name] += self._saboteurs[process, name].step(self.now).consumed

    def _make_projector(self, process: int, actor: str, name: str) -> Projector:
        log = self._producer_log(actor)
        link = self.make_link(log, name, self.views[name])
        server = self._storages[name]
        storage = SharedStorage(server, self._delay(actor), self._delay(actor, OFTEN))
        replica = self.make_replica(name, storage, self._danger(actor))
        self._saboteurs[process, name] = Saboteur(
            link,
            CurrentStorage(server),
            lambda partition: self.position_in(name, partition),
            self.dice,
            self.journal,
            timestamp,
        )
        return self.make_projector(replica, log, link, shared=True)

    def _step_validators(self, process: int, actor: str) -> None:
        owned = self._groups["validator"].owned(process)
        mine = self._validators[process]
        for partition in list(mine):
            if owned.get(partition) != mine[partition][0]:
                del mine[partition]
        for partition, term in owned.items():
            if partition not in mine:
                mine[partition] = (term, self._make_validator(process, actor, partition))
        for _, validator in list(mine.values()):
            validator.step(self._clock_of(process))

    def _make_validator(self, process: int, actor: str, partition: int) -> Validator:
        self._builds += 1
        log = FencedLog(self.server, f"validator-{partition}")
        return self.make_validator(
            CrashingLog(log, self._danger(actor)), [partition], f"{process}-{self._builds}"
        )

    # -- when everything is calm -----------------------------------------------------------------

    def settle(self) -> bool:
        """Let every process step in turn until everything is judged."""
        actors = [actor for actor in self.actors() if "/" in actor]
        for group in self._groups.values():
            group.wake()
        unsettled = 0
        for _ in range(CALM_ROUNDS):
            for actor in actors:
                self.turn(actor)
            # What waits for evidence to get old waits in leaps.
            self.now += 0.05 if unsettled < 40 else 1.0
            relay = self._relays.get(self._groups["relay"].owner(0))
            validators = self.validators()
            if (
                relay is None
                or not self.is_caught_up(relay[1])
                or len(validators) < self.settings.partitions
            ):
                continue
            if all(validator.is_settled() for validator in validators) and all(
                self.judge(name).verdict is not Verdict.UNKNOWN for name in self.views
            ):
                return True
            unsettled += 1
            for validator in validators:
                validator.scrub(self.now)
        return False

    def position_in(self, name: str, partition: int) -> int:
        """Return the position that a replica's storage holds."""
        data = self._storages[name].held.partition_state(partition)
        return 0 if data is None else msgspec.msgpack.decode(data, type=PartitionState).position

    def held(self, name: str) -> ReplicaStorage:
        """Return what a replica's storage holds."""
        return self._storages[name].held

    def empty(self, name: str) -> None:
        """Empty the storage under projectors that live: they have to notice by themselves."""
        self._storages[name].held = PlainStorage()
        self.fallen.add(name)

    def is_undone(self, index: int, fault: Injected) -> bool:
        """Say whether the storage came back as it was before the fault."""
        return index in self._undone

    def fell_back(self, name: str | None) -> bool:
        """Say whether the replica's storage ever came back as it had been, or empty."""
        return name in self.fallen

    def validators(self) -> Sequence[Validator]:
        """Return the validators whose partitions are really theirs."""
        return [
            validator
            for process, mine in self._validators.items()
            for partition, (term, validator) in mine.items()
            if self._groups["validator"].of(process).get(partition) == term
        ]

    def judge(self, name: str) -> Judged:
        """Return the worst verdict of all partitions."""
        judged = [validator.judge(name, self.now) for validator in self.validators()]
        return min(judged, key=lambda one: _RANK.index(one.verdict))

    def statuses(self) -> list[ReplicaStatus]:
        """Return every replica's status on every partition."""
        return [status for one in self.validators() for status in one.status(self.now)]
