"""What a consumer is promised of its reads is checked exactly, over replicas that lag apart."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.errors import ConfigurationError
from synchroscope.event import ContextDelta, ContextEvent, Source, Update
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateRecord
from synchroscope.replica import Replica
from synchroscope.session import (
    MAXIMUM_TOKEN_BYTES,
    Guarantee,
    ReplicaClient,
    Session,
    SessionMonitor,
    Violation,
)
from synchroscope.view import View
from tests.builders import VIEW, record

USERS = ("1", "2", "3")
NAMES = ("near@1", "far@1")
MONOTONIC, OWN, ORDER = Guarantee.MONOTONIC_READS, Guarantee.READ_YOUR_WRITES, Guarantee.ORDERING


class Clock:
    """A clock that only goes on while somebody waits; what happens then may be told beforehand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.meanwhile: list[tuple[float, Any]] = []

    def pause(self, seconds: float) -> None:
        self.now += seconds
        while self.meanwhile and self.meanwhile[0][0] <= self.now:
            self.meanwhile.pop(0)[1]()


class World:
    """A log of events, and two replicas that have applied it up to different places."""

    def __init__(self, **more: Any) -> None:
        self.clock = Clock()
        self.monitor = SessionMonitor(
            "shop-1", clock=lambda: self.clock.now, pause=self.clock.pause, **more
        )
        self.records: list[Any] = []
        self.sequences: dict[str, int] = {}
        self.storages = {name: MemoryStorage() for name in NAMES}
        self.replicas = {
            name: Replica(name, VIEW, storage, incarnation="life", bits=4)
            for name, storage in self.storages.items()
        }
        self.clients = {
            name: ReplicaClient(name, VIEW, storage.get) for name, storage in self.storages.items()
        }

    def write(self, user: str = "1", session: Session | None = None) -> int:
        sequence = self.sequences[user] = self.sequences.get(user, 0) + 1
        offset = len(self.records)
        self.records.append(record(offset, sequence, {"limit": offset}, user=user))
        if session is not None:
            session.wrote(accepted(user, sequence))
        return sequence

    def apply(self, name: str, count: int = 1_000) -> None:
        replica = self.replicas[name]
        start = replica.position(0)
        some = self.records[start : start + count]
        replica.apply(0, some, start + len(some))

    def shown(self, name: str, user: str) -> int:
        found = self.storages[name].get(("financial", f"user:{user}"))
        return 0 if found is None else found.sequence

    def read(self, session: Session, name: str, user: str = "1", **more: Any) -> Any:
        return session.read(self.clients[name], f"user:{user}", "financial", 7.0, **more)


def accepted(user: str, sequence: int | None) -> ContextEvent:
    return ContextEvent(
        event_id=UUID(int=1),
        timestamp=dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
        event_type="context.updated",
        source=Source("shop", "one"),
        context_delta=ContextDelta({"limit": Update(current=1)}, user_id=user),
        context_type="financial",
        sequence=sequence,
    )


def broken(violations: tuple[Violation, ...]) -> set[Guarantee]:
    return {violation.guarantee for violation in violations}


def test_a_replica_that_only_goes_forward_breaks_nothing() -> None:
    world = World()
    session = world.monitor.session("visitor")
    for _ in range(4):
        world.write()
        world.apply("near@1")
        assert world.read(session, "near@1").violations == ()
    assert world.monitor.reads == {"near@1": 4}


def test_a_read_from_a_replica_that_is_behind_the_one_read_before_goes_back_in_time() -> None:
    world = World()
    session = world.monitor.session("visitor")
    for _ in range(3):
        world.write()
    world.apply("near@1")
    world.apply("far@1", 1)
    assert world.read(session, "near@1").facts == {"limit": 2}
    behind = world.read(session, "far@1")
    (violation,) = behind.violations
    assert (behind.facts, behind.sequence) == ({"limit": 0}, 1)
    assert violation == Violation(
        MONOTONIC,
        "visitor",
        "far@1",
        "financial",
        "user:1",
        3,
        1,
        7.0,
        "read sequence 1 after 3",
        "near@1",
    )
    assert world.monitor.violations == {("far@1", MONOTONIC): 1}
    world.apply("far@1")
    assert world.read(session, "far@1").violations == ()


def test_another_consumer_was_promised_nothing() -> None:
    world = World()
    world.write()
    world.apply("near@1")
    world.read(world.monitor.session("one"), "near@1")
    assert world.read(world.monitor.session("other"), "far@1").violations == ()


