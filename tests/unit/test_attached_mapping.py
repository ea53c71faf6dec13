"""From records and rows to facts, as the file says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from synchroscope.canonical import encode
from synchroscope.errors import ConfigurationError
from synchroscope.ports import Record
from validator.attached.history import (
    OLDER_VERSIONS,
    RECENT_VERSIONS,
    FieldHistory,
    Item,
    Version,
    decode_item,
    encode_item,
    value_hash,
)
from validator.attached.paths import MISSING, compile_path, plain_steps
from validator.attached.record_mapping import (
    Change,
    DeleteMapping,
    RecordMapping,
    RecordReader,
    Unreadable,
)
from validator.attached.row_mapping import RowMapping, RowReader


def record(value: Any, key: bytes = b"u1", headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    data = b"" if value is None else msgspec.json.encode(value)
    return Record(7, key, data, headers, 12.5)


EVENT = {"id": "u1", "kind": "ctx", "updates": {"risk": {"current": 3}, "mood": {"current": None}}}


def read(mapping: RecordMapping, given: Record) -> Change:
    found = RecordReader(mapping).read(given)
    assert isinstance(found, Change), found
    return found


def test_every_match_of_a_wildcard_is_a_field() -> None:
    mapping = RecordMapping(subject="$.id", type="$.kind", fields="$.updates.*", value="$.current")
    found = read(mapping, record(EVENT))
    assert (found.context_type, found.subject) == ("ctx", "u1")
    assert found.fields == {"risk": 3, "mood": None}
    assert (found.offset, found.timestamp, found.is_delete) == (7, 12.5, False)


def test_named_fields_come_from_value_key_header_and_the_record_itself() -> None:
    fields = {"risk": "$.updates.risk.current", "by": "header.by", "at": "timestamp", "no": "$.no"}
    mapping = RecordMapping(subject="key.$[1]", fields=fields)
    found = read(mapping, record(EVENT, b'["a", 5]', (("by", b"me"),)))
    assert found.subject == "5"
    assert found.fields == {"risk": 3, "by": "me", "at": 12.5}


@pytest.mark.parametrize("value", [None, {"op": "d"}, {"op": 4}])
def test_a_tombstone_and_a_record_that_says_so_delete(value: Any) -> None:
    delete = DeleteMapping(path="$.op", values=["d", "4"])
    assert read(RecordMapping(subject="key", delete=delete), record(value)).is_delete


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Record(0, b"k", b"{", (), 0.0), "no JSON"),
        (record({"a": 1}), "no subject"),
        (record({"id": ["x"]}), "no subject"),
        (record({"id": ""}), "no subject"),
        (Record(0, b"k", b'{"id": "\\ud83d"}', (), 0.0), "no subject"),
        (Record(0, b"k", b"", (), 0.0), "deletion without a subject"),
    ],
)
def test_what_cannot_be_understood_is_counted_by_a_reason(given: Record, reason: str) -> None:
    found = RecordReader(RecordMapping(subject="$.id")).read(given)
    assert isinstance(found, Unreadable)
    assert found.reason == reason


def test_a_value_that_cannot_be_read_leaves_the_rest_of_its_record() -> None:
    found = read(
        RecordMapping(subject="key"), Record(0, b"k", b'{"a": "\\ud83d", "b": 2}', (), 0.0)
    )
    assert (found.fields, found.unreadable, found.is_unreadable) == ({"b": 2}, ("a",), False)
    found = read(RecordMapping(subject="key"), Record(0, b"k", b'{"\\ud83d": 1, "b": 2}', (), 0.0))
    assert (found.fields, found.unreadable, found.is_unreadable) == ({"b": 2}, (), True)


BIG = [10**21, 10**30, -(10**30), 2**64, 2.5e19, 1e300, [10**21, {"a": 1e300}]]


@pytest.mark.parametrize("value", BIG)
def test_numbers_of_over_64_bits_are_values_and_are_kept_as_they_are(value: Any) -> None:
    data = json.dumps({"n": value}).encode()
    change = read(RecordMapping(subject="key"), Record(5, b"k", data, (), 0.0))
    item = Item("t", "k", 0, 5, 5, 0.0, {}, b"")
    item.apply(change)
    kept = decode_item(encode_item(item))
    assert kept.fields["n"].current == value
    assert value_hash(kept.fields["n"].current) == value_hash(value)


def test_a_large_float_is_the_integer_that_its_shortest_form_says() -> None:
    assert value_hash(2.5e19) == value_hash(25 * 10**18)
    assert value_hash([{"a": 1e300}]) == value_hash([{"a": 10**300}])
    assert value_hash(1.2345678901234567e19) == value_hash(12345678901234567000)
    assert value_hash(-2.5e19) == value_hash(-25 * 10**18)
    assert len({value_hash(n) for n in (10**21, 10**21 + 1, -(10**21), str(10**21))}) == 4
    for ordinary in (
        0,
        -1,
        2**63,
        2**64 - 1,
        -(2**63),
        0.5,
        5.0,
        1e18,
        "x",
        None,
        [1],
        {"a": True},
    ):
        assert value_hash(ordinary) == xxh3_64_intdigest(encode(ordinary))


def test_what_only_python_calls_json_is_read_too() -> None:
    data = b'{"a": NaN, "b": -Infinity, "c": 1}'
    found = read(RecordMapping(subject="key"), Record(0, b"k", data, (), 0.0))
    assert str(found.fields) == "{'a': nan, 'b': -inf, 'c': 1}"
    assert not found.unreadable


def test_a_record_that_is_no_json_says_whose_it_is_where_the_key_tells() -> None:
    given = Record(3, b"k", b"{", (), 0.0)
    by_key = RecordReader(RecordMapping(subject="key")).read(given)
    assert isinstance(by_key, Unreadable)
    assert by_key.change is not None
    assert (by_key.change.subject, by_key.change.is_unreadable) == ("k", True)
    by_value = RecordReader(RecordMapping(subject="$.id")).read(given)
    assert isinstance(by_value, Unreadable)
    assert by_value.change is None


def test_records_that_are_not_meant_are_passed_over() -> None:
    only = DeleteMapping(path="header.type", values=["changed"])
    reader = RecordReader(RecordMapping(subject="key", only=only))
    assert reader.read(record({"a": 1})) is None
    assert reader.read(record({"a": 1}, headers=(("type", b"changed"),))) is not None


def test_plain_paths_are_walked_and_others_are_left_to_the_library() -> None:
    assert plain_steps("$.a['b c'][0]") == ["a", "b c", 0]
    assert plain_steps("$..a") is None
    assert compile_path("$..c")({"a": {"c": 5}}) == 5
    assert compile_path("$.a[0]")({"a": {}}) is MISSING
    with pytest.raises(ConfigurationError, match="no JSON path"):
        compile_path("$.a[")


def test_a_path_that_names_no_fields_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"end the path with \.\*"):
        RecordReader(RecordMapping(subject="key", fields="$.updates"))


# -- rows ----------------------------------------------------------------------------------------


def test_a_row_is_an_item_by_its_key_columns() -> None:
    reader = RowReader(RowMapping(subject="user", type_column="kind"), ("kind", "user"))
    assert reader.key_of("risk", "u1") == ("risk", "u1")
    assert reader.name_of(("risk", "u1")) == ("risk", "u1")
    one_type = RowReader(RowMapping(subject="user", type="risk"), ("user",))
    assert one_type.key_of("mood", "u1") is None


def test_fields_are_all_columns_but_those_of_key_and_version_or_the_named_ones() -> None:
    row = {"a": 1, "b": None, "at": "now", "off": "17", "doc": {"c": 2}}
    every = RowReader(RowMapping(subject="id", ignore=frozenset({"at"}), offset="off"), ("id",))
    assert every.read(row).fields == {"a": 1, "doc": {"c": 2}}
    assert every.read(row).offset == 17
    named = RowReader(RowMapping(subject="id", fields={"x": "a", "y": "$.doc.c"}), ("id",))
    assert named.read(row).fields == {"x": 1, "y": 2}
    assert not named.read(None).is_there


@pytest.mark.parametrize("mapping", [RowMapping(subject="nobody"), RowMapping(subject="id")])
def test_key_columns_that_nobody_understands_are_refused(mapping: RowMapping) -> None:
    with pytest.raises(ConfigurationError, match="key column"):
        RowReader(mapping, ("id", "other"))


# -- histories -----------------------------------------------------------------------------------


def test_a_history_is_bounded_and_says_when_it_forgot() -> None:
    history = FieldHistory([])
    for offset in range(RECENT_VERSIONS + OLDER_VERSIONS):
        history.append(Version(offset, 0.0, offset))
    assert not history.is_cut
    assert [entry.offset for entry in history.entries(is_complete=True)][:2] == [-1, 0]
    history.append(Version(1_000, 0.0, 1_000))
    assert history.is_cut
    offsets = [entry.offset for entry in history.entries(is_complete=True)]
    assert (offsets[0], offsets[-1], len(offsets)) == (1, 1_000, RECENT_VERSIONS + OLDER_VERSIONS)
