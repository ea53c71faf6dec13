"""Attached mode under seeded traffic, lag and stops: nothing is found but what was done."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from synchroscope.ports import Batch
from tests.attached_world import ROWS, SETTINGS, AttachedWorld
from validator.attached.history import HISTORY_VERSIONS
from validator.attached.port import MemoryTopic
from validator.attached.row_mapping import RowMapping
from validator.attached.schedule import Schedule

USERS = 12
STEPS = 900
SEEDS = int(os.environ.get("ATTACHED_SEEDS", "3"))


class LateTopic(MemoryTopic):
    """A topic whose reader is behind its end, as one is over a network."""

    def __init__(self) -> None:
        super().__init__(2)
        self.hidden = [0, 0]
        self.is_validator = True

    def read(self, partition: int, position: int, limit: int) -> Batch:
        batch = super().read(partition, position, limit)
        if not self.is_validator:
            return batch
        end = self.range(partition)[1] - self.hidden[partition]
        kept = [record for record in batch.records if record.offset < end]
        return Batch(kept, max(position, kept[-1].offset + 1 if kept else position))


class SeededWorld(AttachedWorld):
    """Random events of few values, a consumer that is late, stops, and applies partitions apart."""

    def __init__(self, folder: Path, seed: int, *, has_offsets: bool) -> None:
        self.rng = random.Random(seed)
        self.late = LateTopic()
        self._has_offsets = has_offsets
        rows = RowMapping(subject="id", type="t", offset="offset") if has_offsets else ROWS
        super().__init__(folder, SETTINGS, topic=self.late, rows=rows)
        self.is_consuming = False
        self._stopped_until = 0.0

    def consume_some(self) -> None:
        """Apply some of what has come, each partition at its own pace."""
        if self.now < self._stopped_until:
            return
        if self.rng.random() < 0.01:
            self._stopped_until = self.now + self.rng.uniform(1, 15)
        self.late.is_validator = False
        for partition in range(2):
            if self.rng.random() < 0.4:
                self._apply(partition, self.rng.randint(1, 30))
        self.late.is_validator = True

    def _apply(self, partition: int, limit: int) -> None:
        batch = self.topic.read(partition, self._consumed.get(partition, 0), limit)
        self._consumed[partition] = batch.position
        for record in batch.records:
            if (partition, record.offset) in self._lost:
                continue
            if not record.value:
                self.store.rows.pop(record.key.decode(), None)
            else:
                row = self.store.rows.setdefault(record.key.decode(), {})
                row.update(msgspec.json.decode(record.value))
                if self._has_offsets:
                    row["offset"] = record.offset

    def random_event(self) -> None:
        """Change or delete a random user."""
        user = f"user-{int(USERS * self.rng.random() ** 2)}"
        fields: dict[str, Any] | None = {"a": self.rng.randrange(3)}
        if self.rng.random() < 0.5:
            fields = {"a": self.rng.randrange(3), "b": self.rng.choice(["x", "y", None])}
        self.send(user, None if self.rng.random() < 0.05 else fields)

    def live(self, steps: int) -> None:
        """Let so many tenths of a second pass."""
        for _ in range(steps):
            self.now += 0.1
            if self.rng.random() < 0.5:
                self.random_event()
            self.send("clock", {"at": round(self.now, 1)})
            self.send("clocks", {"at": round(self.now, 1)})
            self.consume_some()
            self.late.hidden = [self.rng.randrange(4), self.rng.randrange(4)]
            self.store.is_away = self.rng.random() < 0.02
            self.validator.step(lambda: self.now)
            self.news += self.validator.book.take_news()


@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_lag_stops_and_values_that_come_back_are_never_a_finding(
    tmp_path: Path, seed: int, has_offsets: bool
) -> None:
    world = SeededWorld(tmp_path / "data", seed, has_offsets=has_offsets)
    world.live(STEPS)
    assert world.news == []
    assert world.checker.counts["agrees"] > 300
    assert world.checker.counts["lagging"] > 0


@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_loss_amid_all_that_is_found_at_its_offset(
    tmp_path: Path, seed: int, has_offsets: bool
) -> None:
    world = SeededWorld(tmp_path / "data", seed, has_offsets=has_offsets)
    world.send("victim", {"a": "before"})
    world.live(300)
    offset = world.send("victim", {"a": "after"}, is_lost=True)
    world.live(STEPS)
    (finding,) = world.news
    assert (finding.kind, finding.subjects) == ("missed", ["victim"])
    assert finding.first_bad_position is not None
    assert finding.first_bad_position.offset == offset


def test_a_store_that_is_ahead_of_the_fold_is_not_wrong(tmp_path: Path) -> None:
    topic = LateTopic()
    world = AttachedWorld(tmp_path / "data", topic=topic)
    topic.is_validator = False
    world.send("u", {"a": 1})
    topic.is_validator = True
    world.run(8.0, traffic=False)
    topic.hidden = [1, 1]
    topic.is_validator = False
    world.send("u", {"a": 2})
    topic.is_validator = True
    world.run(20.0, traffic=False)
    assert world.store.rows["u"] == {"a": 2}
    assert world.news == []
    topic.hidden = [0, 0]
    world.run(20.0, traffic=False)
    assert world.news == []
    assert world.verdict()[0] == "CONSISTENT"


def test_a_difference_that_is_gone_at_the_second_look_is_no_finding(tmp_path: Path) -> None:
    world = AttachedWorld(tmp_path / "data")
    world.send("u", {"a": 1})
    world.run(8.0)
    world.store.rows["u"]["a"] = 99
    while not world.checker.counts["wrong"]:
        world.run(0.1)
    assert world.verdict()[0] == "UNKNOWN"
    world.store.rows["u"]["a"] = 1
    world.run(10.0)
    assert world.news == []
    assert world.verdict()[0] == "CONSISTENT"


def test_what_a_queue_does_not_take_is_counted_and_what_waits_is_merged() -> None:
    schedule = Schedule([10.0], capacity=20)
    for number in range(10):
        schedule.changed(b"%d" % number, number, 100.0)
    schedule.changed(b"0", 11, 100.0)
    (count,) = schedule.counts
    assert (schedule.waiting, count.skipped, count.merged) == (2, 8, 1)
    assert schedule.take(109.9, 10) == []
    assert [due.key for due in schedule.take(110.0, 10)] == [b"0", b"1"]


def test_as_many_versions_are_remembered_as_the_page_says() -> None:
    assert HISTORY_VERSIONS == 126
