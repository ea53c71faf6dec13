"""Two stores at rest, of any kinds: the keys that differ, and nothing else."""

from __future__ import annotations

import csv
import json
import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from service.cli import cli
from validator.compare import spill
from validator.compare.comparing import Comparison, Difference
from validator.compare.narrowing import bits_for
from validator.compare.row_equality import TEXT, TYPED, Equality, Kinds
from validator.compare.spill import HashJoin
from validator.stores.opening import open_store
from validator.stores.postgresql_values import KNOWS

Rows = Mapping[str, Mapping[str, Any]]


def sqlite(folder: Path, name: str, rows: Rows, columns: Sequence[str] = ("a", "b")) -> str:
    path = folder / f"{name}.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE t (id PRIMARY KEY, {', '.join(columns)})")
        marks = ", ".join("?" * (len(columns) + 1))
        connection.executemany(
            f"INSERT INTO t VALUES ({marks})",
            [(key, *(row.get(column) for column in columns)) for key, row in rows.items()],
        )
    return f"sqlite://{path}?table=t"


def csv_file(folder: Path, name: str, rows: Rows, columns: Sequence[str] = ("a", "b")) -> str:
    path = folder / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns])
        for key, row in rows.items():
            writer.writerow([key, *(row.get(column) for column in columns)])
    return f"csv:{path}"


def lmdb_store(folder: Path, name: str, rows: Rows) -> str:
    path = folder / name
    environment = lmdb.open(str(path), map_size=1 << 28)
    with closing(environment), environment.begin(write=True) as transaction:
        for key, row in rows.items():
            transaction.put(f"row:{key}".encode(), msgspec.json.encode(row))
    return f"lmdb://{path}?key=row:{{id}}"


MAKERS = {"sqlite": sqlite, "csv": csv_file, "lmdb": lmdb_store}


def compare(left: str, right: str, **options: Any) -> list[Difference]:
    comparison = Comparison(
        lambda: open_store(left, ["id"]), lambda: open_store(right, ["id"]), **options
    )
    return list(comparison.run())


def found(differences: Sequence[Difference]) -> dict[str, tuple[str, list[str]]]:
    return {d.key[0]: (d.kind, list(d.columns)) for d in differences}


def spoiled(rows: Rows, rng: random.Random) -> tuple[Rows, dict[str, tuple[str, list[str]]]]:
    """Return the rows with some changed, missing and extra ones, and which they are."""
    after = {key: dict(row) for key, row in rows.items()}
    must: dict[str, tuple[str, list[str]]] = {}
    for key in rng.sample(sorted(rows), min(len(rows), rng.randrange(30))):
        if rng.random() < 0.5:
            del after[key]
            must[key] = ("missing", [])
        else:
            names = sorted(rng.sample(["a", "b"], rng.randint(1, 2)))
            for name in names:
                after[key][name] = f"spoiled {rng.random()}"
            must[key] = ("changed", names)
    for number in range(rng.randrange(10)):
        after[f"x{number}"] = {"a": 1, "b": "more"}
        must[f"x{number}"] = ("extra", [])
    return after, must


