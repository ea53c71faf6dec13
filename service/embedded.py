"""The embedded mode: every role in one process on one data folder, stepped in turn.

Read top to bottom, this is how the parts fit:

    producer -> command side -> event store -> relay -> log -> [link] -> projector -> replica
    log, reports -> validator -> findings, requests
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec import Struct

from chaos.faults import STORAGE_KINDS, Dice, FaultJournal, FaultSpec, Injected
from chaos.link import FaultyLink
from chaos.saboteur import Saboteur
from pipeline.event_store import EventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_sqlite import SqliteLog
from pipeline.partitioner import PARTITIONERS
from pipeline.projector import Projector
from pipeline.relay import Relay
from pipeline.sqlite_database import SqliteDatabase
from pipeline.storage_lmdb import LmdbStorage
from service.account import Account
from service.measuring import scrub_measurements
from service.registry_http import Desk
from service.report import fault_form
from service.schema_room import SchemaRoom, findings_of, register_folder
from synchroscope.digest import Hasher
from synchroscope.foreign import decoded
from synchroscope.latency import Latencies, check_told
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    CONTROL_TOPICS,
    EVENTS,
    STATE,
    Log,
    NewRecord,
    ReplicaStorage,
    Role,
)
from synchroscope.replica import Replica
from synchroscope.view import View
from validator.finding import timestamp
from validator.ledger import FindingsReader
from validator.validator import ExpectedReplica, Validator

LEDGER_KEY = b"run-ledger"
LEDGER_INTERVAL_SECONDS = 1.0


class ReplicaSpec(Struct, frozen=True):
    """A replica to run: its name, its view and where its facts live (``memory`` or ``lmdb``)."""

    name: str
    view: View
    storage: str


class RunLedger(Struct):
    """What a run leaves for the next one on the same folder."""

    latencies: dict[str, tuple[list[int], float]] = {}
    producing_seconds: float = 0.0
    runs: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run leaves."""
        for told in self.latencies.values():
            check_told(*told)


decode_ledger = msgspec.msgpack.Decoder(RunLedger).decode


