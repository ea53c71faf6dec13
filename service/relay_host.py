"""The relay with its connections, as one process runs it."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, suppress
from typing import Any
from uuid import uuid4

from pipeline.division import Division
from pipeline.division_kafka import KafkaDivision
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.kafka_client import open_client
from pipeline.kafka_topics import check_partitions
from pipeline.log_kafka import KafkaLog
from pipeline.partitioner import PARTITIONERS
from pipeline.relay import Relay
from service.board import ProcessRecord, RelayWork
from service.configuration import Configuration
from service.hosts import Held, Identity, Teller
from service.stores import open_database
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import STATE

STANDBY_PROBE_SECONDS = 2.0
"""How often a relay that stands by asks whether its servers answer."""
SHORTEST_IDLE_SECONDS = 0.001
IDLE_GROWTH = 1.2


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
        self._relay: Relay | None = None
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
            self._relay.note(now)
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

    def close(self) -> None:
        """Store how far everything is published, and release the connections."""
        if self._relay is not None:
            with suppress(SynchroscopeError):
                self._relay.note(time.time())
        super().close()

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
