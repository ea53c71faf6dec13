"""Large buckets: which aggregates differ is told without showing the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from synchroscope.digest import Hasher, aggregate_hash
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import REPORTS, REQUESTS, AggregateRecord, NewRecord
from synchroscope.report import Explanation, RepairOrder, decode_message, encode_message
from synchroscope.sketch import Numbers, Sketches
from tests.builders import event, update
from tests.validation_world import REPLICA, World
from validator import pinpoint, reference

KEYS = 300


@pytest.fixture
def world() -> Iterator[World]:
    """Give a world of few and large buckets, all consistent; in the end its sketches are true."""
    made = World(bits=1, whole_facts=20)
    for number in range(KEYS):
        made.write(str(number), limit=number)
    assert made.settle()
    assert made.verdict() == "CONSISTENT"
    yield made
    check_sketches(made)


def check_sketches(w: World) -> None:
    """Hold every sketch that is built against the facts it is of."""
    replica = w.projectors[REPLICA].replica
    stored = replica._partition(0).sketches
    newest = w.validator.reference.current(0).views[w.view.model].sketches
    assert stored is not None
    assert newest is not None
    for bucket in range(2):
        if stored.is_built(bucket):
            records = w.storages[REPLICA].scan(0, bucket, 1)
            assert (stored.cells([bucket]) == cells_of(bucket, records)).all()
        if newest.is_built(bucket):
            truth = MemoryStorage()
            for key in w.store.aggregates(bucket, 1):
                fields = {}
                for historic in w.store.history(key):
                    for name, update in historic.event.context_delta.updates.items():
                        fields[name] = (update.current, 1)
                truth.commit({key: AggregateRecord(*key, 0, 1, fields, [])}, 0, None)
            assert (newest.cells([bucket]) == cells_of(bucket, truth.scan(0, bucket, 1))).all()


def cells_of(bucket: int, records: Iterable[AggregateRecord]) -> Numbers:
    sketches, hasher = Sketches(1), Hasher()
    parts = [
        (aggregate_hash(r.context_type, r.subject), lanes[0])
        for r in records
        for name, (value, _) in r.fields.items()
        if value is not None
        for lanes in [hasher.fact(r.context_type, r.subject, name, value)]
    ]
    sketches.build(bucket, parts)
    return sketches.cells([bucket])


def named(w: World) -> dict[str, set[str]]:
    """Return subjects of open findings by kind."""
    found: dict[str, set[str]] = {}
    for finding in w.validator.open_findings():
        found.setdefault(finding.kind, set()).update(finding.subjects)
    return found


def look(w: World) -> None:
    """Have the replica look into its storage, and wait until everything is judged."""
    w.projectors[REPLICA].replica.scrub(0, range(2))
    w.run(3)
    assert w.settle()


def shown(w: World, start: int = 0) -> list[Explanation]:
    """Return the answers from a place of the topic on."""
    records = w.log.read(REPORTS, 0, start, 100_000).records
    messages = [decode_message(record.value) for record in records]
    return [message for message in messages if isinstance(message, Explanation)]


def test_a_changed_a_lost_and_a_made_up_aggregate_are_named_and_few_others_shown(
    world: World,
) -> None:
    world.overwrite("7", limit=-1)
    world.delete("8")
    world.overwrite("made-up", limit=3)
    start = world.log.head(REPORTS, 0)
    look(world)
    assert set().union(*named(world).values()) == {"user:7", "user:8", "user:made-up"}
    aggregates = [a.subject for answer in shown(world, start) for a in answer.aggregates]
    assert set(aggregates) == {"user:7", "user:made-up"}
    assert any(answer.sketches for answer in shown(world, start))


def test_a_missed_event_is_named_with_its_offset(world: World) -> None:
    offset = world.log.head("context.events", 0)
    world.drop(offset)
    world.write("5", limit=-5)
    world.run()
    [finding] = world.validator.open_findings()
    assert (finding.kind, finding.subjects) == ("missed", ["user:5"])
    assert finding.since is not None
    assert finding.since.by_offset == offset


def test_what_heals_is_resolved(world: World) -> None:
    world.overwrite("7", limit=-1)
    look(world)
    world.overwrite("7", limit=7)
    for _ in range(3):
        world.projectors[REPLICA].replica.scrub(0, range(2))
        world.run(4)
    assert world.validator.open_findings() == []
    assert world.verdict() == "CONSISTENT"


def test_a_validator_that_was_started_anew_builds_its_side_from_the_history(world: World) -> None:
    world.restart_validator()
    world.overwrite("7", limit=-1)
    start = world.log.head(REPORTS, 0)
    look(world)
    assert named(world) == {"corrupted": {"user:7"}}
    assert all(not answer.buckets for answer in shown(world, start))


def test_building_goes_on_over_several_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinpoint, "BUILT_PER_STEP", 1)
    world.restart_validator()
    for number in (3, 4, 5, 6, 7):
        world.overwrite(str(number), limit=-1)
    look(world)
    assert named(world) == {"corrupted": {f"user:{n}" for n in (3, 4, 5, 6, 7)}}


def test_a_replica_that_was_started_anew_builds_its_side_from_storage(world: World) -> None:
    world.start_replica(REPLICA, world.storages[REPLICA])
    world.drop(world.log.head("context.events", 0))
    world.write("5", limit=-5)
    start = world.log.head(REPORTS, 0)
    world.run(12)
    assert named(world) == {"missed": {"user:5"}}
    assert all(not answer.buckets for answer in shown(world, start))


def test_a_replica_that_knows_whole_buckets_only_is_asked_for_these(world: World) -> None:
    replica = world.projectors[REPLICA].replica
    explain = replica.explain
    replica.explain = lambda request, **more: replace(  # type: ignore[method-assign]
        explain(replace(request, sketches=[], numbers=b"", known_state="", compact=False), **more),
        request_id=request.request_id,
    )
    world.overwrite("7", limit=-1)
    start = world.log.head(REPORTS, 0)
    look(world)
    assert named(world) == {"corrupted": {"user:7"}}
    assert any(answer.buckets for answer in shown(world, start))


@pytest.mark.parametrize("lie", [b"", b"short", bytes(16 * 64), b"\xa5" * 1024])
def test_sketches_that_lie_only_cost_time(world: World, lie: bytes) -> None:
    replica = world.projectors[REPLICA].replica
    explain = replica.explain

    def lying(request: Any, **more: Any) -> Explanation:
        answer = explain(request, **more)
        return replace(answer, sketches=[lie for _ in answer.sketches])

    replica.explain = lying  # type: ignore[method-assign]
    world.overwrite("7", limit=-1)
    look(world)
    assert named(world) == {"corrupted": {"user:7"}}


def test_aggregates_that_are_kept_back_leave_the_difference_unexplained(world: World) -> None:
    replica = world.projectors[REPLICA].replica
    explain = replica.explain
    replica.explain = lambda request, **more: replace(  # type: ignore[method-assign]
        answer := explain(request, **more), aggregates=answer.aggregates if request.buckets else []
    )
    world.overwrite("7", limit=-1)
    look(world)
    assert named(world) == {"corrupted": {"user:7"}}


def test_more_differences_than_sketches_can_tell_are_shown_whole(world: World) -> None:
    for number in range(200):
        world.overwrite(str(number), limit=-number - 1)
    look(world)
    world.run(20)
    assert named(world)["corrupted"] == {f"user:{number}" for number in range(200)}


def test_an_answer_far_behind_the_log_is_looked_into_whole_buckets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "MAXIMUM_SKETCH_REPLAY", 0)
    monkeypatch.setattr(pinpoint, "MAXIMUM_TRIES", 1)
    world.overwrite("7", limit=-1)
    world.projectors[REPLICA].replica.scrub(0, range(2))
    for number in range(30):
        world.step()
        world.write(str(100 + number), limit=-number)
    look(world)
    assert named(world) == {"corrupted": {"user:7"}}


def test_under_load_the_same_is_found(world: World) -> None:
    """The replica's answers are of positions that the validator has passed."""
    start = world.log.head(REPORTS, 0)
    for number in (20, 21, 22):
        world.overwrite(str(number), limit=-1)
    world.projectors[REPLICA].replica.scrub(0, range(2))
    for number in range(40):
        world.write(str(100 + number), limit=-number)
        world.projectors[REPLICA].step(world.now)
        world.write(str(150 + number), limit=-number)
        world.step()
    look(world)
    assert named(world) == {"corrupted": {"user:20", "user:21", "user:22"}}
    answers = shown(world, start)
    assert all(not answer.buckets for answer in answers)
    subjects = {a.subject for answer in answers for a in answer.aggregates}
    assert subjects == {"user:20", "user:21", "user:22"}


