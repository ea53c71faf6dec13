"""What the log says and what a store has, held against each other by meaning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.attached_world import AttachedWorld, MemoryStore
from validator.attached.comparison import NOTHING_SEEN, Look, look
from validator.attached.history import FieldHistory, Item, Version, value_hash
from validator.attached.key_forms import key_form, plain_key
from validator.attached.record_mapping import Change
from validator.attached.row_mapping import RowMapping, RowReader, SeenRow
from validator.attached.unchecked import KEY_FORM, SHARED_KEY, UNREAD_TEXT
from validator.stores.port import Key, Row
from validator.stores.postgresql_values import KNOWS
from validator.stores.text_values import JSON_KINDS, Kind

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
MIDNIGHT = "2026-01-01T00:00:00+00:00"
#: Kind of the column (None: all is text), what the log says, what the store has.
SAME: list[tuple[Kind | None, Any, Any]] = [
    ("moment", "2026-01-01T00:00:00Z", MIDNIGHT),
    ("moment", "2026-01-01T01:00:00+01:00", MIDNIGHT),
    ("moment", "2026-01-01T01:00:00.500+01:00", "2026-01-01T01:00:00.500000"),
    ("time", "10:00", "10:00:00"),
    ("interval", "1 day 02:00:00", "P1DT2H"),
    ("moment", "20260101T000000Z", MIDNIGHT),
    ("moment", "2026-01-01 00:00:00 UTC", MIDNIGHT),
    ("moment", "2026-01-01", "2026-01-01T00:00:00"),
    ("time", "10:00:00Z", "10:00:00"),
    ("interval", "90 minutes", "PT1H30M"),
    ("interval", "2 weeks", "P14D"),
    ("interval", "P0.5D", "PT12H"),
    ("number", "5.10", 5.1),
    ("number", " 7 ", 7),
    ("number", 12345678901234567890123, "12345678901234567890123"),
    ("bytes", "ab", "6162"),
    ("boolean", "yes", True),
    ("boolean", "off", False),
    ("boolean", "N", False),
    ("number", "007", 7),
    ("bytes", "\\x00FF", "00ff"),
    ("boolean", "true", True),
    ("boolean", "T", True),
    ("boolean", "0", False),
    ("json", '{"a": [1, 2.0]}', {"a": [1, 2]}),
    ("number[]", ["1.50"], [1.5]),
    ("text", UUID.upper(), UUID),
    ("text", UUID.replace("-", ""), UUID),
    ("text", "{" + UUID.upper() + "}", UUID),
    ("text", "ab", "ab    "),
    ("text", "ab ", "ab    "),
    ("text", "2026-01-01T00:00:00Z", "2026-01-01"),
    ("text", "20260101", "2026-01-01"),
    ("text", "10.0.0.1/32", "10.0.0.1"),
    ("text", "::FFFF:10.0.0.1", "::ffff:10.0.0.1"),
    ("text", "08-00-2B-01-02-03", "08:00:2b:01:02:03"),
    (None, True, "1"),
    (None, False, "0"),
    (None, True, "true"),
    (None, 5.1, "5.10"),
    (None, 7, "007"),
    (None, "2026-01-01T00:00:00Z", "2026-01-01 00:00:00+00"),
]
OTHER: list[tuple[Kind | None, Any, Any]] = [
    ("moment", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01+00:00"),
    ("moment", "2026-01-01T01:00:00+01:00", "2026-01-01T01:00:00+00:00"),
    ("number", "5.10", 5.2),
    ("number", 5, "5"),
    ("boolean", "true", False),
    ("boolean", "yes please", True),
    ("text", UUID, UUID.upper()),
    ("text", UUID.upper(), UUID[:-1] + "2"),
    ("text", "ab    ", "ab"),
    ("text", 5, "5"),
    ("text", True, 1),
    (None, True, "0"),
    (None, 2, "1"),
    (None, "2026-01-01T00:00:00Z", "2026-01-01 00:00:01+00"),
]


def reader_of(kind: Kind | None) -> RowReader:
    reader = RowReader(RowMapping(subject="id", is_text=kind is None), ("id",))
    reader.declare(frozenset() if kind is None else KNOWS, {} if kind is None else {"f": kind})
    return reader


def is_same(kind: Kind | None, logged: Any, stored: Any) -> bool:
    history = FieldHistory([Version(3, 0.0, logged)])
    entries = history.entries(is_complete=True)
    return reader_of(kind).versions_of("f", history, entries, stored)[1] == [1]


@pytest.mark.parametrize(("kind", "logged", "stored"), SAME)
def test_what_a_column_makes_of_a_value_is_that_value(
    kind: Kind | None, logged: Any, stored: Any
) -> None:
    assert value_hash(logged) != value_hash(stored)
    assert is_same(kind, logged, stored)


@pytest.mark.parametrize(("kind", "logged", "stored"), OTHER)
def test_what_no_column_makes_of_it_is_another(kind: Kind | None, logged: Any, stored: Any) -> None:
    assert not is_same(kind, logged, stored)


#: What the column makes of the text is known to PostgreSQL alone.
UNREAD: list[tuple[Kind, Any, Any]] = [
    ("moment", "2026-01-01T00:00", "2025-12-31T23:00:00+00:00"),
    ("moment", "Thu, 01 Jan 2026 00:00:00 GMT", MIDNIGHT),
    ("time", "10:00 PM", "22:00:00"),
    ("interval", "1 hour ago", "PT-1H"),
    ("boolean", "yes please", True),
    ("number", "0x10", 16),
    ("text", "1.5", "$1.50"),
    ("text", "[1,3]", "[1,4)"),
    ("text", "Jan 1 2026", "2026-01-01"),
]
#: What is read is another value.
READ: list[tuple[Kind, Any, Any]] = [
    ("moment", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01+00:00"),
    ("time", "10:00", "10:00:01"),
    ("interval", "90 minutes", "PT1H31M"),
    ("boolean", "yes", False),
    ("number", "5.10", 5.2),
    ("number", 5, 6),
    ("text", "low", "high"),
    ("text", "2026-01-01T00:00:00Z", "2026-01-02"),
    ("text", "[1,4)", "[1,5)"),
    ("text", "[1,4]", "[1,5]"),
    ("text", "(low, high)", "(low, hugh)"),
    ("text", "10.0.0.1", "10.0.0.2"),
    ("bytes", "00ff", "00fe"),
]


def looked(kind: Kind, logged: Any, stored: Any) -> Look:
    change = Change("t", "u", {"f": logged}, False, False, 3, 3.0)
    item = Item("t", "u", 0, 3, 0, 0.0, {}, b"")
    item.apply(change)
    return look(
        item,
        SeenRow({"f": stored}),
        NOTHING_SEEN,
        reader_of(kind),
        lower=10,
        passed=lambda offset, timestamp: True,
        is_complete=True,
    )


@pytest.mark.parametrize(("kind", "logged", "stored"), UNREAD)
def test_of_a_text_that_cannot_be_read_as_its_column_is_nothing_is_said(
    kind: Kind, logged: Any, stored: Any
) -> None:
    found = looked(kind, logged, stored)
    assert (found.result, found.unchecked) == ("unknown", UNREAD_TEXT)


@pytest.mark.parametrize(("kind", "logged", "stored"), READ)
def test_of_a_text_that_can_be_read_another_value_is_wrong(
    kind: Kind, logged: Any, stored: Any
) -> None:
    assert looked(kind, logged, stored).result == "wrong"


def test_a_store_without_booleans_has_bits() -> None:
    reader = RowReader(RowMapping(subject="id"), ("id",))
    reader.declare(frozenset({"number"}), {})
    assert value_hash(True) in reader.hashes(1)
    assert value_hash([1]) in reader.hashes("[1]")
    reader.declare(JSON_KINDS, {})
    assert value_hash(True) not in reader.hashes(1)


def test_of_moments_that_the_store_writes_otherwise_only_those_still_known_count() -> None:
    history = FieldHistory([])
    for hour in range(9):
        history.append(Version(hour, 0.0, f"2026-01-01T0{hour}:00:00Z"))
    entries = history.entries(is_complete=True)
    reader = reader_of("moment")
    for hour in (3, 8):
        stored = f"2026-01-01T0{hour}:00:00+00:00"
        assert reader.versions_of("f", history, entries, stored) == (entries, [hour + 1], False)
    known, matching, is_cut = reader.versions_of("f", history, entries, "2026-01-01T02:00:00+00:00")
    assert ([entry.offset for entry in known], matching, is_cut) == ([3, 4, 5, 6, 7, 8], [], True)
    history.append(Version(9, 0.0, "2026-01-01T02:00:00Z"))
    entries = history.entries(is_complete=True)
    found = reader.versions_of("f", history, entries, "2026-01-01T02:00:00+00:00")
    assert found == (entries, [3, 10], False)
    # As text each of them is known by its hash.
    text = reader_of(None)
    assert text.versions_of("f", history, entries, "2026-01-01T01:00:00Z")[1:] == ([2], False)
    assert text.versions_of("f", history, entries, "2026-01-01T01:00:00+00:00")[1:] == ([], True)


class TypedStore(MemoryStore):
    """Has one column of moments."""

    knows = KNOWS

    def kinds(self) -> dict[str, Kind]:
        return {"at": "moment", "n": "number"}


def test_a_typed_store_is_followed_through_lag_without_a_finding_and_loss_is_found(
    tmp_path: Path,
) -> None:
    world = AttachedWorld(tmp_path)
    world.validator.close()
    world.store = TypedStore()
    world.open()
    seen: dict[str, dict[str, Any]] = {}

    def send(second: int, *, is_applied: bool = True) -> int:
        offset = world.send("u", {"at": f"2026-01-01T00:00:{second:02}Z", "n": f"{second}.50"})
        seen["u"] = {"at": f"2026-01-01T00:00:{second:02}+00:00", "n": second + 0.5}
        if is_applied:
            world.store.rows["u"] = seen["u"]
        return offset

    send(0)
    world.run(12.0)
    assert world.verdict()[0] == "CONSISTENT"
    world.store.rows["u"] = dict(seen["u"])
    for second in range(1, 12):
        world.is_consuming = False
        send(second, is_applied=False)
    world.run(20.0, traffic=False)
    assert world.news == []
    assert world.verdict()[0] == "UNKNOWN"
    world.store.rows["u"] = dict(seen["u"])
    world.run(40.0, traffic=False)
    assert world.verdict()[0] == "CONSISTENT"
    world.store.rows["u"]["n"] = 11.0
    world.run(12.0, traffic=False)
    (finding,) = world.open_findings()
    assert (finding.kind, finding.evidence["cause"]) == ("corrupted", "rounded to fewer digits")


class CastingStore(MemoryStore):
    """Has a key of a type of its own, as a column of numbers: it answers to "007" with 7."""

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        return super().fetch([(plain_key(key),) for (key,) in keys])


UPPER = UUID.upper()


def started(folder: Path, store: MemoryStore, rows: dict[str, dict[str, Any]]) -> AttachedWorld:
    world = AttachedWorld(folder)
    world.validator.close()
    world.store = store
    world.open()
    world.is_consuming = False
    world.store.rows = rows
    for user in ("007", UPPER, "8"):
        world.send(user, {"v": 1})
    world.run(20.0, traffic=False)
    return world


def test_keys_are_those_that_the_columns_type_makes_of_the_subjects(tmp_path: Path) -> None:
    rows = {"7": {"v": 1}, UUID: {"v": 1}, "8": {"v": 1}}
    world = started(tmp_path, CastingStore(), rows)
    assert world.news == []
    assert world.verdict()[0] == "CONSISTENT"
    rows["7"]["v"] = 500
    rows["9"] = {"v": 1}
    del rows[UUID]
    world.run(20.0, traffic=False)
    found = {(f.evidence["cause"], f.subjects[0]) for f in world.open_findings()}
    assert found == {
        ("written behind the pipeline's back", "007"),
        ("row that the log does not have", "9"),
        ("deleted behind the pipeline's back", UPPER),
    }


def test_where_keys_are_text_they_are_what_they_are(tmp_path: Path) -> None:
    rows = {"007": {"v": 1}, "7": {"v": 1}, UPPER: {"v": 1}, UUID: {"v": 1}, "8": {"v": 1}}
    world = started(tmp_path, MemoryStore(), rows)
    found = {(f.evidence["cause"], f.subjects[0]) for f in world.open_findings()}
    assert found == {("row that the log does not have", key) for key in ("7", UUID)}


class KeyedStore(MemoryStore):
    """Has a key column of a kind, and finds a row by whatever the column reads as its key."""

    kind: Kind = "number"

    def key_kinds(self) -> list[Kind]:
        return [self.kind]

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        forms = {key_form(self.kind, own): own for own in self.rows}
        wanted = {forms.get(key_form(self.kind, key), key) for (key,) in keys}
        return super().fetch([(key,) for key in wanted])


def keyed(folder: Path, kind: Kind, subjects: list[str], rows: dict[str, Any]) -> AttachedWorld:
    world = AttachedWorld(folder)
    world.validator.close()
    world.store = KeyedStore()
    world.store.kind = kind
    world.open()
    world.is_consuming = False
    world.store.rows = {key: {"v": value} for key, value in rows.items()}
    for number, subject in enumerate(subjects):
        world.send(subject, {"v": number})
    world.run(25.0, traffic=False)
    return world


@pytest.mark.parametrize(
    ("kind", "subject", "key"),
    [
        ("number", "1.50", "1.5"),
        ("number", "1.5", "1.50"),
        ("number", "5.0", "5"),
        ("number", "1e3", "1000"),
        ("boolean", "t", "true"),
        ("moment", "2026-01-01T01:00:00+01:00", "2026-01-01 00:00:00+00"),
    ],
)
def test_a_key_is_what_its_column_makes_of_the_subject(
    tmp_path: Path, kind: Kind, subject: str, key: str
) -> None:
    world = keyed(tmp_path, kind, [subject], {key: 0})
    assert world.news == []
    assert world.verdict()[0] == "CONSISTENT"
    world.store.rows[key]["v"] = 500
    world.run(20.0, traffic=False)
    assert [f.subjects for f in world.open_findings()] == [[subject]]


def test_a_key_that_its_column_may_write_otherwise_is_unknown(tmp_path: Path) -> None:
    world = keyed(tmp_path, "moment", ["2026-01-01"], {"2025-12-31 23:00:00+00": 0})
    assert world.news == []
    assert world.verdict()[0] == "UNKNOWN"
    assert f"2 {KEY_FORM}" in world.verdict()[1]


@pytest.mark.parametrize("subjects", [["7", "007"], ["007", "7"], ["07", "007"]])
def test_subjects_that_are_one_key_are_unknown_and_others_are_checked(
    tmp_path: Path, subjects: list[str]
) -> None:
    world = keyed(tmp_path, "number", [*subjects, "8"], {"7": 1, "8": 2})
    assert world.news == []
    assert world.verdict()[0] == "UNKNOWN"
    assert f"2 {SHARED_KEY}" in world.verdict()[1]
    world.store.rows["8"]["v"] = 500
    world.store.rows["9"] = {"v": 1}
    world.run(20.0, traffic=False)
    assert sorted(f.subjects[0] for f in world.open_findings()) == ["8", "9"]