def test_a_read_that_does_not_show_what_the_consumer_wrote_is_a_violation() -> None:
    world = World()
    session = world.monitor.session("visitor")
    world.write(session=session)
    assert broken(world.read(session, "near@1").violations) == {OWN}
    world.apply("near@1")
    assert world.read(session, "near@1").violations == ()


def test_what_was_not_accepted_yet_cannot_be_expected() -> None:
    session = World().monitor.session("visitor")
    with pytest.raises(ConfigurationError, match="outcome"):
        session.wrote(accepted("1", None))


def test_an_event_that_is_shown_without_the_one_before_it_breaks_the_order() -> None:
    world = World()
    session = world.monitor.session("visitor")
    for _ in range(3):
        world.write()
    replica = world.replicas["near@1"]
    replica.apply(0, [world.records[0], world.records[2]], 3)
    read = world.read(session, "near@1")
    assert broken(read.violations) == {ORDER}
    assert "2 before it is missing" in read.violations[0].reason
    replica.apply(0, [world.records[1]], 4)  # Late, and then in order.
    assert world.read(session, "near@1").violations == ()


def test_the_same_version_has_to_be_the_same_state_in_every_replica() -> None:
    world = World()
    session = world.monitor.session("visitor")
    world.write()
    world.write()
    for name in NAMES:
        world.apply(name)
    world.read(session, "near@1")
    held = world.storages["far@1"].get(("financial", "user:1"))
    assert held is not None
    twin = held.copy()
    twin.fields["risk"] = ("high", 1)
    world.storages["far@1"].commit({("financial", "user:1"): twin}, 0, None)
    assert broken(world.read(session, "far@1").violations) == {ORDER}


def test_a_field_from_beyond_the_version_breaks_the_order() -> None:
    world = World()
    odd = AggregateRecord("financial", "user:1", 0, 1, {"limit": (5, 2)}, [])
    client = ReplicaClient("odd@1", VIEW, lambda key: odd)
    read = world.monitor.session("visitor").read(client, "user:1", "financial", 7.0)
    assert broken(read.violations) == {ORDER}


def test_replicas_of_other_views_may_show_other_fields_of_a_version() -> None:
    world = World()
    session = world.monitor.session("visitor")
    narrow = View("pricer", {"financial": frozenset({"risk"})})
    storage = MemoryStorage()
    Replica("pricer@1", narrow, storage, incarnation="life", bits=4).apply(
        0, [record(0, 1, {"limit": 0})], 1
    )
    world.write()
    world.apply("near@1")
    world.read(session, "near@1")
    client = ReplicaClient("pricer@1", narrow, storage.get)
    assert session.read(client, "user:1", "financial", 7.0).violations == ()


def test_nothing_is_expected_of_a_replica_that_does_not_see_the_context_type() -> None:
    world = World()
    session = world.monitor.session("visitor")
    world.write(session=session)
    blind = ReplicaClient("blind@1", View("blind", {"geographic": frozenset()}), lambda key: None)
    read = session.read(blind, "user:1", "financial", 7.0, wait_seconds=5.0)
    assert (read.is_checked, read.violations, read.waited_seconds) == (False, (), 0.0)


def test_a_read_waits_until_the_replica_has_what_was_written_and_no_longer() -> None:
    world = World()
    session = world.monitor.session("visitor")
    world.write(session=session)
    world.clock.meanwhile = [(0.3, lambda: world.apply("near@1"))]
    read = world.read(session, "near@1", wait_seconds=2.0)
    assert (read.facts, read.violations) == ({"limit": 0}, ())
    assert 0.3 <= read.waited_seconds < 0.4
    assert world.monitor.waits == {True: 1}


def test_a_wait_has_an_end_and_what_did_not_come_is_a_violation() -> None:
    world = World()
    session = world.monitor.session("visitor")
    world.write(session=session)
    read = world.read(session, "near@1", wait_seconds=0.5)
    assert broken(read.violations) == {OWN}
    assert read.waited_seconds == pytest.approx(0.5)
    assert world.monitor.waits == {False: 1}


def test_a_read_that_is_new_enough_does_not_wait() -> None:
    world = World()
    world.write()
    world.apply("near@1")
    read = world.read(world.monitor.session("visitor"), "near@1", wait_seconds=5.0)
    assert read.waited_seconds == 0.0
    assert world.clock.now == 0.0


