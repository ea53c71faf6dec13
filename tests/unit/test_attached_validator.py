"""The role of attached mode over a topic and a store in memory: what is found, and what is not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from synchroscope.errors import ConfigurationError, StorageError, SynchroscopeError
from tests.attached_world import SETTINGS, AttachedWorld
from validator.attached.port import MemoryTopic
from validator.attached.record_mapping import RecordMapping
from validator.attached.reference import KeyedReference
from validator.finding import timestamp
from validator.stores.port import DamagedRow


@pytest.fixture
def world(tmp_path: Path) -> AttachedWorld:
    made = AttachedWorld(tmp_path / "data")
    for number in range(30):
        made.send(f"user-{number}", {"a": number, "b": "x"})
    made.run(12.0)
    assert made.verdict()[0] == "CONSISTENT"
    return made


def only(world: AttachedWorld) -> tuple[str, str, list[str]]:
    (finding,) = world.open_findings()
    return finding.kind, finding.evidence["cause"], finding.subjects


def test_a_clean_run_finds_nothing_and_says_what_was_there_in_time(world: AttachedWorld) -> None:
    world.run(30.0)
    assert world.news == []
    one, ten = world.checker.schedule.counts
    assert one.looked == one.consistent > 50
    assert ten.looked == ten.consistent > 2


def test_a_lost_event_is_missed_from_its_offset_on_and_resolved_by_the_next(
    world: AttachedWorld,
) -> None:
    offset = world.send("user-3", {"a": 100}, is_lost=True)
    world.run(10.0)
    assert only(world) == ("missed", "event not applied", ["user-3"])
    (finding,) = world.open_findings()
    assert finding.first_bad_position is not None
    assert finding.first_bad_position.offset == offset
    assert world.verdict()[0] == "DIVERGED"
    world.send("user-3", {"a": 101})
    world.run(10.0)
    assert [f.state for f in world.news] == ["open", "resolved"]
    assert world.verdict()[0] == "CONSISTENT"


def test_what_is_wrong_in_a_row_that_nothing_changes_is_met_by_a_walk(
    world: AttachedWorld,
) -> None:
    world.store.rows["user-5"]["b"] = "y"
    world.store.rows["ghost"] = {"a": 1}
    del world.store.rows["user-7"]
    world.run(15.0)
    found = {(f.kind, f.evidence["cause"], f.subjects[0]) for f in world.open_findings()}
    assert found == {
        ("corrupted", "bit flip", "user-5"),
        ("foreign", "row that the log does not have", "ghost"),
        ("foreign", "deleted behind the pipeline's back", "user-7"),
    }


def test_a_row_that_the_log_does_not_have_came_after_the_last_walk_without_it(
    world: AttachedWorld,
) -> None:
    world.run(12.0)
    began, earlier = world.checker.walk.finished_at, dict(world.validator.log.positions)
    assert began is not None
    world.store.rows["ghost"] = {"a": 1}
    world.run(15.0)
    (finding,) = world.open_findings()
    assert finding.since is not None
    assert finding.since.after_offset is not None
    assert finding.since.after_offset <= earlier[0] <= finding.since.by_offset
    positions = finding.evidence["positions"]
    assert all(positions[str(p)]["from"] <= earlier[p] <= positions[str(p)]["to"] for p in (0, 1))
    assert finding.evidence["absent_at"] >= timestamp(began)


def test_a_row_that_was_there_from_the_start_has_no_such_moment(tmp_path: Path) -> None:
    world = AttachedWorld(tmp_path / "data")
    world.store.rows["ghost"] = {"a": 1}
    world.run(15.0)
    (finding,) = world.open_findings()
    assert finding.since is None


def test_where_rows_expire_their_absence_is_nothing_and_wrong_values_are_found(
    tmp_path: Path,
) -> None:
    settings = msgspec.structs.replace(SETTINGS, expires=True)
    world = AttachedWorld(tmp_path / "data", settings)
    for number in range(10):
        world.send(f"user-{number}", {"a": number})
    world.run(12.0)
    world.store.rows["user-4"]["a"] = "by hand"
    world.run(12.0)
    assert only(world) == ("foreign", "written behind the pipeline's back", ["user-4"])
    for number in range(3, 8):
        del world.store.rows[f"user-{number}"]
    world.run(20.0)
    assert world.open_findings() == []
    assert world.verdict()[0] == "CONSISTENT"
    skipped = world.checker.schedule.counts[0].skipped
    world.is_consuming = False
    world.send("user-5", {"a": 77})  # Gone before anybody could look.
    world.run(5.0, traffic=False)
    assert world.checker.schedule.counts[0].skipped == skipped + 1
    assert world.news[-1].state == "resolved"


def test_values_are_hashes_unless_the_field_is_public(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, public=frozenset({"a"}))
    world = AttachedWorld(tmp_path / "data", settings)
    world.send("u", {"a": 1, "b": "private"})
    world.run(8.0)
    world.store.rows["u"] = {"a": 500, "b": "by hand"}
    world.run(12.0)
    (finding,) = world.open_findings()
    fields = finding.evidence["fields"]
    assert (fields["a"]["expected"], fields["a"]["seen"]) == (1, 500)
    assert fields["b"]["seen"].startswith("hash:")
    assert "by hand" not in str(finding)


def test_a_stopped_consumer_is_lag_and_what_it_lost_is_found_when_it_has_caught_up(
    world: AttachedWorld,
) -> None:
    world.is_consuming = False
    for number in range(20):
        world.send(f"user-{number}", {"a": number + 500})
    lost = world.send("user-21", {"a": 999}, is_lost=True)
    world.run(40.0)
    assert world.news == []
    assert world.verdict()[0] == "UNKNOWN"
    assert world.verdict()[1].startswith("LAGGING")
    world.is_consuming = True
    world.run(45.0)
    (finding,) = world.open_findings()
    assert (finding.kind, finding.subjects) == ("missed", ["user-21"])
    assert finding.first_bad_position is not None
    assert finding.first_bad_position.offset == lost
    assert len(world.news) == 1


def test_with_nothing_later_a_loss_is_not_told_from_lag_unless_the_group_has_committed(
    tmp_path: Path,
) -> None:
    settings = msgspec.structs.replace(SETTINGS, group="writer")
    world = AttachedWorld(tmp_path / "data", settings)
    world.send("u", {"a": 1})
    world.run(8.0, traffic=False)
    offset = world.send("u", {"a": 2}, is_lost=True)
    world.run(20.0, traffic=False)
    assert world.news == []
    assert world.verdict()[0] == "UNKNOWN"
    world.topic.groups["writer"] = {world.partition("u"): offset + 1}
    world.run(40.0, traffic=False)
    assert only(world) == ("missed", "event not applied", ["u"])


def test_a_store_that_is_away_is_unknown_and_nothing_is_found(world: AttachedWorld) -> None:
    world.store.is_away = True
    world.run(20.0)
    assert world.verdict() == ("UNKNOWN", "memory: is away")
    assert world.news == []
    world.store.is_away = False
    world.run(20.0)
    assert world.verdict()[0] == "CONSISTENT"


@pytest.mark.parametrize("error", [StorageError("broken"), ConfigurationError("no such table")])
def test_a_store_that_breaks_later_is_unknown_and_one_that_never_worked_is_an_error(
    world: AttachedWorld, tmp_path: Path, error: SynchroscopeError
) -> None:
    world.run(20.0)
    world.store.broken = error
    world.run(20.0)
    assert world.verdict() == ("UNKNOWN", str(error))
    assert world.news == []
    world.store.broken = None
    world.run(20.0)
    assert world.verdict()[0] == "CONSISTENT"

    world = AttachedWorld(tmp_path / "another")
    world.store.broken = error
    with pytest.raises(type(error), match=str(error)):
        world.run(20.0)


def test_rows_that_no_key_tells_leave_a_store_unknown(world: AttachedWorld) -> None:
    world.store.without_key = 2
    world.run(20.0)
    assert world.verdict() == ("UNKNOWN", "2 rows have no key, or none that is known")
    world.store.without_key = 0
    world.run(40.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_a_restored_copy_is_one_finding_with_the_position_it_is_of(world: AttachedWorld) -> None:
    copy = {user: dict(row) for user, row in world.store.rows.items()}
    ends = [world.topic.range(partition)[1] for partition in range(2)]
    for number in range(25):
        world.send(f"user-{number}", {"a": number + 1_000, "b": "later"})
    world.send("new", {"a": 1})
    world.run(6.0)
    world.store.rows = copy
    world.run(20.0)
    (finding,) = world.open_findings()
    assert finding.kind == "bulk"
    assert finding.evidence["items"] >= 26
    for partition, span in finding.evidence["positions"].items():
        assert span["from"] <= ends[int(partition)] <= span["to"]
    for number in range(25):
        world.send(f"user-{number}", {"a": number, "b": "z"})
    world.send("new", {"a": 2})
    world.run(40.0)
    assert world.open_findings() == []
    assert world.verdict()[0] == "CONSISTENT"


def test_what_was_told_by_itself_joins_the_finding_of_many_that_it_is_part_of(
    world: AttachedWorld,
) -> None:
    copy = {user: dict(row) for user, row in world.store.rows.items()}
    for number in range(25):
        world.send(f"user-{number}", {"a": number + 1_000, "b": "later"})
    world.run(8.0)
    world.store.rows["user-30"] = {"a": 1}
    world.store.rows["user-3"] = dict(copy["user-3"])
    world.run(15.0)
    assert {finding.kind for finding in world.open_findings()} == {"reordered", "foreign"}
    for number in range(4, 25):  # The machine is slow: the rest is met only now.
        world.store.rows[f"user-{number}"] = dict(copy[f"user-{number}"])
    world.run(15.0)
    bulk, other = sorted(world.open_findings(), key=lambda finding: finding.kind)
    assert (bulk.kind, bulk.evidence["items"]) == ("bulk", 22)
    assert other.subjects == ["user-30"]
    (early,) = [f for f in world.news if f.kind == "reordered" and f.state == "resolved"]
    assert early.evidence["part_of"] == bulk.id
    for number in range(3, 25):
        world.send(f"user-{number}", {"a": number, "b": "z"})
    world.run(40.0)
    assert [finding.subjects for finding in world.open_findings()] == [["user-30"]]


def test_an_event_applied_to_the_wrong_subject_is_told_with_where_it_belongs(
    world: AttachedWorld,
) -> None:
    offset = world.send("user-4", {"a": 777, "b": "mine"}, is_lost=True)
    world.store.rows["user-8"].update({"a": 777, "b": "mine"})
    world.run(15.0)
    lacking, stray = sorted(world.open_findings(), key=lambda finding: finding.subjects)
    assert (lacking.kind, lacking.subjects) == ("missed", ["user-4"])
    position = {"partition": world.partition("user-4"), "offset": offset}
    assert stray.evidence["belongs_to"] == {"subject": "user-4", "position": position}
    assert stray.kind == "foreign"


def test_findings_and_positions_survive_a_restart_and_are_not_found_again(
    world: AttachedWorld,
) -> None:
    world.store.rows["user-5"]["b"] = "y"
    world.run(15.0)
    before = world.open_findings()
    world.validator.reference.close()  # As kill -9 leaves it: every write is a transaction.
    world.open()
    assert world.validator.book.open == {finding.id: finding for finding in before}
    records = world.validator.counts["records"]
    world.run(15.0)
    assert len(world.news) == 1
    assert world.validator.counts["records"] > records
    world.store.rows["user-5"]["b"] = "x"
    world.run(20.0)
    assert world.open_findings() == []


def test_a_log_that_is_not_known_from_its_start_leaves_what_it_does_not_name_unknown(
    tmp_path: Path,
) -> None:
    topic = MemoryTopic(2)
    world = AttachedWorld(tmp_path / "data", begin="latest", topic=topic)
    world.store.rows["old"] = {"a": 1}
    topic.append(0, b"older", b'{"a": 1}', 1.0)
    world.run(0.1, traffic=False)
    world.send("new", {"a": 1})
    world.run(20.0)
    assert world.news == []
    assert world.checker.counts["unknown"] > 0
    world.store.rows["new"]["a"] = 2_000
    world.run(15.0)
    assert [f.subjects for f in world.open_findings()] == [["new"]]


def test_the_budget_bounds_what_is_read(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, budget_keys_per_second=20.0)
    world = AttachedWorld(tmp_path / "data", settings)
    for number in range(500):
        world.send(f"user-{number}", {"a": number})
    world.run(20.0)
    assert world.store.reads <= 20 * 20 + 20
    assert world.verdict()[0] == "UNKNOWN"
    world.run(30.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_another_mapping_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    reference = KeyedReference(tmp_path, "x")
    reference.fold([], {0: 0}, True, {})
    reference.close()
    with pytest.raises(ConfigurationError, match="another record mapping"):
        KeyedReference(tmp_path, "y")


def test_rows_that_were_deleted_between_two_runs_with_one_folder_are_found_in_the_first_walk(
    tmp_path: Path,
) -> None:
    settings = msgspec.structs.replace(SETTINGS, walk_seconds=600.0)
    world = AttachedWorld(tmp_path / "data", settings)
    for number in range(9):
        world.send(f"user-{number}", {"a": number})
    world.run(20.0)
    world.validator.reference.close()
    del world.store.rows["user-4"]
    world.open()
    world.run(30.0, traffic=False)
    assert world.checker.walk.whole == 1
    assert only(world) == ("foreign", "deleted behind the pipeline's back", ["user-4"])


def test_what_was_deleted_from_the_topic_before_it_was_read_is_unknown_and_never_a_finding(
    world: AttachedWorld,
) -> None:
    world.store.rows["user-3"]["a"] = 500  # Found while it could be told.
    world.run(15.0)
    assert [f.subjects for f in world.open_findings()] == [["user-3"]]
    world.validator.reference.close()
    for number in range(10):
        world.send(f"user-{number}", {"a": number + 100})
        world.send(f"new-{number}", {"a": 1, "b": "y"})
    for partition in range(2):
        world.topic.drop_before(partition, world.topic.range(partition)[1])
    world.news.clear()
    world.open()
    world.run(20.0)
    assert [f.state for f in world.news if f.state != "resolved"] == ["open"]  # Why it is closed.
    assert "deleted from the topic" in world.news[-1].evidence["withdrawn"]
    verdict, reason = world.verdict()
    assert (verdict, "40 keys cannot be checked" in reason) == ("UNKNOWN", True)
    assert "deleted from the topic before they were read" in reason
    for name in list(world.store.rows):
        world.send(name, {"a": 0, "b": "z"} if "busy" not in name else {"n": 1})
    world.store.rows["user-4"]["b"] = "by hand"
    world.run(20.0)
    assert [f.subjects for f in world.open_findings()] == [["user-4"]]
    world.store.rows["user-4"]["b"] = "z"
    world.run(20.0)
    assert world.verdict()[0] == "CONSISTENT", world.verdict()


def test_an_unknown_row_that_is_gone_is_forgotten_with_the_next_walk(tmp_path: Path) -> None:
    world = AttachedWorld(tmp_path / "data")
    world.topic.compacted = True
    world.send("user-1", {"a": 1})
    world.store.rows["old"] = {"a": 1}
    world.run(15.0)
    assert world.verdict()[1].startswith("1 keys cannot be checked")
    del world.store.rows["old"]
    world.run(15.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_retention_that_overtakes_the_validator_while_it_runs_is_noticed(
    world: AttachedWorld,
) -> None:
    for number in range(10):
        world.send(f"user-{number}", {"a": number + 100})
    for partition in range(2):
        world.topic.drop_before(partition, world.topic.range(partition)[1])
    world.run(20.0)
    assert world.news == []
    assert "deleted from the topic" in world.verdict()[1]
    assert world.validator.counts["records deleted unread"] >= 10


def test_a_topic_that_was_made_anew_is_refused_and_the_folder_named(
    world: AttachedWorld, tmp_path: Path
) -> None:
    world.validator.reference.close()
    ends = [world.topic.range(partition)[1] for partition in range(2)]
    world.topic = MemoryTopic(2)
    for partition, end in enumerate(ends):
        for number in range(end + 5):
            world.topic.append(partition, b"v%d" % number, b'{"a": 1}', 5.0)
    world.open()
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/data: another record is at"):
        world.run(1.0, traffic=False)


@pytest.mark.parametrize("tells", [True, False])
def test_a_topic_that_is_made_anew_while_it_is_read_ends_that_before_anything_is_found(
    world: AttachedWorld, tells: bool
) -> None:
    world.topic.make_anew()
    if tells:  # Its end may be beyond the old one when that is looked at next.
        for _ in range(200):
            world.topic.append(0, b"user-0", b'{"a": 9}', world.now)
    else:
        world.topic.called = "first"
    problem = "its ID is another one" if tells else "ends at 0, earlier than before"
    with pytest.raises(StorageError, match=f"{problem}.*name another --data-dir"):
        world.run(10.0, traffic=False)
    assert world.news == []


# -- compacted topics ------------------------------------------------------------------------------


def compacted(tmp_path: Path, *, tells: bool = True, group: str = "") -> AttachedWorld:
    """Return a store that has the first of three versions; the second one is compacted away."""
    settings = msgspec.structs.replace(SETTINGS, group=group)
    world = AttachedWorld(tmp_path / "data", settings)
    world.topic.compacted = True if tells else None
    for version in range(3):
        for number in range(10):
            world.send(f"user-{number}", {"a": 100 * version + number})
        world.is_consuming = False
    for partition in range(2):
        world.topic.compact(partition)
    return world


@pytest.mark.parametrize("tells", [True, False])
def test_a_store_that_is_behind_a_compacted_topic_has_no_findings(
    tmp_path: Path, tells: bool
) -> None:
    world = compacted(tmp_path, tells=tells)
    world.run(30.0)
    assert world.news == []
    verdict, reason = world.verdict()
    assert verdict == "UNKNOWN"
    assert "12 may have a version that was compacted away" in reason  # Two of them are busy.
    world.is_consuming = True
    world.consume()
    world.run(20.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_what_is_wrong_in_a_compacted_topic_s_store_is_proven_by_its_group(tmp_path: Path) -> None:
    world = compacted(tmp_path, group="writer")
    world.is_consuming = True
    world.consume()
    world.store.rows["user-3"]["a"] = 5_000
    world.store.rows["ghost"] = {"a": 1}
    world.run(15.0, traffic=False)
    assert world.news == []
    ends = {partition: world.topic.range(partition)[1] for partition in range(2)}
    world.topic.groups["writer"] = ends
    world.run(20.0, traffic=False)
    found = {(f.kind, f.evidence["cause"], f.subjects[0]) for f in world.open_findings()}
    assert found == {
        ("unexplained", "no version that is still known", "user-3"),
        ("foreign", "row that the log does not have", "ghost"),
    }


# -- keys in several partitions --------------------------------------------------------------------


def test_a_key_with_records_in_several_partitions_is_unknown_and_never_a_finding(
    world: AttachedWorld,
) -> None:
    other = 1 - world.partition("user-3")
    world.store.rows["user-3"]["a"] = 500
    world.run(15.0)
    assert [f.subjects for f in world.open_findings()] == [["user-3"]]
    world.topic.append(other, b"user-3", b'{"a": 77}', world.now)
    world.store.rows["user-3"]["a"] = 77
    world.run(20.0)
    assert world.open_findings() == []
    assert world.verdict() == (
        "UNKNOWN",
        "1 keys cannot be checked: 1 have records in several partitions, which have no order among "
        "them",
    )
    world.store.rows["user-4"]["b"] = "y"
    world.run(20.0)
    assert [f.subjects for f in world.open_findings()] == [["user-4"]]


def test_a_topic_that_grows_while_it_is_read_is_read_whole(world: AttachedWorld) -> None:
    world.topic.grow(3)
    world.topic.append(2, b"user-3", b'{"a": 77}', world.now)
    world.topic.append(2, b"new", b'{"a": 77}', world.now)
    world.store.rows["user-3"]["a"] = 77
    world.store.rows["new"] = {"a": 78}
    world.run(20.0)
    assert [f.subjects for f in world.news] == [["new"]]
    assert "several partitions" not in world.verdict()[1]
    world.store.rows["new"] = {"a": 77}
    world.run(20.0)
    assert "1 have records in several partitions" in world.verdict()[1]
    world.validator.reference.close()
    world.topic.grow(4)
    world.topic.append(3, b"later", b'{"a": 1}', world.now)
    world.open()
    world.run(20.0)
    assert world.verdict()[0] == "UNKNOWN"
    assert world.validator.counts["records"] > 0
    assert world.validator.log.positions[3] == 1


# -- records that cannot be read -------------------------------------------------------------------


def test_records_that_cannot_be_read_are_named_by_the_verdict_unless_they_are_accepted(
    world: AttachedWorld,
) -> None:
    world.send_bytes("user-3", b"no JSON")
    world.send_bytes("", b"{}")
    world.store.rows["user-3"] = {"a": 70, "c": 80}  # Whatever it said to those who can read it.
    world.run(20.0, traffic=False)
    assert world.news == []
    verdict, reason = world.verdict()
    assert verdict == "UNKNOWN"
    assert reason.startswith("2 records could not be read: 1 no JSON, 1 no subject")
    assert "1 have a value in a record that could not be read" in reason
    world.validator.reference.close()
    world.records = msgspec.structs.replace(world.records, unreadable="skip")
    world.open()
    world.run(20.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_a_value_that_cannot_be_read_is_unknown_until_the_next_event_and_the_rest_is_checked(
    world: AttachedWorld,
) -> None:
    world.send("user-3", {"a": "\ud83d", "b": "y"})
    world.run(15.0)
    assert world.news == []
    assert world.verdict() == (
        "UNKNOWN",
        "1 keys cannot be checked: 1 have a value in a record that could not be read",
    )
    world.store.rows["user-3"]["b"] = "by hand"
    world.run(15.0)
    assert only(world)[2] == ["user-3"]
    world.store.rows["user-3"]["b"] = "y"
    world.run(15.0)
    assert world.open_findings() == []
    world.is_consuming = False
    world.send("user-3", {"a": 5})
    world.run(20.0)
    assert world.open_findings() == []
    assert world.verdict()[1].startswith("LAGGING")
    world.is_consuming = True
    world.run(30.0)
    assert world.verdict()[0] == "CONSISTENT"
    assert len(world.news) == 2


def test_nan_and_infinities_are_values(world: AttachedWorld) -> None:
    world.send("user-3", {"a": float("nan"), "b": float("inf")})
    world.run(15.0)
    assert world.verdict()[0] == "CONSISTENT"
    world.store.rows["user-3"]["b"] = "\ud83d"
    world.run(15.0)
    assert only(world) == ("foreign", "written behind the pipeline's back", ["user-3"])


def test_rows_that_a_deletion_without_a_subject_may_have_meant_are_unknown(tmp_path: Path) -> None:
    records = RecordMapping(subject="$.user", type="t")
    world = AttachedWorld(tmp_path / "data", records=records)
    for number in range(6):
        world.send(f"user-{number}", {"user": f"user-{number}", "a": number})
    world.run(15.0, traffic=False)
    assert world.verdict()[0] == "CONSISTENT"
    world.send("user-3", None)
    world.run(15.0, traffic=False)
    assert world.news == []
    verdict, reason = world.verdict()
    assert (verdict, "1 deletion without a subject" in reason) == ("UNKNOWN", True)
    assert "1 may have been deleted by a record that names no subject" in reason
    other = next(u for u in world.store.rows if world.partition(u) != world.partition("user-3"))
    del world.store.rows[other]
    world.run(15.0, traffic=False)
    assert only(world)[:2] == ("foreign", "deleted behind the pipeline's back")


def test_numbers_of_over_64_bits_are_compared_to_the_last_digit(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, public=frozenset({"a", "b"}))
    world = AttachedWorld(tmp_path / "data", settings)
    world.send("user-3", {"a": 10**21, "b": [2.5e19]})
    world.store.rows["user-3"]["b"] = [25 * 10**18]
    world.run(15.0)
    assert world.verdict()[0] == "CONSISTENT"
    world.store.rows["user-3"]["a"] += 1
    world.run(15.0)
    (finding,) = world.open_findings()
    assert finding.evidence["fields"]["a"]["expected"] == str(10**21)
    world.validator.reference.close()
    world.open()
    assert world.open_findings() == [finding]


# -- rows without a field that could be compared ---------------------------------------------------


def test_rows_without_any_value_are_found_where_the_log_has_none(world: AttachedWorld) -> None:
    world.store.rows["ghost"] = {"a": None}
    world.store.rows["empty"] = {}
    offset = world.send("user-3", None, is_lost=True)
    world.store.rows["user-3"] = {"a": None}
    world.send("user-4", {"a": None, "b": None})
    world.run(20.0)
    found = {(f.kind, f.evidence["cause"], f.subjects[0]) for f in world.open_findings()}
    assert found == {
        ("foreign", "row that the log does not have", "ghost"),
        ("foreign", "row that the log does not have", "empty"),
        ("missed", "delete not applied", "user-3"),
    }
    (missed,) = [f for f in world.open_findings() if f.kind == "missed"]
    assert missed.first_bad_position is not None
    assert missed.first_bad_position.offset == offset
    assert missed.evidence["fields"]["(row)"]["seen"] is True
    for name in ("ghost", "empty", "user-3"):
        del world.store.rows[name]
    del world.store.rows["user-4"]  # Whether nothing but nulls has a row is the store's affair.
    world.run(40.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_a_delete_that_is_under_way_leaves_an_empty_row_lagging(world: AttachedWorld) -> None:
    world.send("user-3", None, is_lost=True)
    world.store.rows["user-3"] = {}
    world.run(25.0, traffic=False)
    assert world.news == []
    assert world.verdict()[1].startswith("LAGGING")


def test_names_of_any_length_are_found_by_their_whole_name(world: AttachedWorld) -> None:
    world.store.rows["ghost" + "x" * 500] = {"a": 1}
    world.send("user" + "x" * 500, {"a": 1})
    world.run(10.0)
    assert [f.subjects for f in world.open_findings()] == [["ghost" + "x" * 500]]
    world.validator.reference.close()
    world.open()
    world.run(20.0)
    assert len(world.open_findings()) == 1
    del world.store.rows["ghost" + "x" * 500]
    world.run(40.0)
    assert world.verdict()[0] == "CONSISTENT"


def test_a_row_that_cannot_be_read_is_damage_and_not_the_pipeline_s_fault(
    world: AttachedWorld,
) -> None:
    world.store.rows["user-3"] = DamagedRow()
    world.store.rows["ghost"] = DamagedRow()
    world.run(20.0)
    found = {(f.kind, f.evidence["cause"], f.subjects[0]) for f in world.open_findings()}
    assert found == {
        ("corrupted", "cannot be read", "user-3"),
        ("foreign", "row that the log does not have", "ghost"),
    }
    world.store.rows["user-3"] = {"a": 3, "b": "x"}
    del world.store.rows["ghost"]
    world.run(40.0)
    assert world.verdict()[0] == "CONSISTENT"
