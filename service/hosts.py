"""The roles of the distributed mode with their connections, as one process runs them.

Kafka divides the work: a consumer group of each role owns partitions, and whoever owns one holds
the role for it. A role that is paused, killed or cut off loses its partitions to another process;
what it still tries to write is refused, or passed over by every reader (see each host).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any
from uuid import uuid4

from msgspec import Struct

from chaos.faults import Dice, FaultJournal, FaultSpec
from chaos.link import FaultyLink
from chaos.saboteur import Saboteur
from pipeline.division import Division, WholeDivision
from pipeline.division_kafka import KafkaDivision
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.kafka_client import open_client
from pipeline.kafka_settings import KafkaSettings, chosen_client
from pipeline.kafka_topics import check_partitions
from pipeline.log_kafka import KafkaLog
from pipeline.partitioner import PARTITIONERS
from pipeline.projector import Projector
from pipeline.relay import Relay
from service.board import (
    Board,
    ProcessRecord,
    RelayWork,
    ReplicaWork,
    farewell_notes,
    is_retired,
    process_note,
)
from service.configuration import Configuration
from service.lag import Lag, lag_of
from service.stations import Station
from service.stores import ReplicaPlan, make_hasher, open_database, open_storage, replica_plans
from service.supervision import Health
from synchroscope.errors import FencedError, SynchroscopeError
from synchroscope.hop_tallies import ReplicaTally, TalliedStorage
from synchroscope.ports import EVENTS, STATE, Log, ReplicaStorage
from synchroscope.replica import Replica
from validator.finding import timestamp
from validator.hops import HopAuditor
from validator.repairing import RepairLimits
from validator.sessions import SessionChecker
from validator.validator import ExpectedReplica, Validator

AUDITING_PARTITION = 0
"""Whoever validates this partition audits the hops."""
TELL_SECONDS = 1.0
RETIRED_SECONDS = 2.0
SWEEP_SECONDS = 600.0
STANDBY_PROBE_SECONDS = 2.0
"""How often a relay that stands by asks whether its servers answer."""
SHORTEST_IDLE_SECONDS = 0.001
IDLE_GROWTH = 1.2


class Faults(Struct, frozen=True):
    """What to inject on purpose into the replicas of a process, and where it is written down."""

    specs: tuple[FaultSpec, ...]
    seed: int
    journal: FaultJournal


class Identity:
    """Who this process is, and what it told of itself last.

    Parameters
    ----------
    process: Unique among all processes that ever ran.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self.started_at = time.time()


class Teller:
    """Publishes a role's `ProcessRecord` about once a second."""

    def __init__(self, identity: Identity, role: str, settings: KafkaSettings) -> None:
        self._identity = identity
        self._role = role
        self._client = chosen_client(settings)
        self._told_at = 0.0
        self.record: ProcessRecord | None = None

    def is_due(self, now: float) -> bool:
        """Say whether it is time to tell again."""
        return not 0 <= now - self._told_at < TELL_SECONDS

    def tell(
        self,
        log: Log,
        now: float,
        partitions: Sequence[int] = (),
        replicas: Mapping[str, ReplicaWork] | None = None,
        relay: RelayWork | None = None,
    ) -> None:
        """Publish what the role does now."""
        self._told_at = now
        self.record = ProcessRecord(
            process=self._identity.process,
            role=self._role,
            client=self._client,
            started_at=self._identity.started_at,
            at=now,
            partitions=list(partitions),
            replicas=dict(replicas or {}),
            relay=relay,
        )
        log.append([process_note(self.record)], now)


class Held:
    """What every host has: things to close."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def close(self) -> None:
        """Close everything, the newest first."""
        with suppress(SynchroscopeError):
            self._stack.close()

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last; here None."""
        return None

    @property
    def is_proven(self) -> bool:
        """Whether it did its work on a partition, and told so, since it was built."""
        return self.record is not None and bool(self.record.partitions)

    def healths(self) -> Sequence[Health]:
        """Return how parts that fail by themselves do."""
        return ()

    @contextmanager
    def _opening(self) -> Iterator[ExitStack]:
        """Open connections; when one cannot be opened, those before it are closed again."""
        try:
            yield self._stack
        except BaseException:
            self.close()
            raise


