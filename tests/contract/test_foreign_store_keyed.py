"""What the port of foreign stores promises, on every adapter."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import httpx
import lmdb
import msgspec
import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

from synchroscope.errors import (
    ConfigurationError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)
from tests.postgresql import schema_name
from tests.redis import redis_prefix
from tests.servers import postgresql_dsn, redis_url
from validator.stores.http import HttpStore
from validator.stores.http_walk import EMPTY_PAGES
from validator.stores.key_template import KeyTemplate
from validator.stores.lmdb import LmdbStore
from validator.stores.opening import open_store
from validator.stores.port import DamagedRow, ForeignStore, Key, Page, Row
from validator.stores.redis import RedisStore

Rows = Mapping[str, Row]
Open = Callable[[Sequence[str] | None], ForeignStore]


class Place:
    """Where rows are, and how a store on them is opened; `put` writes behind its back."""

    def __init__(
        self, put: Callable[[str, Row], Any], open_it: Open, *, is_typed: bool, lacks: str = ""
    ) -> None:
        self.put, self.open, self.is_typed = put, open_it, is_typed
        self.lacks = lacks
        """Columns of kinds that the store does not have: booleans, lists."""

    def fill(self, rows: Rows) -> None:
        for user, row in rows.items():
            self.put(user, row)


@contextmanager
def redis_place(kind: str, folder: Path) -> Iterator[Place]:
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:

        def put(user: str, row: Row) -> None:
            if kind == "json":
                client.set(f"{{{prefix}}}:{user}", json.dumps(row))
            else:
                fields: dict[Any, Any] = {n: v if v is not None else "" for n, v in row.items()}
                client.hset(f"{{{prefix}}}:{user}", mapping=fields)

        name = quote(f"{{{prefix}}}:", safe="")
        # The prefix has braces of its own, so the template is the match.
        uri = f"{redis_url()}?match={name}*&value={kind}"

        def open_it(columns: Sequence[str] | None) -> ForeignStore:
            return RedisStore(uri, ["id"], columns)

        yield Place(put, open_it, is_typed=kind == "json")


@contextmanager
def lmdb_place(kind: str, folder: Path) -> Iterator[Place]:
    encode = msgspec.json.encode if kind == "json" else msgspec.msgpack.encode
    with ExitStack() as to_close:
        environment = lmdb.open(str(folder / "rows"), max_dbs=2)
        database = environment.open_db(b"people")

        def put(user: str, row: Row) -> None:
            with environment.begin(write=True, db=database) as transaction:
                transaction.put(f"ctx:{user}".encode(), encode(row))

        def open_it(columns: Sequence[str] | None) -> ForeignStore:
            # One process may open an environment once: the writer's is closed, as if it had ended.
            environment.close()
            uri = f"lmdb://{folder}/rows?key=ctx:{{id}}&value={kind}&database=people"
            store = open_store(uri, ["id"], columns)
            to_close.callback(store.close)
            return store

        yield Place(put, open_it, is_typed=True)


@contextmanager
def postgresql_place(kind: str, folder: Path) -> Iterator[Place]:
    with schema_name() as schema, psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        columns = "id text PRIMARY KEY, a bigint, b text, n bigint, f float8, t bool, s text, "
        connection.execute(f"CREATE TABLE {schema}.rows ({columns} z text, l jsonb)".encode())

        def put(user: str, row: Row) -> None:
            named = {name: Jsonb(v) if name == "l" else v for name, v in row.items()}
            query = sql.SQL("INSERT INTO {} (id, {}) VALUES (%s, {})").format(
                sql.Identifier(schema, "rows"),
                sql.SQL(", ").join(map(sql.Identifier, named)),
                sql.SQL(", ").join([sql.Placeholder()] * len(named)),
            )
            connection.execute(query, [user, *named.values()])

        uri = f"{postgresql_dsn()}?table={schema}.rows"

        def open_it(columns: Sequence[str] | None) -> ForeignStore:
            return Without(open_store(uri, ["id"], columns))

        yield Place(put, open_it, is_typed=True)


@contextmanager
def sqlite_place(kind: str, folder: Path) -> Iterator[Place]:
    with closing(sqlite3.connect(folder / "rows #1.db", isolation_level=None)) as connection:
        connection.execute(f"CREATE TABLE rows (id {kind} PRIMARY KEY, a, b, n, f, s, z)")

        def put(user: str, row: Row) -> None:
            known = {name: value for name, value in row.items() if name not in "tl"}
            names = ", ".join(known)
            marks = ", ".join("?" * len(known))
            connection.execute(
                f"INSERT INTO rows (id, {names}) VALUES (?, {marks})", [user, *known.values()]
            )

        uri = f"sqlite://{quote(str(folder / 'rows #1.db'))}?table=rows"

        def open_it(columns: Sequence[str] | None) -> ForeignStore:
            return Without(open_store(uri, ["id"], columns))

        yield Place(put, open_it, is_typed=True, lacks="tl")


class Without:
    """A store whose rows have a column for everything, without those that a test did not fill."""

    def __init__(self, store: ForeignStore) -> None:
        self.columns, self.close = store.columns, store.close
        self.name, self.key_columns, self.is_typed = store.name, store.key_columns, store.is_typed
        self._store = store

    def scan(self, cursor: str | None, limit: int) -> Page:
        page = self._store.scan(cursor, limit)
        return Page([(key, self._filled(row)) for key, row in page.rows], page.cursor)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        return {key: self._filled(row) for key, row in self._store.fetch(keys).items()}

    def _filled(self, row: Row) -> Row:
        is_typed_row = row.get("n") is not None
        return {n: v for n, v in row.items() if v is not None or (n == "z" and is_typed_row)}


@contextmanager
def http_place(kind: str, folder: Path) -> Iterator[Place]:
    rows: dict[str, Row] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        path, query = (
            request.url.raw_path.decode().partition("?")[0],
            parse_qs(request.url.query.decode()),
        )
        if path == "/users/":
            return httpx.Response(200, json={"user": {"all": sorted(rows)}})
        if path.startswith("/users/"):
            user = unquote(path.removeprefix("/users/"))
            if user not in rows:
                return httpx.Response(404)
            return httpx.Response(200, json={"user": {"id": user, **rows[user]}})
        users, size = sorted(rows), int(query["size"][0])
        if kind == "page":
            start = (int(query["page"][0]) - 1) * size
        else:
            after = query.get("after", [""])[0]
            start = sum(user <= after for user in users) if after else 0
        part = users[start : start + size]
        following = part[-1] if kind == "cursor" and start + size < len(users) else None
        data = [{"id": user, **rows[user]} for user in part]
        return httpx.Response(200, json={"data": data, "meta": {"next": following}})

    how = "cursor=after&next=$.meta.next" if kind == "cursor" else "page=page"
    uri = f"http://api:8080/users?items=$.data&{how}&limit=size&lookup=/users/{{id}}&row=$.user"

    def open_it(columns: Sequence[str] | None) -> ForeignStore:
        return HttpStore(uri, ["id"], columns, transport=httpx.MockTransport(answer))

    yield Place(lambda user, row: rows.__setitem__(user, dict(row)), open_it, is_typed=True)


@contextmanager
def csv_place(kind: str, folder: Path) -> Iterator[Place]:
    rows: dict[str, Row] = {}
    path = folder / "rows #1.csv"

    def open_it(columns: Sequence[str] | None) -> ForeignStore:
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tab" else ",")
            writer.writerow(["id", *names])
            for user, row in rows.items():
                writer.writerow([user, *(row[name] for name in names)])
        return open_store(f"csv:{quote(str(path))}?delimiter={kind}", ["id"], columns)

    yield Place(lambda user, row: rows.__setitem__(user, row), open_it, is_typed=False)


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


def walk(store: ForeignStore, limit: int = 10) -> list[tuple[Key, Row]]:
    rows: list[tuple[Key, Row]] = []
    cursor, pages = None, 0
    while True:
        page = store.scan(cursor, limit)
        rows += page.rows
        cursor, pages = page.cursor, pages + 1
        if cursor is None:
            return rows
        assert pages < 1_000, "a walk has no end"


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


# -- what each says of what is wrong ---------------------------------------------------------------


def test_a_redis_that_is_away_is_unavailable_and_its_name_shows_no_password() -> None:
    store = RedisStore("redis://me:hunter2@127.0.0.1:1/0?match=ctx:*", ["id"])
    assert "hunter2" not in store.name
    with closing(store), pytest.raises(UnavailableError) as caught:
        store.scan(None, 10)
    assert "hunter2" not in str(caught.value)


def test_redis_keys_of_another_kind_than_the_uri_says_are_named() -> None:
    with redis_prefix() as prefix, closing(redis.Redis.from_url(redis_url())) as client:
        for number in range(3):
            client.set(f"{{{prefix}}}:{number}", "{}")
        name = quote(f"{{{prefix}}}:", safe="")
        with closing(RedisStore(f"{redis_url()}?match={name}*", ["id"])) as store:
            with pytest.raises(ConfigurationError, match="value=json"):
                store.scan(None, 1_000)
            # A single one among others is damage.
            assert isinstance(store.fetch([("1",)])["1",], DamagedRow)


@pytest.mark.parametrize("kind", ["redis", "lmdb"])
@pytest.mark.parametrize("damage", [b'{"a": 1', b"[1]", b"", b"\xff"])
def test_a_row_that_cannot_be_read_is_there_and_damaged(
    kind: str, damage: bytes, tmp_path: Path
) -> None:
    make = redis_place if kind == "redis" else lmdb_place
    with make("json", tmp_path) as place:
        place.fill({"1": {"a": 1}, "2": {}})
        if kind == "redis":
            with (
                closing(place.open(None)) as store,
                closing(redis.Redis.from_url(redis_url())) as client,
            ):
                prefix = str(store.name).partition("match=")[2].removesuffix("*")
                client.set(f"{prefix}1", damage)
        else:
            environment = lmdb.open(str(tmp_path / "other"), max_dbs=2)
            database = environment.open_db(b"people")
            with environment.begin(write=True, db=database) as transaction:
                transaction.put(b"ctx:1", damage)
                transaction.put(b"ctx:2", b"{}")
            environment.close()
            place.open = lambda columns: open_store(
                f"lmdb://{tmp_path}/other?key=ctx:{{id}}&database=people", ["id"], columns
            )
        with closing(place.open(None)) as store:
            found = store.fetch([("1",), ("2",), ("3",)])
            assert {key: isinstance(row, DamagedRow) for key, row in found.items()} == {
                ("1",): True,
                ("2",): False,
            }
            assert {key: isinstance(row, DamagedRow) for key, row in walk(store)} == {
                ("1",): True,
                ("2",): False,
            }


@pytest.mark.parametrize(
    ("text", "problem"),
    [("ctx:*", "name each key column once"), ("{a}{b}", "nothing between"), ("{a}:{a}", "once")],
)
def test_a_template_that_cannot_be_read_back_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        KeyTemplate(text)


@given(st.lists(st.text("a:b", min_size=1), min_size=3, max_size=3))
def test_every_key_of_a_template_is_among_the_readings_of_its_text(values: list[str]) -> None:
    template = KeyTemplate("c:{x}:{y}::{z}b")
    text = template.fill(tuple(values))
    readings = template.readings(text)
    assert readings[0] == template.parse(text)
    assert len(set(readings)) == len(readings)
    assert tuple(values) in readings or len(readings) == 100
    assert {template.fill(reading) for reading in readings} == {text}


@pytest.mark.parametrize(
    ("status", "error"),
    [(503, UnavailableError), (429, UnavailableError), (401, ConfigurationError)],
)
def test_http_answers_mean_to_wait_or_to_change_something(
    status: int, error: type[Exception]
) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status))
    uri = "http://me:hunter2@api/users?lookup=/users/{id}"
    with closing(HttpStore(uri, ["id"], transport=transport)) as store:
        assert "hunter2" not in store.name
        with pytest.raises(error):
            store.scan(None, 10)


def test_http_that_answers_something_else_says_what_to_change() -> None:
    answers = iter([b"<html>", b'{"data": []}', b'[{"name": 1}]', b'{"next": "x", "data": []}'])
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=next(answers)))
    uri = "http://api/users?lookup=/users/{id}"
    with closing(HttpStore(uri, ["id"], transport=transport)) as store:
        for problem in ("answers no JSON", "is no list", "a row has no id"):
            with pytest.raises(ConfigurationError, match=problem):
                store.scan(None, 10)
    with (
        closing(HttpStore(f"{uri}&items=$.data", ["id"], transport=transport)) as store,
        pytest.raises(ConfigurationError, match="names itself"),
    ):
        store.scan("x", 10)


Answer = Callable[[str | None], Any]


def http_store(options: str, answer: Answer) -> HttpStore:
    """Open a store on a server that answers what is asked for by after=… or page=…."""

    def respond(request: httpx.Request) -> httpx.Response:
        asked = request.url.params
        return httpx.Response(200, json=answer(asked.get("after") or asked.get("page")))

    uri = f"http://api/users?lookup=/users/{{id}}&items=$.data&{options}"
    return HttpStore(uri, ["id"], transport=httpx.MockTransport(respond))


def pages_read(store: ForeignStore, most: int) -> int:
    """Walk a store; return how many pages it has."""
    cursor: str | None = None
    for number in range(1, most + 1):
        cursor = store.scan(cursor, 10).cursor
        if cursor is None:
            return number
    raise AssertionError(f"the walk goes on after {most} pages")


@pytest.mark.parametrize(
    ("options", "answer", "problem"),
    [
        (
            "cursor=after",
            lambda at: {"next": {"a": "b", "b": "a"}.get(at, "a"), "data": [{"id": at or ""}]},
            "names one as the next that was read before",
        ),
        (
            "cursor=after",
            lambda at: {"next": {"a": "b", "b": "c"}.get(at, "a"), "data": []},
            "names one as the next that was read before",
        ),
        ("cursor=after", lambda at: {"next": str(int(at or 0) + 1), "data": []}, "1,000 pages"),
        ("page=page", lambda at: {"data": [{"id": 1}, {"id": 2}]}, "the very bytes"),
        ("page=page", lambda at: {"data": [{"id": min(int(at), 3)}]}, "the very bytes"),
    ],
    ids=["circle", "circle of empty pages", "empty for ever", "ignores page", "stays at the last"],
)
def test_http_pages_that_never_end_are_told(options: str, answer: Answer, problem: str) -> None:
    with (
        closing(http_store(options, answer)) as store,
        pytest.raises(ConfigurationError, match=problem),
    ):
        pages_read(store, EMPTY_PAGES + 5)


def test_http_pages_may_be_empty_or_read_again_and_walked_anew() -> None:
    pages = 3 * EMPTY_PAGES

    def answer(at: str | None) -> Any:
        number = int(at or 0)
        rows = [] if number % EMPTY_PAGES else [{"id": number}]
        return {"next": number + 1 if number < pages else None, "data": rows}

    with closing(http_store("cursor=after", answer)) as store:
        for _ in range(2):
            assert pages_read(store, pages + 1) == pages + 1
        for cursor in (None, "1", "1", "2"):
            store.scan(cursor, 10)
    with closing(http_store("page=page", lambda at: {"data": [{"id": at}] * (at != "4")})) as store:
        for _ in range(2):
            assert pages_read(store, 4) == 4
        for cursor in (None, None, "2", "2"):
            store.scan(cursor, 10)


def test_an_lmdb_that_is_not_there_or_has_no_such_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        LmdbStore(f"lmdb://{tmp_path}/nothing", ["id"])
    lmdb.open(str(tmp_path / "rows")).close()
    with pytest.raises(ConfigurationError, match="no database people"):
        LmdbStore(f"lmdb://{tmp_path}/rows?database=people", ["id"])


def test_a_postgresql_table_is_walked_and_fetched_by_keys_of_any_type() -> None:
    with schema_name() as schema, psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        place = f"{schema}.rows"
        connection.execute(f"CREATE TABLE {place} (day date, id int, v numeric)".encode())
        connection.execute(
            f"INSERT INTO {place} SELECT date '2026-01-01' + n % 3, n, n / 10.0 "
            "FROM generate_series(8, 30) n".encode()
        )
        uri = f"{postgresql_dsn()}?table={place}"
        with closing(open_store(uri, ["id"])) as store:
            assert [key for key, _ in walk(store, 4)] == [(str(n),) for n in range(8, 31)]
            assert store.fetch([("9",), ("no number",), ("31",)]) == {
                ("9",): {"day": "2026-01-01", "v": 0.9}
            }
            connection.execute(f"INSERT INTO {place} VALUES (now(), 8, 1)".encode())
            with pytest.raises(ConfigurationError, match="two rows with the key 8"):
                store.scan(None, 4)
        with closing(open_store(uri, ["day", "id"], ["v"])) as store:
            assert len(walk(store, 5)) == 24
            key = ("2026-01-01", "15")
            assert store.fetch([key, ("2026-01-02", "15")]) == {key: {"v": 1.5}}


def test_what_is_wrong_with_a_postgresql_uri_is_named_and_no_password_shown() -> None:
    away = "postgresql://me:hunter2@127.0.0.1:1/db?table=t"
    with closing(open_store(away, ["id"])) as store, pytest.raises(UnavailableError) as caught:
        store.scan(None, 1)
    assert "hunter2" not in store.name + str(caught.value)
    with pytest.raises(ConfigurationError, match="must name one table"):
        open_store("postgresql://host/db", ["id"])
    for table, key, problem in (
        ("pg_class", "oid_", "did you mean 'oid'"),
        ("no_such_table", "id", "does not exist"),
    ):
        store = open_store(f"{postgresql_dsn()}?table={table}", [key])
        with closing(store), pytest.raises(ConfigurationError, match=problem):
            store.columns()


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("postgresql://u:ge%heim@127.0.0.1:1/db?table=t", "write % as %25"),
        ("postgresql://u:1/geheim@127.0.0.1:1/db?table=t", "an @ comes after a /"),
        ("postgresql://u:geheim?@127.0.0.1:1/db?table=t", "host or port"),
        ("postgresql://u:geheim#@127.0.0.1:1/db?table=t", "host or port"),
        ("postgresql://u:geheim@127.0.0.1:port/db?table=t", "host or port"),
        ("postgresql://u:geheim@127.0.0.1:99999/db?table=t", "host or port"),
        ("postgresql://u:geheim@[::1/db?table=t", "host or port"),
        ("postgresql://u:geheim@127.0.0.1:1/db?table=t&fo=1", "'fo' is no parameter"),
        ("postgresql://u:geheim@127.0.0.1:1/db?table=t&sslmod=require", "did you mean 'sslmode'"),
        ("postgresql://u:geheim@127.0.0.1:1/db?table=t&sslmode=geheimer", "invalid sslmode"),
        ("postgresql://u:geheim@127.0.0.1:1/db?table=a..b", "must name one table"),
        ("postgresql://u:geheim@127.0.0.1:1/db?table=", "must name one table"),
        ("postgresql://u:geheim@127.0.0.1:1/d%b?table=t", "cannot be read"),
        ("redis://u:ge%heim@127.0.0.1:1/0?match=a:*", "write % as %25"),
        ("redis://u:geheim@127.0.0.1:port/0?match=a:*", "host or port"),
        ("redis://u:geheim@127.0.0.1:1/zero?match=a:*", "cannot be read"),
        ("redis://u:geheim@127.0.0.1:1/0?match=a:*&fo=1", "cannot be read"),
        ("http://[::1/x?lookup=/a/{id}", "host or port"),
        ("http:///x?lookup=/a/{id}", "names no host"),
        ("http://u:ge%heim@127.0.0.1:1/x?lookup=/a/{id}", "write % as %25"),
        ("http://u:geheim@127.0.0.1:1/x?lookup=/a", "lookup has no {id}"),
        ("http://127.0.0.1:1/x?lookup=/a/{id}&page=p&first=one", "first must be the number"),
        ("http://127.0.0.1:1/x?lookup=/a/{id}&items=$[", "no JSON path"),
        ("https://127.0.0.1:1/x#y?lookup=/a/{id}", "write # as %23"),
        ("lmdb://rows", "names no path"),
        ("lmdb:///rows#1", "write # as %23"),
        ("lmdb:///rows?keys=1", "keys is not known"),
        ("sqlite://rows.db?table=t", "names a file"),
        ("sqlite:///rows.db?table=t&fo=1", "one table"),
        ("csv:///a%00b", "NUL"),
        ("csv:///a?delimiter=ab", "not one character"),
        ("no uri", "has no scheme"),
    ],
)
def test_a_uri_that_cannot_be_read_is_a_wrong_setting_and_shows_no_password(
    uri: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        store = open_store(uri, ["id"])
        with closing(store):
            store.fetch([("1",)])
    assert problem in str(caught.value)
    told = str(caught.value).replace("geheimer", "")  # A wrong value of a parameter is shown.
    assert "heim" not in told


def test_a_table_whose_name_has_dots_and_quotes_is_quoted_as_in_sql(tmp_path: Path) -> None:
    with schema_name() as schema, psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        path = tmp_path / "rows.db"
        for name in ("we.ird", 'a "b".c'):
            written = '"' + name.replace('"', '""') + '"'
            query = f"CREATE TABLE {schema}.{written} AS SELECT 1 AS id, 2 AS v".encode()
            connection.execute(query)
            with closing(sqlite3.connect(path)) as file, file:
                file.execute(f"CREATE TABLE {written} AS SELECT 1 AS id, 2 AS v")
            for uri in (
                f"{postgresql_dsn()}?table={quote(f'{schema}.{written}')}",
                f"sqlite://{path}?table={quote(written)}",
                f"sqlite://{path}?table={quote(name)}",
            ):
                with closing(open_store(uri, ["id"])) as store:
                    assert store.fetch([("1",)]) == {("1",): {"v": 2}}


def test_a_sqlite_table_is_walked_and_fetched_by_keys_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE rows (day TEXT, id INTEGER, v)")
        connection.executemany(
            "INSERT INTO rows VALUES (?, ?, ?)", [(f"d{n % 3}", n, n / 2) for n in range(8, 31)]
        )
        with closing(open_store(f"sqlite://{path}?table=rows", ["id"])) as store:
            assert [key for key, _ in walk(store, 4)] == [(str(n),) for n in range(8, 31)]
            assert store.fetch([("9",), ("no number",), ("31",), ("09",)]) == {
                ("9",): {"day": "d0", "v": 4.5}
            }
            connection.execute("INSERT INTO rows VALUES ('d9', 8, 1)")
            for act in (lambda: store.scan(None, 4), lambda: store.fetch([("8",)])):
                with pytest.raises(ConfigurationError, match="two rows with one key"):
                    act()
        with closing(open_store(f"sqlite://{path}?table=rows", ["day", "id"], ["v"])) as store:
            assert len(walk(store, 5)) == 24
            assert store.fetch([("d0", "15"), ("d1", "15")]) == {("d0", "15"): {"v": 7.5}}


def test_a_sqlite_key_is_found_whatever_its_type(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE rows (id, v)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", [(5, 1), ("6", 2), ("x", 3)])
    with closing(open_store(f"sqlite://{path}?table=rows", ["id"])) as store:
        found = dict(walk(store, 2))
        assert found == {("5",): {"v": 1}, ("6",): {"v": 2}, ("x",): {"v": 3}}
        assert store.fetch(found) == found


def test_what_is_wrong_with_a_sqlite_uri_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be read as one" * 9)
    sqlite3.connect(tmp_path / "empty.db").close()
    for rest, problem in (
        ("nothing?table=t", "no such file"),
        ("text?table=t", "is it a SQLite file"),
        ("empty.db?table=t", "no such table"),
        ("empty.db", "one table"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            open_store(f"sqlite://{tmp_path}/{rest}", ["id"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the header line is missing"),
        (b"id,a,a\n", "names a twice"),
        (b"ids,a\n1,2\n", "did you mean 'ids'"),
        (b"id,a\n1,2\n3\n", "row 2 after the header: 1 values, the header has 2"),
        (b'id,a\n1,"2\n', "line 2: unexpected end of data"),
        (b"id,a\n1,\xff\n", "not UTF-8"),
        (b"id,a\n1,2\n1,3\n", "two rows with the key 1"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_named_with_its_place(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem):
        open_store(f"csv:{path}", ["id"]).scan(None, 10)


def test_a_csv_file_that_changes_under_the_comparison_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,a\n1,2\n", encoding="utf-8")
    store = open_store(f"csv:{path}", ["id"])
    assert store.fetch([("1",)]) == {("1",): {"a": "2"}}
    path.write_text("id,a\n1,2\n3,4\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="was changed"):
        store.fetch([("1",)])


def test_an_lmdb_that_breaks_or_is_replaced_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    def fill(folder: str, value: int) -> Path:
        environment = lmdb.open(str(tmp_path / folder), map_size=1 << 24)
        with closing(environment), environment.begin(write=True) as transaction:
            for number in range(2_000):
                row = json.dumps({"a": value, "b": "x" * 100}).encode()
                transaction.put(f"{number:05}".encode(), row)
        return tmp_path / folder / "data.mdb"

    file, other = fill("rows", 1), fill("other", 2)
    whole = file.read_bytes()
    with closing(LmdbStore(f"lmdb://{tmp_path}/rows", ["id"])) as store:
        assert store.fetch([("00005",)])["00005",]["a"] == 1
        with file.open("r+b") as opened:
            opened.truncate(len(whole) // 2)
        for act in (lambda: store.scan(None, 5_000), lambda: store.fetch([("01999",)])):
            with pytest.raises(StorageError, match="cut off"):
                act()
        file.write_bytes(whole)
        assert len(walk(store, 500)) == 2_000
        file.unlink()
        with pytest.raises(SynchroscopeError, match="rows"):
            store.scan(None, 10)
        other.rename(file)
        assert store.fetch([("00005",)])["00005",]["a"] == 2


def test_a_sqlite_file_that_breaks_or_is_replaced_while_it_is_open_is_noticed(
    tmp_path: Path,
) -> None:
    def fill(name: str, value: int) -> Path:
        with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
            connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, v)")
            connection.executemany("INSERT INTO rows VALUES (?, ?)", [(n, value) for n in range(9)])
        return tmp_path / name

    file, other = fill("rows.db", 1), fill("other.db", 2)
    whole = file.read_bytes()
    with closing(open_store(f"sqlite://{file}?table=rows", ["id"])) as store:
        assert store.fetch([("5",)]) == {("5",): {"v": 1}}
        file.write_bytes(b"garbage " * 1_000)
        with pytest.raises(ConfigurationError, match="is it a SQLite file"):
            store.scan(None, 10)
        file.write_bytes(whole)
        assert len(walk(store)) == 9
        file.unlink()
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            store.scan(None, 10)
        other.rename(file)
        assert store.fetch([("5",)]) == {("5",): {"v": 2}}
