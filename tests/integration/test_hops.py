"""The audit of the hops over real stores and logs: nothing false, and a loss on its hop."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline.commands import Accepted, CommandSide
from pipeline.event_store import EventStore
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_kafka import KafkaLog
from pipeline.log_sqlite import SqliteLog
from pipeline.projector import Projector
from pipeline.relay import Relay
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.event import ContextDelta, ContextEvent, Source, Update
from synchroscope.hop_tallies import ProducerTally, ReplicaTally, TalliedStorage
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Log, NewRecord
from synchroscope.replica import Replica
from synchroscope.view import View
from tests.postgresql import postgresql_schema
from tests.topics import new_topics
from validator.hop_verdicts import HOPS, HopVerdict
from validator.hops import HopAuditor
from validator.ledger import FindingsReader
from validator.watch import Verdict

VIEW = View("scorer", {"financial": frozenset()})
PARTITIONS = 2
WINDOW_SECONDS, SETTLE_SECONDS = 1.0, 1.5
WAIT_SECONDS = 40.0


class Lossy:
    """The log as the relay writes it; loses the first event of the next append."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.losses = 0

    def append(self, records: list[NewRecord], now: float, **more: Any) -> None:
        events = [record for record in records if record.topic == EVENTS]
        if events and self.losses:
            self.losses -= 1
            records = [record for record in records if record is not events[0]]
        self._log.append(records, now, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Chain:
    """All hops and the audit, each with a log of its own where that is what processes have."""

    def __init__(self, store: EventStore, logs: list[Log]) -> None:
        now = time.time()
        self.log = logs[0]
        self.tally = ProducerTally("shop", uuid4().hex, logs[0], now, window_seconds=WINDOW_SECONDS)
        self.commands = CommandSide(store, tally=self.tally)
        self.link = Lossy(logs[1])
        self.relay = Relay(
            store, self.link, tally_life=uuid4().hex, tally_window_seconds=WINDOW_SECONDS
        )
        storage = TalliedStorage(MemoryStorage())
        replica = Replica("scorer@1", VIEW, storage, incarnation=uuid4().hex)
        counted = ReplicaTally("scorer@1", uuid4().hex, storage, window_seconds=WINDOW_SECONDS)
        self.projector = Projector(replica, logs[0], tally=counted)
        self.auditor = HopAuditor(
            logs[0],
            store,
            [VIEW],
            {"scorer@1": "scorer"},
            now,
            producers=["shop"],
            window_seconds=WINDOW_SECONDS,
            settle_seconds=SETTLE_SECONDS,
            round_seconds=0.2,
            checkpoint_seconds=1.0,
        )

    def write(self, number: int) -> str:
        event = ContextEvent(
            event_id=uuid4(),
            timestamp=dt.datetime.now(dt.UTC),
            event_type="context.updated",
            source=Source("shop", "one"),
            context_delta=ContextDelta({"limit": Update(current=number)}, user_id=str(number % 7)),
            context_type="financial",
        )
        with self.commands.batch(time.time()) as batch:
            assert isinstance(batch.submit(event), Accepted)
        return str(event.event_id)

    def step(self) -> None:
        for role in (self.tally, self.relay, self.projector, self.auditor):
            role.step(time.time())


@pytest.fixture(params=["embedded", "distributed"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chain]:
    with ExitStack() as stack:
        if request.param == "embedded":
            topics = {EVENTS: PARTITIONS, **dict.fromkeys(CONTROL_TOPICS, 1)}
            database = stack.enter_context(closing(SqliteDatabase(tmp_path / "data.db")))
            log = SqliteLog(database, topics)
            yield Chain(SqliteEventStore(database), [log, log])
        else:
            settings = new_topics("confluent", stack, partitions=PARTITIONS)
            store = PostgresqlEventStore(stack.enter_context(postgresql_schema()))
            logs = [
                stack.enter_context(closing(KafkaLog(settings))),
                stack.enter_context(closing(KafkaLog(settings, atomic=False))),
            ]
            yield Chain(store, logs)  # type: ignore[arg-type]


def test_a_loss_between_relay_and_log_is_named_and_nothing_else_is_said(chain: Chain) -> None:
    verdicts: list[HopVerdict] = []
    begun = time.monotonic()
    number, lost = 0, ""

    def seen(verdict: Verdict) -> set[str]:
        return {v.place.hop for v in verdicts if v.verdict is verdict}

    while seen(Verdict.CONSISTENT) != set(HOPS) or not seen(Verdict.DIVERGED):
        seconds = time.monotonic() - begun
        assert seconds < WAIT_SECONDS, [v.reason for v in verdicts]
        number += 1
        if not lost and seconds > 2.0 * WINDOW_SECONDS:
            chain.link.losses = 1
            lost = chain.write(number)
        elif number % 5 == 0:
            chain.write(number)
        chain.step()
        verdicts += list(chain.auditor.verdicts)
        chain.auditor.verdicts.clear()
    (found,) = [v for v in verdicts if v.verdict is Verdict.DIVERGED]
    assert (found.place.hop, found.kind, found.event_ids) == ("relay>log", "lost", (lost,))
    (finding,) = FindingsReader(chain.log).read()
    assert (finding.kind, finding.state) == ("hop-lost", "open")