class RelayHost(Held):
    """The relay. One process at a time is active, the others stand by.

    One that was paused and comes back may publish once more what it had just read: it leads no
    partition on, and every reader passes over it (see `pipeline.relay`). One that stands by asks
    its servers from time to time, so that it does not run in name only.
    """

    def __init__(self, configuration: Configuration, identity: Identity) -> None:
        super().__init__()
        self._configuration = configuration
        self._settings = configuration.log.kafka
        self._teller = Teller(identity, "relay", self._settings)
        with self._opening() as stack:
            database = stack.enter_context(closing(open_database(configuration)))
            self._store = PostgresqlEventStore(database)
            self._client = stack.enter_context(closing(open_client(self._settings)))
            check_partitions(self._settings, self._client)
            # Last: who becomes a member is given work.
            self.division: Division = KafkaDivision(self._settings, "relay", STATE)
            stack.enter_context(closing(self.division))
        self._probed_at = time.time()
        self._term: int | None = None
        self._active = ExitStack()
        self._stack.push(self._active)
        self._relay: Relay | None = None
        self._log: KafkaLog | None = None
        self._idle_seconds = SHORTEST_IDLE_SECONDS

    def step(self, now: float) -> int:
        """Move one batch, if this process is the active relay."""
        term = self.division.owned().get(0)
        if term != self._term:
            self._term = term
            self._retire()
            if term is not None:
                self._take_over()
        if self._relay is None or self._log is None:
            self._probe(now)
            return 0
        consumed = self._relay.step(now).consumed
        if consumed:
            self._idle_seconds = SHORTEST_IDLE_SECONDS
        if self._teller.is_due(now):
            self._relay.look_at_heads()
            work = RelayWork(self._relay.position, self._store.count())
            self._teller.tell(self._log, now, [0], relay=work)
        return consumed

    def _probe(self, now: float) -> None:
        """Ask both servers for next to nothing, if it is time; raise where one does not answer."""
        if 0 <= now - self._probed_at < STANDBY_PROBE_SECONDS:
            return
        self._store.count()
        self._client.end((self._settings.topic(STATE), 0), committed=True)
        self._probed_at = now

    def _take_over(self) -> None:
        self._log = self._active.enter_context(closing(KafkaLog(self._settings, atomic=False)))
        self._relay = Relay(
            self._store,
            self._log,
            partitioner=PARTITIONERS[self._configuration.partitioner],
            batch_records=self._configuration.relay.batch_records,
            cloudevents=self._configuration.relay.cloudevents,
            **self._counting(),
        )

    def _counting(self) -> dict[str, Any]:
        hops = self._configuration.hops
        if hops is None:
            return {}
        return {"tally_life": uuid4().hex, "tally_window_seconds": hops.window_seconds}

    def _retire(self) -> None:
        self._relay = self._log = None
        self._active.close()

    def wait(self, seconds: float) -> None:
        """Wait a little, and the longer the more often there was nothing in the event store."""
        if self._relay is None:
            time.sleep(seconds)
            return
        time.sleep(min(seconds, self._idle_seconds))
        self._idle_seconds *= IDLE_GROWTH

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last."""
        return self._teller.record


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

        works = {station.name: station.work(heads, lag, now) for station in self._stations}
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


class ValidatorHost(Held):
    """One validator a partition that this process owns.

    Each writes checkpoint, findings and verdicts in one Kafka transaction under the partition's own
    transactional ID. Whoever takes a partition over fences that ID first and reads the checkpoint
    then, so one that was paused and comes back can publish nothing for a partition it lost.
    """

    def __init__(self, configuration: Configuration, identity: Identity) -> None:
        super().__init__()
        self._configuration = configuration
        self._settings = configuration.log.kafka
        self._identity = identity
        self._teller = Teller(identity, "validator", self._settings)
        self._plans = replica_plans(configuration)
        with self._opening() as stack:
            self._log = stack.enter_context(closing(KafkaLog(self._settings)))
            database = stack.enter_context(closing(open_database(configuration)))
            self._store = PostgresqlEventStore(database)
            self._retired = self._read_retired()
            self.division: Division = KafkaDivision(self._settings, "validator", EVENTS)
            stack.enter_context(closing(self.division))
        self._retired_at = time.time()
        self._swept_at = time.time()
        self._board: Board | None = None
        self._terms: dict[int, int] = {}
        self._writers: dict[int, KafkaLog] = {}
        self.validators: dict[int, Validator] = {}
        self._auditor: HopAuditor | None = None
        self._sessions: SessionChecker | None = None
        self._stack.callback(self._drop_all)

    def step(self, now: float) -> int:
        """Step the validators of the partitions that this process owns."""
        self._follow(self.division.owned())
        consumed = sum(validator.step(now).consumed for validator in self.validators.values())
        if self._auditor is not None:
            consumed += self._auditor.step(now).consumed
        if self._sessions is not None:
            consumed += self._sessions.step(now).consumed
        if self._teller.is_due(now):
            self._teller.tell(self._log, now, list(self.validators))
            self.division.commit(
                {n: validator.reference.position(n) for n, validator in self.validators.items()}
            )
        if AUDITING_PARTITION in self.validators:
            self._sweep(now)
        if not 0 <= now - self._retired_at < RETIRED_SECONDS:
            self._retired_at = now
            if self._read_retired() != self._retired:
                raise FencedError("which replicas are expected has changed")
        return consumed

    def _sweep(self, now: float) -> None:
        """Take off what long dead processes told, if it is time: their keys would stay for ever."""
        if 0 <= now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        self._board = self._board or Board(self._log, {})
        self._board.refresh()
        self._log.append(farewell_notes(self._board.dead(now)), now)

    def _follow(self, owned: Mapping[int, int]) -> None:
        for number in list(self.validators):
            if owned.get(number) != self._terms[number]:
                self._drop(number)
        for number, term in owned.items():
            if number not in self.validators:
                self._terms[number] = term
                self.validators[number] = self._make(number)
                if number == AUDITING_PARTITION:
                    self._auditor = self._make_auditor()
                    log = SplitLog(self._log, self._writers[number])
                    self._sessions = SessionChecker(log, self._store)

    def _make(self, number: int) -> Validator:
        writer = KafkaLog(self._settings, writer=f"validator-{number}")
        self._writers[number] = writer
        options = self._configuration.validator
        count = self._log.partitions(EVENTS)
        place = PARTITIONERS[self._configuration.partitioner]
        expected = [plan for plan in self._plans if plan.name not in self._retired]
        return Validator(
            SplitLog(self._log, writer),
            list({plan.view.model: plan.view for plan in self._plans}.values()),
            [ExpectedReplica(plan.name, plan.view.model) for plan in expected],
            self._store,
            lambda kind, subject: place(kind, subject, count),
            bits=options.digest.bits,
            hasher=make_hasher(self._configuration),
            marker_interval=self._configuration.projector.marker_interval,
            evidence_limit_seconds=options.evidence_limit_seconds,
            request_timeout_seconds=options.request_timeout_seconds,
            fold_records=options.fold_records,
            repair_limits=RepairLimits(
                options.repair.aggregates_per_message, options.repair.aggregates_per_second
            ),
            checkpoint_interval_seconds=options.checkpoint_interval_seconds,
            partitions=[number],
            worker=self._identity.process,
            store=self._store,
        )

    def _make_auditor(self) -> HopAuditor | None:
        """Return the audit of all hops: one process does it, the validator of one partition."""
        hops = self._configuration.hops
        if hops is None:
            return None
        expected = [plan for plan in self._plans if plan.name not in self._retired]
        return HopAuditor(
            SplitLog(self._log, self._writers[AUDITING_PARTITION]),
            self._store,
            list({plan.view.model: plan.view for plan in self._plans}.values()),
            {plan.name: plan.view.model for plan in expected},
            time.time(),
            producers=hops.producers,
            window_seconds=hops.window_seconds,
            settle_seconds=hops.settle_seconds,
        )

    def _drop(self, number: int) -> None:
        if number == AUDITING_PARTITION:
            self._auditor = self._sessions = None
        self.validators.pop(number, None)
        writer = self._writers.pop(number, None)
        if writer is not None:
            writer.close()

    def _drop_all(self) -> None:
        for number in list(self._writers):
            self._drop(number)

    def _read_retired(self) -> set[str]:
        return {plan.name for plan in self._plans if is_retired(self._log, plan.name)}

    def wait(self, seconds: float) -> None:
        """Wait for records."""
        self._log.wait(seconds)

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last."""
        return self._teller.record


class SplitLog:
    """Reads from one log and appends to another view of it, the one that is fenced.

    Parameters
    ----------
    reader: Shared by all validators of a process, so that records are fetched once.
    writer: This partition's own.
    """

    def __init__(self, reader: Log, writer: Log) -> None:
        self._reader = reader
        self.append = writer.append
        self.partitions = reader.partitions
        self.read = reader.read
        self.head = reader.head
        self.positions = reader.positions
        self.latest = reader.latest