def test_a_record_that_contradicts_its_history_is_still_the_logs_fault(world: World) -> None:
    world.rogue(event(2, {"limit": update(66, 1)}, number=900, user="7"))
    world.run(20)
    for limit in (70, 71, 72):
        world.write("7", limit=limit)
        world.run(20)
    assert [f.replica for f in world.findings() if f.kind == "log-contradiction"] == [None]
    assert world.verdict() == "CONSISTENT"


def test_an_empty_storage_comes_to_an_end(world: World) -> None:
    storage = world.storages[REPLICA]
    storage._slots, storage._placed = MemoryStorage()._slots, 0
    storage._records.clear()
    look(world)
    assert world.verdict() == "DIVERGED"


def test_a_validator_started_anew_builds_for_a_position_that_it_has_passed(world: World) -> None:
    world.overwrite("20", limit=-1)
    world.projectors[REPLICA].replica.scrub(0, range(2))
    world.restart_validator()
    start = world.log.head(REPORTS, 0)
    for number in range(60):
        world.write(str(100 + number), limit=-number)
        world.projectors[REPLICA].step(world.now)
        world.write(str(200 + number), limit=-number)
        world.validate()
    assert world.settle()
    assert named(world) == {"corrupted": {"user:20"}}
    assert all(not answer.buckets for answer in shown(world, start))


def test_what_is_written_after_a_scrub_that_found_something_is_told_too(world: World) -> None:
    world.overwrite("7", limit=-1)
    look(world)
    start = world.log.head(REPORTS, 0)
    world.write("7", limit=8)
    world.drop(world.log.head("context.events", 0))
    world.write("9", limit=10)
    world.run(12)
    assert named(world)["missed"] == {"user:9"}
    assert all(not answer.buckets for answer in shown(world, start))


def test_a_repair_asks_for_single_aggregates_and_leaves_sketches_true(world: World) -> None:
    world.overwrite("7", limit=-1)
    world.overwrite("8", limit=-1)
    look(world)
    start = world.log.head(REPORTS, 0)
    for finding in world.validator.open_findings():
        order = encode_message(RepairOrder(f"order {finding.id}", finding.id))
        world.log.append([NewRecord(REQUESTS, 0, b"", order)], world.now)
    world.run(40)
    assert world.validator.open_findings() == []
    assert world.verdict() == "CONSISTENT"
    assert all(not answer.buckets for answer in shown(world, start))
    world.overwrite("9", limit=-1)
    look(world)
    assert named(world) == {"corrupted": {"user:9"}}
