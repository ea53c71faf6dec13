"""What a model reads through the cache is never older than what storage and log have told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.remote_log import MarkedLog
from pipeline.log_memory import MemoryLog
from synchroscope import context_cache
from synchroscope.context_cache import HEAD_INTERVAL_SECONDS, ContextCache
from synchroscope.errors import ConfigurationError, UnavailableError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    EVENTS,
    AggregateKey,
    AggregateRecord,
    Batch,
    NewRecord,
)
from synchroscope.replica import Replica
from tests.builders import VIEW, event, replica_of

USERS = 3
PARTITIONS = 2


def partition_of(context_type: str, subject: str) -> int:
    return int(subject.removeprefix("user:")) % PARTITIONS


class Reading(MemoryStorage):
    """A model's connection: counts reads, and lets others go on while a read is under way."""

    def __init__(self, held: MemoryStorage) -> None:
        super().__init__()
        self.held = held
        self.reads = 0
        self.between: list[Callable[[], None]] = []

    def _pause(self) -> None:
        if self.between:
            self.between.pop(0)()

    def incarnation(self) -> str | None:
        return self.held.incarnation()

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        self.reads += 1
        self._pause()
        found = self.held.get(key)
        self._pause()
        return found

    def partition_state(self, partition: int) -> bytes | None:
        found = self.held.partition_state(partition)
        self._pause()
        return found


def copied(storage: MemoryStorage) -> MemoryStorage:
    """Return an older copy of the storage, as of now."""
    twin = MemoryStorage()
    twin.begin(storage.incarnation() or "")
    for partition in range(PARTITIONS):
        records = {
            (one.context_type, one.subject): one.copy() for one in storage.scan(partition, 0, 0)
        }
        twin.commit(records, partition, storage.partition_state(partition))
        for chunk in storage.journal(partition, -1):
            twin.commit({}, partition, None, chunk)
    return twin


class BreakableLog(MemoryLog):
    """A log whose server may be away."""

    is_away = False

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        self._reach()
        return super().read(topic, partition, position, limit)

    def head(self, topic: str, partition: int) -> int:
        self._reach()
        return super().head(topic, partition)

    def _reach(self) -> None:
        if self.is_away:
            raise UnavailableError("log", "is away")


class World:
    """A log, a replica that another process feeds, and the cache of a model beside it."""

    def __init__(self, log: MemoryLog | None = None, **more: Any) -> None:
        self.log = log or BreakableLog({EVENTS: PARTITIONS})
        self.storage = MemoryStorage()
        self.reading = Reading(self.storage)
        self.replica: Replica = replica_of(self.storage)
        self.cache = ContextCache(self.reading, self.log, VIEW, partition_of, **more)
        self.sequences: dict[tuple[str, int], int] = {}
        self.now = 0.0

    def tell(self, user: int, updates: Mapping[str, Any], kind: str = "financial") -> int:
        """Append an event and return its offset."""
        sequence = self.sequences.get((kind, user), 0) + 1
        self.sequences[kind, user] = sequence
        partition = partition_of(kind, f"user:{user}")
        offset = self.log.head(EVENTS, partition)
        made = event(
            sequence, updates, number=offset * PARTITIONS + partition, kind=kind, user=str(user)
        )
        self.log.append([NewRecord(EVENTS, partition, b"", msgspec.json.encode(made))], self.now)
        return offset

    def apply(self, partition: int | None = None, limit: int = 1_000) -> None:
        """Have the storage's process apply what the log has."""
        for number in range(PARTITIONS) if partition is None else (partition,):
            position = self.replica.position(number)
            batch = MemoryLog.read(self.log, EVENTS, number, position, limit)
            self.replica.apply(number, batch.records, batch.position)

    def step(self, seconds: float = 0.01) -> None:
        self.now += seconds
        self.cache.step(self.now)

    def get(self, user: int = 1) -> Any:
        return self.cache.get(f"user:{user}", "financial").get("limit")

    def is_hit(self, user: int = 1) -> bool:
        before = self.reading.reads
        self.get(user)
        return self.reading.reads == before