@pytest.mark.parametrize("left", MAKERS)
@pytest.mark.parametrize("right", MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_two_stores_of_any_kinds_differ_where_they_were_spoiled(
    left: str, right: str, seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    rows = {f"k{n}": {"a": n, "b": f"text {n}"} for n in range(rng.choice([0, 1, 500, 6_000]))}
    after, must = spoiled(rows, rng)

    differences = compare(
        MAKERS[left](tmp_path, "left", rows), MAKERS[right](tmp_path, "right", after)
    )

    assert found(differences) == must


@pytest.mark.parametrize("odd", ["", "k" * 600])
def test_a_key_that_lmdb_cannot_have_is_missing_there_and_hides_no_difference(
    odd: str, tmp_path: Path
) -> None:
    rows = {f"k{n}": {"a": 1, "b": "x"} for n in range(20)}
    after = {**rows, "k17": {"a": 2, "b": "x"}, "k18": {"a": 2, "b": "x"}}
    path = tmp_path / "right"
    environment = lmdb.open(str(path), map_size=1 << 24)
    with closing(environment), environment.begin(write=True) as transaction:
        for key, row in after.items():
            transaction.put(key.encode(), msgspec.json.encode(row))

    differences = compare(
        sqlite(tmp_path, "left", {**rows, odd: {"a": 1, "b": "x"}}), f"lmdb://{path}"
    )

    assert found(differences) == {
        odd: ("missing", []),
        "k17": ("changed", ["a"]),
        "k18": ("changed", ["a"]),
    }


def test_the_sides_may_be_larger_than_memory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "BUFFERED_BYTES", 2_000)
    rows = {f"k{n}": {"a": n, "b": "text"} for n in range(3_000)}
    after, must = spoiled(rows, random.Random(1))

    assert found(compare(sqlite(tmp_path, "l", rows), sqlite(tmp_path, "r", after))) == must


@given(
    st.dictionaries(st.text(max_size=3), st.binary(min_size=1, max_size=2)),
    st.dictionaries(st.text(max_size=3), st.binary(min_size=1, max_size=2)),
)
def test_a_join_tells_exactly_the_keys_that_differ(
    left: dict[str, bytes], right: dict[str, bytes]
) -> None:
    with HashJoin("left", "right", unique=[True, True]) as join:
        for key, digest in left.items():
            join.left.add((key,), digest)
        for key, digest in right.items():
            join.right.add((key,), digest)
        pairs = [(pair.key[0], pair.left, pair.right) for pair in join.differing()]

    keys = left.keys() | right.keys()
    must = [(k, left.get(k), right.get(k)) for k in keys if left.get(k) != right.get(k)]
    assert sorted(pairs, key=repr) == sorted(must, key=repr)


SQLITE = Kinds(frozenset({"number"}))


def same(left: Any, right: Any, *stores: Kinds) -> bool:
    """Say whether two values are the same, either way round."""
    answers = {
        Equality(None, *stores).same("a", left, right),
        Equality(None, *stores[::-1]).same("a", right, left),
    }
    assert len(answers) == 1
    return answers.pop()


@pytest.mark.parametrize(
    ("left", "right", "is_same", "is_same_where_right_is_text"),
    [
        (5, 5.0, True, True),
        (5, "5", False, True),
        (1.5, "1.50", False, True),
        ("1.5", "1.50", False, False),
        (True, "t", False, True),
        (False, "false", False, True),
        (True, "1", False, False),
        (True, 1, False, False),
        (None, "", False, True),
        (0, "", False, False),
        ("2026-01-01T00:00:00+00:00", "2026-01-01 01:00:00+01", False, True),
        ("2026-01-01T00:00:00", "2026-01-01 00:00:01", False, False),
        ("2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00:00.1234568Z", False, False),
        ("20260101", "2026-01-01", False, False),
        ("007", "7", False, False),
        (10, "1_0", False, False),
        (2**70, 2**70, True, True),
        (2**70, 2**70 + 1, False, False),
        (2.5e19, 25 * 10**18, True, True),
        ([25 * 10**18], [2.5e19], True, True),
        ("\ud800", "\ud800", True, True),
        ([1, {"a": None}], [1.0, {"a": None}], True, True),
        ({"a": [1, "x"], "b": 2}, '{"b":2, "a":[1.0,"x"]}', False, True),
        ({"a": 1}, '{"a": "1"}', False, False),
        ('{"a": 1}', '{"a":1}', False, False),
    ],
)
def test_values_are_the_same_by_what_they_mean(
    left: Any, right: Any, is_same: bool, is_same_where_right_is_text: bool
) -> None:
    assert same(left, right, TYPED, TYPED) is is_same
    assert same(left, right, TYPED, TEXT) is is_same_where_right_is_text


@pytest.mark.parametrize(
    ("kind", "typed", "other", "is_same_as_text", "is_same_in_sqlite", "is_same_in_json"),
    [
        ("boolean", True, 1, False, True, False),
        ("boolean", False, 0, False, True, False),
        ("boolean", True, 2, False, False, False),
        ("boolean", True, 0, False, False, False),
        ("boolean", True, "t", True, True, False),
        ("boolean", True, "1", False, False, False),
        ("number", 1, True, False, False, False),
        ("number", 5, "5", True, False, False),
        ("number", 5, "6", False, False, False),
        ("number", "9007199254740993.1", "9007199254740993.10", True, False, False),
        ("number", 9007199254740993, "9007199254740992", False, False, False),
        ("number", float("inf"), "Infinity", True, False, False),
        ("number", float("nan"), "NaN", True, False, False),
        ("moment", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00Z", True, True, True),
        ("moment", "2026-01-01T00:00:00+00:00", "2026-01-01T02:00:00+02:00", True, True, True),
        ("moment", "2026-01-01T00:00:00+00:00", "2026-01-01T02:00:00Z", False, False, False),
        ("moment", "2026-01-01T00:00:00.5+00:00", "2026-01-01 00:00:00.5+00", True, True, True),
        ("moment", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.0000001Z", *[False] * 3),
        ("moment", "infinity", "infinity", True, True, True),
        ("moment", "0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", *[False] * 3),
        ("time", "10:00:00.500000", "10:00:00.5", True, True, True),
        ("time", "10:00:00+02:00", "10:00:00+02", True, True, True),
        ("bytes", "01ff", "\\x01FF", True, True, True),
        ("bytes", "01ff", "01ff00", False, False, False),
        ("interval", "P1DT2H", "1 day 02:00:00", True, True, True),
        ("interval", "P1DT2H", "P1DT2H", True, True, True),
        ("interval", "P-1DT-2H-0.5S", "-1 days -02:00:00.5", True, True, True),
        ("interval", "P1M", "30 days", False, False, False),
        ("interval", "P1Y2M", "1 year 2 mons", True, True, True),
        ("json", {"a": [1, 2]}, '{"a":[1,2.0]}', True, True, False),
        ("json", "5", "5", False, False, True),
        ("json", 5, "5", True, True, False),
        ("json", "5", '"5"', True, True, False),
        ("json", None, "null", True, True, False),
        ("number[]", [1, None, [2.5]], "{1,NULL,{2.50}}", True, True, False),
        ("number[]", [1, 2], "[1, 2]", True, True, False),
        ("number[]", [1, 2], [1, 2.0], True, True, True),
        ("number[]", [1, 2], "{2,1}", False, False, False),
        ("number[]", [1], "{1", False, False, False),
        ("text[]", ["NULL", None, 'a,"\\', ""], '{"NULL",NULL,"a,\\"\\\\",""}', True, True, False),
        ("text[]", ["1"], "{1}", True, True, False),
        ("text[]", [], "{}", True, True, False),
        (
            "moment[]",
            ["2026-01-01T00:00:00+00:00"],
            '{"2026-01-01 01:00:00+01"}',
            True,
            True,
            False,
        ),
        ("moment[]", ["2026-01-01T00:00:00+00:00"], ["2026-01-01T00:00:00Z"], True, True, True),
        ("text", "5", 5, True, False, False),
        ("text", '{"a": 1}', '{"a":1}', False, False, False),
    ],
)
def test_what_is_declared_as_a_kind_is_the_same_as_what_may_stand_for_it(
    kind: str,
    typed: Any,
    other: Any,
    is_same_as_text: bool,
    is_same_in_sqlite: bool,
    is_same_in_json: bool,
) -> None:
    declared = Kinds(KNOWS, {"a": kind})
    assert same(typed, other, declared, TEXT) is is_same_as_text
    assert same(typed, other, declared, SQLITE) is is_same_in_sqlite
    assert same(typed, other, declared, TYPED) is is_same_in_json
    # What is read by its kind has equal digests as well: no second look has to tell.
    if is_same_as_text and kind != "text":
        equality = Equality(["a"], declared, TEXT)
        assert equality.digest({"a": typed}, 0) == equality.digest({"a": other}, 1)


def test_a_store_without_booleans_has_0_and_1_for_those_of_json() -> None:
    assert same(True, 1, TYPED, SQLITE)
    assert same(False, 0, TYPED, SQLITE)
    assert not same(True, 0, TYPED, SQLITE)
    assert not same(True, 1, TYPED, TYPED)
    assert same({"a": 1}, '{"a":1}', TYPED, SQLITE)
    assert not same(5, "5", TYPED, SQLITE)


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
texts = st.sampled_from(
    [
        *("t", "1", "1.0", "NaN", "{1}", "{}", "[1]", "null", '"1"', "\\x01", "01", "P1D", ""),
        *("2026-01-01T00:00:00Z", "2026-01-01 00:00:00", "10:00:00", "infinity", "1 day", "true"),
    ]
)
values = json_values | texts | st.lists(json_values | texts, max_size=2)
stores = st.sampled_from([TYPED, TEXT, SQLITE]) | st.builds(
    lambda kind: Kinds(KNOWS, {"a": kind}),
    st.sampled_from([*sorted(KNOWS), *(f"{kind}[]" for kind in sorted(KNOWS)), "text"]),
)


@given(values, values, stores, stores)
def test_rows_of_equal_digests_are_the_same(left: Any, right: Any, one: Kinds, two: Kinds) -> None:
    equality = Equality(["a"], one, two)
    if equality.digest({"a": left}, 0) == equality.digest({"a": right}, 1):
        assert equality.differing({"a": left}, {"a": right}) == []


@given(json_values | texts, json_values | texts)
def test_two_stores_of_json_hold_the_same_only_where_it_is_equal(left: Any, right: Any) -> None:
    is_equal = left == right and isinstance(left, bool) is isinstance(right, bool)
    is_no_number = left != left and right != right

    assert same(left, right, TYPED, TYPED) is (is_equal or is_no_number)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *arguments])


def test_the_command_prints_one_json_line_a_key_and_nothing_else(tmp_path: Path) -> None:
    long = "k" * 3_000
    left = sqlite(tmp_path, "l", {"10": {"a": 1, "b": "x"}, "9": {"a": 1}, long: {"a": 2}})
    right = sqlite(tmp_path, "r", {"10": {"a": 2, "b": "y"}, "8": {"a": 1}, long: {"a": 3}})

    result = run(left, right, "--key", "id", "--output", "json", "--settle", "0")

    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"key": "8", "kind": "extra", "columns": []},
        {"key": "9", "kind": "missing", "columns": []},
        {"key": "10", "kind": "changed", "columns": ["a", "b"]},
        {"key": long, "kind": "changed", "columns": ["a"]},
    ]
    assert "4 keys differ. 3 and 3 rows read whole" in result.stderr


