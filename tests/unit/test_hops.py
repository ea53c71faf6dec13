"""A loss, a duplicate or an alteration is placed on exactly its hop, and nothing else is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from benchmarks import hop_cost
from pipeline.commands import Accepted, CommandSide
from pipeline.event_store import Append, StoredEvent
from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from pipeline.relay import Relay
from service.board import Board
from synchroscope.errors import UnavailableError
from synchroscope.event import ContextDelta, ContextEvent, Source, Update
from synchroscope.freshness_follower import FreshnessFollower
from synchroscope.hop_tallies import ProducerTally, ReplicaTally, TalliedStorage
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    CONTROL_TOPICS,
    EVENTS,
    AggregateKey,
    AggregateRecord,
    NewRecord,
    Record,
    TopicPartition,
)
from synchroscope.replica import Replica
from synchroscope.view import View
from tests.validation_world import TamperedLog
from tracing.metrics import HopMeasurements, Measurements, registry_for
from validator import hops
from validator.finding import Finding
from validator.hop_verdicts import (
    ALTERED,
    DOUBLED,
    LOG_REPLICA,
    LOST,
    PRODUCER_STORE,
    RELAY_LOG,
    STORE_RELAY,
    HopVerdict,
)
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


def altered_event(event: ContextEvent) -> ContextEvent:
    return replace(event, event_type="context.changed")


def altered_value(value: bytes) -> bytes:
    return value.replace(b"context.updated", b"context.changed")


def test_where_nothing_is_wrong_every_hop_is_consistent() -> None:
    chain = Chain()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    for hop in (PRODUCER_STORE, STORE_RELAY, RELAY_LOG, LOG_REPLICA):
        assert chain.states(hop) == {"CONSISTENT"}, hop
    assert chain.findings() == []


def at_producer_store(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[ContextEvent]], list[ContextEvent]]] = {
        LOST: lambda events: events[1:],
        ALTERED: lambda events: [altered_event(events[0]), *events[1:]],
    }
    chain.store.on_append = once(change[kind])


def at_store_relay(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[StoredEvent]], list[StoredEvent]]] = {
        LOST: lambda rows: rows[1:],
        ALTERED: lambda rows: [replace(rows[0], event=altered_event(rows[0].event)), *rows[1:]],
    }
    chain.store.on_read = once(change[kind])


def at_relay_log(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[NewRecord]], list[NewRecord]]] = {
        LOST: lambda records: records[1:],
        ALTERED: lambda records: [
            replace(records[0], value=altered_value(records[0].value)),
            *records[1:],
        ],
    }
    chain.publishing.on_append = once(change[kind])


def at_log_replica(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[Record]], list[Record]]] = {
        LOST: lambda records: records[1:],
        ALTERED: lambda records: [
            replace(records[0], value=altered_value(records[0].value)),
            *records[1:],
        ],
    }
    chain.links["scorer@1"].tamper = once(change[kind])


@pytest.mark.parametrize("kind", [LOST, ALTERED])
@pytest.mark.parametrize(
    ("hop", "inject", "replica", "is_named"),
    [
        (PRODUCER_STORE, at_producer_store, None, False),
        (STORE_RELAY, at_store_relay, None, True),
        (RELAY_LOG, at_relay_log, None, True),
        (LOG_REPLICA, at_log_replica, "scorer@1", True),
    ],
)
def test_what_is_lost_or_altered_between_two_hops_is_placed_exactly_there(
    hop: str,
    inject: Callable[[Chain, str], None],
    replica: str | None,
    is_named: bool,
    kind: str,
) -> None:
    chain = Chain(blame_replicas=True)
    chain.traffic()
    inject(chain, kind)
    chain.write("1")
    chain.write("1")
    for _ in range(3):
        chain.step()
    # Repeated traffic for a window that has more than the one event.
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(hop, replica, kind, 1)]
    (finding,) = chain.findings()
    assert (finding.kind, finding.state, finding.replica) == (f"hop-{kind}", "open", replica)
    assert finding.evidence["hop"] == hop
    named = [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED]
    if is_named and (hop, kind) != (LOG_REPLICA, ALTERED):
        assert named == [(str(UUID(int=11, version=4)),)]
        assert finding.subjects == ["user:1"]
    else:
        assert named == [None]


def test_a_row_that_the_store_has_twice_is_placed_between_producer_and_store() -> None:
    chain = Chain()
    chain.traffic()
    chain.step()
    name = chain.write("1")
    chain.store.copy_last()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(PRODUCER_STORE, None, DOUBLED, 1)]
    assert [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED] == [(name,)]


class Forgetful(list[int]):
    """Where a relay published to, forgotten at once."""

    def __getitem__(self, place: Any) -> Any:
        return 0


def test_an_event_that_the_relay_hands_over_twice_is_placed_there() -> None:
    chain = Chain()
    chain.traffic()
    chain.step()
    chain.relay._published = Forgetful(chain.relay._published)
    chain.store.on_read = once(lambda rows: [rows[0], *rows])
    name = chain.write("1")
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(STORE_RELAY, None, DOUBLED, 1)]
    assert [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED] == [(name,)]


def test_a_record_that_the_log_has_twice_is_placed_there_and_is_no_finding() -> None:
    chain = Chain()
    chain.traffic()
    chain.publishing.on_append = once(lambda records: [records[0], *records])
    name = chain.write("1")
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, DOUBLED, 1)]
    (verdict,) = [v for v in chain.verdicts if v.verdict is Verdict.DIVERGED]
    assert verdict.is_harmless and verdict.event_ids == (name,)
    assert chain.findings() == []


def test_an_event_that_a_replica_applies_twice_is_placed_there() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    chain.settle()
    held: dict[AggregateKey, AggregateRecord] = {}
    storage, link = chain.storages["scorer@1"], chain.links["scorer@1"]
    key = ("financial", "user:1")
    before = storage.get(key)
    assert before is not None
    held[key] = before.copy()
    name = chain.write("1")
    chain.step()
    again = list(chain.log.read(EVENTS, 0, chain.log.head(EVENTS, 0) - 1, 1).records)
    # The storage falls back, for this aggregate only, and the event is delivered once more.
    storage.commit(held, 0, None)
    link.tamper = once(lambda records: [*again, *records])
    chain.write("2")
    chain.settle()
    assert chain.wrong() == [(LOG_REPLICA, "scorer@1", DOUBLED, 1)]
    assert [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED] == [(name,)]


def test_three_losses_on_one_hop_are_counted_and_named() -> None:
    chain = Chain()
    chain.traffic()
    chain.publishing.on_append = once(lambda records: [])
    names = {chain.write(user) for user in ("1", "1", "1")}
    chain.step()
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, LOST, 3)]
    (verdict,) = [v for v in chain.verdicts if v.verdict is Verdict.DIVERGED]
    assert set(verdict.event_ids or ()) == names
    assert "3 lost between relay and log, partition" in verdict.reason


def test_losses_on_two_hops_in_one_window_are_told_apart() -> None:
    chain = Chain()
    chain.store.on_read = once(lambda rows: rows[1:])
    first = chain.write("1")
    chain.write("1")
    chain.step()
    chain.publishing.on_append = once(lambda records: records[1:])
    second = chain.write("1")
    chain.step()
    chain.traffic()
    chain.settle()
    found = {v.place.hop: v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED}
    assert found == {STORE_RELAY: (first,), RELAY_LOG: (second,)}


def test_what_comes_late_is_judged_again_and_its_finding_is_resolved() -> None:
    chain = Chain()
    chain.traffic()
    chain.step()
    held: list[NewRecord] = []
    chain.publishing.on_append = once(lambda records: held.extend(records) or [])
    chain.write("1")
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, LOST, 1)]
    chain.log.append(held, chain.now)
    chain.run(5)
    (finding,) = chain.findings()
    assert (finding.state, finding.kind) == ("resolved", "hop-lost")


def test_what_is_on_its_way_is_not_lost() -> None:
    chain = Chain()
    relay = chain.relay
    chain.relay = _Still()  # type: ignore[assignment]
    chain.traffic()
    chain.run(60)
    assert chain.wrong() == []
    assert chain.states(STORE_RELAY) == chain.states(RELAY_LOG) == set()
    chain.relay = relay
    chain.links["scorer@1"].hold_at = 0
    chain.run(30)
    assert chain.wrong() == []
    assert chain.states(STORE_RELAY) == {"CONSISTENT"}
    chain.links["scorer@1"].hold_at = None
    chain.run(5)
    assert chain.wrong() == []
    assert "scorer@1" in {v.place.replica for v in chain.verdicts}


class _Still:
    """A role that stands still."""

    def step(self, now: float) -> None:
        pass


def test_a_batch_that_is_recorded_long_before_it_is_stored_is_not_too_much() -> None:
    chain = Chain()
    chain.traffic()
    begun = chain.now
    chain.run(20)
    chain.write("1", at=begun)
    chain.settle()
    assert chain.wrong() == []


def test_a_slow_batch_that_the_producer_has_not_told_yet_is_not_too_much_either() -> None:
    chain = Chain()
    chain.traffic()
    begun = chain.now
    chain.run(20)
    chain.write("1", at=begun)
    chain.now += 1.0
    chain.audit()
    chain.settle()
    assert chain.wrong() == []


def test_a_window_that_is_not_over_is_not_judged() -> None:
    chain = Chain()
    chain.traffic()
    while chain.now % WINDOW != 0.5:
        chain.step(0.5)
    chain.verdicts.clear()
    chain.write("1")
    judged_from = chain.now + WINDOW - 0.5 + SETTLE
    while chain.now < judged_from - 1:
        chain.step(0.5)
    current = int((judged_from - SETTLE) // WINDOW) - 1
    assert all(v.window < current for v in chain.verdicts)


def test_whether_an_append_without_an_answer_was_stored_is_unknown() -> None:
    chain = Chain()
    chain.store.fails_after_writing = True
    with pytest.raises(UnavailableError):
        chain.write("1")
    chain.store.fails_after_writing = False
    chain.settle()
    assert chain.wrong() == []
    assert "UNKNOWN" in chain.states(PRODUCER_STORE)
    assert chain.states(STORE_RELAY) == {"CONSISTENT"}


def test_a_producer_that_dies_without_a_last_word_leaves_a_window_unknown() -> None:
    chain = Chain()
    chain.traffic()
    chain.write("1")  # Accepted, and never told.
    chain.now += 0.5
    chain.start_producer()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    unknown = [v.reason for v in chain.verdicts if v.verdict is Verdict.UNKNOWN]
    assert any("ended without a last word" in reason for reason in unknown)
    assert chain.states(STORE_RELAY) == {"CONSISTENT"}


def test_a_producer_that_says_goodbye_leaves_nothing_unknown() -> None:
    chain = Chain()
    chain.traffic()
    chain.tally.tell(chain.now, final=True)
    chain.now += 0.5
    chain.start_producer()
    chain.traffic()
    chain.settle()
    assert chain.states(PRODUCER_STORE) == {"CONSISTENT"}


def test_a_relay_that_dies_after_publishing_and_before_telling_counts_it_again_once() -> None:
    chain = Chain()
    chain.traffic()
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)  # Published; told would be the next time.
    chain.start_relay()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    assert chain.states(STORE_RELAY) == chain.states(RELAY_LOG) == {"CONSISTENT"}


def test_what_a_replica_applied_before_it_died_and_did_not_tell_is_unknown() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)
    chain.projectors["scorer@1"].step(chain.now)
    chain.start_replica("scorer@1")
    chain.write("2")
    chain.settle()
    assert chain.wrong() == []
    mine = {v.verdict for v in chain.verdicts if v.place.replica == "scorer@1"}
    assert Verdict.UNKNOWN in mine


def test_what_a_replica_told_before_it_died_stays_known() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    chain.run(12)  # Told, and its window is over.
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)
    chain.projectors["scorer@1"].step(chain.now)
    chain.start_replica("scorer@1")
    chain.write("2")
    chain.settle()
    of_window = {v.window: v.verdict for v in chain.verdicts if v.place.replica == "scorer@1"}
    assert of_window[min(of_window)] is Verdict.CONSISTENT
    assert of_window[max(of_window)] is Verdict.UNKNOWN


def test_a_partition_that_is_handed_over_leaves_nothing_unknown() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    old = chain.projectors["scorer@1"]
    chain.write("1")
    chain.now += 0.1
    chain.relay.step(chain.now)
    old.step(chain.now)
    old.own({})
    chain.start_replica("scorer@1")
    chain.write("1")
    chain.step()
    old.step(chain.now)
    chain.settle()
    assert {v.verdict for v in chain.verdicts if v.place.replica == "scorer@1"} == {
        Verdict.CONSISTENT
    }


def test_a_checkpoint_that_would_be_too_large_leaves_out_the_oldest_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hops, "MAXIMUM_CHECKPOINT_BYTES", 1_500)
    chain = Chain(checkpoint_seconds=0.0)
    for _ in range(6):
        chain.traffic()
    stored = chain.log.latest("sync.state", hops.CHECKPOINT_KEY)
    assert stored is not None and len(stored.value) <= 1_500
    chain.start_auditor()
    chain.settle()
    assert chain.wrong() == []


def test_a_replica_that_is_built_anew_has_applied_everything_once() -> None:
    chain = Chain()
    chain.traffic()
    chain.storages["scorer@1"] = MemoryStorage()
    chain.start_replica("scorer@1")
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    assert chain.states(LOG_REPLICA) == {"CONSISTENT"}


def test_an_audit_that_dies_goes_on_where_it_was() -> None:
    chain = Chain(checkpoint_seconds=0.0)
    chain.traffic()
    chain.publishing.on_append = once(lambda records: records[1:])
    chain.write("1")
    chain.run(2)
    chain.start_auditor()
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, LOST, 1)]
    chain.start_auditor()
    chain.run(5)
    assert [finding.state for finding in chain.findings()] == ["open"]
    assert len(chain.auditor.open_findings()) == 1


def test_an_audit_without_a_checkpoint_does_not_judge_what_had_begun() -> None:
    chain = Chain(checkpoint_seconds=1e9)
    chain.traffic()
    chain.log._newest.pop(("sync.state", b"hops/checkpoint"), None)
    chain.start_auditor()
    chain.settle()
    assert chain.wrong() == []


def test_how_the_hops_stand_is_published_for_boards_and_metrics() -> None:
    chain = Chain(checkpoint_seconds=0.0)
    chain.traffic()
    chain.publishing.on_append = once(lambda records: records[1:])
    chain.write("1")
    chain.settle()
    board = Board(chain.log, {})
    board.refresh()
    assert board.hops is not None
    work = board.hops.hops[RELAY_LOG]
    assert work.windows["DIVERGED"] == work.events[LOST] == 1
    assert work.windows["CONSISTENT"] > 0
    assert board.hops.open == [finding.id for finding in chain.findings()]
    measured = HopMeasurements(work.windows, work.events, work.judged_until)
    registry = registry_for(lambda: Measurements(at=1.0, hops={RELAY_LOG: measured}))
    sample = registry.get_sample_value
    assert sample("synchroscope_hop_events_total", {"hop": RELAY_LOG, "kind": LOST}) == 1
    labels = {"hop": RELAY_LOG, "verdict": "DIVERGED"}
    assert sample("synchroscope_hop_windows_total", labels) == 1
    until = sample("synchroscope_hop_compared_timestamp_seconds", {"hop": RELAY_LOG})
    assert until is not None and START < until < chain.now


def test_what_counting_costs_is_printed_beside_its_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hop_cost, "EVENTS_MEASURED", 300)
    hop_cost.main()
    assert "counting adds" in capsys.readouterr().out


def test_a_named_loss_makes_the_reads_of_its_aggregate_suspect() -> None:
    chain = Chain()
    chain.publishing.on_append = once(lambda records: records[1:])
    chain.write("1")
    chain.write("1")
    chain.traffic()
    chain.settle()
    follower = FreshnessFollower(chain.log, "scorer@1", lambda kind, subject: 0)
    follower.step(chain.now)
    named = follower.freshness("user:1", "financial", chain.now).findings
    assert [one.kind for one in named or ()] == ["hop-lost"]
    assert follower.freshness("user:2", "financial", chain.now).findings == ()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_dies_or_stands_still_nothing_false_is_said(seed: int) -> None:
    """Roles stop, die and come back in any order; nothing is lost, so nothing may be found."""
    rng = Random(seed)
    chain = Chain(checkpoint_seconds=rng.choice([0.0, 3.0]), read_records=rng.choice([2, 5, 1000]))
    for _ in range(200):
        chain.now += rng.choice([0.05, 0.3, 1.0, 2.5])
        for _ in range(rng.randrange(3)):
            kind = rng.choice(["financial", "geographic", "temporal"])
            chain.write(str(rng.randrange(5)), kind, at=chain.now - rng.choice([0, 0, 0, 1, 2]))
        turns: list[Callable[[], Any]] = [
            lambda: chain.tally.step(chain.now),
            lambda: chain.relay.step(chain.now),
            *(lambda p=p: p.step(chain.now) for p in chain.projectors.values()),  # type: ignore[misc]
            chain.audit,
        ]
        rng.shuffle(turns)
        for turn in turns:
            if rng.random() < 0.8:
                turn()
        if rng.random() < 0.04:
            rng.choice(
                [
                    chain.start_relay,
                    chain.start_auditor,
                    chain.start_producer,
                    lambda: chain.start_replica(rng.choice(list(REPLICAS))),
                ]
            )()
    chain.settle()
    assert chain.wrong() == []
    assert chain.findings() == []
    assert "CONSISTENT" in chain.states(STORE_RELAY) & chain.states(RELAY_LOG)
