"""`synchroscope run`: some roles in one process, until it is told to stop."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from uuid import uuid4

from msgspec.structs import replace

from chaos.faults import FaultJournal, parse_fault
from pipeline.kafka_reach import why_unreached
from pipeline.log_kafka import KafkaLog
from service.account import Account
from service.board import ProcessRecord, farewell_notes
from service.configuration import Configuration
from service.gathering import Gatherer
from service.hosts import Identity
from service.http import HttpServer, Showcase, Shown, make_app
from service.measuring import process_measurements, replica_lag_seconds
from service.projector_host import Faults, ProjectorHost
from service.registry_http import Desk, registry_routes
from service.relay_host import RelayHost
from service.report import build_report
from service.schema_host import SchemaHost
from service.stores import replica_plans
from service.supervision import Health, Host, Supervised, is_hung
from service.validator_host import ValidatorHost
from synchroscope.errors import ConfigurationError, SynchroscopeError

logger = logging.getLogger("synchroscope.process")

ROLES = ("relay", "projector", "validator")
REFRESH_SECONDS = 1.0
FRESH_SECONDS = 5.0
JOIN_SECONDS = 5.0
GARBAGE_THRESHOLDS = (50_000, 20, 100)
ALIKE_CHARACTERS = 8
ALIKE_SECONDS = 10.0
ALIKE_KINDS = 256


class JsonLines(logging.Formatter):
    """Log records as JSON lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Seldom(logging.Filter):
    """Lets one of many alike records through: clients repeat themselves while a server is away."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[tuple[str, int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether no record like this was let through lately."""
        if record.name.startswith("synchroscope"):
            return True
        kind = (record.name, record.levelno, record.getMessage()[:ALIKE_CHARACTERS])
        if record.created - self._shown.get(kind, 0.0) < ALIKE_SECONDS:
            return False
        if len(self._shown) >= ALIKE_KINDS:
            self._shown.clear()
        self._shown[kind] = record.created
        return True


def log_as_json_lines(level: int = logging.INFO) -> None:
    """Send logs to standard error, one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("synchroscope").setLevel(level)


def process_name() -> str:
    """Return a name that no other process ever has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"


