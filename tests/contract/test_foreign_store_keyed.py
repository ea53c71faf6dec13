"""What the port of foreign stores promises, on every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.foreign_places import (
    Place,
    Rows,
    csv_place,
    http_place,
    lmdb_place,
    postgresql_place,
    redis_place,
    sqlite_place,
    walk,
)
from validator.stores.port import Row

PLACES = {
    "redis-hash": (redis_place, "hash"),
    "redis-json": (redis_place, "json"),
    "lmdb-json": (lmdb_place, "json"),
    "lmdb-msgpack": (lmdb_place, "msgpack"),
    "postgresql": (postgresql_place, ""),
    "sqlite-text": (sqlite_place, "TEXT"),
    "sqlite-untyped": (sqlite_place, ""),
    "csv": (csv_place, ""),
    "csv-tab": (csv_place, "tab"),
    "http-cursor": (http_place, "cursor"),
    "http-page": (http_place, "page"),
}
ROWS: Rows = {f"user-{number}": {"a": number, "b": f"text {number}"} for number in range(57)}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    make, kind = PLACES[request.param]
    with make(kind, tmp_path) as made:
        yield made


def as_stored(place: Place, row: Row) -> Row:
    return row if place.is_typed else {name: str(value) for name, value in row.items()}


def test_a_walk_shows_every_row_in_pages(place: Place) -> None:
    place.fill(ROWS)
    with closing(place.open(None)) as store:
        found = walk(store)
    assert dict(found) == {(user,): as_stored(place, row) for user, row in ROWS.items()}


def test_rows_are_fetched_by_key_and_those_that_are_absent_are_left_out(place: Place) -> None:
    place.fill(ROWS)
    with closing(place.open(None)) as store:
        found = store.fetch([("user-5",), ("nobody",), ("user-7",)])
        assert found == {
            ("user-5",): as_stored(place, ROWS["user-5"]),
            ("user-7",): as_stored(place, ROWS["user-7"]),
        }
        assert store.fetch([]) == {}


def test_only_the_columns_asked_for_come(place: Place) -> None:
    place.fill(ROWS)
    with closing(place.open(["b"])) as store:
        assert store.columns() == ["b"]
        assert store.fetch([("user-5",)]) == {("user-5",): {"b": "text 5"}}
        assert all(set(row) == {"b"} for _, row in walk(store))


def test_an_empty_store_is_one_empty_walk(place: Place) -> None:
    with closing(place.open(None)) as store:
        assert walk(store) == []


@pytest.mark.parametrize("user", ["ü/ñ?&=#%2F", "a b", "a:b:c", "日本"])
def test_keys_may_have_any_characters(place: Place, user: str) -> None:
    place.fill({user: {"a": 1}})
    with closing(place.open(None)) as store:
        assert [key for key, _ in walk(store)] == [(user,)]
        assert list(store.fetch([(user,)])) == [(user,)]


@pytest.mark.parametrize("odd", ["", "k" * 600, "k" * 70, "a\0b", ".", "..", "'", "{id}", "%"])
def test_a_key_that_no_row_can_have_hides_no_other_row(place: Place, odd: str) -> None:
    place.fill(ROWS)
    users = ["user-5", "user-7"]
    with closing(place.open(None)) as store:
        found = store.fetch([("user-5",), (odd,), ("user-7",)])
    assert found == {(user,): as_stored(place, ROWS[user]) for user in users}


def test_values_keep_their_types_where_the_store_has_any(place: Place) -> None:
    row = {"n": 2**53, "f": 0.5, "t": True, "s": "5", "z": None, "l": [1, {"a": "ü"}]}
    if not place.is_typed:
        row = {"n": 5, "s": "5"}
    row = {name: value for name, value in row.items() if name not in place.lacks}
    place.fill({"u": row})
    with closing(place.open(None)) as store:
        assert store.is_typed is place.is_typed
        assert store.fetch([("u",)]) == {("u",): as_stored(place, row)}
