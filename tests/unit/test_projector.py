"""Two processes whose projectors work on one storage: nobody says what is no longer so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from chaos.remote_storage import SharedStorage, StorageServer
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    CONTROL_TOPICS,
    EVENTS,
    REPORTS,
    REQUESTS,
    AggregateRecord,
    NewRecord,
)
from synchroscope.replica import Replica
from synchroscope.report import (
    Explanation,
    Report,
    Request,
    Sketched,
    decode_message,
    encode_message,
)
from tests.builders import VIEW, record


class Pair:
    """A log of one partition, and two processes that may work on it."""

    def __init__(self) -> None:
        self.log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.while_answering: list[Callable[[], None]] = []
        self.server = StorageServer()
        self.now = 0.0
        self.first, self.second = self._projector(), self._projector()
        self.second.own({})

    def _projector(self) -> Projector:
        storage = SharedStorage(self.server, lambda: None, self._answering)
        replica = Replica("fraud-scorer@1", VIEW, storage, incarnation="i", bits=4)
        return Projector(replica, self.log, shared=True, scrub_interval_seconds=None)

    def _answering(self) -> None:
        if self.while_answering:
            self.while_answering.pop(0)()

    def tell(self) -> None:
        number = self.log.head(EVENTS, 0)
        one = record(number, number + 1, {"limit": number})
        self.log.append([NewRecord(EVENTS, 0, one.key, one.value)], self.now)

    def go(self, projector: Projector) -> None:
        for _ in range(4):
            self.now += 1.0
            projector.step(self.now)

    def take_over(self) -> None:
        self.second.own({0: 1})
        self.go(self.second)

    def answers(self) -> list[Explanation]:
        found = [decode_message(r.value) for r in self.log.read(REPORTS, 0, 0, 1_000).records]
        return [message for message in found if isinstance(message, Explanation)]


def test_a_partition_that_was_lost_and_came_back_is_read_anew() -> None:
    pair = Pair()
    pair.tell()
    pair.first.own({0: 1})
    pair.go(pair.first)
    pair.tell()
    pair.take_over()
    assert (pair.first.replica.position(0), pair.second.replica.position(0)) == (1, 2)
    pair.first.own({0: 2})
    assert pair.first.replica.position(0) == 2


def test_how_a_partition_was_found_is_not_said_once_another_process_went_on_with_it() -> None:
    pair = Pair()
    pair.tell()
    pair.first.step(1.0)
    assert pair.first.replica.position(0) == 0
    pair.second.own({0: 1})
    pair.go(pair.second)
    late = pair.now + 1.0
    pair.first.step(late)
    said = [decode_message(r.value) for r in pair.log.read(REPORTS, 0, 0, 99).records]
    positions = [one.notes[-1].position for one in said if isinstance(one, Report)]
    at_last = [one.notes[-1].position for one in said if isinstance(one, Report) if one.at == late]
    assert positions == sorted(positions)
    assert 0 not in at_last


def test_an_answer_during_which_another_process_wrote_is_not_given() -> None:
    pair = Pair()
    pair.tell()
    pair.go(pair.first)

    def ask(request_id: str) -> None:
        request = Request(request_id, "fraud-scorer@1", 0, since=0)
        value = encode_message(request)
        pair.log.append([NewRecord(REQUESTS, 0, b"fraud-scorer@1", value)], pair.now)

    def meanwhile() -> None:
        pair.tell()
        pair.take_over()

    ask("undisturbed")
    pair.go(pair.first)
    assert [(a.request_id, a.note.position) for a in pair.answers()] == [("undisturbed", 1)]
    pair.while_answering.append(meanwhile)
    ask("disturbed")
    pair.first.step(pair.now)
    given = [a.note.position for a in pair.answers() if a.request_id == "disturbed"]
    assert given == []


def test_reports_are_published_while_how_a_partition_was_found_is_appended_first() -> None:
    pair = Pair()
    published: list[NewRecord] = []
    storage = SharedStorage(pair.server, lambda: None, lambda: None)
    projector = Projector(
        Replica("fraud-scorer@1", VIEW, storage, incarnation="i", bits=4),
        pair.log,
        shared=True,
        publish=lambda records, now: published.extend(records),
    )
    pair.tell()
    pair.go(projector)
    assert projector.replica.position(0) == 1
    found = [decode_message(r.value) for r in pair.log.read(REPORTS, 0, 0, 9).records]
    assert [[note.position for note in one.notes] for one in found if isinstance(one, Report)] == [
        [0]
    ]
    told = [decode_message(record.value) for record in published]
    assert [one.notes[-1].position for one in told if isinstance(one, Report)][-1] == 1


def test_a_rebuild_that_was_interrupted_and_goes_on_elsewhere_is_no_latency() -> None:
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    storage, now = MemoryStorage(), 1_000.0

    def write() -> None:
        head = log.head(EVENTS, 0)
        one = record(head, head + 1, {"limit": head})
        log.append([NewRecord(EVENTS, 0, one.key, one.value)], now)

    def started() -> Projector:
        replica = Replica("fraud-scorer@1", VIEW, storage, incarnation="i", bits=4)
        return Projector(replica, log, batch_records=2, clock=lambda: now)

    for _ in range(4):
        write()
    now += 200.0
    first = started()
    first.step(now)
    assert first.replica.position(0) == 2
    second = started()
    now += 17.0
    second.step(now)
    assert (second.replica.position(0), second.latencies.count) == (4, 0)
    write()
    now += 0.5
    second.step(now)
    assert second.latencies.count == 1
    assert 0.45 < second.latencies.percentile(0.5) < 0.55


class SlowStorage(SharedStorage):
    """Takes its time for each bucket."""

    def __init__(self, server: StorageServer, scanned: Callable[[], None]) -> None:
        super().__init__(server, lambda: None, lambda: None)
        self._scanned = scanned

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        self._scanned()
        return super().scan(partition, bucket, bits)


class Asked:
    """A replica of some partitions whose storage takes a second for each bucket it shows."""

    def __init__(self, partitions: int = 2) -> None:
        self.log = MemoryLog({EVENTS: partitions, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.server = StorageServer()
        self.now = 1_000.0
        self.scans = 0
        storage = SlowStorage(self.server, self._scanned)
        self.projector = Projector(
            Replica("fraud-scorer@1", VIEW, storage, incarnation="i", bits=8),
            self.log,
            shared=True,
            clock=lambda: self.now,
            scrub_interval_seconds=None,
        )

    def _scanned(self) -> None:
        self.scans += 1
        self.now += 1.0

    def ask(self, request_id: str, partition: int = 0, **more: Any) -> None:
        wanted = {"since": 0, "scrub": True, **more}
        request = Request(request_id, "fraud-scorer@1", partition, **wanted)
        self.log.append(
            [NewRecord(REQUESTS, 0, b"fraud-scorer@1", encode_message(request))], self.now
        )

    def write(self, partition: int) -> None:
        head = self.log.head(EVENTS, partition)
        one = record(head, head + 1, {"limit": head}, user=str(partition))
        self.log.append([NewRecord(EVENTS, partition, one.key, one.value)], self.now)

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.projector.step(self.now)

    def told(self) -> list[Explanation | Report]:
        found = [decode_message(r.value) for r in self.log.read(REPORTS, 0, 0, 10_000).records]
        return [message for message in found if isinstance(message, Explanation | Report)]

    def answers(self) -> list[Explanation]:
        return [message for message in self.told() if isinstance(message, Explanation)]


def test_reports_do_not_get_old_while_everything_is_summed_for_an_answer() -> None:
    asked = Asked()
    asked.step(3)
    asked.ask("one", 0)
    asked.ask("two", 1)
    while len(asked.answers()) < 2:
        asked.step()
    reports = [one.at for one in asked.told() if isinstance(one, Report)]
    gaps = [late - early for early, late in pairwise(reports)]
    assert asked.now - 1_000.0 >= 512.0
    assert max(gaps) < 20.0
    assert all(answer.scrubbed for answer in asked.answers())


def test_a_question_that_is_put_again_while_it_waits_is_answered_once() -> None:
    asked = Asked()
    asked.step(3)
    for _ in range(5):
        asked.ask("one")
        asked.step(2)
    while not asked.answers():
        asked.step()
    # Put again before the answer could be seen.
    asked.ask("one")
    asked.step(50)
    assert [answer.request_id for answer in asked.answers()] == ["one"]
    assert asked.scans == 256
    asked.ask("one")
    asked.step(50)
    assert len(asked.answers()) == 2


@pytest.mark.parametrize(
    "endless",
    [
        {"buckets": [5] * 500_000},
        {"buckets": [5, 6, 5]},
        {"buckets": list(range(100_000))},
        {"sketches": [Sketched(64, list(range(256)))] * 5_000},
        {"sketches": [Sketched(64, [1] * 500_000)]},
    ],
    ids=["bucket over and over", "bucket twice", "no buckets", "sketches", "sketch of one bucket"],
)
def test_a_question_without_end_is_not_taken(endless: dict[str, Any]) -> None:
    asked = Asked()
    asked.step(3)
    asked.ask("endless", scrub=False, **endless)
    asked.ask("sound", scrub=False, buckets=[5, 6])
    asked.step(20)
    assert [answer.request_id for answer in asked.answers()] == ["sound"]
    assert asked.scans <= 2


def test_a_partition_stands_still_while_it_is_summed_and_the_others_go_on() -> None:
    asked = Asked()
    asked.write(0)
    asked.step(4)
    asked.ask("one")
    asked.step()
    asked.write(0)
    asked.write(1)
    asked.step(5)
    assert asked.answers() == []
    replica = asked.projector.replica
    assert (replica.position(0), replica.position(1)) == (1, 1)
    while not asked.answers():
        asked.step()
    assert [answer.note.position for answer in asked.answers()] == [1]
    asked.step()
    assert replica.position(0) == 2


def test_a_partition_that_is_lost_while_it_is_summed_gets_no_answer_from_its_old_owner() -> None:
    asked = Asked()
    asked.step(3)
    asked.ask("one", 0)
    asked.step()
    asked.projector.own({1: 0})
    asked.step(50)
    asked.projector.own({0: 1, 1: 0})
    asked.step(50)
    assert asked.answers() == []
    assert asked.scans < 256


@pytest.mark.parametrize(
    "told", [b"nan", b"inf", b"-inf", b"soon", b"1.7e300", b"-1.7e308", b"-1", b"7258118400"]
)
def test_a_record_that_tells_no_time_leaves_latencies_that_can_be_told(told: bytes) -> None:
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    replica = Replica("fraud-scorer@1", VIEW, MemoryStorage(), incarnation="i", bits=4)
    projector = Projector(replica, log, clock=lambda: 7.0)
    projector.step(4.0)
    one = record(0, 1, {"limit": 1})
    log.append([NewRecord(EVENTS, 0, one.key, one.value, (("recorded", told),))], 5.0)
    projector.step(7.0)
    assert (projector.latencies.count, projector.latencies.total_seconds) == (1, 2.0)
