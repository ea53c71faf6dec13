"""A store, or the validator itself, that comes to a stop is told as that, and holds nothing up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.attached import Running, Waiting, run
from service.attached_http import serve
from service.attached_report import report
from service.attached_screen import AttachedScreen
from tests.attached_world import AttachedWorld, MemoryStore
from validator.attached.asking import InThread
from validator.attached.checker import StoreChecker
from validator.attached.row_mapping import RowMapping, RowReader
from validator.attached.row_source import FIRST_KEYS, Answer, Question, RowSource
from validator.attached.store_settings import StoreSettings
from validator.attached.walk import Walk
from validator.stores.port import Page


@pytest.fixture
def world(tmp_path: Path) -> AttachedWorld:
    made = AttachedWorld(tmp_path / "data")
    for number in range(30):
        made.send(f"user-{number}", {"a": number})
    made.run(12.0)
    assert made.verdict()[0] == "CONSISTENT"
    return made


def with_another_store(world: AttachedWorld) -> MemoryStore:
    """Add a store of the same rows, and return it."""
    store = MemoryStore()
    store.rows = {key: dict(row) for key, row in world.store.rows.items()}
    reference = world.validator.reference
    other = StoreChecker(
        StoreSettings(
            name="other",
            settle_seconds=2.0,
            recheck_seconds=1.0,
            walk_seconds=5.0,
            order_seconds=0.5,
        ),
        reference.number_of("other"),
        store,
        RowReader(RowMapping(subject="id", type="t"), store.key_columns),
        reference,
        world.validator.book,
        [1.0],
    )
    world.validator.checkers = [*world.validator.checkers, other]
    return store


def test_a_store_that_hangs_is_unknown_soon_and_the_others_are_looked_at(
    world: AttachedWorld,
) -> None:
    other = with_another_store(world)
    world.run(12.0, traffic=False)
    world.asking.is_held = True
    other.rows["user-5"]["a"] = "by hand"
    world.run(20.0, traffic=False)
    mine, others = world.validator.standings(world.now)
    assert mine.verdict == "UNKNOWN"
    assert mine.reason.startswith("the store has not answered for ")
    assert others.verdict == "DIVERGED"
    assert world.checker.is_busy
    world.asking.release()
    world.run(10.0, traffic=False)
    assert world.verdict_of("store") == "CONSISTENT"
    assert [finding.replica for finding in world.open_findings()] == ["other"]


def test_a_late_answer_is_held_against_all_that_may_have_come_meanwhile(
    world: AttachedWorld,
) -> None:
    world.asking.is_held = True
    world.send("user-3", {"a": 100})
    world.run(15.0)
    world.send("user-3", {"a": 200})
    world.asking.release()
    world.run(20.0)
    assert world.news == []
    assert world.verdict()[0] == "CONSISTENT"


def test_what_a_driver_raises_unexpectedly_is_unknown_until_it_passes(
    world: AttachedWorld,
) -> None:
    scan = world.store.scan

    def nested(cursor: str | None, limit: int) -> Page:
        raise RecursionError("too deep")

    world.store.scan = nested  # type: ignore[method-assign]
    world.run(20.0)
    assert world.verdict() == ("UNKNOWN", "store: unexpected RecursionError: too deep")
    world.store.scan = scan  # type: ignore[method-assign]
    world.run(20.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_an_open_finding_stays_one_while_its_store_hangs(world: AttachedWorld) -> None:
    world.store.rows["user-5"]["a"] = "by hand"
    world.run(15.0)
    world.asking.is_held = True
    world.run(20.0)
    verdict, reason = world.verdict()
    assert verdict == "DIVERGED"
    assert "the store has not answered for" in reason


def test_what_is_read_and_cannot_be_judged_is_unknown(world: AttachedWorld) -> None:
    head = world.topic.range(0)[1]
    world.validator.log._ask_heads = lambda: {0: head + 1_000}
    world.run(15.0, traffic=False)
    assert world.verdict()[0] == "UNKNOWN"
    assert world.verdict()[1].startswith("what was read could not be judged for ")


def test_a_validator_that_stops_stepping_is_unknown_by_the_clock_of_who_asks(
    world: AttachedWorld,
) -> None:
    (standing,) = world.validator.standings(world.now + 30.0)
    assert (standing.verdict, standing.reason) == ("UNKNOWN", "nothing was looked at for 30 s")

    screen = AttachedScreen()
    server = serve(screen, "127.0.0.1", 0)
    try:
        for seconds, verdict in ((1.0, "CONSISTENT"), (45.0, "UNKNOWN")):
            made = report(world.validator, world.now)
            screen.standing({**made, "at": time.time() - seconds})
            status = httpx.get(f"{server.url}/api/status").json()
            assert status["stores"]["store"]["verdict"] == verdict
            line = f'synchroscope_attached_verdict{{store="store",verdict="{verdict}"}} 1.0'
            assert line in httpx.get(f"{server.url}/metrics").text
    finally:
        server.stop()


class QuietTopic:
    """Has nothing new."""

    def wait(self, seconds: float) -> None:
        time.sleep(0.01)


def running(world: AttachedWorld) -> Any:
    return Running(world.validator, QuietTopic(), Waiting(lambda: None))  # type: ignore[arg-type]


def test_a_look_at_everything_ends_in_time_though_a_store_hangs(tmp_path: Path) -> None:
    world = AttachedWorld(tmp_path / "data")
    world.asking.is_held = True
    world.send("u", {"a": 1})
    ticks = iter(range(1_000, 10_000))
    code = run(
        running(world),
        AttachedScreen(),
        once=True,
        is_ended=lambda: False,
        timeout_seconds=20.0,
        clock=lambda: float(next(ticks)),
    )
    assert code == 3
    assert next(ticks) < 1_060


def test_it_ends_while_kafka_is_waited_for_and_shows_that_nothing_is_looked_at(
    world: AttachedWorld,
) -> None:
    screen, now = AttachedScreen(), [world.now]
    held = running(world)

    def step(clock: object) -> None:
        for _ in range(100):  # As the client does once a second.
            now[0] += 1.0
            held.waiting.act()

    screen.standing(report(world.validator, world.now))
    world.validator.step = step  # type: ignore[method-assign,assignment]
    seen: list[str] = []

    def is_ended() -> bool:
        assert screen.report is not None
        seen.append(screen.report["stores"]["store"]["verdict"])
        return now[0] > world.now + 30.0

    code = run(
        held, screen, once=False, is_ended=is_ended, timeout_seconds=9.0, clock=lambda: now[0]
    )
    assert code == 3
    assert seen[0] == "CONSISTENT"
    assert seen[-1] == "UNKNOWN"


def test_a_thread_that_hangs_is_left_to_itself() -> None:
    asking, hold = InThread("s"), threading.Event()
    first, second = asking.ask(hold.wait), asking.ask(lambda: 1 // 0)
    closed = asking.close(lambda: None)
    assert not (first.done() or second.done() or closed.done())
    hold.set()
    assert first.result(5.0) is True
    assert isinstance(second.exception(5.0), ZeroDivisionError)
    assert closed.result(5.0) is None


class SlowStore(MemoryStore):
    """Takes a request, and a second, for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def fetch(self, keys: Any) -> Any:
        found = super().fetch(keys := list(keys))
        self.now += len(keys)
        return found


