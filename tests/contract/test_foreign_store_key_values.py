"""What foreign stores on Redis and LMDB say of what is wrong, and how keys are read back."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import lmdb
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from synchroscope.errors import (
    ConfigurationError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)
from tests.foreign_places import lmdb_place, redis_place, walk
from tests.redis import redis_prefix
from tests.servers import redis_url
from validator.stores.key_template import KeyTemplate
from validator.stores.lmdb import LmdbStore
from validator.stores.opening import open_store
from validator.stores.port import DamagedRow
from validator.stores.redis import RedisStore


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


def test_an_lmdb_that_is_not_there_or_has_no_such_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        LmdbStore(f"lmdb://{tmp_path}/nothing", ["id"])
    lmdb.open(str(tmp_path / "rows")).close()
    with pytest.raises(ConfigurationError, match="no database people"):
        LmdbStore(f"lmdb://{tmp_path}/rows?database=people", ["id"])


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
