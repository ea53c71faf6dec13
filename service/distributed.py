"""The distributed mode of the demo: every role in processes of its own, over real servers.

    this process: producer -> command side -> PostgreSQL
    relay x 2:      PostgreSQL -> Kafka          (one active, one stands by)
    projector x 2:  Kafka -> Redis, PostgreSQL   (partitions divided)
    validator x 2:  Kafka -> verdicts, findings  (partitions divided)

A process that ends is started again, as any service manager would do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
from msgspec.structs import replace

from chaos.faults import FaultJournal, Injected
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.kafka_topics import ensure_topics
from pipeline.log_kafka import KafkaLog
from service.account import Account
from service.configuration import Configuration
from service.embedded import LEDGER_INTERVAL_SECONDS, LEDGER_KEY, RunLedger, decode_ledger
from service.gathering import Gatherer
from service.process import ROLES
from service.proving import Asking
from service.report import fault_form
from service.stores import open_database
from synchroscope.errors import SynchroscopeError, UnavailableError
from synchroscope.foreign import decoded
from synchroscope.ports import STATE, NewRecord
from validator.watch import Verdict

PROCESSES_PER_ROLE = 2
LOOK_SECONDS = 0.2
STOP_SECONDS = 10.0
RESTART_SECONDS = 1.0
LOG_TAIL_CHARACTERS = 2_000


class ChildError(SynchroscopeError):
    """A process of the pipeline cannot run."""


class Child:
    """One role process, started again when it ends.

    Parameters
    ----------
    name: ``role-number``; its output goes to ``name.log`` in the folder.
    command: What to start.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._command = list(command)
        self._path = folder / f"{name}.log"
        self._started_at = 0.0
        self.starts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_at = time.monotonic()
        self.starts += 1
        with self._path.open("ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def keep_alive(self) -> None:
        """Start it again if it ended; raise `ChildError` if it says that it cannot run."""
        code = self.process.poll()
        if code is None or time.monotonic() - self._started_at < RESTART_SECONDS:
            return
        if code == 2:
            tail = self._path.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()
            raise ChildError(f"{self.name} cannot run: {tail.splitlines()[-1] if tail else code}")
        self.process = self._start()

    def stop(self) -> None:
        """Ask it to end."""
        if self.process.poll() is None:
            self.process.terminate()

    def reap(self, seconds: float) -> None:
        """Wait for its end, and end it the hard way after that time."""
        try:
            self.process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class DistributedPipeline:
    """All roles but the producer, in processes of their own.

    Parameters
    ----------
    configuration, path: What the file says, and the file itself for the processes.
    folder: Where their logs go, and the journals of injected faults.
    faults, seed: What to inject on purpose, as on the command line.
    """

    def __init__(
        self,
        configuration: Configuration,
        path: Path,
        folder: Path,
        *,
        faults: Sequence[str] = (),
        seed: int = 0,
        processes: int = PROCESSES_PER_ROLE,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stack = ExitStack()
        self.children: dict[str, Child] = {}
        try:
            ensure_topics(configuration.log.kafka)
            database = self._stack.enter_context(closing(open_database(configuration)))
            self.store = PostgresqlEventStore(database)
            self._configuration = configuration
            self._log: KafkaLog | None = None
            self._gatherer: Gatherer | None = None
            self._stack.callback(self._disconnect)
            self._account: Account | None = None
            self._ledger = self._load_ledger()
            self._ledger_at = 0.0
            self._looked_at = 0.0
            self._asking = Asking()
            self._heads: dict[int, int] = {}
            self._is_caught_up = False
            self._start(path, faults, seed, processes)
        except BaseException:
            self.close()
            raise

    def _start(self, path: Path, faults: Sequence[str], seed: int, processes: int) -> None:
        for role in ROLES:
            for number in range(processes):
                name = f"{role}-{number}"
                command = [sys.executable, "-m", "service.cli", "run", role]
                command += ["--config", str(path), "--http-port", "0"]
                if role == "projector" and faults:
                    for fault in faults:
                        command += ["--fault", fault]
                    journal = self._folder / f"faults-{number}.jsonl"
                    command += ["--seed", str(seed), "--fault-journal", str(journal)]
                self.children[name] = Child(name, command, self._folder)

    # -- what the demo asks ------------------------------------------------------------------

    def step(self) -> int:
        """Look after the processes; there is nothing to do here for the roles themselves."""
        for child in self.children.values():
            child.keep_alive()
        now = time.time()
        if now - self._ledger_at >= LEDGER_INTERVAL_SECONDS:
            self._save_ledger(now)
        return 0

    def account(self, now: float, *, final: bool = False) -> Account:
        """Return what there is to tell, over all runs on these servers."""
        try:
            self._account = self._gather().account(
                now,
                final=final,
                runs=self._ledger.runs,
                producing_seconds=self._ledger.producing_seconds,
                faults=[fault_form(fault, lost_with_process=False) for fault in self._faults()],
            )
        except UnavailableError as error:
            self._disconnect()
            if self._account is None:
                raise
            unknown = [
                replace(status, verdict=Verdict.UNKNOWN, reason=str(error))
                for status in self._account.statuses
            ]
            return replace(self._account, at=now, statuses=unknown)
        return self._account

    def _gather(self) -> Gatherer:
        if self._gatherer is None:
            self._gatherer = Gatherer(self._configuration)
        return self._gatherer

    def _append(self, record: NewRecord, now: float) -> None:
        """Append when the log is there; if it is not, the next time will do."""
        try:
            if self._log is None:
                self._log = KafkaLog(self._configuration.log.kafka)
            self._log.append([record], now)
        except UnavailableError:
            self._disconnect()

    def _disconnect(self) -> None:
        gatherer, self._gatherer = self._gatherer, None
        log, self._log = self._log, None
        for connection in (gatherer, log):
            if connection is not None:
                connection.close()

    def _faults(self) -> list[Injected]:
        found: dict[tuple[object, ...], Injected] = {}
        for path in sorted(self._folder.glob("faults-*.jsonl")):
            for fault in FaultJournal(path).faults():
                place = tuple(sorted(fault.position.items()))
                found.setdefault((fault.kind, fault.replica, fault.subject, place), fault)
        return list(found.values())

    def add_producing_seconds(self, seconds: float) -> None:
        """Count time in which events were produced."""
        self._ledger.producing_seconds += seconds

    def is_caught_up(self) -> bool:
        """Say whether everything accepted is in the log and read by every replica.

        Looks now and then only, and says what it saw then.
        """
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._is_caught_up = self._look()
        return self._is_caught_up

    def _look(self) -> bool:
        try:
            return self._look_once()
        except UnavailableError:
            self._disconnect()
            return False

    def _look_once(self) -> bool:
        gatherer = self._gather()
        board = gatherer.board
        board.refresh()
        relay = board.relay()
        if relay is None or relay.position < self.store.count():
            return False
        self._heads = gatherer.heads()
        # What the processes told as well: the latencies up to the head are in it.
        return all(
            status.position == self._heads == board.reached(status.name)
            for status in board.statuses(time.time())
        )

    def is_settled(self) -> bool:
        """Say whether every replica was compared and scrubbed at every partition's head."""
        gatherer = self._gatherer
        return gatherer is not None and gatherer.board.is_settled(
            self._heads, time.time(), self._asking.asked
        )

    def ask_for_proof(self, now: float) -> None:
        """Ask the validators to prove everything at the head, again where nothing comes of it."""
        if self._asking.is_due(now, self._heads, self.progress()):
            self._append(self._asking.question(), now)

    def progress(self) -> int:
        """Return a number that grows as long as anything is still on its way."""
        if self._gatherer is None:
            return -1
        board = self._gatherer.board
        relay = board.relay()
        positions = sum(sum(status.position.values()) for status in board.statuses(time.time()))
        return positions + board.settled_total() + (0 if relay is None else relay.position)

    def close(self) -> None:
        """Stop every process and release the connections."""
        for child in self.children.values():
            child.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            child.reap(deadline - time.monotonic())
        self._stack.close()

    # -- what a run leaves for the next ------------------------------------------------------

    def _load_ledger(self) -> RunLedger:
        record = self._gather().log.latest(STATE, LEDGER_KEY)
        ledger = RunLedger()
        if record is not None:
            ledger = decoded(decode_ledger, record.value) or ledger
        ledger.runs += 1
        return ledger

    def _save_ledger(self, now: float) -> None:
        self._ledger_at = now
        value = msgspec.msgpack.encode(self._ledger)
        self._append(NewRecord(STATE, 0, LEDGER_KEY, value), now)
