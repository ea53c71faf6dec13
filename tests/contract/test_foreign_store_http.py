"""Foreign stores over HTTP: what is asked, and answers that are none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest

from synchroscope.errors import ConfigurationError, UnavailableError
from validator.stores.http import HttpStore
from validator.stores.http_walk import EMPTY_PAGES
from validator.stores.port import ForeignStore


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
