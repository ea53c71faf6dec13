"""The check of events against their schemas, and the registry, as one process of many runs them.

Every process with the role answers for the registry, for what is registered is decided by the order
of the log. One process at a time checks events; the others stand by. It writes under a name of its
own, so that one that was paused and comes back can publish nothing any more.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

from pipeline.division import Division
from pipeline.division_kafka import KafkaDivision
from pipeline.log_kafka import KafkaLog
from service.board import ProcessRecord
from service.configuration import Configuration, SchemasSection
from service.hosts import Held, Identity, SplitLog, Teller
from service.registry_http import Desk
from synchroscope.errors import ConfigurationError
from synchroscope.ports import STATE
from validator.schemas.checker import SchemaChecker
from validator.schemas.model import SchemaSource
from validator.schemas.registry_client import RegistryClient
from validator.schemas.registry_log import LogRegistry

HEARTBEAT_SECONDS = 2.0


class SchemaHost(Held):
    """The registry's desk, and the checker while this process is the active one.

    Parameters
    ----------
    configuration: With a section `schemas`.
    identity: Who this process is.
    desk: Where requests for the registry wait; it outlives this object.
    """

    def __init__(self, configuration: Configuration, identity: Identity, desk: Desk) -> None:
        super().__init__()
        if configuration.schemas is None:
            raise ConfigurationError("the configuration has no section schemas")
        self._options: SchemasSection = configuration.schemas
        self._settings = configuration.log.kafka
        self._teller = Teller(identity, "schemas", self._settings)
        self._desk = desk
        self._registry: LogRegistry | None = None
        self._source: SchemaSource
        with self._opening() as stack:
            self._log = stack.enter_context(closing(KafkaLog(self._settings)))
            if self._options.url:
                self._source = stack.enter_context(closing(open_client(self._options)))
            else:
                self._source = self._registry = LogRegistry(self._log, wait=self._log.wait)
                self._registry.refresh()
            self.division: Division = KafkaDivision(self._settings, "schemas", STATE)
            stack.enter_context(closing(self.division))
        self._term: int | None = None
        self._active = ExitStack()
        self._stack.push(self._active)
        self.checker: SchemaChecker | None = None

    def step(self, now: float) -> int:
        """Answer requests, and check a batch of events if this process is the active one."""
        done = 0 if self._registry is None else self._desk.step(self._registry, now)
        term = self.division.owned().get(0)
        if term != self._term:
            self._term = term
            self._retire()
            if term is not None:
                self.checker = self._take_over()
        if self.checker is not None:
            done += self.checker.step(now).consumed
        if self._teller.is_due(now):
            self._teller.tell(self._log, now, [] if self.checker is None else [0])
        return done

    def _take_over(self) -> SchemaChecker:
        writer = self._active.enter_context(closing(KafkaLog(self._settings, writer="schemas")))
        options = self._options
        return SchemaChecker(
            SplitLog(self._log, writer),
            self._source,
            subject=options.subject,
            sample_every=options.sample_every,
            right_events=options.right_events,
            right_seconds=options.right_seconds,
            records_per_step=options.batch_records,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )

    def _retire(self) -> None:
        self.checker = None
        self._active.close()

    def wait(self, seconds: float) -> None:
        """Wait for records."""
        self._log.wait(seconds)

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last."""
        return self._teller.record


def open_client(options: SchemasSection) -> RegistryClient:
    """Return a client of the registry that the configuration names."""
    return RegistryClient(
        options.url,
        timeout_seconds=options.timeout_seconds,
        kept_seconds=options.kept_seconds,
    )
