"""Every hop from a producer to two replicas, and what may happen on each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from pipeline.commands import Accepted, CommandSide
from pipeline.event_store import Append, StoredEvent
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from pipeline.relay import Relay
from synchroscope.errors import UnavailableError
from synchroscope.event import ContextDelta, ContextEvent, Source, Update
from synchroscope.hop_tallies import ProducerTally, ReplicaTally, TalliedStorage
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, NewRecord, TopicPartition
from synchroscope.replica import Replica
from synchroscope.view import View
from tests.validation_world import TamperedLog
from validator.finding import Finding
from validator.hop_verdicts import HopVerdict
from validator.hops import HopAuditor
from validator.ledger import FindingsReader
from validator.watch import Verdict

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
VIEW = View("scorer", {"financial": frozenset()})
NARROW = View("pricer", {"geographic": frozenset()})
REPLICAS = {"scorer@1": VIEW, "pricer@1": NARROW}
WINDOW, SETTLE = 10.0, 5.0


class FaultyStore(MemoryEventStore):
    """A store that may do to the events of an append, or to what it hands out, what it should not.

    ``on_append`` changes what is written, ``on_read`` what a reader like the relay gets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_append: Callable[[list[ContextEvent]], list[ContextEvent]] = list
        self.on_read: Callable[[list[StoredEvent]], list[StoredEvent]] = list
        self.fails_after_writing = False

    def append(self, write: Append, now: float) -> None:
        super().append(replace(write, events=self.on_append(list(write.events))), now)
        if self.fails_after_writing:
            raise UnavailableError("store", "no answer")

    def copy_last(self) -> None:
        """Have the last row twice, as a restored backup or a broken index may have it."""
        last = self._events[-1]
        self._events.append(StoredEvent(len(self._events) + 1, last.event, last.recorded))


class Reading:
    """The store as the relay reads it."""

    def __init__(self, store: FaultyStore) -> None:
        self.store = store

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        return self.store.on_read(self.store.read(after, limit))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Publishing:
    """The log as the relay writes it."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.on_append: Callable[[list[NewRecord]], list[NewRecord]] = list

    def append(
        self,
        records: Sequence[NewRecord],
        now: float,
        *,
        consumer: str = "",
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        events = [record for record in records if record.topic == EVENTS]
        others = [record for record in records if record.topic != EVENTS]
        changed = [*self.on_append(events), *others]
        self.log.append(changed, now, consumer=consumer, positions=positions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class Chain:
    """Every hop from a producer to two replicas, and the audit."""

    def __init__(self, partitions: int = 2, **more: Any) -> None:
        self.now = START
        self.more = more
        self.lives = 0
        self.events = 0
        self.partitions = partitions
        self.log = MemoryLog({EVENTS: partitions, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.store = FaultyStore()
        self.publishing = Publishing(self.log)
        self.links = {name: TamperedLog(self.log) for name in REPLICAS}
        self.storages = {name: MemoryStorage() for name in REPLICAS}
        self.projectors: dict[str, Projector] = {}
        self.start_producer()
        self.start_relay()
        for name in REPLICAS:
            self.start_replica(name)
        self.start_auditor()
        self.verdicts: list[HopVerdict] = []
        self.run(12)  # The first windows have no beginning.
        self.verdicts.clear()

    def life(self) -> str:
        self.lives += 1
        return f"life-{self.lives}"

    def start_producer(self) -> None:
        self.tally = ProducerTally("shop", self.life(), self.log, self.now, window_seconds=WINDOW)
        self.commands = CommandSide(self.store, tally=self.tally)

    def start_relay(self) -> None:
        self.relay = Relay(
            Reading(self.store),
            self.publishing,
            tally_life=self.life(),
            tally_window_seconds=WINDOW,
        )

    def start_replica(self, name: str) -> None:
        life = self.life()
        storage = TalliedStorage(self.storages[name])
        replica = Replica(name, REPLICAS[name], storage, incarnation=life, bits=4)
        self.projectors[name] = Projector(
            replica,
            self.log,
            events=self.links[name],  # type: ignore[arg-type]
            scrub_interval_seconds=None,
            tally=ReplicaTally(name, life, storage, window_seconds=WINDOW),
        )

    def start_auditor(self) -> None:
        self.auditor = HopAuditor(
            self.log,
            self.store,
            list(REPLICAS.values()),
            {name: view.model for name, view in REPLICAS.items()},
            self.now,
            producers=["shop"],
            window_seconds=WINDOW,
            settle_seconds=SETTLE,
            **self.more,
        )

    def write(self, user: str = "1", kind: str = "financial", at: float | None = None) -> str:
        self.events += 1
        event = ContextEvent(
            event_id=UUID(int=self.events, version=4),
            timestamp=dt.datetime.fromtimestamp(self.now, dt.UTC),
            event_type="context.updated",
            source=Source("shop", "one"),
            context_delta=ContextDelta({"limit": Update(current=self.events)}, user_id=user),
            context_type=kind,
        )
        with self.commands.batch(self.now if at is None else at) as batch:
            assert isinstance(batch.submit(event), Accepted)
        return str(event.event_id)

    def step(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.tally.step(self.now)
        self.relay.step(self.now)
        for projector in self.projectors.values():
            projector.step(self.now)
        self.audit()

    def audit(self) -> None:
        self.auditor.step(self.now)
        self.verdicts += list(self.auditor.verdicts)
        self.auditor.verdicts.clear()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def settle(self) -> None:
        """Run until every window that has events is judged."""
        self.run(35)

    def traffic(self) -> None:
        for number in range(10):
            self.write(str(number % 4), ("financial", "geographic")[number % 3 == 0])
            self.step(0.5)

    def wrong(self) -> list[tuple[str, str | None, str | None, int]]:
        """Return (hop, replica, kind, events) of every place that was found diverged."""
        return [
            (v.place.hop, v.place.replica, v.kind, v.events)
            for v in self.verdicts
            if v.verdict is Verdict.DIVERGED
        ]

    def states(self, hop: str) -> set[str]:
        return {v.verdict.value for v in self.verdicts if v.place.hop == hop}

    def findings(self) -> list[Finding]:
        return FindingsReader(self.log).read()


def once(change: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """Apply a change to the first list that is not empty, and to none after it."""
    done: list[bool] = []

    def changed(items: list[Any]) -> list[Any]:
        if done or not items:
            return list(items)
        done.append(True)
        return change(list(items))

    return changed