def test_a_store_of_a_request_for_each_row_is_asked_for_few_at_a_time(
    world: AttachedWorld,
) -> None:
    for number in range(30, 200):
        world.send(f"user-{number}", {"a": number})
    world.run(1.0)
    slow = SlowStore()
    slow.rows = world.store.rows
    reader = RowReader(RowMapping(subject="id", type="t"), slow.key_columns)
    source = RowSource(slow, 0, reader, world.validator.reference, clock=lambda: slow.now)
    walk = Walk()
    walk.begin(0.0, 1_000, {})
    walk.phase = "items"
    met = 0
    while (question := source.question([], walk, 100)).met:
        fetched = source.fetched(question, answer := source.answer(question))
        assert 0 < len(fetched) <= FIRST_KEYS
        source.walked(question, answer, fetched, walk)
        met += len(fetched)
    assert met == 202


def test_a_step_asks_such_a_store_for_no_more_than_it_gave_last(world: AttachedWorld) -> None:
    given: list[int] = []
    ask = world.checker._source.answer

    def cut(question: Question) -> Answer:
        few = dict(list(question.places.items())[:3])
        given.append(len(question.places))
        return msgspec.structs.replace(
            ask(msgspec.structs.replace(question, places=few)), asked=len(few)
        )

    world.checker._source.answer = cut  # type: ignore[method-assign]
    for number in range(200):
        world.send(f"user-{number}", {"a": number})
    world.run(20.0)
    assert max(given) > 20
    assert max(given[given.index(max(given)) + 1 :]) <= 10
    assert world.news == []
