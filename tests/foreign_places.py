"""Where a foreign store's rows may be, how they get there, and how all are read."""

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
import redis
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.postgresql import schema_name
from tests.redis import redis_prefix
from tests.servers import postgresql_dsn, redis_url
from validator.stores.http import HttpStore
from validator.stores.opening import open_store
from validator.stores.port import ForeignStore, Key, Page, Row
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