def test_the_command_shows_values_where_asked_to(tmp_path: Path) -> None:
    left = sqlite(tmp_path, "l", {"1": {"a": 1, "b": "x"}, "2": {"a": 5, "b": "y"}})
    right = csv_file(tmp_path, "r", {"1": {"a": 2, "b": "x"}})
    arguments = [left, right, "--key", "id", "--settle", "0", "--values"]

    told = run(*arguments, "--output", "text").stdout
    lines = [json.loads(line) for line in run(*arguments).stdout.splitlines()]

    assert '~ changed   1\n    a: 1 | "2"\n' in told
    assert lines[0]["left"] == {"a": 1}
    assert lines[0]["right"] == {"a": "2"}
    assert lines[1]["left"] == {"a": 5, "b": "y"}
    assert lines[1]["right"] is None


def test_equal_stores_are_silent_and_exit_0(tmp_path: Path) -> None:
    rows = {str(n): {"a": n, "b": None} for n in range(100)}
    result = run(
        sqlite(tmp_path, "l", rows), csv_file(tmp_path, "r", rows), "--key", "id", "--settle", "1"
    )

    assert result.exit_code == 0
    assert result.stdout == ""


def test_rows_without_a_key_leave_the_comparison_undecided(tmp_path: Path) -> None:
    rows: dict[Any, Any] = {"1": {"a": 1}, None: {"a": 2}}
    result = run(sqlite(tmp_path, "l", rows), sqlite(tmp_path, "r", rows), "--key", "id")

    assert result.exit_code == 3
    assert "1 and 1 rows have no key" in result.stderr


