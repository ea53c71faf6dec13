"""What a model in another process learns of its replica, from a log on disk and from Kafka."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.commands import Accepted, CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_kafka import KafkaLog
from pipeline.log_sqlite import SqliteLog
from pipeline.partitioner import by_subject
from pipeline.projector import Projector
from pipeline.relay import Relay
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.context_reader import ContextReader, Given
from synchroscope.event import ContextDelta, ContextEvent, Source, Update
from synchroscope.freshness import Label, Limits
from synchroscope.freshness_follower import FreshnessFollower
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Batch, Log
from synchroscope.replica import Replica
from synchroscope.view import View
from tests.topics import new_topics
from validator.validator import ExpectedReplica, Validator

VIEW = View("scorer", {"financial": frozenset()})
PARTITIONS = 2
WAIT_SECONDS = 30.0


class Link:
    """The log as the replica sees it: may hold everything back, or lose the next event."""

    def __init__(self, log: Log) -> None:
        self.partitions = log.partitions
        self._read = log.read
        self.is_held = False
        self.losses = 0

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        if self.is_held:
            return Batch([], position)
        batch = self._read(topic, partition, position, limit)
        if self.losses and batch.records:
            self.losses -= 1
            return Batch(batch.records[1:], batch.position)
        return batch


class Pipeline:
    """The roles on one log, and a model that reads another object of the same log."""

    def __init__(self, log: Log, model_log: Log) -> None:
        def place(kind: str, subject: str) -> int:
            return by_subject(kind, subject, PARTITIONS)

        store = MemoryEventStore()
        self.commands = CommandSide(store)
        self.relay = Relay(store, log)
        self.link = Link(log)
        self.replica = Replica(
            "scorer@1", VIEW, MemoryStorage(), incarnation=uuid4().hex, marker_interval=4
        )
        self.projector = Projector(self.replica, log, events=self.link)  # type: ignore[arg-type]
        self.validator = Validator(
            log,
            [VIEW],
            [ExpectedReplica("scorer@1", "scorer")],
            store,
            place,
            marker_interval=4,
            worker="validator",
        )
        self.follower = FreshnessFollower(
            model_log, "scorer@1", place, position_of=self.replica.position
        )
        limits = {"financial": Limits(2.0, default={"limit": 0})}
        self.reader = ContextReader(self.replica.get, self.follower, limits)

    def write(self, user: str, limit: int) -> None:
        event = ContextEvent(
            event_id=uuid4(),
            timestamp=dt.datetime.now(dt.UTC),
            event_type="context.updated",
            source=Source("producer", "one"),
            context_delta=ContextDelta({"limit": Update(current=limit)}, user_id=user),
            context_type="financial",
        )
        with self.commands.batch(time.time()) as batch:
            assert isinstance(batch.submit(event), Accepted)

    def get(self, user: str) -> Given:
        return self.reader.get(f"user:{user}", "financial", time.time())

    def until(self, user: str, holds: Callable[[Given], bool]) -> Given:
        """Step every role until a read is as it must be."""
        deadline = time.monotonic() + WAIT_SECONDS
        given = self.get(user)
        while not holds(given):
            assert time.monotonic() < deadline, given
            for role in (self.relay, self.projector, self.validator, self.follower):
                role.step(time.time())
            given = self.get(user)
        return given


@pytest.fixture(params=["sqlite", "kafka"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            path = tmp_path / "synchroscope.db"
            topics = {EVENTS: PARTITIONS, **dict.fromkeys(CONTROL_TOPICS, 1)}
            written = stack.enter_context(closing(SqliteDatabase(path)))
            log: Log = SqliteLog(written, topics)
            read = stack.enter_context(closing(SqliteDatabase(path, exclusive=False)))
            yield Pipeline(log, SqliteLog(read, {}))
        else:
            settings = new_topics("confluent", stack, partitions=PARTITIONS)
            yield Pipeline(
                stack.enter_context(closing(KafkaLog(settings))),
                stack.enter_context(closing(KafkaLog(settings))),
            )


def is_stale(given: Given) -> bool:
    return given.label is Label.STALE


def test_a_model_learns_of_staleness_and_of_a_finding_and_of_its_end(pipeline: Pipeline) -> None:
    assert pipeline.get("1").label is Label.UNKNOWN
    pipeline.write("1", 5)
    fresh = pipeline.until("1", lambda given: given.label is Label.FRESH)
    assert fresh.facts == {"limit": 5}
    assert fresh.freshness.staleness_seconds is not None
    assert fresh.freshness.staleness_seconds < 2.0

    pipeline.link.is_held = True
    pipeline.write("1", 6)
    stale = pipeline.until("1", lambda given: given.freshness.lag_events == 1 and is_stale(given))
    assert stale.facts == {"limit": 5}
    assert stale.freshness.staleness_seconds is not None
    assert stale.freshness.staleness_seconds > 2.0

    pipeline.link.is_held = False
    pipeline.link.losses = 1
    # A finding that is not located yet may begin before anything that was read.
    suspect = pipeline.until("1", lambda given: given.source == "cached")
    assert (suspect.label, suspect.facts) == (Label.SUSPECT, {"limit": 5})
    assert [one.kind for one in suspect.freshness.findings or ()] == ["missed"]

    pipeline.write("1", 7)
    healed = pipeline.until("1", lambda given: given.label is Label.FRESH)
    assert healed.facts == {"limit": 7}
