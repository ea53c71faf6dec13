"""The load of a soak: a producer that goes on whatever is away and keeps what was acknowledged."""

from __future__ import annotations

import random
import threading
import time
from typing import Any
from uuid import UUID

import msgspec

from benchmarks.soak_recovery import Violation
from pipeline.commands import Accepted, CommandSide, Repeated
from pipeline.event_store_postgresql import PostgresqlEventStore
from service.configuration import Configuration
from service.stores import open_database
from synchroscope.errors import SynchroscopeError

EVENTS_PER_SECOND = 150
BATCH_EVENTS = 5
BUSY_USERS = 400
QUIET_USERS = 40
"""Written once at the start: what is changed behind their back is found by the scrub alone."""


class Load(threading.Thread):
    """Produces until it is stopped; an event counts as acknowledged when its batch is stored."""

    def __init__(self, configuration: Configuration, seed: int) -> None:
        super().__init__(name="load", daemon=True)
        self._configuration = configuration
        self._rng = random.Random(seed)
        self._stop_wanted = threading.Event()
        self._number = 0
        self.acknowledged: set[str] = set()
        self.waits = 0
        self.failure: BaseException | None = None

    def end(self) -> None:
        """Stop producing and wait for the last batch."""
        self._stop_wanted.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        """Produce at a steady rate, and again what may or may not have been stored."""
        try:
            self._produce()
        except BaseException as error:
            self.failure = error

    def _produce(self) -> None:
        batch: list[bytes] = []
        side: CommandSide | None = None
        database = None
        due = time.monotonic()
        while not self._stop_wanted.is_set() or batch:
            if not batch:
                due = max(due + BATCH_EVENTS / EVENTS_PER_SECOND, time.monotonic() - 1.0)
                time.sleep(max(due - time.monotonic(), 0.0))
                batch = [self._event() for _ in range(BATCH_EVENTS)]
            try:
                if side is None:
                    database = open_database(self._configuration)
                    side = CommandSide(PostgresqlEventStore(database))
                with side.batch(time.time()) as open_batch:
                    outcomes = [open_batch.submit(event) for event in batch]
            except SynchroscopeError:
                self.waits += 1
                side = None
                if database is not None:
                    database.close()
                time.sleep(0.2)
                continue
            for outcome, event in zip(outcomes, batch, strict=True):
                if not isinstance(outcome, Accepted | Repeated):
                    raise Violation(f"refused: {outcome}")
                self.acknowledged.add(msgspec.json.decode(event)["eventId"])
            batch = []
        if database is not None:
            database.close()

    def _event(self) -> bytes:
        rng, number = self._rng, self._number
        self._number += 1
        if number < 2 * QUIET_USERS:
            user, kind = f"quiet-{number // 2}", ("financial", "behavioural")[number % 2]
        else:
            user = f"busy-{rng.randrange(BUSY_USERS)}"
            kind = rng.choice(("financial", "behavioural", "geographic"))
        fields = {"limit": rng.randrange(10**6), "score": rng.random()}
        targets = (
            None if number < 2 * QUIET_USERS else rng.choice((None, None, ["risk"], ["offers"]))
        )
        rules: dict[str, Any] = {"priority": rng.choice(("normal", "high"))}
        if targets is not None:
            rules["targetModels"] = targets
        return msgspec.json.encode(
            {
                "eventId": str(UUID(int=rng.getrandbits(128), version=4)),
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "eventType": "context.updated",
                "source": {"modelId": "soak", "instanceId": "1"},
                "contextType": kind,
                "contextDelta": {
                    "userId": user,
                    "updates": {name: {"current": value} for name, value in fields.items()},
                },
                "propagationRules": rules,
            }
        )
