"""The validators of a process with their connections, one a partition."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from pipeline.division import Division
from pipeline.division_kafka import KafkaDivision
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.log_kafka import KafkaLog
from pipeline.partitioner import PARTITIONERS
from service.beside import Beside
from service.board import Board, ProcessRecord, ReaderWork, farewell_notes, is_retired
from service.configuration import Configuration, HopsSection
from service.hosts import Held, Identity, SplitLog, Teller
from service.lag import known, lag_of
from service.stores import make_hasher, open_database, replica_plans
from service.supervision import Health
from synchroscope.blocked import Blocked
from synchroscope.errors import FencedError
from synchroscope.ports import EVENTS
from validator.hops import HopAuditor
from validator.repairing import RepairLimits
from validator.sessions import SessionChecker
from validator.validator import ExpectedReplica, Validator

AUDITING_PARTITION = 0
"""Whoever validates this partition audits the hops."""
RETIRED_SECONDS = 2.0
SWEEP_SECONDS = 600.0


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
        self._beside: list[Beside] = []
        self._blocked = Blocked()
        self._stack.callback(self._drop_all)

    def step(self, now: float) -> int:
        """Step the validators of the partitions that this process owns."""
        self._follow(self.division.owned())
        consumed = sum(self._step(number, now) for number in list(self.validators))
        consumed += sum(part.step(now) for part in self._beside)
        if self._teller.is_due(now):
            reader = self._reader()
            self._teller.tell(self._log, now, list(self.validators), reader=reader)
            self.division.commit(reader.positions)
        if AUDITING_PARTITION in self.validators:
            self._sweep(now)
        if not 0 <= now - self._retired_at < RETIRED_SECONDS:
            self._retired_at = now
            if self._read_retired() != self._retired:
                raise FencedError("which replicas are expected has changed")
        return consumed

    def _step(self, number: int, now: float) -> int:
        """Step one validator; one that has to read again what is damaged begins anew later."""
        with self._blocked.noting(number):
            return self.validators[number].step(now).consumed
        self._drop(number)
        return 0

    def _reader(self) -> ReaderWork:
        """Return how far the validators have folded the log."""
        positions = {n: one.reference.position(n) for n, one in self.validators.items()}
        heads = {number: self._log.head(EVENTS, number) for number in positions}
        now = time.time()
        events, seconds = known(
            {n: lag_of(self._log, n, at, heads[n], now) for n, at in positions.items()}
        )
        return ReaderWork(positions, events, seconds)

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
            if number not in self.validators and self._blocked.is_due(number):
                self._terms[number] = term
                with self._blocked.noting(number):
                    self.validators[number] = self._make(number)
                if number not in self.validators:
                    self._drop(number)
                elif number == AUDITING_PARTITION:
                    self._beside = self._make_beside()

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

    def _make_beside(self) -> list[Beside]:
        """Return what one process does for all partitions: the validator of one of them."""
        log = SplitLog(self._log, self._writers[AUDITING_PARTITION])
        parts = [Beside("validator/sessions", lambda: SessionChecker(log, self._store))]
        hops = self._configuration.hops
        if hops is not None:
            parts.append(Beside("validator/hops", lambda: self._make_auditor(log, hops)))
        return parts

    def _make_auditor(self, log: SplitLog, hops: HopsSection) -> HopAuditor:
        expected = [plan for plan in self._plans if plan.name not in self._retired]
        return HopAuditor(
            log,
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
            self._beside = []
        self.validators.pop(number, None)
        writer = self._writers.pop(number, None)
        if writer is not None:
            writer.close()

    def _drop_all(self) -> None:
        for number in list(self._writers):
            self._drop(number)

    def _read_retired(self) -> set[str]:
        return {plan.name for plan in self._plans if is_retired(self._log, plan.name)}

    def healths(self) -> Sequence[Health]:
        """Return how what is done beside validating does."""
        return [part.health() for part in self._beside]

    def wait(self, seconds: float) -> None:
        """Wait for records."""
        self._log.wait(seconds)

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last."""
        return self._teller.record
