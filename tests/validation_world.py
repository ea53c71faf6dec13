"""A tiny world for tests of the validator: the production roles in memory, stepped by hand.

>>> world = World()
>>> world.write("1", limit=5); world.run()
>>> world.verdict()
'CONSISTENT'
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from pipeline.commands import Accepted, CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.partitioner import by_subject
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.event import ContextDelta, ContextEvent, PropagationRules, Source, Update
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    CONTROL_TOPICS,
    EVENTS,
    REPORTS,
    AggregateKey,
    AggregateRecord,
    Batch,
    NewRecord,
    Record,
)
from synchroscope.replica import Replica
from synchroscope.report import Message, Request, decode_message, encode_message
from synchroscope.view import View
from validator.finding import Finding
from validator.ledger import FindingsReader
from validator.pinpoint import WHOLE_FACTS
from validator.validator import ExpectedReplica, Validator

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
VIEW = View(
    "scorer",
    {"financial": frozenset(), "geographic": frozenset()},
    public={"financial": frozenset({"limit"})},
)
REPLICA = "scorer@1"


class TamperedLog:
    """The log as one replica sees it: `tamper` may change each batch of records on its way."""

    def __init__(self, log: MemoryLog) -> None:
        self.inner = log
        self.tamper: Callable[[list[Record]], list[Record]] = list
        self.hold_at: int | None = None

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        if topic == EVENTS and self.hold_at is not None:
            limit = max(min(limit, self.hold_at - position), 0)
        batch = self.inner.read(topic, partition, position, limit)
        return Batch(self.tamper(list(batch.records)), batch.position)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class World:
    """One log, one event store, replicas of one view, a validator, and a clock set by hand."""

    whole_facts = WHOLE_FACTS

    def __init__(
        self,
        replicas: Sequence[str] = (REPLICA,),
        *,
        view: View = VIEW,
        partitions: int = 1,
        bits: int = 4,
        marker_interval: int = 4,
        **more: Any,
    ) -> None:
        self.now = START
        self.view = view
        self.bits = bits
        self.marker_interval = marker_interval
        self.more = more
        self.log = MemoryLog({EVENTS: partitions, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.store = MemoryEventStore()
        self.commands = CommandSide(self.store)
        self.relay = Relay(self.store, self.log)
        self.partitions = partitions
        self.names = tuple(replicas)
        self.storages: dict[str, MemoryStorage] = {}
        self.links: dict[str, TamperedLog] = {}
        self.projectors: dict[str, Projector] = {}
        self.lives = 0
        for name in replicas:
            self.links[name] = TamperedLog(self.log)
            self.start_replica(name, MemoryStorage())
        self.validator = self.make_validator()
        self.events = 0

    def start_replica(self, name: str, storage: MemoryStorage) -> None:
        """Start a replica on this storage; on an empty one it begins a new life."""
        self.lives += 1
        self.storages[name] = storage
        replica = Replica(
            name,
            self.view,
            storage,
            incarnation=f"life-{self.lives}",
            bits=self.bits,
            marker_interval=self.marker_interval,
        )
        self.projectors[name] = Projector(
            replica,
            self.log,
            events=self.links[name],  # type: ignore[arg-type]
            report_interval_seconds=0.0,
            heartbeat_seconds=0.0,
            scrub_interval_seconds=None,
        )

    def make_validator(self, **other: Any) -> Validator:
        settings = {
            "views": [self.view],
            "bits": self.bits,
            "marker_interval": self.marker_interval,
            "whole_facts": self.whole_facts,
            **self.more,
            **other,
        }
        views = settings.pop("views")
        return Validator(
            self.log,
            views,
            [ExpectedReplica(name, self.view.model) for name in self.names],
            self.store,
            lambda kind, subject: by_subject(kind, subject, self.partitions),
            store=self.store,
            **settings,
        )

    def restart_validator(self, **other: Any) -> None:
        """Let the validator die and come back from its checkpoint."""
        self.validator = self.make_validator(**other)

    # -- writing -----------------------------------------------------------------------------

    def write(
        self,
        user: str,
        kind: str = "financial",
        *,
        targets: tuple[str, ...] | None = None,
        ttl: int | None = None,
        **fields: Any,
    ) -> None:
        """Submit an event and relay it to the log."""
        self.events += 1
        event = ContextEvent(
            event_id=UUID(int=self.events, version=4),
            timestamp=dt.datetime.fromtimestamp(self.now, dt.UTC),
            event_type="context.updated",
            source=Source("producer", "one"),
            context_delta=ContextDelta(
                updates={name: Update(current=value) for name, value in fields.items()},
                user_id=user,
            ),
            propagation_rules=PropagationRules(target_models=targets, ttl=ttl),
            context_type=kind,
            correlation_id=f"correlation-{self.events}",
        )
        with self.commands.batch(self.now) as batch:
            outcome = batch.submit(event)
        assert isinstance(outcome, Accepted), outcome
        self.relay.step(self.now)

    def rogue(
        self,
        value: Mapping[str, Any] | bytes,
        headers: tuple[tuple[str, bytes], ...] = (),
        partition: int = 0,
    ) -> int:
        """Write past the command side, straight to the topic; return the offset."""
        data = value if isinstance(value, bytes) else msgspec.json.encode(value)
        offset = self.log.head(EVENTS, partition)
        self.log.append([NewRecord(EVENTS, partition, b"rogue", data, headers)], self.now)
        return offset

    def tell(self, message: Message | bytes) -> None:
        """Write to `sync.reports` as anybody might."""
        data = message if isinstance(message, bytes) else encode_message(message)
        self.log.append([NewRecord(REPORTS, 0, b"", data)], self.now)

    def overwrite(
        self, user: str, name: str = REPLICA, kind: str = "financial", **fields: Any
    ) -> None:
        """Change stored fields behind the replica's back."""
        storage = self.storages[name]
        held = storage.get((kind, f"user:{user}"))
        twin = held.copy() if held else AggregateRecord(kind, f"user:{user}", 0, 1, {}, [])
        for field, value in fields.items():
            twin.fields[field] = (value, twin.fields.get(field, (None, 1))[1])
        storage.commit({(kind, f"user:{user}"): twin}, twin.partition, None)

    def delete(self, user: str, name: str = REPLICA, kind: str = "financial") -> None:
        """Remove an aggregate from the storage behind the replica's back."""
        key: AggregateKey = (kind, f"user:{user}")
        storage = self.storages[name]
        storage._records.pop(key, None)
        storage._slots, storage._placed = MemoryStorage()._slots, 0

    def drop(self, *offsets: int, name: str = REPLICA) -> None:
        """Let the link lose these records."""
        self.links[name].tamper = lambda records: [r for r in records if r.offset not in offsets]

    # -- stepping ----------------------------------------------------------------------------

    def step(self, *, seconds: float = 0.1) -> None:
        """Let every role take one step."""
        self.now += seconds
        self.relay.step(self.now)
        for projector in self.projectors.values():
            projector.step(self.now)
        self.validator.step(self.now)

    def run(self, rounds: int = 8) -> None:
        """Let every role take some steps."""
        for _ in range(rounds):
            self.step()

    def validate(self, rounds: int = 1, *, seconds: float = 0.1) -> None:
        """Let only the validator step."""
        for _ in range(rounds):
            self.now += seconds
            self.validator.step(self.now)

    def settle(self) -> bool:
        """Run, with scrubs, until everything is judged; False when it does not come to that."""
        for _ in range(60):
            self.step()
            if self.validator.is_settled():
                return True
            self.validator.scrub(self.now)
        return False

    # -- reading -----------------------------------------------------------------------------

    def verdict(self, name: str = REPLICA) -> str:
        return self.validator.judge(name, self.now).verdict.value

    def reason(self, name: str = REPLICA) -> str:
        return self.validator.judge(name, self.now).reason

    def findings(self) -> list[Finding]:
        """Return all findings that were published."""
        return FindingsReader(self.log).read()

    def kinds(self) -> list[tuple[str, str, list[str]]]:
        """Return (kind, state, subjects) of every finding."""
        return sorted((f.kind, f.state, f.subjects) for f in self.findings())

    def sent(self, topic: str = REPORTS) -> list[Any]:
        """Return every message of a control topic."""
        batch = self.log.read(topic, 0, 0, 100_000)
        return [decode_message(record.value) for record in batch.records]

    def requests(self) -> list[Request]:
        """Return every question that was put."""
        return [m for m in self.sent("sync.requests") if isinstance(m, Request)]