@pytest.mark.parametrize(
    ("right_columns", "arguments", "problem"),
    [
        (["a", "c"], [], "only sqlite://"),
        (["a", "c"], ["--columns", "a,b"], "has no column 'b'"),
        (["a", "b"], ["--columns", "a,,b"], "no list of distinct names"),
        (["a", "b"], ["--key", "id,id"], "no list of distinct names"),
        (["a", "b"], ["--key", "ident"], "has no column 'ident'"),
        (["a", "b"], ["--settle", "-1"], "not in the range"),
        (["a", "b"], ["--settle", "nan"], "no span of time"),
        (["a", "b"], ["--settle", "inf"], "no span of time"),
        (["a", "b"], ["--settle", "1e999"], "no span of time"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    right_columns: list[str], arguments: list[str], problem: str, tmp_path: Path
) -> None:
    left = sqlite(tmp_path, "l", {"1": {"a": 1}})
    right = sqlite(tmp_path, "r", {"1": {"a": 1}}, right_columns)

    result = run(left, right, "--key", "id", "--settle", "0", *arguments)

    assert result.exit_code == 2 or "ConfigurationError" in type(result.exception).__name__
    assert problem in result.stderr + str(result.exception)
    assert result.stdout == ""


def test_the_slash_of_an_absolute_path_may_be_written_too(tmp_path: Path) -> None:
    uri = sqlite(tmp_path, "l", {"1": {"a": 1}})
    literal = uri.replace("sqlite:///", "sqlite:////")

    assert run(uri, literal, "--key", "id", "--settle", "0").exit_code == 0


def test_other_columns_do_not_matter_where_some_are_named(tmp_path: Path) -> None:
    left = sqlite(tmp_path, "l", {"1": {"a": 1, "b": 2}})
    right = sqlite(tmp_path, "r", {"1": {"a": 1, "c": 3}}, ["a", "c"])

    assert run(left, right, "--key", "id", "--columns", "a", "--settle", "0").exit_code == 0


@pytest.mark.parametrize("rows", [0, 1, 1_000, 10**6, 10**8, 10**12])
def test_buckets_hold_about_as_many_rows_as_wanted(rows: int) -> None:
    bits = bits_for(rows, 256)

    assert bits == 4 or 128 <= rows >> bits < 512
