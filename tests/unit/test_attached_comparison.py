"""What a look at a row comes to: lag, in flight, wrong; and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from validator.attached.classification import causes
from validator.attached.comparison import NOTHING_SEEN, Look, look
from validator.attached.history import Item
from validator.attached.record_mapping import Change
from validator.attached.reference import Seen
from validator.attached.row_mapping import ABSENT_ROW, RowMapping, RowReader, SeenRow

ALL = 1_000_000
TYPED = RowReader(RowMapping(subject="id", type="t"), ("id",))
TEXT = RowReader(RowMapping(subject="id", type="t", is_text=True), ("id",))


def item(*events: tuple[int, dict[str, Any] | None]) -> Item:
    made = Item("t", "u", 0, events[0][0], 0, 0.0, {}, b"")
    for offset, fields in events:
        change = Change("t", "u", fields or {}, fields is None, False, offset, float(offset))
        made.apply(change)
    return made


def looked(
    of: Item | None,
    row: SeenRow,
    *,
    lower: int = ALL,
    reached: int = ALL,
    memory: Seen = NOTHING_SEEN,
    reader: RowReader = TYPED,
    is_complete: bool = True,
) -> Look:
    return look(
        of,
        row,
        memory,
        reader,
        lower=lower,
        passed=lambda offset, timestamp: offset < reached,
        is_complete=is_complete,
    )


def kinds(of: Item | None, found: Look, *, is_text: bool = False) -> list[tuple[str, str, Any]]:
    return [(c.kind, c.text, c.first_bad) for c in causes(of, found, is_text=is_text)]


TWO = item((10, {"a": 1, "b": "x"}), (20, {"a": 2}))


@pytest.mark.parametrize(
    ("fields", "lower", "reached", "result"),
    [
        ({"a": 2, "b": "x"}, ALL, ALL, "agrees"),
        ({"a": 2.0, "b": "x"}, ALL, ALL, "agrees"),
        ({"a": 1, "b": "x"}, 20, ALL, "agrees"),  # The event is under way.
        ({"a": 1, "b": "x"}, 21, 20, "lagging"),  # Nothing later is there.
        ({"a": 1, "b": "x"}, 21, 21, "wrong"),  # Something later is.
        ({"a": 3, "b": "x"}, 0, 0, "wrong"),  # It never was so.
        ({"a": 2}, ALL, ALL, "wrong"),
    ],
)
def test_a_value_may_be_of_any_position_since_the_settle_window_began(
    fields: dict[str, Any], lower: int, reached: int, result: str
) -> None:
    assert looked(TWO, SeenRow(fields), lower=lower, reached=reached).result == result


def test_a_row_that_is_ahead_of_what_was_due_agrees() -> None:
    assert looked(TWO, SeenRow({"a": 2, "b": "x"}), lower=15).result == "agrees"


def test_an_event_that_was_passed_over_is_missed_from_its_offset_on() -> None:
    found = looked(TWO, SeenRow({"a": 1, "b": "x"}))
    assert kinds(TWO, found) == [("missed", "event not applied", 20)]


def test_a_delete_that_was_passed_over_is_missed_from_its_offset_on() -> None:
    gone = item((10, {"a": 1}), (30, None))
    found = looked(gone, SeenRow({"a": 1}))
    assert kinds(gone, found) == [("missed", "delete not applied", 30)]


def test_an_older_value_where_a_newer_one_was_seen_is_reordered_however_far_the_store_is() -> None:
    found = looked(TWO, SeenRow({"a": 1, "b": "x"}), reached=0, memory=Seen({"a": 20}, 25))
    assert kinds(TWO, found) == [("reordered", "older version over a newer one", 20)]


def test_a_row_that_was_seen_and_is_gone_was_deleted() -> None:
    found = looked(TWO, ABSENT_ROW, reached=0, memory=Seen({"a": 20, "b": 10}, 25))
    deleted = "deleted behind the pipeline's back"
    assert kinds(TWO, found) == [("foreign", deleted, None)]


def test_a_text_that_was_emptied_was_deleted_and_no_old_version_came_back() -> None:
    found = looked(
        TWO,
        SeenRow({"a": "", "b": "x"}),
        reached=0,
        memory=Seen({"a": 20, "b": 10}, 25),
        reader=TEXT,
    )
    deleted = "deleted behind the pipeline's back"
    assert kinds(TWO, found, is_text=True) == [("foreign", deleted, None)]


def test_a_row_whose_only_event_was_passed_over_is_missed() -> None:
    new = item((10, {"a": 1}))
    assert kinds(new, looked(new, ABSENT_ROW)) == [("missed", "event not applied", 10)]
    assert looked(new, ABSENT_ROW, reached=5).result == "lagging"


def test_a_row_of_no_item_is_foreign_only_if_the_whole_log_is_known() -> None:
    row = SeenRow({"a": 1})
    assert kinds(None, looked(None, row)) == [("foreign", "row that the log does not have", None)]
    assert looked(None, row, is_complete=False).result == "unknown"


@pytest.mark.parametrize(
    ("right", "seen", "cause"),
    [
        ("conservative", "conservatmve", "bit flip"),
        ("conservative", "conser", "truncated"),
        (5, "5", "changed type"),
        (True, "true", "changed type"),
        (1_000, 1_001, "bit flip"),
        (0.5, -0.5, "bit flip"),
    ],
)
def test_a_value_near_the_right_one_is_corrupted(right: Any, seen: Any, cause: str) -> None:
    one = item((10, {"a": right}))
    assert kinds(one, looked(one, SeenRow({"a": seen}))) == [("corrupted", cause, None)]


def test_a_value_of_no_version_and_near_none_was_written_by_somebody_else() -> None:
    found = looked(TWO, SeenRow({"a": 2, "b": "by hand"}))
    assert kinds(TWO, found) == [("foreign", "written behind the pipeline's back", None)]


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5"), (5.5, "5.50"), (True, "True"), (None, ""), ({"a": 1}, '{"a":1}')]
)
def test_where_all_is_text_a_value_is_what_the_text_may_mean(value: Any, text: str) -> None:
    one = item((5, {"a": 0}), (10, {"a": value}))
    assert looked(one, SeenRow({"a": text}), reader=TEXT).result == "agrees"
    if value is not None:
        assert looked(one, SeenRow({"a": text}), reader=TYPED).result == "wrong"


# -- where the row says which event it is of -------------------------------------------------------


def test_the_value_must_be_the_one_of_the_stored_offset() -> None:
    same = item((10, {"a": "x"}), (20, {"a": "y"}), (30, {"a": "x"}))
    assert looked(same, SeenRow({"a": "x"}, offset=30)).result == "agrees"
    assert looked(same, SeenRow({"a": "y"}, offset=20), reached=30).result == "lagging"
    found = looked(same, SeenRow({"a": "x"}, offset=20), lower=25)
    assert kinds(same, found) == [("stale", "not the value of the stored offset", None)]


def test_a_stored_offset_behind_by_more_than_the_window_is_lag_then_missed() -> None:
    row = SeenRow({"a": 1, "b": "x"}, offset=10)
    assert looked(TWO, row, reached=20).result == "lagging"
    assert kinds(TWO, looked(TWO, row, reached=21)) == [("missed", "event not applied", 20)]


def test_a_version_of_the_subject_s_own_is_found_in_the_log() -> None:
    reader = RowReader(RowMapping(subject="id", type="t", version="v"), ("id",))
    one = Item("t", "u", 0, 10, 0, 0.0, {}, b"")
    one.apply(Change("t", "u", {"a": 1}, False, False, 10, 1.0, version=1))
    one.apply(Change("t", "u", {"a": 2}, False, False, 20, 2.0, version=2))
    row = reader.read({"a": 1, "v": 2})
    assert row.version == 2
    found = looked(one, row, reader=reader, lower=0)
    assert kinds(one, found) == [("stale", "not the value of the stored offset", None)]


# -- what is forgotten ---------------------------------------------------------------------------


def busy(events: int) -> Item:
    return item(*[(offset, {"a": offset}) for offset in range(events)])


def test_a_value_of_a_forgotten_version_is_lag_until_the_store_has_gone_past_it() -> None:
    one = busy(500)
    oldest = one.fields["a"].entries(is_complete=True)[0].offset
    row = SeenRow({"a": 3})
    assert oldest > 3
    assert looked(one, row, reached=oldest).result == "lagging"
    assert looked(one, SeenRow({"a": 3}, offset=3), reached=oldest).result == "lagging"
    found = looked(one, row, reached=oldest + 1)
    assert [cause for _, cause, _ in kinds(one, found)] == ["no version that is still known"]


def test_a_key_that_changes_faster_than_is_remembered_is_not_judged() -> None:
    assert looked(busy(500), SeenRow({"a": 3}), lower=5).result == "unclear"


def test_a_value_that_comes_back_is_no_proof_of_the_newer_version() -> None:
    back = item((10, {"a": "x"}), (20, {"a": "y"}), (30, {"a": "x"}))
    (field,) = looked(back, SeenRow({"a": "x"}), reached=0).fields
    assert field.proven == 10
    (field,) = looked(back, SeenRow({"a": "x"}), reached=0, memory=Seen({"a": 20})).fields
    assert field.proven == 30


def test_in_a_compacted_topic_the_row_s_own_offset_proves_and_an_older_one_does_not() -> None:
    def result(fields: dict[str, Any], offset: int, reached: int = 0) -> str:
        row = SeenRow(fields, offset=offset)
        return look(
            TWO,
            row,
            NOTHING_SEEN,
            TYPED,
            lower=ALL,
            passed=lambda offset, timestamp: offset < reached,
            is_complete=True,
            is_compacted=True,
        ).result

    assert result({"a": 7, "b": "x"}, 20) == "wrong"
    assert result({"a": 7, "b": "x"}, 10) == "wrong"
    assert result({"a": 7, "b": "x"}, 15) != "wrong"  # The event at 15 may be gone.
    assert result({"a": 1, "b": "x"}, 10) == "lagging"
    assert result({"a": 2, "b": "x"}, 20) == "agrees"


def test_a_value_that_a_compacted_version_may_have_had_is_not_called_older_than_another() -> None:
    three = item((10, {"a": 1}), (20, {"a": 2}), (40, {"a": 3}))  # At 30 it may have been 1 again.
    for is_compacted, expected in ((False, "wrong"), (True, "lagging")):
        found = look(
            three,
            SeenRow({"a": 1}),
            Seen({"a": 20}),
            TYPED,
            lower=ALL,
            passed=lambda offset, timestamp: offset <= 20,
            is_complete=True,
            is_compacted=is_compacted,
        )
        assert found.result == expected
