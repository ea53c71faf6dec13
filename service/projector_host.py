"""The projectors of a process with their connections."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from uuid import uuid4

from msgspec import Struct

from chaos.faults import Dice, FaultJournal, FaultSpec
from chaos.link import FaultyLink
from chaos.saboteur import Saboteur
from pipeline.division import Division, WholeDivision
from pipeline.division_kafka import KafkaDivision
from pipeline.log_kafka import KafkaLog
from pipeline.projector import Projector
from service.board import ProcessRecord
from service.configuration import Configuration
from service.hosts import Held, Identity, Teller
from service.lag import Lag, lag_of
from service.stations import Station
from service.stores import ReplicaPlan, make_hasher, open_storage
from service.supervision import Health
from synchroscope.hop_tallies import ReplicaTally, TalliedStorage
from synchroscope.ports import EVENTS, Log, ReplicaStorage
from synchroscope.replica import Replica
from validator.finding import timestamp


class Faults(Struct, frozen=True):
    """What to inject on purpose into the replicas of a process, and where it is written down."""

    specs: tuple[FaultSpec, ...]
    seed: int
    journal: FaultJournal


class ProjectorHost(Held):
    """The projectors of some replicas, for the partitions that this process owns.

    A commit stores facts, digest and position together, if the partition is still where this
    process left it; so one that was paused and comes back writes nothing. A replica whose storage
    is away waits by itself (see `service.stations`).
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: Identity,
        plans: Sequence[ReplicaPlan],
        *,
        divided: bool,
        name: str = "projector",
        faults: Faults | None = None,
    ) -> None:
        super().__init__()
        self._settings = configuration.log.kafka
        self._teller = Teller(identity, name, self._settings)
        self._faults = faults
        self._hasher = make_hasher(configuration)
        self._divided = divided
        with self._opening() as stack:
            self._log = stack.enter_context(closing(KafkaLog(self._settings)))
            self._stations = [
                stack.enter_context(closing(self._station(configuration, plan, name)))
                for plan in plans
            ]
            for station in self._stations:
                station.step({}, time.time())
            count = self._log.partitions(EVENTS)
            # Last: who becomes a member is given work.
            self.division: Division = (
                KafkaDivision(self._settings, name, EVENTS) if divided else WholeDivision(count)
            )
            stack.enter_context(closing(self.division))

    @property
    def projectors(self) -> dict[str, Projector]:
        """The projectors of the replicas whose storage is there."""
        return {s.name: s.projector for s in self._stations if s.projector is not None}

    def healths(self) -> Sequence[Health]:
        """Return how each replica does."""
        return [station.health() for station in self._stations]

    def _station(self, configuration: Configuration, plan: ReplicaPlan, role: str) -> Station:
        return Station(
            plan.name,
            f"{role}/{plan.name}",
            lambda: open_storage(plan),
            lambda storage: self._build(configuration, plan, storage),
        )

    def _build(
        self, configuration: Configuration, plan: ReplicaPlan, storage: ReplicaStorage
    ) -> tuple[Projector, Saboteur | None]:
        options, hops = configuration.projector, configuration.hops
        counted, tally = storage, None
        if hops is not None:
            counted = TalliedStorage(storage)
            tally = ReplicaTally(
                plan.name, uuid4().hex, counted, window_seconds=hops.window_seconds
            )
        replica = Replica(
            plan.name,
            plan.view,
            counted,
            incarnation=uuid4().hex,
            hasher=self._hasher,
            bits=configuration.validator.digest.bits,
            marker_interval=options.marker_interval,
        )
        events: Log = self._log
        saboteur = None
        if self._faults is not None and any(f.replica == plan.name for f in self._faults.specs):
            events, saboteur = self._make_faulty(self._faults, plan, replica, storage)
        projector = Projector(
            replica,
            self._log,
            events=events,
            batch_records=options.batch_records,
            report_interval_seconds=options.report_interval_seconds,
            heartbeat_seconds=options.heartbeat_seconds,
            scrub_interval_seconds=options.scrub_interval_seconds,
            scrub_keys_per_second=options.scrub_keys_per_second,
            clock=time.time,
            shared=self._divided,
            tally=tally,
            publish=self._log.post,
        )
        return projector, saboteur

    def _make_faulty(
        self, faults: Faults, plan: ReplicaPlan, replica: Replica, storage: ReplicaStorage
    ) -> tuple[Log, Saboteur]:
        dice = Dice(faults.seed)
        link = FaultyLink(
            self._log,
            plan.view,
            plan.name,
            faults.specs,
            dice,
            faults.journal,
            time.time,
            timestamp,
        )
        return link, Saboteur(link, storage, replica.position, dice, faults.journal, timestamp)

    def step(self, now: float) -> int:
        """Step every replica on the partitions that this process owns."""
        owned = self.division.owned()
        consumed = sum(station.step(owned, now) for station in self._stations)
        if self._teller.is_due(now):
            self._tell(now, owned)
        return consumed

    def _tell(self, now: float, owned: Mapping[int, int]) -> None:
        heads = {number: self._log.head(EVENTS, number) for number in owned}

        def lag(number: int, position: int, at: float) -> Lag:
            return lag_of(self._log, number, position, heads[number], at)

        # Not when the step began: what came meanwhile would be of a time to come.
        asked_at = time.time()
        works = {station.name: station.work(heads, lag, asked_at) for station in self._stations}
        self._teller.tell(self._log, now, list(owned), works)
        # Where one is not known, nobody learns how far the partition is.
        self.division.commit(
            {
                number: min(work.positions[number] for work in works.values())
                for number in owned
                if all(number in work.positions for work in works.values())
            }
        )

    def wait(self, seconds: float) -> None:
        """Wait for records."""
        self._log.wait(seconds)

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last."""
        return self._teller.record
