"""What a repair makes of an aggregate that bears another partition than the message's."""

from __future__ import annotations

from msgspec.structs import replace

from synchroscope.memory_storage import MemoryStorage
from synchroscope.replica import Replica
from synchroscope.report import AggregateRepair, Repair, RepairedField, StoredAggregate
from tests.builders import VIEW
from tests.replica_world import FIRST, KEY

NOTHING = StoredAggregate(*KEY, 0, [])
RIGHT = [RepairedField("limit", 5, 1), RepairedField("risk", "low", 1)]


class Moved:
    """A replica of partitions 0 and 1; an aggregate of 0 bears 1 by now, and both were scrubbed."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.replica = Replica("scorer@1", VIEW, self.storage, incarnation="i", bits=4)
        self.replica.apply(0, [FIRST], 1)
        self.replica.apply(1, [], 1)
        self.move(1)
        assert [self.scrub(0), self.scrub(1)] == [1, 1]
        assert self.facts() == [0, 2]

    def move(self, partition: int) -> None:
        held = self.storage.get(KEY)
        assert held is not None
        self.storage.commit({KEY: replace(held, partition=partition)}, partition, None)

    def scrub(self, partition: int) -> int:
        return self.replica.scrub(partition, range(16))

    def facts(self) -> list[int]:
        return [note.facts for note in self.replica.report(0.0, [0, 1]).notes]

    def repair(self, partition: int, sequence: int, fields: list[RepairedField]) -> int:
        wanted = AggregateRepair(*KEY, sequence, fields, NOTHING)
        life = (self.replica.incarnation, VIEW.hash())
        return self.replica.repair(Repair("r", "scorer@1", *life, partition, 1, 0, [wanted]))


def test_what_belongs_to_the_partition_is_taken_back() -> None:
    moved = Moved()
    assert moved.repair(0, 1, RIGHT) == 1
    held = moved.storage.get(KEY)
    assert held is not None
    assert (held.partition, held.sequence, held.fields["limit"]) == (0, 1, (5, 1))
    assert moved.scrub(0) == 0


def test_what_does_not_belong_to_it_and_is_gone_is_left_and_leaves_its_sum() -> None:
    moved = Moved()
    moved.move(0)
    assert moved.repair(1, 0, []) == 1
    assert moved.storage.get(KEY) is not None
    assert moved.facts()[1] == 0
    assert moved.scrub(1) == 0
    assert moved.repair(1, 0, []) == 0