class RoleProcess:
    """The roles of one process.

    Parameters
    ----------
    configuration: What the file says.
    roles: Which of `ROLES` to run.
    replicas: Replicas whose storage belongs to one process and that are run here.
    faults, seed, fault_journal: What to inject on purpose, and where to write it down.
    """

    def __init__(
        self,
        configuration: Configuration,
        roles: Sequence[str],
        *,
        replicas: Sequence[str] = (),
        faults: Sequence[str] = (),
        seed: int = 0,
        fault_journal: Path | None = None,
    ) -> None:
        self._configuration = configuration
        self.identity = Identity(process_name())
        self._ended = threading.Event()
        self._overview = Overview(configuration)
        self._growth = Growth()
        self._fatal: tuple[str, SynchroscopeError] | None = None
        plans = replica_plans(configuration)
        names = [plan.name for plan in plans]
        unknown = [name for name in replicas if name not in names]
        if unknown:
            raise ConfigurationError(
                f"--replica {unknown[0]}: the configuration has {', '.join(names)}"
            )
        injected = None
        if faults:
            specs = tuple(parse_fault(text, names) for text in faults)
            injected = Faults(specs, seed, FaultJournal(fault_journal))
        divided = [plan for plan in plans if plan.is_shared]
        own = [plan for plan in plans if plan.name in replicas and not plan.is_shared]
        builders: dict[str, Callable[[], Host]] = {}
        if "relay" in roles:
            builders["relay"] = lambda: RelayHost(configuration, self.identity)
        if "projector" in roles and divided:
            builders["projector"] = lambda: ProjectorHost(
                configuration, self.identity, divided, divided=True, faults=injected
            )
        if "projector" in roles and own:
            builders["projector-own"] = lambda: ProjectorHost(
                configuration,
                self.identity,
                own,
                divided=False,
                name="projector-own",
                faults=injected,
            )
        if "validator" in roles:
            builders["validator"] = lambda: ValidatorHost(configuration, self.identity)
        self._desk: Desk | None = None
        if "validator" in roles and configuration.schemas is not None:
            self._desk = desk = Desk()
            builders["schemas"] = lambda: SchemaHost(configuration, self.identity, desk)
        if not builders:
            raise ConfigurationError(
                "nothing to run: every replica belongs to one process; name those with --replica"
            )
        self.supervised = [
            Supervised(role, build, self._on_fatal) for role, build in builders.items()
        ]

    def _on_fatal(self, role: str, error: SynchroscopeError) -> None:
        self._fatal = role, error
        self._ended.set()

    def run(self, *, http_host: str, http_port: int) -> int:
        """Run until a signal comes; return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        # Records are many, short-lived and hold no cycles: looking for them often costs half of
        # the time that reading takes.
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        showcase = Showcase()
        schemas = self._configuration.schemas
        is_served = self._desk is not None and schemas is not None and not schemas.url
        more = registry_routes(self._desk) if self._desk is not None and is_served else []
        server = HttpServer(make_app(showcase, more), http_host, http_port)
        server.start()
        logger.info("process %s serves %s", self.identity.process, server.url)
        for supervised in self.supervised:
            supervised.start()
        self._overview.start()
        try:
            self._watch(showcase)
        finally:
            hosts = [supervised.host for supervised in self.supervised]
            told = [record for host in hosts if host is not None and (record := host.record)]
            for supervised in self.supervised:
                supervised.stop()
            for supervised in self.supervised:
                supervised.join(JOIN_SECONDS)
            self._say_farewell(told)
            server.stop()
            self._overview.stop()
        if self._fatal is not None:
            role, error = self._fatal
            print(f"synchroscope: {role}: {error}", file=sys.stderr)
            return 2
        return 0

    def _say_farewell(self, told: Sequence[ProcessRecord]) -> None:
        """Take off what this process told of itself; where that fails, a validator does it later.

        Nothing is waited for where a role waits for its servers already: it then has no host.
        """
        if not told:
            return
        settings = self._configuration.log.kafka
        try:
            with closing(KafkaLog(replace(settings, request_timeout_seconds=1.0))) as log:
                log.append(farewell_notes(told), time.time())
        except SynchroscopeError as error:
            logger.debug("no farewell: %s", error)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()

    def _watch(self, showcase: Showcase) -> None:
        """Keep the pages fresh; give up when nothing was ever reached in the time allowed."""
        begun = time.monotonic()
        has_run = False
        while not self._ended.wait(REFRESH_SECONDS):
            healths = [supervised.health() for supervised in self.supervised]
            has_run = has_run or all(health.stepped_at is not None for health in healths)
            late = time.monotonic() - begun > self._configuration.startup_timeout_seconds
            if late and not has_run:
                raise StartError(self._why_not_ready(healths))
            self._show(showcase, healths)

    def _why_not_ready(self, healths: Sequence[Health]) -> str:
        reasons = [f"{h.role}: {h.reason}" for h in healths if h.reason]
        if any(h.state == "starting" for h in healths):
            reasons.append(why_unreached(self._configuration.log.kafka))
        told = "; ".join(filter(None, reasons))
        return f"not ready after {self._configuration.startup_timeout_seconds:g} s: {told}"

    def _show(self, showcase: Showcase, healths: Sequence[Health]) -> None:
        """Refresh the pages; while servers are away they show this process alone."""
        now = time.time()
        hosts = [supervised.host for supervised in self.supervised]
        records = [record for host in hosts if host is not None and (record := host.record)]
        healths = [*healths, *(h for host in hosts if host is not None for h in host.healths())]
        account, validated_at, lags = self._overview.seen(now)
        measurements = process_measurements(
            account,
            healths,
            records,
            self._configuration.log.kafka,
            validated_at,
            now,
            is_reporter=any(r.role == "validator" and 0 in r.partitions for r in records),
        )
        growth = self._growth.of(measurements.relay_backlog, now)
        measurements = replace(measurements, replica_lag_seconds=lags, relay_backlog_growth=growth)
        reasons = [f"{h.role}: {h.reason}" for h in healths if h.state != "running"]
        if account is None:
            reasons.append("the servers cannot be reached")
        report = {} if account is None else build_report(account)
        hung = [h.role for h in healths if is_hung(h, now)]
        showcase.shown = Shown(measurements, report, "; ".join(reasons), ", ".join(hung))


class Overview:
    """Gathers what there is to tell of the whole pipeline, in a thread of its own.

    Servers that are away may keep it waiting; what it saw last gets old meanwhile, and is then as
    good as nothing.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._ended = threading.Event()
        self._seen: tuple[Account, dict[int, float], dict[str, float]] | None = None
        self._thread = threading.Thread(target=self._run, name="overview", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, as soon as what is being asked for is answered, or soon without that."""
        self._ended.set()
        self._thread.join(JOIN_SECONDS)

    def seen(self, now: float) -> tuple[Account | None, dict[int, float], dict[str, float]]:
        """Return the account, validation times and lags, if they are fresh."""
        seen = self._seen
        if seen is None or now - seen[0].at > FRESH_SECONDS:
            return None, {}, {}
        return seen

    def _run(self) -> None:
        gatherer: Gatherer | None = None
        while not self._ended.is_set():
            now = time.time()
            try:
                if gatherer is None:
                    gatherer = Gatherer(self._configuration)
                account = gatherer.account(now)
                board = gatherer.board
                lags = replica_lag_seconds(board.running(now), account.heads, now)
                self._seen = account, board.validated_at(), lags
            except Exception as error:  # Without this thread no page would be fresh again.
                is_unexpected = not isinstance(error, SynchroscopeError)
                logger.log(
                    logging.ERROR if is_unexpected else logging.DEBUG,
                    "pages are not fresh: %s",
                    error,
                    exc_info=is_unexpected,
                )
                if gatherer is not None:
                    gatherer.close()
                    gatherer = None
            self._ended.wait(REFRESH_SECONDS)
        if gatherer is not None:
            gatherer.close()


class Growth:
    """How fast a number grows, between one look and the next."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None

    def of(self, number: int | None, now: float) -> float | None:
        """Return the growth per second since the last look; None where that is not known."""
        last, self._last = self._last, None if number is None else (now, number)
        if last is None or number is None or now <= last[0]:
            return None
        return (number - last[1]) / (now - last[0])


class StartError(SynchroscopeError):
    """A process could not reach what it needs in the time it was given."""
