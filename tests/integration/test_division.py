"""How processes divide the partitions of a topic among themselves, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from pipeline.division import Division, WholeDivision
from pipeline.division_kafka import KafkaDivision
from pipeline.kafka_settings import KafkaSettings
from synchroscope.ports import EVENTS
from tests.topics import KAFKA_CLIENTS, new_topics
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
ALL = set(range(PARTITIONS))
SESSION_SECONDS = 2.0
WAIT_SECONDS = 20.0
#: What a rebalance takes beyond the time-out, at most, on a busy machine.
REBALANCE_SECONDS = 6.0

PROGRAM = """
    import json, sys, time
    import msgspec
    from pipeline.division_kafka import KafkaDivision
    from pipeline.kafka_settings import KafkaSettings
    from synchroscope.ports import EVENTS
    division = KafkaDivision(msgspec.json.decode(sys.argv[1], type=KafkaSettings), "test", EVENTS)
    shown = None
    while True:
        owned = dict(division.owned())
        if owned != shown:
            print(json.dumps(sorted(owned.items())), flush=True)
            shown = owned
        time.sleep(0.01)
"""


class Member:
    """A member in a process of its own, and what it said last that it owns."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.history: list[dict[int, int]] = []
        self._lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def owned(self) -> dict[int, int]:
        while not self._lines.empty():
            self.history.append(dict(json.loads(self._lines.get())))
        return self.history[-1] if self.history else {}

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@pytest.fixture(params=KAFKA_CLIENTS)
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaSettings]:
    with ExitStack() as to_close:
        yield new_topics(
            request.param,
            to_close,
            partitions=PARTITIONS,
            session_timeout_seconds=SESSION_SECONDS,
            hang_timeout_seconds=6.0,
        )


