"""What is found of a store while records of nobody knows whom, or without fields, were read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.attached_world import AttachedWorld
from validator.attached.record_mapping import RecordMapping

BY_ID = RecordMapping(subject="$.id", type="t", fields="$.updates.*", value="$.current")
IN_DOUBT = "may have been written by a record that could not be read and names no subject"
SUBJECTS = [f"user-{number}" for number in range(10)]


class Pipeline(AttachedWorld):
    """Its consumer is done by hand, so that it can apply what the validator cannot read."""

    def change(self, user: str, *, is_applied: bool = True, **fields: Any) -> int:
        """Send a record that can be read, and apply it."""
        updates = {name: {"current": value} for name, value in fields.items()}
        value = json.dumps({"id": user, "updates": updates}).encode()
        if is_applied:
            self.store.rows.setdefault(user, {}).update(fields)
        return self.send_bytes(user, value)


def started(folder: Path, records: RecordMapping = BY_ID) -> Pipeline:
    """Return one with ten users that was looked at once, its group at the topic's end."""
    world = Pipeline(folder, records=records)
    for number, user in enumerate(SUBJECTS):
        world.change(user, a=number, b="x")
    world.run(12.0, traffic=False)
    return world


def neighbour(world: Pipeline, user: str, *, is_beside: bool) -> str:
    """Return another user, of the same partition or of another."""
    wanted = world.partition(user) if is_beside else 1 - world.partition(user)
    return next(u for u in SUBJECTS if u != user and world.partition(u) == wanted)


def test_rows_that_a_record_without_a_subject_may_have_written_are_unknown(tmp_path: Path) -> None:
    world = started(tmp_path)
    world.send_bytes("x1", b'{"ID": "x1", "updates": {"a": {"current": 1}}}')
    world.send_bytes("y1", b'{"id": "y1", "updates": {"a": ')
    world.store.rows["x1"] = {"a": 1}
    world.store.rows["y1"] = {"a": 2}
    world.run(20.0, traffic=False)
    assert world.news == []
    verdict, reason = world.verdict()
    assert verdict == "UNKNOWN"
    assert reason.startswith("2 records could not be read: 1 no JSON, 1 no subject")
    assert f"2 keys cannot be checked: 2 {IN_DOUBT}" in reason
    world.validator.reference.close()
    world.open()
    world.run(20.0, traffic=False)
    assert world.news == [], "the next run knows it too"
    world.validator.reference.close()
    world.records = msgspec.structs.replace(world.records, unreadable="skip")
    world.open()
    world.run(20.0, traffic=False)
    assert [f.subjects for f in world.open_findings()] == [["x1"], ["y1"]]


def test_a_record_without_its_subject_may_have_changed_a_known_one_until_its_next_event(
    tmp_path: Path,
) -> None:
    world = started(tmp_path)
    user = "user-1"
    beside = neighbour(world, user, is_beside=True)
    other = neighbour(world, user, is_beside=False)
    world.send_bytes(user, b'{"ID": "user-1", "a": 77}')
    world.store.rows[user] = {"a": 77, "c": 78}
    del world.store.rows[beside]
    world.run(20.0, traffic=False)
    assert world.news == []
    assert f"2 {IN_DOUBT}" in world.verdict()[1]
    world.store.rows[other]["b"] = "by hand"
    world.run(20.0, traffic=False)
    assert [f.subjects for f in world.open_findings()] == [[other]], "of another partition"
    world.store.rows[other]["b"] = "x"
    world.change(user, a=1, b="x")
    world.run(3.0, traffic=False)
    world.change(beside, a=50, b="y")
    world.run(20.0, traffic=False)
    world.store.rows[user]["a"] = "by hand"
    world.run(20.0, traffic=False)
    assert [f.subjects for f in world.open_findings()] == [[user]], "it was said anew"


def test_a_lost_event_after_a_record_without_a_subject_is_still_found(tmp_path: Path) -> None:
    world = started(tmp_path)
    world.send_bytes("user-1", b"{}")
    world.run(5.0, traffic=False)
    offset = world.change("user-1", a=50, is_applied=False)
    world.run(10.0, traffic=False)
    assert world.news == []
    world.change(neighbour(world, "user-1", is_beside=True), a=51)
    world.run(20.0, traffic=False)
    (finding,) = world.open_findings()
    assert (finding.kind, finding.subjects) == ("missed", ["user-1"])
    assert finding.first_bad_position is not None
    assert finding.first_bad_position.offset == offset


def test_a_value_that_came_back_by_a_record_without_a_subject_is_not_reordered(
    tmp_path: Path,
) -> None:
    world = started(tmp_path)
    world.change("user-1", a=50)
    world.run(10.0, traffic=False)
    world.send_bytes("user-1", b'{"ID": "user-1"}')
    world.store.rows["user-1"]["a"] = 1
    world.change("user-1", a=60, is_applied=False)
    world.run(20.0, traffic=False)
    assert world.news == []


