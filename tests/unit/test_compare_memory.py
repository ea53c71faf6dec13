"""What is held at once is bounded in bytes, whatever the rows are."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from validator.compare.comparing import KEYS_PER_READ, PAGE_ROWS, Comparison
from validator.compare.page_size import PAGE_BYTES, PageSize
from validator.stores.opening import open_store
from validator.stores.port import ForeignStore, Key, Page, Row

ROWS, ROW_BYTES = 1_000, 200_000


def table(path: Path, text: str, rows: int = ROWS) -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)", ((n, f"{text}{n}") for n in range(rows))
        )
    return f"sqlite://{path}?table=t"


@pytest.mark.parametrize("is_changed", [False, True])
def test_large_rows_are_read_in_small_pages(is_changed: bool, tmp_path: Path) -> None:
    left = table(tmp_path / "l.db", "x" * ROW_BYTES)
    right = table(tmp_path / "r.db", ("y" if is_changed else "x") * ROW_BYTES)
    comparison = Comparison(lambda: open_store(left, ["id"]), lambda: open_store(right, ["id"]))
    tracemalloc.start()
    try:
        found = sum(1 for _ in comparison.run())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == (ROWS if is_changed else 0)
    # A first page a side, and what is made of a page; all rows of a side are 200 MB.
    assert peak < 120e6, peak


class Watched:
    """A store that notes how much it was asked for at once."""

    def __init__(self, store: ForeignStore) -> None:
        self.columns, self.close = store.columns, store.close
        self.name, self.key_columns, self.is_typed = store.name, store.key_columns, store.is_typed
        self.finds_what_it_shows = True
        self._store = store
        self.pages: list[int] = []
        self.fetched: list[int] = []

    def scan(self, cursor: str | None, limit: int) -> Page:
        self.pages.append(limit)
        return self._store.scan(cursor, limit)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        wanted = list(keys)
        self.fetched.append(len(wanted))
        return self._store.fetch(wanted)


def test_small_rows_are_read_in_large_pages(tmp_path: Path) -> None:
    left = table(tmp_path / "l.db", "x", 30_000)
    right = table(tmp_path / "r.db", "y", 30_000)
    opened: list[Watched] = []

    def open_it() -> ForeignStore:
        opened.append(Watched(open_store(left, ["id"])))
        return opened[0]

    assert len(list(Comparison(open_it, lambda: open_store(right, ["id"])).run())) == 30_000
    assert opened[0].pages[:3] == [100, 800, PAGE_ROWS]
    assert set(opened[0].pages[3:]) == {PAGE_ROWS}
    assert max(opened[0].fetched) == KEYS_PER_READ
    assert len(opened[0].fetched) < 40


def test_a_page_is_never_without_rows() -> None:
    size = PageSize(5_000)
    for _ in range(3):
        size.saw(size.rows, 100 * PAGE_BYTES)
    assert size.rows == 1
    size.saw(0, 0)
    assert size.rows == 1
    size.saw(1, 10)
    assert size.rows == 8
