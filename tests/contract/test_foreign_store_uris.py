"""What is wrong with a foreign store's URI is named, and no password is shown."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from synchroscope.errors import ConfigurationError, UnavailableError
from tests.servers import postgresql_dsn
from validator.stores.opening import open_store


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