def caught_up(**more: Any) -> World:
    """Return a world in which storage and cache have the first value of user 1."""
    world = World(**more)
    world.tell(1, {"limit": 1})
    world.apply()
    world.step()
    return world


# -- reading -------------------------------------------------------------------------------------


def test_a_read_is_what_the_replica_says() -> None:
    world = World()
    world.tell(1, {"limit": {"current": [1, {"a": [2]}]}, "risk": "low"})
    world.tell(1, {"risk": None, "other": 5})
    world.tell(1, {"country": "France"}, kind="geographic")
    world.apply()
    world.step()
    for kind in ("financial", "geographic", "temporal"):
        for user in ("user:1", "user:2"):
            for _ in range(2):
                assert world.cache.get(user, kind) == world.replica.get(user, kind)
    assert world.cache.get("user:1", "financial") == {"limit": [1, {"a": [2]}]}


def test_what_was_read_once_is_not_read_from_storage_again() -> None:
    world = caught_up()
    assert not world.is_hit()
    assert world.is_hit()
    assert not world.is_hit(2)
    assert world.is_hit(2), "that there is nothing is known as well"
    assert (world.cache.hits, world.cache.misses, world.cache.hit_rate) == (2, 2, 0.5)


def test_before_the_first_read_there_is_no_hit_rate() -> None:
    assert World().cache.hit_rate is None


def test_what_a_model_does_with_an_answer_changes_no_other_answer() -> None:
    world = World()
    world.tell(1, {"limit": {"current": [1, [2]]}})
    world.apply()
    world.step()
    for _ in range(3):
        answer = world.cache.get("user:1", "financial")
        assert answer == {"limit": [1, [2]]}
        answer["limit"][1].append(3)
        answer["more"] = 4
    assert world.replica.get("user:1", "financial") == {"limit": [1, [2]]}


def test_the_least_recently_read_leaves_first() -> None:
    world = caught_up(capacity_aggregates=2)
    for user in (1, 2, 1, 3):
        world.get(user)
    assert len(world.cache) == 2
    assert world.is_hit(1)
    assert world.is_hit(3)
    assert not world.is_hit(2)


def test_a_cache_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 or more"):
        World(capacity_aggregates=0)


# -- events --------------------------------------------------------------------------------------


def test_an_event_drops_what_was_read_before_it() -> None:
    world = caught_up()
    assert world.get() == 1
    world.tell(1, {"limit": 2})
    world.apply()
    assert world.get() == 1, "it is a cache"
    world.step()
    assert world.get() == 2
    assert world.is_hit()


def test_what_is_read_before_storage_has_applied_a_seen_event_is_not_kept() -> None:
    world = caught_up()
    world.get()
    world.tell(1, {"limit": 2})
    world.step()
    for _ in range(2):
        assert not world.is_hit()
        assert world.get() == 1
    world.apply()
    assert world.get() == 2, "without another step"
    assert world.is_hit()
    world.step()
    assert world.is_hit()


def test_what_storage_had_applied_before_the_read_is_not_dropped_by_its_event() -> None:
    world = caught_up()
    world.tell(1, {"limit": 2})
    world.apply()
    assert world.get() == 2
    world.step()
    assert world.is_hit()


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_an_event_that_comes_while_it_is_read_is_not_missed(moment: int) -> None:
    world = caught_up()

    def meanwhile() -> None:
        world.tell(1, {"limit": 2})
        world.cache.step(world.now)
        world.apply()

    # Between the look at the position and the read, before and after the value is taken.
    world.reading.between = [lambda: None] * moment + [meanwhile]
    first = world.get()
    assert not world.reading.between
    assert first == (1 if moment == 2 else 2)
    assert world.get() == 2


def test_a_read_that_ends_late_does_not_replace_a_newer_one() -> None:
    world = caught_up()

    def meanwhile() -> None:
        world.tell(1, {"limit": 2})
        world.apply()
        assert world.get() == 2

    # After the value was taken, and before it is kept.
    world.reading.between = [lambda: None, lambda: None, meanwhile]
    assert world.get() == 1
    assert world.get() == 2


