"""Membership with kafka-python: what its own failures do to a member."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest

from tests.waiting import until

with catch_warnings():
    simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas the old way.
    from kafka import TopicPartition as Place
    from kafka.protocol.consumer import FetchResponse
    from kafka.protocol.schemas.fields import struct

    from pipeline.kafka_python_member import _Membership

HANG_SECONDS = 5.0


class Failing:
    """A client whose polls end as told, one after the other, and then bring nothing."""

    def __init__(self, *failures: BaseException) -> None:
        self._failures = iter(failures)
        self.polls = 0
        self.is_closed = False

    def subscribe(self, topics: list[str], listener: Any) -> None:
        pass

    def poll(self, timeout_ms: float) -> None:
        self.polls += 1
        failure = next(self._failures, None)
        if failure is not None:
            raise failure
        threading.Event().wait(0.01)

    def assignment(self) -> set[Place]:
        return {Place("events", 3)}

    def close(self, autocommit: bool, timeout_ms: int) -> None:
        self.is_closed = True


@pytest.fixture
def joined() -> Iterator[Callable[[Failing], _Membership]]:
    made = []

    def join(client: Failing) -> _Membership:
        made.append(_Membership(client, "events", lambda: False, HANG_SECONDS))
        return made[-1]

    yield join
    for one in made:
        one.leave()


def test_a_partition_that_goes_while_its_position_is_asked_for(
    joined: Callable[[Failing], _Membership],
) -> None:
    client = Failing(KeyError(Place("events", 0)))
    member = joined(client)
    until(lambda: client.polls > 2, "more polls")
    assert not member.has_left
    assert member.news() == []


def test_a_member_whose_thread_fails_leaves_the_group_and_says_so(
    joined: Callable[[Failing], _Membership], caplog: pytest.LogCaptureFixture
) -> None:
    client = Failing(TypeError("a defect of the client"))
    member = joined(client)
    until(lambda: member.has_left and client.is_closed, "the member to leave")
    assert member.news() == [(False, [3])]
    assert "a defect of the client" in caplog.text


def test_decoders_are_made_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, make = 0, 0, struct.CodegenContext

    def make_slowly() -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.05)
        running -= 1
        return make()

    monkeypatch.setattr(struct, "CodegenContext", make_slowly)
    made = FetchResponse[None]._struct
    kept, made._compiled_encoders = made._compiled_encoders, {}
    try:
        threads = [
            threading.Thread(target=made.compiled_decode_from, args=(version,))
            for version in (11, 12, 13)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1
    finally:
        made._compiled_encoders = kept