def test_what_was_read_cannot_be_changed_by_the_consumer() -> None:
    world = World()
    world.records.append(record(0, 1, {"limit": [1]}))
    world.apply("near@1")
    session = world.monitor.session("visitor")
    world.read(session, "near@1").facts["limit"].append(2)
    assert world.read(session, "near@1").facts == {"limit": [1]}


def test_a_session_goes_on_in_another_process() -> None:
    world = World()
    session = world.monitor.session("visitor")
    world.write()
    world.apply("near@1")
    world.read(session, "near@1")
    world.write("2", session)
    elsewhere = SessionMonitor("shop-2").resume(session.token())
    assert elsewhere.name == "visitor"
    assert broken(world.read(elsewhere, "far@1").violations) == {MONOTONIC}
    assert broken(world.read(elsewhere, "far@1", "2").violations) == {OWN}


@pytest.mark.parametrize("token", ["", "ü", "AAAA", "!!!", "x" * (MAXIMUM_TOKEN_BYTES + 4)])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="begin a new session"):
        World().monitor.resume(token)


def test_a_token_stays_within_its_size_and_keeps_what_was_used_last() -> None:
    world = World(capacity_aggregates=5_000)
    session = world.monitor.session("visitor")
    for number in range(3_000):
        session.wrote(accepted(f"{number}" + "x" * 200, 1))
    token = session.token()
    assert len(token) <= MAXIMUM_TOKEN_BYTES
    resumed = world.monitor.resume(token)
    assert resumed.expected(("financial", "user:2999" + "x" * 200)) == 1
    assert resumed.expected(("financial", "user:0" + "x" * 200)) == 0


def test_what_is_not_sampled_is_read_and_not_checked() -> None:
    world = World(sampled_share=0.0)
    session = world.monitor.session("visitor")
    world.write(session=session)
    read = world.read(session, "near@1")
    assert (read.is_checked, read.violations) == (False, ())
    assert not world.monitor.reads
    sampled = [SessionMonitor("p", sampled_share=0.3).is_sampled(("a", str(n))) for n in range(999)]
    assert 200 < sum(sampled) < 400


@pytest.mark.parametrize("settings", [{"sampled_share": 1.1}, {"capacity_aggregates": 0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SessionMonitor("shop-1", **settings)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(USERS), st.booleans()),
        st.tuples(st.just("apply"), st.sampled_from(NAMES), st.integers(1, 4)),
        st.tuples(st.just("read"), st.sampled_from(NAMES), st.sampled_from(USERS)),
        st.tuples(st.just("move")),
    ),
    max_size=60,
)


@given(steps=steps)
@settings(deadline=None)
def test_a_violation_is_exactly_a_read_behind_what_was_read_or_written(steps: list[Any]) -> None:
    """Against a memory of everything; moving to another process in between changes nothing."""
    world = World()
    session = world.monitor.session("visitor")
    seen: dict[str, int] = {}
    wrote: dict[str, int] = {}
    for step in steps:
        if step[0] == "write":
            sequence = world.write(step[1], session if step[2] else None)
            if step[2]:
                wrote[step[1]] = sequence
        elif step[0] == "apply":
            world.apply(step[1], step[2])
        elif step[0] == "move":
            session = SessionMonitor("elsewhere").resume(session.token())
        else:
            _, name, user = step
            shown = world.shown(name, user)
            expected = {MONOTONIC} if shown < seen.get(user, 0) else set()
            expected |= {OWN} if shown < wrote.get(user, 0) else set()
            assert broken(world.read(session, name, user).violations) == expected
            seen[user] = max(seen.get(user, 0), shown)


@given(steps=steps, capacity=st.integers(1, 3))
@settings(deadline=None)
def test_a_session_that_forgets_finds_less_and_nothing_else(
    steps: list[Any], capacity: int
) -> None:
    world = World()
    whole = world.monitor.session("visitor")
    small = SessionMonitor("small", capacity_aggregates=capacity).session("visitor")
    for step in steps:
        if step[0] == "write":
            sequence = world.write(step[1], whole if step[2] else None)
            if step[2]:
                small.wrote(accepted(step[1], sequence))
        elif step[0] == "apply":
            world.apply(step[1], step[2])
        elif step[0] == "read":
            found = broken(world.read(whole, step[1], step[2]).violations)
            assert broken(world.read(small, step[1], step[2]).violations) <= found
