"""Foreign stores over HTTP, against a server that hangs, drips, dies or knows nothing of a row."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from synchroscope.errors import UnavailableError
from validator.stores.http import HttpStore

ROWS = [{"id": number, "v": "x" * 100} for number in range(50)]
DRIP_SECONDS = 0.05
Manner = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with rows, in the manner of the server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        if self.path.startswith("/rows"):
            server.manner(self, json.dumps(ROWS).encode())
            return
        number = int(self.path.rpartition("/")[2])
        if number >= len(ROWS):
            self.head(404, 0)
            return
        server.manner(self, json.dumps(ROWS[number]).encode())

    def head(self, status: int, size: int | None) -> None:
        self.send_response(status)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def drip(self, data: bytes) -> None:
        server = self.server
        assert isinstance(server, Server)
        for place in range(len(data)):
            if server.is_over.wait(DRIP_SECONDS):
                return
            self.wfile.write(data[place : place + 1])

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Has a manner of answering, and ends when the test does."""

    def __init__(self, manner: Manner) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.manner = manner
        self.is_over = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""


def whole(handler: Handler, data: bytes) -> None:
    handler.head(200, len(data))
    handler.wfile.write(data)


def hang(handler: Handler, data: bytes) -> None:
    assert isinstance(handler.server, Server)
    handler.server.is_over.wait()


def drip(handler: Handler, data: bytes) -> None:
    handler.head(200, len(data))
    handler.drip(data)


def drip_until_closed(handler: Handler, data: bytes) -> None:
    handler.head(200, None)  # The end of the connection is that of the answer.
    handler.close_connection = True
    handler.drip(b"[]" + b" " * len(data))


def drip_the_head(handler: Handler, data: bytes) -> None:
    handler.drip(b"HTTP/1.1 200 OK\r\nX: " + data)


def die(handler: Handler, data: bytes) -> None:
    handler.head(200, len(data))
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


@contextmanager
def serving(manner: Manner) -> Iterator[HttpStore]:
    server = Server(manner)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    uri = f"http://127.0.0.1:{server.server_port}/rows?lookup=/one/{{id}}"
    try:
        with closing(HttpStore(uri, ["id"], answer_seconds=0.5, whole_answer_seconds=1.0)) as store:
            yield store
    finally:
        server.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_rows_come_over_the_net_and_404_is_no_row() -> None:
    with serving(whole) as store:
        rows = store.scan(None, 100).rows
        assert len(rows) == len(ROWS)
        assert store.fetch([("7",), ("99",), ("8",)]) == {
            ("7",): {"v": "x" * 100},
            ("8",): {"v": "x" * 100},
        }


@pytest.mark.parametrize("manner", [hang, drip, drip_until_closed, drip_the_head, die])
def test_an_answer_that_does_not_come_whole_is_a_server_that_is_away(manner: Manner) -> None:
    with serving(manner) as store:
        for act in (lambda: store.scan(None, 100), lambda: store.fetch([("7",)])):
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                act()
            assert time.monotonic() - began < 5


def test_a_server_that_answers_again_is_read_again() -> None:
    manners = iter([drip, whole])
    with serving(lambda handler, data: next(manners)(handler, data)) as store:
        with pytest.raises(UnavailableError, match="no whole answer within 1 s"):
            store.scan(None, 100)
        assert len(store.scan(None, 100).rows) == len(ROWS)
