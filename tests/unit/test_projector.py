"""Two processes whose projectors work on one storage: nobody says what is no longer so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.remote_storage import SharedStorage, StorageServer
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, REPORTS, REQUESTS, NewRecord
from synchroscope.replica import Replica
from synchroscope.report import Explanation, Report, Request, decode_message, encode_message
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


@pytest.mark.parametrize("told", [b"nan", b"inf", b"-inf", b"soon"])
def test_a_record_that_tells_no_time_leaves_latencies_that_can_be_told(told: bytes) -> None:
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    replica = Replica("fraud-scorer@1", VIEW, MemoryStorage(), incarnation="i", bits=4)
    projector = Projector(replica, log, clock=lambda: 7.0)
    one = record(0, 1, {"limit": 1})
    log.append([NewRecord(EVENTS, 0, one.key, one.value, (("recorded", told),))], 5.0)
    projector.step(7.0)
    assert (projector.latencies.count, projector.latencies.total_seconds) == (1, 2.0)
