"""What cannot be told is undecided: never the same, and never silent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import lmdb
import msgspec
import pytest
import redis
from click.testing import CliRunner, Result

from service.cli import cli
from synchroscope.errors import ConfigurationError
from tests.redis import redis_prefix
from tests.servers import redis_url
from validator.compare.comparing import Comparison, Difference
from validator.stores.http import HttpStore
from validator.stores.opening import open_store
from validator.stores.port import ForeignStore, Key, Row
from validator.stores.sqlite import SqliteStore


def run(left: str, right: str, *more: str) -> Result:
    arguments = ["compare", left, right, "--key", "id", "--settle", "0", "--output", "json"]
    return CliRunner().invoke(cli, [*arguments, *more])


def lines(result: Result) -> list[tuple[Any, ...]]:
    told = [json.loads(line) for line in result.stdout.splitlines()]
    return [(one["key"], one["kind"], one.get("reason")) for one in told]


def sqlite(path: Path, rows: Sequence[tuple[Any, Any]], declared: str = "id, v") -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE t ({declared})")
        connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    return f"sqlite://{path}?table=t"


def lmdb_store(path: Path, entries: Mapping[bytes, bytes], template: str = "") -> str:
    environment = lmdb.open(str(path), map_size=1 << 24)
    with closing(environment), environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return f"lmdb://{path}{template}"


ODD_KEYS: list[Any] = [
    *(-(1 << 63), (1 << 63) - 1, 1.5, -0.5, 1e20, float("inf"), float("-inf")),
    *(b"ab", b"", "5.0", 5, "inf2"),
]


@pytest.mark.parametrize(
    "declared", ["id, v", "id REAL, v", "id BLOB PRIMARY KEY, v", "id TEXT, v"]
)
def test_sqlite_keys_of_every_storage_class_are_compared(declared: str, tmp_path: Path) -> None:
    keys = [key for key in ODD_KEYS if "REAL" not in declared or key != "5.0"]  # It is 5 there.
    left = sqlite(tmp_path / "l.db", [(key, "x") for key in keys], declared)
    right = sqlite(tmp_path / "r.db", [(key, "y") for key in keys], declared)
    none = sqlite(tmp_path / "n.db", [], declared)

    changed, missing = run(left, right), run(left, none)

    assert [kind for _, kind, _ in lines(changed)] == ["changed"] * len(keys)
    assert [kind for _, kind, _ in lines(missing)] == ["missing"] * len(keys)
    assert run(left, left).exit_code == 0


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_sqlite_keys_of_every_storage_class_are_walked_in_pages(limit: int, tmp_path: Path) -> None:
    uri = sqlite(tmp_path / "l.db", [(key, "x") for key in ODD_KEYS])
    with closing(open_store(uri, ["id"])) as store:
        walked, cursor = [], None
        while True:
            page = store.scan(cursor, limit)
            walked += page.rows
            cursor = page.cursor
            if cursor is None:
                break
        assert len(dict(walked)) == len(walked) == len(ODD_KEYS)
        assert store.fetch(key for key, _ in walked) == dict(walked)


@pytest.mark.parametrize("limit", range(1, 6))
def test_sqlite_keys_that_a_collation_takes_for_one_are_all_walked(
    limit: int, tmp_path: Path
) -> None:
    keys = ["a", "A", "b", "B", "c"]
    uri = sqlite(tmp_path / "l.db", [(key, "x") for key in keys], "id TEXT COLLATE NOCASE, v")
    with closing(open_store(uri, ["id"])) as store:
        walked, cursor = [], None
        while True:
            page = store.scan(cursor, limit)
            walked += [key for (key,), _ in page.rows]
            cursor = page.cursor
            if cursor is None:
                break
    assert sorted(walked) == sorted(keys)


@pytest.mark.parametrize("place", range(1, 5))
def test_two_rows_of_one_sqlite_key_are_an_error_also_on_a_pages_border(
    place: int, tmp_path: Path
) -> None:
    uri = sqlite(tmp_path / "l.db", [*((n, "x") for n in range(1, 5)), (place, "y")])
    with (
        closing(open_store(uri, ["id"])) as store,
        pytest.raises(ConfigurationError, match=f"two rows with the key {place}"),
    ):
        cursor = store.scan(None, place).cursor
        store.scan(cursor, place)


def test_bytes_in_sqlite_are_no_text_of_their_digits(tmp_path: Path) -> None:
    left = sqlite(tmp_path / "l.db", [(1, b"ab"), (2, b"ab")])
    right = sqlite(tmp_path / "r.db", [(1, "6162"), (2, b"ab")])
    exported = tmp_path / "r.csv"
    exported.write_text("id,v\n1,6162\n2,6162\n", encoding="utf-8")

    assert lines(run(left, right, "--values")) == [("1", "changed", None)]
    assert run(left, f"csv:{exported}").exit_code == 0


def test_bytes_in_messagepack_are_no_text_of_their_digits(tmp_path: Path) -> None:
    pack, how = msgspec.msgpack.encode, "?value=msgpack"
    left = lmdb_store(tmp_path / "l", {b"1": pack({"v": b"ab"}), b"2": pack({"v": b"ab"})}, how)
    right = lmdb_store(tmp_path / "r", {b"1": pack({"v": "6162"}), b"2": pack({"v": b"ab"})}, how)
    json_rows = {b"1": b'{"v": "6162"}', b"2": b'{"v": "6162"}'}

    assert lines(run(left, right)) == [("1", "changed", None)]
    assert run(left, lmdb_store(tmp_path / "j", json_rows)).exit_code == 0
    table = sqlite(tmp_path / "t.db", [("1", "6162"), ("2", b"ab")])
    assert lines(run(left, table, "--values")) == [("1", "changed", None)]


@pytest.mark.parametrize("settle", ["0", "0.2"])
def test_rows_that_cannot_be_read_are_undecided(settle: str, tmp_path: Path) -> None:
    good = b'{"v": 1}'
    left = lmdb_store(tmp_path / "l", {b"1": b"not JSON", b"2": good, b"3": b"x", b"4": b"x"})
    right = lmdb_store(tmp_path / "r", {b"1": b"nor this", b"2": good, b"3": b"x", b"5": good})
    result = run(left, right, "--settle", settle)

    assert lines(result) == [
        ("1", "undecided", "unreadable"),
        ("3", "undecided", "unreadable"),
        ("4", "missing", None),
        ("5", "extra", None),
    ]
    assert "2 are undecided (2 cannot be read)" in result.stderr
    told = run(left, right, "--settle", settle, "--output", "text").stdout
    assert told.splitlines()[0] == "? undecided 1 (cannot be read)"
    only = lmdb_store(tmp_path / "n", {b"1": b"{}"})
    damaged = lmdb_store(tmp_path / "d", {b"1": b"{"})
    assert run(only, damaged).exit_code == 3
    assert lines(run(damaged, only)) == [("1", "undecided", "unreadable")]


def test_rows_of_another_type_in_redis_are_undecided() -> None:
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:
        for side in "lr":
            client.hset(f"{{{prefix}}}{side}:2", mapping={"v": 1})
        client.set(f"{{{prefix}}}l:1", "text")
        client.lpush(f"{{{prefix}}}r:1", "list")
        result = run(*(f"{redis_url()}?match=%7B{prefix}%7D{side}:*" for side in "lr"))

    assert (result.exit_code, lines(result)) == (3, [("1", "undecided", "unreadable")])


def test_keys_that_are_no_utf_8_or_do_not_fit_the_template_are_counted(tmp_path: Path) -> None:
    good = b'{"v": 1}'
    entries = {b"row:1": good, b"other:1": good, b"row:\xff": good, b"row:": good}
    left = lmdb_store(tmp_path / "l", entries, "?key=row:{id}")
    right = lmdb_store(tmp_path / "r", {b"row:1": good}, "?key=row:{id}")

    result = run(left, right)

    assert result.exit_code == 3
    assert "3 and 0 rows have no key" in result.stderr
    same = lmdb_store(tmp_path / "s", {b"row:1": good}, "?key=row:{id}")
    assert run(right, same).exit_code == 0


@pytest.mark.parametrize(("template", "keyless"), [("{id}", 1), ("{id}:p", 2)])
def test_keys_in_redis_that_are_none_are_counted_in_each_walk_anew(
    template: str, keyless: int
) -> None:
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:
        for key in (b"1:p", b"2:q", b"\xff:p"):
            client.hset(f"{{{prefix}}}:".encode() + key, mapping={"v": 1})
        place = f"%7B{prefix}%7D:*"
        uri = f"{redis_url()}?match={place}"
        if template != "{id}":
            uri = f"{redis_url()}?match={place}&key=%7B{prefix}%7D:{{id}}:p"
        with closing(open_store(uri, ["id"])) as store:
            for _ in range(2):
                cursor = store.scan(None, 100).cursor
                while cursor is not None:
                    cursor = store.scan(cursor, 100).cursor
                assert store.keyless() == keyless  # type: ignore[attr-defined]


def http(pages: Sequence[Sequence[Mapping[str, Any]]], looked_up: Mapping[str, Any]) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/one/"):
            row = looked_up.get(request.url.path.removeprefix("/one/"))
            return httpx.Response(404) if row is None else httpx.Response(200, json=row)
        number = int(request.url.params["page"])
        return httpx.Response(200, json=pages[number - 1] if number <= len(pages) else [])

    def open_it() -> ForeignStore:
        uri = "http://api/list?page=page&lookup=/one/{id}"
        return HttpStore(uri, ["id"], transport=httpx.MockTransport(answer))

    return open_it


def compared(left: Any, right: Any, settle_seconds: float) -> tuple[list[Difference], Comparison]:
    comparison = Comparison(left, right, settle_seconds=settle_seconds)
    return list(comparison.run()), comparison


@pytest.mark.parametrize("settle_seconds", [0.0, 0.2])
def test_a_row_that_is_listed_and_not_found_is_undecided(settle_seconds: float) -> None:
    one, two, other = {"id": 1, "v": 1}, {"id": 2, "v": 2}, {"id": 2, "v": 99}
    left = http([[one, two]], {})
    right = http([[one, other], [{"id": 3, "v": 3}]], {})

    found, comparison = compared(left, right, settle_seconds)

    assert [(d.key, d.kind, d.reason) for d in found] == [
        (("2",), "undecided", "unfound"),
        (("3",), "undecided", "unfound"),
    ]
    assert comparison.summary.exit_code == 3


def test_a_row_that_is_listed_twice_and_not_alike_is_undecided() -> None:
    one, two, other = {"id": 1, "v": 1}, {"id": 2, "v": 2}, {"id": 2, "v": 99}
    single = http([[one, two]], {"1": one, "2": two})

    found, comparison = compared(http([[one, two], [other]], {"1": one, "2": two}), single, 0.0)
    same, _ = compared(http([[one, two], [two]], {"1": one, "2": two}), single, 0.0)

    assert [(d.key, d.kind, d.reason) for d in found] == [(("2",), "undecided", "twice")]
    assert comparison.summary.exit_code == 3
    assert same == []
    with pytest.raises(ConfigurationError, match="two rows with the key 2 in one page"):
        compared(http([[one, two, other]], {"1": one, "2": two}), single, 0.0)


def test_python_s_own_json_is_read_over_http_too() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b'[{"id": 1, "v": NaN}]')

    uri = "http://api/list?lookup=/one/{id}"
    with closing(HttpStore(uri, ["id"], transport=httpx.MockTransport(answer))) as store:
        ((key, row),) = store.scan(None, 10).rows
    assert key == ("1",)
    assert row["v"] != row["v"]


@pytest.mark.parametrize("settle_seconds", [0.0, 0.2])
def test_a_lookup_that_answers_another_row_has_not_found_the_row(settle_seconds: float) -> None:
    one, two = {"id": 1, "v": 1}, {"id": 2, "v": 1}
    left, right = http([[one, two]], {"1": one, "2": one}), http([[one]], {"1": one, "2": one})

    found, comparison = compared(left, right, settle_seconds)

    assert [(d.key, d.kind, d.reason) for d in found] == [(("2",), "undecided", "unfound")]
    assert comparison.summary.exit_code == 3


def test_a_row_that_was_shown_and_that_no_side_finds_is_undecided(tmp_path: Path) -> None:
    class Blind(SqliteStore):
        def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
            return {}

    uri = sqlite(tmp_path / "l.db", [(1, "x")])
    none = sqlite(tmp_path / "r.db", [])

    found, comparison = compared(lambda: Blind(uri, ["id"]), lambda: open_store(none, ["id"]), 0.0)

    assert [(d.key, d.kind, d.reason) for d in found] == [(("1",), "undecided", "unfound")]
    assert comparison.summary.exit_code == 3


def test_an_http_key_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b'[{"id": "\\ud800", "v": 1}]')

    def open_it() -> ForeignStore:
        uri = "http://api/list?lookup=/one/{id}"
        return HttpStore(uri, ["id"], transport=httpx.MockTransport(answer))

    uri = sqlite(tmp_path / "r.db", [])
    with pytest.raises(ConfigurationError, match=r"http://api/list.*'\\ud800'.*no Unicode"):
        compared(open_it, lambda: open_store(uri, ["id"]), 0.0)


def test_an_unexpected_error_says_nothing_of_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("of nobody's")

    uri = sqlite(tmp_path / "l.db", [(1, "x")])
    monkeypatch.setattr(SqliteStore, "scan", fail)

    result = run(uri, uri)

    assert result.exit_code == 3
    assert result.stdout == ""
    assert "RuntimeError: of nobody's" in result.stderr
    assert "the comparison ended before it was complete" in result.stderr


NAMED_TWICE: Mapping[str, bytes] = {
    "outside": b"\x82\x01\xa1a\xa11\xa1b",
    "within": b"\x81\xa1v\x91\x82\x01\xa1a\xa11\xa1b",
}


@pytest.mark.parametrize("data", NAMED_TWICE.values(), ids=NAMED_TWICE)
def test_messagepack_names_that_fall_together_are_unreadable(data: bytes, tmp_path: Path) -> None:
    left = lmdb_store(tmp_path / "l", {b"1": data}, "?value=msgpack")
    right = lmdb_store(tmp_path / "r", {b"1": data}, "?value=msgpack")
    result = run(left, right)
    assert lines(result) == [("1", "undecided", "unreadable")]
    assert result.exit_code == 3


def test_bytes_within_a_list_or_object_are_no_text_of_their_digits(tmp_path: Path) -> None:
    pack, how = msgspec.msgpack.encode, "?value=msgpack"
    as_bytes = {b"1": pack({"v": [b"ab"]}), b"2": pack({"v": {"a": b"ab"}})}
    as_text = {b"1": pack({"v": ["6162"]}), b"2": pack({"v": {"a": "6162"}})}
    left = lmdb_store(tmp_path / "l", as_bytes, how)
    right = lmdb_store(tmp_path / "r", as_text, how)
    as_json = {b"1": b'{"v": ["6162"]}', b"2": b'{"v": {"a": "6162"}}'}

    assert lines(run(left, right, "--values")) == [("1", "changed", None), ("2", "changed", None)]
    assert run(left, lmdb_store(tmp_path / "s", as_bytes, how)).exit_code == 0
    assert run(left, lmdb_store(tmp_path / "j", as_json)).exit_code == 0


def test_bytes_in_redis_that_are_no_utf_8_are_no_text_of_their_digits(tmp_path: Path) -> None:
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:
        for side, value in (("l", b"\xff"), ("r", b"ff"), ("s", b"\xff")):
            client.hset(f"{{{prefix}}}{side}:1", mapping={"v": value})
        client.hset(f"{{{prefix}}}d:1", mapping={b"\xff": 1, b"ff": 2})
        left, right, same, twice = (
            f"{redis_url()}?match=%7B{prefix}%7D{side}:*" for side in "lrsd"
        )
        as_text = sqlite(tmp_path / "t.db", [("1", "ff")])
        as_bytes = sqlite(tmp_path / "b.db", [("1", b"\xff")])
        exported = tmp_path / "r.csv"
        exported.write_text("id,v\n1,ff\n", encoding="utf-8")

        assert lines(run(left, right, "--values")) == [("1", "changed", None)]
        assert lines(run(left, as_text)) == [("1", "changed", None)]
        for other in (same, as_bytes, f"csv:{exported}"):
            assert run(left, other).exit_code == 0
        assert run(right, as_bytes).exit_code == 0
        assert lines(run(twice, twice)) == [("1", "undecided", "unreadable")]