@pytest.mark.parametrize("moment", [2, 3])
def test_a_read_that_ends_late_is_not_kept_where_a_newer_one_was_forgotten(moment: int) -> None:
    world = caught_up(capacity_aggregates=1)
    world.get(0)

    def meanwhile() -> None:
        world.tell(1, {"limit": 2})
        world.apply()
        assert world.get() == 2
        world.get(0)

    world.reading.between = [lambda: None] * moment + [meanwhile]
    assert world.get() == 1
    assert world.get() == 2


def test_what_storage_has_applied_is_not_remembered_any_longer() -> None:
    world = caught_up()
    for user in (1, 3, 1):
        world.tell(user, {"limit": user})
    world.step()
    pending = world.cache._tails[1].pending
    assert pending == {("financial", "user:3"): 2, ("financial", "user:1"): 3}
    world.apply(1, limit=2)
    world.get(5)
    assert pending == {("financial", "user:1"): 3}
    world.apply()
    world.get(5)
    world.tell(5, {"limit": 1})
    world.apply()
    for _ in range(PARTITIONS):
        world.step()
    assert not pending


@pytest.mark.parametrize(
    "kind, updates, user",
    [("financial", {"other": 1}, 1), ("temporal", {"limit": 1}, 1), ("financial", {"limit": 1}, 3)],
)
def test_an_event_that_does_not_concern_it_leaves_it_alone(
    kind: str, updates: dict[str, Any], user: int
) -> None:
    world = caught_up()
    world.get()
    world.tell(user, updates, kind)
    world.step()
    assert world.is_hit()


def test_a_record_that_is_no_event_is_passed_over() -> None:
    world = caught_up()
    world.get()
    world.log.append([NewRecord(EVENTS, 1, b"", b"{")], 0.0)
    world.tell(1, {"limit": 2})
    world.apply()
    world.step()
    assert world.get() == 2


def test_more_events_than_it_remembers_make_it_careful_and_not_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context_cache, "MAXIMUM_PENDING", 2)
    world = caught_up()
    for user in (1, 3, 5):
        world.tell(user, {"limit": 2})
    world.step()
    assert world.get(1) == 1
    assert not world.is_hit(1)
    world.apply(1, limit=1)
    assert world.get(1) == 2
    assert world.is_hit(1)
    world.apply()
    for user in (1, 3, 5):
        world.get(user)
        assert world.is_hit(user)


def test_records_that_the_log_keeps_for_itself_cost_nothing() -> None:
    for leaps in (False, True):
        world = caught_up(log=MarkedLog({EVENTS: PARTITIONS}, marks=True, leaps=leaps))
        for number in range(5):
            world.tell(3, {"limit": number})
            world.apply()
            world.step()
            assert world.is_hit(1) == (number > 0)


def test_if_events_are_gone_before_they_were_seen_everything_is_read_again() -> None:
    log = BreakableLog({EVENTS: PARTITIONS}, retention_records={EVENTS: 2})
    world = caught_up(log=log)
    world.get(1)
    world.get(2)
    world.tell(1, {"limit": 2})
    for _ in range(100):
        world.tell(3, {"limit": 1})
        world.apply()
    world.step()
    assert world.get(1) == 2
    assert world.is_hit(2), "its partition lost nothing"


def test_an_event_that_was_gone_before_it_was_seen_may_still_be_applied() -> None:
    log = BreakableLog({EVENTS: PARTITIONS}, retention_records={EVENTS: 2})
    world = caught_up(log=log)
    offset = world.tell(1, {"limit": 2})
    slow = log.read(EVENTS, 1, offset, 1)
    for _ in range(100):
        world.tell(3, {"limit": 1})
    world.step()
    assert world.get(1) == 1
    world.replica.apply(1, slow.records, slow.position)
    assert world.get(1) == 2


# -- storage falls back, or changes without an event -----------------------------------------------


def test_a_storage_that_began_anew_is_noticed() -> None:
    world = caught_up()
    world.get()
    world.storage.begin("another")
    world.step()
    assert world.get() is None
    world.replica = replica_of(world.storage)
    world.apply(0)
    assert world.get() is None
    world.apply(1)
    assert world.get() == 1