class EmbeddedPipeline:
    """All roles but the producer, on one data folder.

    Parameters
    ----------
    folder: Where everything is kept; made when it does not exist. One process at a time.
    replicas: Which replicas to run.
    partitions, partitioner: How the event log is divided; fixed at the folder's first use.
    faults, seed: What to inject on the way to replicas or into their storages.
    clock: Wall time in seconds since 1970.
    schemas: A folder of schemas to register, one file ``CONTEXT_TYPE.json`` each; events are
        checked as soon as any schema is registered.
    desk: Where requests for the schema registry are put.
    """

    def __init__(
        self,
        folder: Path,
        replicas: Sequence[ReplicaSpec],
        *,
        partitions: int = 4,
        partitioner: str = "by_subject",
        faults: Sequence[FaultSpec] = (),
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        schemas: Path | None = None,
        desk: Desk | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._database = SqliteDatabase(folder / "synchroscope.db")
        self.log = SqliteLog(
            self._database, {EVENTS: partitions, **dict.fromkeys(CONTROL_TOPICS, 1)}
        )
        self.store: EventStore = SqliteEventStore(self._database)
        place = PARTITIONERS[partitioner]
        self.relay = Relay(self.store, self.log, partitioner=place)
        self.faults = FaultJournal(folder / "faults.jsonl")
        self._hasher = Hasher()  # one for all: replicas of one process meet the same facts
        self.in_memory = {spec.name for spec in replicas if spec.storage == "memory"}
        self._storages: list[ReplicaStorage] = []
        self.projectors: dict[str, Projector] = {}
        self._saboteurs: dict[str, Saboteur] = {}
        for spec in replicas:
            self._add_replica(folder, spec, faults, Dice(seed))
        views = list({spec.view.model: spec.view for spec in replicas}.values())
        self.validator = Validator(
            self.log,
            views,
            [ExpectedReplica(spec.name, spec.view.model) for spec in replicas],
            self.store,
            lambda kind, subject: place(kind, subject, partitions),
            hasher=self._hasher,
            worker="embedded",
            store=self.store,
        )
        self.schemas = SchemaRoom(self.log, desk)
        if schemas is not None:
            register_folder(self.schemas.registry, schemas, clock())
        self.findings = FindingsReader(self.log)
        self.ledger = self._load_ledger()
        self._ledger_at = 0.0

    def _add_replica(
        self, folder: Path, spec: ReplicaSpec, faults: Sequence[FaultSpec], dice: Dice
    ) -> None:
        storage = make_storage(folder, spec)
        replica = Replica(
            spec.name, spec.view, storage, incarnation=uuid4().hex, hasher=self._hasher
        )
        events: Log = self.log
        mine = [fault for fault in faults if fault.replica == spec.name]
        if mine:
            link = FaultyLink(
                self.log, spec.view, spec.name, mine, dice, self.faults, self._clock, timestamp
            )
            events = link
            self._saboteurs[spec.name] = Saboteur(
                link, storage, replica.position, dice, self.faults, timestamp
            )
        self._storages.append(storage)
        self.projectors[spec.name] = Projector(replica, self.log, events=events, clock=self._clock)

    def roles(self) -> list[Role]:
        """Return the roles in the order in which a round steps them."""
        found: list[Role] = [self.relay]
        for name, projector in self.projectors.items():
            found.append(projector)
            if name in self._saboteurs:
                found.append(self._saboteurs[name])
        found += [self.validator, self.schemas]
        return found

    def step(self) -> int:
        """Step every role once; return how much they consumed together."""
        consumed = sum(role.step(self._clock()).consumed for role in self.roles())
        now = self._clock()
        if now - self._ledger_at >= LEDGER_INTERVAL_SECONDS:
            self.save_ledger(now)
        return consumed

    # -- what a run leaves for the next ------------------------------------------------------

    def _load_ledger(self) -> RunLedger:
        record = self.log.latest(STATE, LEDGER_KEY)
        ledger = RunLedger()
        if record is not None:
            ledger = decoded(decode_ledger, record.value) or ledger
        for name, (counts, seconds) in ledger.latencies.items():
            if name in self.projectors:
                self.projectors[name].latencies = Latencies(counts, seconds)
        ledger.runs += 1
        return ledger

    def save_ledger(self, now: float) -> None:
        """Keep latencies and running time, so that a report covers all runs."""
        self._ledger_at = now
        self.ledger.latencies = {
            name: (projector.latencies.counts, projector.latencies.total_seconds)
            for name, projector in self.projectors.items()
        }
        data = msgspec.msgpack.encode(self.ledger)
        self.log.append([NewRecord(STATE, 0, LEDGER_KEY, data)], now)

    # -- what it shows of itself -------------------------------------------------------------

    def heads(self) -> dict[int, int]:
        """Return the event log's heads by partition."""
        return {p: self.log.head(EVENTS, p) for p in range(self.log.partitions(EVENTS))}

    def is_caught_up(self) -> bool:
        """Say whether everything accepted is in the log and read by every replica."""
        heads = self.heads()
        is_read = all(
            projector.replica.position(partition) == head
            for projector in self.projectors.values()
            for partition, head in heads.items()
        )
        is_published = self.relay.position == self.store.count()
        return is_published and is_read and self.schemas.is_at(heads)

    def add_producing_seconds(self, seconds: float) -> None:
        """Count time in which events were produced."""
        self.ledger.producing_seconds += seconds

    def is_settled(self) -> bool:
        """Say whether every replica was compared and scrubbed at every partition's head."""
        return self.validator.is_settled()

    def ask_for_proof(self, now: float) -> None:
        """Have every replica's storage summed again, where it was not at the head."""
        self.validator.scrub(now)

    def progress(self) -> int:
        """Return a number that grows as long as anything is still on its way."""
        positions = sum(
            projector.replica.position(partition)
            for projector in self.projectors.values()
            for partition in self.heads()
        )
        return positions + self.relay.position + self.validator.settled_total()

    def account(self, now: float, *, final: bool = False) -> Account:
        """Return what there is to tell, over all runs on this folder.

        `final`: what was not compared and scrubbed at the log's head is UNKNOWN.
        """
        validator = self.validator
        statuses = validator.status(now, final=final)
        schemas = self.schemas.standing(now)
        still_open = Counter(finding.kind for finding in validator.open_findings())
        return Account(
            at=now,
            runs=self.ledger.runs,
            producing_seconds=self.ledger.producing_seconds,
            rows_read=self.store.counter("rows_read"),
            events_produced=self.store.count(),
            dead_letters=self.store.dead_letter_counts(),
            heads=self.heads(),
            relay_position=self.relay.position,
            statuses=statuses,
            latencies={name: one.latencies for name, one in self.projectors.items()},
            applied={status.model: validator.applied(status.model) for status in statuses},
            consistent_ratio=validator.consistent_ratio,
            checks=dict(validator.checks),
            opened=Counter(validator.findings_total) + findings_of(schemas, "opened"),
            resolved=Counter(validator.resolved_total) + findings_of(schemas, "resolved"),
            open=Counter[str](still_open) + findings_of(schemas, "open"),
            reference_positions={p: validator.reference.position(p) for p in self.heads()},
            requests=validator.requests_total,
            repeated=sum(validator.reference.repeated.values()),
            undecodable=sum(validator.reference.undecodable.values()),
            faults=[
                fault_form(fault, lost_with_process=self._is_lost(fault))
                for fault in self.faults.faults()
            ],
            findings=self.findings.read(),
            schemas=schemas,
            scrubs={
                name: scrub_measurements(
                    one.scrubbing.standings(now), one.scrubbing.keys, one.scrubbing.mended, now
                )
                for name, one in self.projectors.items()
            },
        )

    def _is_lost(self, fault: Injected) -> bool:
        ended = fault.life < self.faults.life
        return fault.kind in STORAGE_KINDS and ended and fault.replica in self.in_memory

    def close(self) -> None:
        """Close every storage; the folder can be opened again afterwards."""
        self.save_ledger(self._clock())
        for storage in self._storages:
            storage.close()
        self._database.close()


def make_storage(folder: Path, spec: ReplicaSpec) -> ReplicaStorage:
    """Return the storage of a replica, opened."""
    if spec.storage == "lmdb":
        return LmdbStorage(folder / "replicas" / f"{spec.name}.lmdb")
    return MemoryStorage()