@contextmanager
def member(settings: KafkaSettings) -> Iterator[Member]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), msgspec.json.encode(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            yield Member(process)
        finally:
            process.kill()


def shared(*divisions: Division | Member) -> bool:
    """Say whether each has some, and all together have each partition once."""
    owned = [set(division.owned()) for division in divisions]
    return all(owned) and sum(map(len, owned)) == PARTITIONS and set().union(*owned) == ALL


def test_embedded_mode_owns_everything_once() -> None:
    division = WholeDivision(3)
    division.commit({0: 5})
    division.close()
    assert division.owned() == {0: 1, 1: 1, 2: 1}


def test_one_member_owns_all_and_shares_with_a_second_until_that_leaves(
    kafka: KafkaSettings,
) -> None:
    with closing(KafkaDivision(kafka, "test", EVENTS)) as first:
        until(lambda: set(first.owned()) == ALL, "the first to own all")
        kept = dict(first.owned())
        second = KafkaDivision(kafka, "test", EVENTS)
        until(lambda: shared(first, second), "both to share")
        # Those that did not move were never given up.
        assert all(first.owned()[number] == kept[number] for number in first.owned())
        moved = set(second.owned())
        second.close()
        began = time.monotonic()
        until(lambda: set(first.owned()) == ALL, "the first to own all again")
        assert time.monotonic() - began < SESSION_SECONDS + REBALANCE_SECONDS
        assert {number for number, count in first.owned().items() if count == 2} == moved


def test_groups_do_not_share_with_each_other(kafka: KafkaSettings) -> None:
    with (
        closing(KafkaDivision(kafka, "one", EVENTS)) as first,
        closing(KafkaDivision(kafka, "two", EVENTS)) as second,
    ):
        until(lambda: set(first.owned()) == ALL and set(second.owned()) == ALL, "both to own all")


def test_what_a_killed_process_owned_goes_to_the_others_after_the_session_timeout(
    kafka: KafkaSettings,
) -> None:
    with member(kafka) as first, member(kafka) as second:
        until(lambda: shared(first, second), "both to share")
        first.send(signal.SIGKILL)
        began = time.monotonic()
        until(lambda: set(second.owned()) == ALL, "the second to own all")
        assert time.monotonic() - began < SESSION_SECONDS + REBALANCE_SECONDS


def test_a_stopped_process_loses_its_partitions_and_knows_it_when_it_goes_on(
    kafka: KafkaSettings,
) -> None:
    with member(kafka) as first, member(kafka) as second:
        until(lambda: shared(first, second), "both to share")
        before = first.owned()
        first.send(signal.SIGSTOP)
        until(lambda: set(second.owned()) == ALL, "the second to own all")
        seen = len(first.history)
        first.send(signal.SIGCONT)
        until(lambda: shared(first, second), "both to share")
        # From the first word on, it claims nothing that it had before.
        claims = [claim for owned in first.history[seen:] for claim in owned.items()]
        assert claims
        assert all(count > before.get(number, 0) for number, count in claims)


def test_a_process_that_was_stopped_for_less_than_its_session_counts_as_having_acquired_anew(
    kafka: KafkaSettings,
) -> None:
    if kafka.client != "confluent":
        return  # What is in doubt does not depend on the client.
    patient = msgspec.structs.replace(kafka, session_timeout_seconds=6.0)
    with member(patient) as only:
        until(lambda: set(only.owned()) == ALL, "the only one to own all")
        before, seen = only.owned(), len(only.history)
        only.send(signal.SIGSTOP)
        time.sleep(4.0)  # More than half the session, and less than all of it.
        only.send(signal.SIGCONT)
        until(lambda: set(only.owned()) == ALL and len(only.history) > seen, "it to own all again")
        # Nobody took anything away; but while nobody looked somebody might have.
        assert only.history[seen] == {}
        assert only.owned() == {number: count + 1 for number, count in before.items()}


def test_a_role_that_hangs_loses_its_partitions_and_one_that_is_slow_keeps_them(
    kafka: KafkaSettings,
) -> None:
    hanging = KafkaDivision(kafka, "test", EVENTS)
    with closing(hanging), member(kafka) as other:
        until(lambda: hanging.owned() and shared(hanging, other), "both to share")
        before = dict(hanging.owned())
        slow_until = time.monotonic() + 2 * SESSION_SECONDS
        while time.monotonic() < slow_until:  # A long step: it does not ask what it owns.
            assert set(other.owned()).isdisjoint(before)
            time.sleep(0.05)
        assert dict(hanging.owned()) == before
        limit_seconds = kafka.hang_timeout_seconds + REBALANCE_SECONDS
        until(lambda: set(other.owned()) == ALL, "the other to own all", limit_seconds)
        first_answer = dict(hanging.owned())
        assert all(first_answer[number] > before.get(number, 0) for number in first_answer)
        until(lambda: shared(hanging, other), "both to share again")
        assert all(count > before.get(number, 0) for number, count in hanging.owned().items())


def test_committed_positions_can_be_seen_by_lag_tools(kafka: KafkaSettings) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    group = f"{kafka.name}.test"

    def committed() -> dict[int, int]:
        asked = [ConsumerGroupTopicPartitions(group)]
        answer = admin.list_consumer_group_offsets(asked)[group].result(WAIT_SECONDS)
        return {place.partition: place.offset for place in answer.topic_partitions}

    with closing(KafkaDivision(kafka, "test", EVENTS)) as division:
        until(lambda: set(division.owned()) == ALL, "it to own all")
        division.commit({0: 17, 2: 5, 99: 1})
        until(lambda: division.owned() and committed() == {0: 17, 2: 5}, "the commit")


def test_both_clients_can_share_one_group(kafka: KafkaSettings) -> None:
    if kafka.client != "confluent":
        return  # Once is enough.
    other = msgspec.structs.replace(kafka, client="kafka-python")
    with (
        closing(KafkaDivision(kafka, "test", EVENTS)) as first,
        closing(KafkaDivision(other, "test", EVENTS)) as second,
    ):
        until(lambda: shared(first, second), "both to share")