def test_a_storage_that_fell_back_keeps_nothing_old_when_it_has_applied_all_again() -> None:
    world = caught_up()
    old = copied(world.storage)
    world.tell(1, {"limit": 2})
    world.apply()
    world.step()
    assert world.get() == 2
    vars(world.storage).update(vars(old))
    world.replica = replica_of(world.storage)
    for _ in range(PARTITIONS):
        world.step()
    assert world.get() == 1, "that is what storage holds"
    assert not world.is_hit()
    world.apply()
    assert world.get() == 2
    assert world.is_hit()


def test_what_is_being_read_while_a_storage_falls_back_is_not_kept() -> None:
    world = caught_up()
    old = copied(world.storage)
    world.tell(1, {"limit": 2})
    world.apply()
    world.step()

    def meanwhile() -> None:
        vars(world.storage).update(vars(old))
        world.replica = replica_of(world.storage)
        for _ in range(PARTITIONS):
            world.step()

    # Between the look at the position, which is that of before, and the read.
    world.get(3)
    world.reading.between = [meanwhile]
    assert world.get() == 1
    world.apply()
    assert world.get() == 2


def test_what_changed_without_an_event_is_seen_after_the_maximum_age() -> None:
    world = caught_up(maximum_age_seconds=5.0)
    world.get()
    held = world.storage.get(("financial", "user:1"))
    assert held is not None
    twin = held.copy()
    twin.fields["limit"] = (9, 1)
    world.storage.commit({("financial", "user:1"): twin}, 1, None)
    world.step(4.9)
    assert world.get() == 1
    world.step(0.2)
    assert world.get() == 9
    world.now -= 100  # A clock that was set back makes nothing young.
    world.step()
    assert not world.is_hit()


# -- how well it follows ---------------------------------------------------------------------------


def test_before_its_first_step_it_reads_from_storage() -> None:
    world = World()
    world.tell(1, {"limit": 1})
    world.apply()
    assert (world.get(), world.get()) == (1, 1)
    assert (world.cache.is_following, world.cache.behind_since) == (False, None)
    assert world.cache.hit_rate == 0.0


def test_without_the_log_it_reads_from_storage_and_says_since_when() -> None:
    world = caught_up()
    log = world.log
    assert isinstance(log, BreakableLog)
    world.get()
    assert world.cache.is_following
    followed_at = world.now
    log.is_away = True
    for _ in range(3):
        with pytest.raises(UnavailableError):
            world.step()
    assert (world.cache.is_following, world.cache.behind_since) == (False, followed_at)
    assert not world.is_hit()
    log.is_away = False
    world.tell(1, {"limit": 2})
    world.apply()
    assert world.get() == 2
    world.step()
    assert (world.cache.is_following, world.cache.behind_since) == (True, None)
    assert world.cache.followed_at == world.now
    assert world.is_hit()


def test_a_log_that_is_away_at_the_start_is_followed_when_it_comes() -> None:
    world = World(BreakableLog({EVENTS: PARTITIONS}))
    log = world.log
    assert isinstance(log, BreakableLog)
    world.tell(1, {"limit": 1})
    world.apply()
    log.is_away = True
    with pytest.raises(UnavailableError):
        world.step()
    assert world.get() == 1
    assert not world.cache.is_following
    log.is_away = False
    world.step()
    world.get()
    assert world.is_hit()


def test_a_log_that_is_faster_than_its_steps_is_read_past() -> None:
    world = caught_up(batch_records=2)
    world.get()
    for number in range(9):
        world.tell(1, {"limit": number})
    world.apply()
    at = world.now
    world.step(1.1 * HEAD_INTERVAL_SECONDS)
    assert world.cache.is_following, "that much was to be expected until the next look"
    since = world.now
    world.step(1.1 * HEAD_INTERVAL_SECONDS)
    assert at < since == world.cache.behind_since
    assert not world.cache.is_following
    assert world.get() == 8
    assert not world.is_hit()
    for _ in range(3):
        world.step()
    assert world.cache.is_following
    assert world.is_hit()


