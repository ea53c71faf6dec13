"""A partition that cannot be read on holds up no other, is told of, and is gone on with later."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from service.lag import Lag, lag_of
from synchroscope import blocked
from synchroscope.errors import DamagedPartitionError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Batch, NewRecord
from synchroscope.replica import Replica
from tests.builders import VIEW, record
from validator.validator import ExpectedReplica, Validator
from validator.watch import Verdict

COUNT = 40


class Rotten:
    """A log of two partitions; one of them may be damaged from an offset on."""

    def __init__(self) -> None:
        self._log = MemoryLog({EVENTS: 2, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.damaged_from: int | None = None
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        batch = self._log.read(topic, partition, position, limit)
        if (topic, partition) != (EVENTS, 1) or self.damaged_from is None:
            return batch
        sound = [one for one in batch.records if one.offset < self.damaged_from]
        if not sound and position >= self.damaged_from:
            self.tries += 1
            raise DamagedPartitionError("kafka", f"partition 1 is damaged at {self.damaged_from}")
        return Batch(sound, sound[-1].offset + 1 if sound else position)


@pytest.fixture
def log() -> Rotten:
    made = Rotten()
    for partition in (0, 1):
        for number in range(COUNT):
            user, mark = f"{partition}-{number}", 1_000 * partition + number
            one = record(number, 1, {"limit": number}, number=mark, user=user)
            made.append([NewRecord(EVENTS, partition, one.key, one.value)], 1.0)
    return made


def test_the_other_partitions_go_on_and_this_one_later(
    log: Rotten, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "RETRY_SECONDS", 0.0)
    log.damaged_from = 7
    storage = MemoryStorage()
    replica = Replica("fraud-scorer@1", VIEW, storage, incarnation="i", bits=4)
    projector = Projector(replica, log)  # type: ignore[arg-type]
    validator = Validator(
        log,  # type: ignore[arg-type]
        [VIEW],
        [ExpectedReplica("fraud-scorer@1", VIEW.model)],
        MemoryEventStore(),
        lambda kind, subject: 0,
        bits=4,
    )

    def go() -> Any:
        for now in range(1, 6):
            projector.step(float(now))
            validator.step(float(now))
        return validator.status(5.0)[0]

    status = go()
    assert [replica.position(number) for number in (0, 1)] == [COUNT, 7]
    assert [validator.reference.position(number) for number in (0, 1)] == [COUNT, 7]
    assert status.verdict is Verdict.UNKNOWN
    assert "partition 1 is damaged at 7" in status.reason
    assert projector.blocked.reasons == {1: "kafka: partition 1 is damaged at 7"}
    assert lag_of(log, 1, 7, COUNT, 9.0) == Lag(COUNT - 7, None)  # type: ignore[arg-type]

    log.damaged_from = None
    status = go()
    assert [replica.position(number) for number in (0, 1)] == [COUNT, COUNT]
    assert validator.reference.position(1) == COUNT
    assert "damaged" not in status.reason
    assert projector.blocked.reasons == {}


def test_the_error_goes_from_one_process_to_another() -> None:
    error = DamagedPartitionError("kafka", "partition 1 is damaged")
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), other.server) == (type(error), str(error), "kafka")


def test_it_is_not_tried_at_every_step(log: Rotten) -> None:
    log.damaged_from = 0
    storage = MemoryStorage()
    replica = Replica("fraud-scorer@1", VIEW, storage, incarnation="i", bits=4)
    projector = Projector(replica, log)  # type: ignore[arg-type]
    for now in range(20):
        projector.step(float(now))
    assert log.tries == 1
    projector.own({0: 1})
    assert projector.blocked.reasons == {}
