"""The client of a registry that is not ours: what it asks, keeps, and makes of bad answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pipeline.log_memory import MemoryLog
from service.http import HttpServer
from synchroscope.errors import ConfigurationError, UnavailableError
from synchroscope.ports import CONTROL_TOPICS, EVENTS, NewRecord
from tests.builders import event
from validator.ledger import FindingsReader
from validator.schemas.checker import SchemaChecker
from validator.schemas.model import RegistryError
from validator.schemas.registry_client import Kept, RegistryClient

NARROW = '{"properties": {"limit": {"type": "integer"}}}'
WIDE = '{"properties": {"limit": {"type": "number"}}}'


class Foreign:
    """Somebody else's registry: answers what it is told to, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[], Response]] = {}
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])])
        self._server = HttpServer(app, "127.0.0.1", 0)
        self._server.start()
        self.url = self._server.url

    def _answer(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        answer = self.answers.get(request.url.path)
        if answer is not None:
            return answer()
        return JSONResponse({"error_code": 40401, "message": "Subject not found."}, 404)

    def has(self, subject: str, *texts: str, kind: str = "JSON") -> None:
        for version, text in enumerate(texts, 1):
            form = {"subject": subject, "version": version, "id": version, "schema": text}
            form |= {"schemaType": kind} if kind != "AVRO" else {}
            for name in (version, "latest"):
                self.answers[f"/subjects/{subject}/versions/{name}"] = lambda form=form: (  # type: ignore[misc]
                    JSONResponse(form)
                )

    def close(self) -> None:
        self._server.stop()


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    made = Foreign()
    yield made
    made.close()


@pytest.fixture
def client(foreign: Foreign) -> Iterator[RegistryClient]:
    made = RegistryClient(foreign.url, timeout_seconds=0.5)
    yield made
    made.close()


def test_what_never_changes_is_asked_once(foreign: Foreign, client: RegistryClient) -> None:
    foreign.has("financial", NARROW)

    for second in range(0, 10_000, 100):
        found = client.find("financial", 1, float(second))
        assert found is not None and found.text == NARROW
    assert client.text_of(1, 0.0) == NARROW

    assert foreign.asked == ["/subjects/financial/versions/1"]


def test_the_latest_version_is_believed_for_a_while_and_absence_for_a_second(
    foreign: Foreign, client: RegistryClient
) -> None:
    for second in (0.0, 0.9):
        assert client.find("financial", None, second) is None
    foreign.has("financial", NARROW)
    assert client.is_known("financial", 1.1)
    foreign.has("financial", NARROW, WIDE)
    versions = [client.find("financial", None, 2.0 + s) for s in (0.0, 10.0, 20.0, 30.0)]

    assert [found.version for found in versions if found] == [1, 1, 1, 2]
    assert len(foreign.asked) == 3
    sure = client.find("financial", None, 33.5, sure=True)
    assert sure is not None and len(foreign.asked) == 4


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (lambda: JSONResponse({"error_code": 50001, "message": "x"}, 500), UnavailableError, "500"),
        (lambda: Response("busy", 429), UnavailableError, "429"),
        (lambda: Response("no", 401), ConfigurationError, "user and password"),
        (lambda: HTMLResponse("<h1>hello</h1>", 404), ConfigurationError, "does not name"),
        (lambda: HTMLResponse("<h1>hello</h1>"), ConfigurationError, "does not name"),
        (lambda: JSONResponse({"schema": 5}), RegistryError, "no proper"),
        (lambda: JSONResponse([1]), RegistryError, "no proper"),
        (lambda: JSONResponse({"error_code": 42202, "message": "bad"}, 422), RegistryError, "bad"),
    ],
)
def test_bad_answers_are_told_from_each_other(
    foreign: Foreign, client: RegistryClient, answer: Any, error: type[Exception], says: str
) -> None:
    foreign.answers["/subjects/a/versions/1"] = answer

    with pytest.raises(error, match=says):
        client.find("a", 1, 0.0)


def test_a_server_that_is_away_or_too_slow_is_unavailable(
    foreign: Foreign, client: RegistryClient
) -> None:
    def slow() -> Response:
        time.sleep(1.0)
        return JSONResponse([])

    foreign.answers["/subjects"] = slow
    with pytest.raises(UnavailableError, match=r"schemas\.url"):
        client.subjects(0.0)
    away = RegistryClient("http://127.0.0.1:1")
    with pytest.raises(UnavailableError):
        away.subjects(0.0)
    away.close()


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("localhost:8081", "kafka://host", "http://"):
        with pytest.raises(ConfigurationError, match="http"):
            RegistryClient(url)


def test_what_is_kept_is_bounded_and_what_was_used_last_stays() -> None:
    kept: Kept[int, int] = Kept(3)
    for number in range(3):
        kept.put(number, number)
    kept.get(0)
    kept.put(3, 3)

    assert [kept.get(number) for number in range(4)] == [0, None, 2, 3]


# -- the check of events with it -------------------------------------------------------------


def checked(foreign: Foreign, client: RegistryClient, *limits: float) -> SchemaChecker:
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    checker = SchemaChecker(log, client)
    for number, limit in enumerate(limits):
        value = json.dumps(event(number + 1, {"limit": limit}, number=number)).encode()
        log.append([NewRecord(EVENTS, 0, b"", value)], 10.0 + number)
        checker.step(10.0 + 2.0 * number)
        foreign.has("financial", NARROW, WIDE)  # Somebody registers another version.
    return checker


def test_a_version_that_is_newer_than_what_was_believed_is_asked_for_before_anything_is_said(
    foreign: Foreign, client: RegistryClient
) -> None:
    foreign.has("financial", NARROW)

    checker = checked(foreign, client, 1, 1.5, 2.5)

    assert checker.standing(0.0).checks == {"valid": 3}


def test_a_registry_that_is_away_stops_the_check_and_loses_nothing(foreign: Foreign) -> None:
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    value = json.dumps(event(1, {"limit": "wrong"})).encode()
    log.append([NewRecord(EVENTS, 0, b"", value)], 10.0)
    away = RegistryClient("http://127.0.0.1:1")

    with pytest.raises(UnavailableError):
        SchemaChecker(log, away).step(10.0)
    away.close()
    assert FindingsReader(log).read() == []

    foreign.has("financial", NARROW)
    back = RegistryClient(foreign.url)
    SchemaChecker(log, back).step(20.0)
    back.close()
    assert [finding.evidence["rule"] for finding in FindingsReader(log).read()] == ["type"]


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ('"string"', "AVRO", "AVRO"),
        ('{"$ref": "http://127.0.0.1/x"}', "JSON", "leads out of it"),
        ("{", "JSON", "no JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_makes_its_events_unknown(
    foreign: Foreign, client: RegistryClient, text: str, kind: str, why: str
) -> None:
    foreign.has("financial", text, kind=kind)
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    checker = SchemaChecker(log, client)
    for number in range(3):
        value = json.dumps(event(number + 1, {"limit": 1}, number=number)).encode()
        log.append([NewRecord(EVENTS, 0, b"", value)], 10.0)
        checker.step(10.0)

    standing = checker.standing(10.0)

    assert standing.checks == {"unusable": 3}
    assert len(foreign.asked) == 1
    verdict, reason = standing.verdict({0: 3})
    assert verdict == "UNKNOWN" and why in reason