def test_a_step_says_how_many_records_it_saw() -> None:
    world = caught_up(batch_records=2)
    for user in (1, 1, 1, 2):
        world.tell(user, {"limit": 1})
    assert [world.cache.step(1.0).consumed for _ in range(3)] == [3, 1, 0]


# -- the law ---------------------------------------------------------------------------------------

MEANWHILE = st.one_of(
    st.tuples(st.just("tell"), st.integers(0, USERS - 1)),
    st.tuples(st.just("apply"), st.integers(0, PARTITIONS - 1), st.integers(1, 3)),
    st.tuples(st.just("step")),
)
FALLS = st.tuples(st.just("fall back"), st.integers(0, 3))
READS = st.tuples(st.just("get"), st.integers(0, USERS - 1), st.lists(MEANWHILE, max_size=3))
"""A read, and what others do at its three moments: position known, before and after the value."""


class LawfulWorld(World):
    """Knows what no read may be older than."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log, batch_records=3, capacity_aggregates=USERS)
        self.told: dict[int, list[tuple[int, int]]] = {user: [] for user in range(USERS)}
        """User -> (offset, value) of its events; values grow."""
        self.copies: list[MemoryStorage] = []

    def run(self, operation: tuple[Any, ...]) -> None:
        name, *arguments = operation
        if name == "tell":
            user = arguments[0]
            value = len(self.told[user]) + 1
            self.told[user].append((self.tell(user, {"limit": value, "other": value}), value))
        elif name == "apply":
            self.keep_copy()
            self.apply(*arguments)
        elif name == "step":
            self.step()
        elif name == "fall back":
            self.fall_back(arguments[0])
        else:
            self.check(*arguments)

    def keep_copy(self) -> None:
        self.copies = [*self.copies[-3:], copied(self.storage)]

    def fall_back(self, number: int) -> None:
        if number < len(self.copies):
            vars(self.storage).update(vars(self.copies[number]))
            self.copies = []
            self.replica = replica_of(self.storage)

    def check(self, user: int, meanwhile: Sequence[tuple[Any, ...]]) -> None:
        least = self.least(user)
        self.reading.between = [lambda one=one: self.run(one) for one in meanwhile]
        found = self.get(user) or 0
        for rest in self.reading.between:
            rest()
        self.reading.between = []
        assert least <= found <= len(self.told[user])

    def least(self, user: int) -> int:
        """The value of the last event that a step has seen and the storage has applied."""
        number = user % PARTITIONS
        tail = self.cache._tails.get(number)
        seen = 0 if tail is None else tail.position
        state = self.storage.partition_state(number)
        applied = 0 if state is None else msgspec.msgpack.decode(state)[0]
        values = [value for offset, value in self.told[user] if offset < min(seen, applied)]
        return max(values, default=0)


# A law does not depend on how busy the machine is.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    operations=st.lists(st.one_of(MEANWHILE, FALLS, READS), min_size=15, max_size=60),
    marks=st.booleans(),
    leaps=st.booleans(),
    pending=st.integers(1, 4),
)
def test_no_read_is_older_than_what_was_seen_and_applied(
    operations: list[tuple[Any, ...]], marks: bool, leaps: bool, pending: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_cache, "MAXIMUM_PENDING", pending)
        world = LawfulWorld(MarkedLog({EVENTS: PARTITIONS}, marks=marks, leaps=leaps))
        for operation in operations:
            world.run(operation)
        # Once everything is seen and applied, everything is right, and from then on kept.
        for _ in range(45):
            world.step()
            world.apply()
        for user in range(USERS):
            assert (world.get(user) or 0) == len(world.told[user])
            assert world.is_hit(user)


def test_threads_read_beside_the_steps() -> None:
    world = caught_up(capacity_aggregates=2)
    done, wrong = threading.Event(), []

    def read() -> None:
        newest = dict.fromkeys(range(USERS), 0)
        while not done.is_set():
            for user in range(USERS):
                found = world.get(user) or 0
                if found < newest[user]:
                    wrong.append((user, found, newest[user]))
                newest[user] = found

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for value in range(2, 300):
            world.tell(value % USERS, {"limit": value})
            world.apply()
            world.step()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert world.cache.hits > 0