def test_a_record_without_a_key_may_be_of_any_partition(tmp_path: Path) -> None:
    world = started(tmp_path)
    world.send_bytes("", b"{}")
    for user in SUBJECTS:
        world.store.rows[user]["a"] = 1_000
    world.run(20.0, traffic=False)
    assert world.news == []
    assert f"10 {IN_DOUBT}" in world.verdict()[1]


def test_what_was_found_before_such_a_record_stays_found(tmp_path: Path) -> None:
    world = started(tmp_path)
    world.store.rows["user-1"]["a"] = "by hand"
    world.run(15.0, traffic=False)
    world.send_bytes("user-1", b"{}")
    world.run(20.0, traffic=False)
    assert [f.subjects for f in world.open_findings()] == [["user-1"]]
    assert world.verdict()[0] == "DIVERGED"
    world.store.rows["user-1"]["a"] = 1
    world.run(20.0, traffic=False)
    assert world.open_findings() == []


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ({"subject": "$.Id"}, "10 records could not be read: 10 no subject"),
        ({"fields": "$.update.*"}, "no field was found in any of 10 records"),
        ({"value": "$.curent"}, "no field was found in any of 10 records"),
        ({"fields": {"a": "$.updates.A.current"}}, "no field was found in any of 10 records"),
    ],
)
def test_a_mapping_that_matches_nothing_is_said_and_finds_nothing(
    tmp_path: Path, mistake: dict[str, Any], reason: str
) -> None:
    world = started(tmp_path, msgspec.structs.replace(BY_ID, **mistake))
    world.run(20.0, traffic=False)
    assert world.news == []
    verdict, said = world.verdict()
    assert (verdict, reason in said) == ("UNKNOWN", True), said
    assert "10 keys cannot be checked" in said


def test_deletes_and_a_mapping_that_asks_for_no_fields_are_no_mistake(tmp_path: Path) -> None:
    world = Pipeline(tmp_path / "deletes", records=msgspec.structs.replace(BY_ID, subject="key"))
    world.send_bytes("user-1", b"")
    world.run(12.0, traffic=False)
    assert world.verdict()[0] == "CONSISTENT"
    world = Pipeline(tmp_path / "none", records=msgspec.structs.replace(BY_ID, fields={}))
    world.change("user-1")
    world.run(12.0, traffic=False)
    assert world.verdict()[0] == "CONSISTENT"


def test_a_bulk_finding_is_dated_by_offsets_of_its_own_partition(tmp_path: Path) -> None:
    world = AttachedWorld(tmp_path)
    for number in range(500):
        world.send("busy-1", {"n": number})
    for number in range(30):
        world.send(f"user-{number}", {"a": number})
    copy = {user: dict(row) for user, row in world.store.rows.items()}
    world.run(12.0)
    for number in range(30):
        world.send(f"user-{number}", {"a": number + 1_000})
    world.run(6.0)
    world.store.rows = copy
    world.run(20.0)
    (finding,) = world.open_findings()
    since = finding.since
    assert since is not None
    assert since.partition == finding.partition == 1 - world.partition("busy-1")
    end = world.topic.range(since.partition)[1]
    assert since.after_offset is not None
    assert since.after_offset < since.by_offset <= end


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [120, 480, 700, 5_000])
def test_a_value_nested_beyond_reason_is_unreadable_wherever_it_is(
    tmp_path: Path, depth: int
) -> None:
    world = AttachedWorld(tmp_path)
    for user in ("a", "b", "c"):
        world.send(user, {"v": 1})
    world.send_bytes("b", b'{"v": ' + b"[" * depth + b"]" * depth + b"}")
    world.run(20.0, traffic=False)
    assert world.news == []
    verdict, reason = world.verdict()
    assert verdict == "UNKNOWN"
    assert "1 keys cannot be checked: 1 have a value in a record that could not be read" in reason
    counted = {n: c for n, c in world.validator.counts.items() if n.startswith("unreadable") and c}
    assert list(counted.values()) == [1]

    world.validator.close()
    world.open()
    world.store.rows["c"]["v"] = nested(min(depth, 600))
    world.run(20.0, traffic=False)
    (finding,) = world.open_findings()
    assert (finding.kind, finding.subjects) == ("foreign", ["c"])
    assert finding.evidence["fields"]["v"]["seen"] == "hash:none"


def test_a_record_over_which_the_reader_stumbles_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = AttachedWorld(tmp_path)
    world.send("a", {"v": 1})
    world.send("b", {"v": 1})
    world.send("c", {"v": 1})
    reader = world.validator._reader
    plain = reader._fields

    def stumble(opened: Any) -> dict[str, Any]:
        if opened.record.key == b"b":
            raise KeyError("of a library")
        return plain(opened)

    monkeypatch.setattr(reader, "_fields", stumble)
    world.run(20.0, traffic=False)
    assert world.news == []
    assert world.validator.unreadable() == {"not understood": 1}
    assert world.verdict()[1].startswith("1 records could not be read: 1 not understood; 1 keys")
