"""What every schema registry does: ours on any log, and ours behind its REST interface."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from pipeline.log_kafka import KafkaLog
from pipeline.log_memory import MemoryLog
from pipeline.log_sqlite import SqliteLog
from pipeline.sqlite_database import SqliteDatabase
from service.http import HttpServer
from service.registry_http import Desk, registry_routes
from synchroscope.ports import CONTROL_TOPICS, EVENTS, Log
from tests.topics import KAFKA_CLIENTS, new_topics
from validator.schemas.model import RegistryError, SchemaRegistry
from validator.schemas.registry_client import CONTENT_TYPE, RegistryClient
from validator.schemas.registry_log import LogRegistry

TOPICS = {EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)}
OpenRegistry = Callable[[], SchemaRegistry]

FIRST = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}'
)
SECOND = FIRST.replace("integer", "number")
OTHER = FIRST.replace("integer", "string")


class Served:
    """Our registry on a log in memory behind HTTP, with the thread that owns it."""

    def __init__(self) -> None:
        self._desk = Desk()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._server = HttpServer(Starlette(routes=registry_routes(self._desk)), "127.0.0.1", 0)
        self.url = self._server.url
        self._thread.start()
        self._server.start()

    def _run(self) -> None:
        registry = LogRegistry(MemoryLog(TOPICS))
        while not self._ended.is_set():
            if not self._desk.step(registry, time.time()):
                self._ended.wait(0.001)

    def close(self) -> None:
        self._server.stop()
        self._ended.set()
        self._thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    with closing(Served()) as found:
        yield found


@pytest.fixture(params=["memory", "sqlite", *KAFKA_CLIENTS, "rest"])
def open_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenRegistry]:
    """Opens registries on one and the same store, each as another process would."""
    kind: str = request.param
    with ExitStack() as to_close:
        if kind == "rest":
            served = to_close.enter_context(closing(Served()))
            yield lambda: to_close.enter_context(closing(RegistryClient(served.url)))
        elif kind in KAFKA_CLIENTS:
            settings = new_topics(kind, to_close)

            def open_one() -> SchemaRegistry:
                log = to_close.enter_context(closing(KafkaLog(settings)))
                return LogRegistry(log, wait=log.wait)

            yield open_one
        else:
            log: Log = MemoryLog(TOPICS)
            if kind == "sqlite":
                database = to_close.enter_context(closing(SqliteDatabase(tmp_path / "log.db")))
                log = SqliteLog(database, TOPICS)
            yield lambda: LogRegistry(log)


def code_of(act: Callable[[], object]) -> int:
    with pytest.raises(RegistryError) as caught:
        act()
    return caught.value.code


def test_a_schema_has_one_id_and_a_subject_numbers_its_versions(
    open_registry: OpenRegistry,
) -> None:
    registry, now = open_registry(), time.time()

    first = registry.register("financial", FIRST, now)
    assert registry.register("financial", json.dumps(json.loads(FIRST), indent=3), now) == first
    second = registry.register("financial", SECOND, now)
    assert registry.register("geographic", FIRST, now) == first != second

    assert registry.subjects(now) == ["financial", "geographic"]
    assert registry.versions("financial", now) == [1, 2]
    found = registry.version("financial", None, now)
    assert (found.subject, found.version, found.id) == ("financial", 2, second)
    assert json.loads(found.text) == json.loads(SECOND)
    assert json.loads(registry.text_of(first, now)) == json.loads(FIRST)
    assert registry.lookup("financial", FIRST, now).version == 1


def test_what_is_absent_is_refused_with_the_code_that_clients_know(
    open_registry: OpenRegistry,
) -> None:
    registry, now = open_registry(), time.time()
    registry.register("a", FIRST, now)

    assert code_of(lambda: registry.versions("b", now)) == 40401
    assert code_of(lambda: registry.version("b", None, now)) == 40401
    assert code_of(lambda: registry.version("a", 2, now)) == 40402
    assert code_of(lambda: registry.text_of(99, now)) == 40403
    assert code_of(lambda: registry.lookup("a", SECOND, now)) == 40403
    assert code_of(lambda: registry.lookup("b", FIRST, now)) == 40401
    assert code_of(lambda: registry.level("a", now)) == 40408
    assert code_of(lambda: registry.set_level("a", "SOMEHOW", now)) == 42203  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"type": "strin"}',
        '{"$ref": "http://127.0.0.1/x"}',
        '{"$ref": "#/$defs/a"}',
        '{"pattern": "(?=a)"}',
        '{"$schema": "http://json-schema.org/draft-04/schema#"}',
        '{"properties": {"a": {"$id": "x"}}}',
        '{"maximum": NaN}',
    ],
)
def test_what_is_no_schema_that_can_be_checked_is_refused(
    open_registry: OpenRegistry, text: str
) -> None:
    registry = open_registry()

    assert code_of(lambda: registry.register("a", text, time.time())) == 42201
    assert registry.subjects(time.time()) == []


def test_a_subjects_level_decides_what_may_follow(open_registry: OpenRegistry) -> None:
    registry, now = open_registry(), time.time()
    registry.register("a", FIRST, now)

    assert registry.level(None, now) == registry.level("a", now, or_global=True) == "BACKWARD"
    assert code_of(lambda: registry.register("a", OTHER, now)) == 409
    assert "TYPE_CHANGED" in registry.incompatibilities("a", OTHER, None, now)[0]
    registry.set_level("a", "NONE", now)
    registry.register("a", OTHER, now)
    registry.set_level("a", "FULL_TRANSITIVE", now)
    assert registry.level("a", now) == "FULL_TRANSITIVE"
    assert code_of(lambda: registry.register("a", SECOND, now)) == 409
    assert registry.refusal("a", SECOND, now) and not registry.refusal("new", SECOND, now)
    registry.set_level("a", None, now)
    registry.set_level(None, "NONE", now)
    assert registry.register("a", SECOND, now) == 3
    assert registry.versions("a", now) == [1, 2, 3]


def test_the_check_of_events_finds_versions_and_learns_of_new_ones(
    open_registry: OpenRegistry,
) -> None:
    registry, now = open_registry(), time.time()
    generation = registry.refresh(now)
    assert registry.find("a", None, now) is None
    assert not registry.is_known("a", now)

    open_registry().register("a", FIRST, now)

    later = now + 60.0
    assert registry.refresh(later) != generation
    assert registry.is_known("a", later)
    found = registry.find("a", None, later)
    assert found is not None and found.version == 1
    assert registry.find("a", 1, later) == found
    assert registry.find("a", 2, later) is None


def test_of_two_that_register_at_once_each_gets_the_id_of_its_own_schema(
    open_registry: OpenRegistry,
) -> None:
    one, two, now = open_registry(), open_registry(), time.time()
    schemas = [FIRST.replace('"a"', f'"field_{number}"') for number in range(20)]
    assert one.subjects(now) == two.subjects(now) == []

    ids: dict[str, set[int]] = {text: set() for text in schemas}
    for number, text in enumerate(schemas):
        for registry, subject in ((one, f"s{number}"), (two, f"t{number}")):
            ids[schemas[-1 - number]].add(registry.register(subject, schemas[-1 - number], now))
            ids[text].add(registry.register(subject + "'", text, now))

    assert all(len(found) == 1 for found in ids.values())
    assert len({next(iter(found)) for found in ids.values()}) == len(schemas)
    assert one.subjects(now) == two.subjects(now)
    for text, found in ids.items():
        assert json.loads(two.text_of(next(iter(found)), now)) == json.loads(text)


# -- what only the log's registry can show ---------------------------------------------------


class Interfering:
    """A log on which somebody else appends right before each of the first appends."""

    def __init__(self, log: Log, acts: list[Callable[[], object]]) -> None:
        self._log, self._acts = log, acts
        self.partitions, self.read, self.head = log.partitions, log.read, log.head
        self.positions, self.latest = log.positions, log.latest

    def append(self, *arguments: object, **more: object) -> None:
        if self._acts:
            self._acts.pop(0)()
        self._log.append(*arguments, **more)  # type: ignore[arg-type]


def test_who_was_second_reads_on_and_decides_anew() -> None:
    log = MemoryLog(TOPICS)
    rival = LogRegistry(log)
    acts: list[Callable[[], object]] = [
        lambda: rival.register("b", OTHER, 1.0),
        lambda: rival.register("a", FIRST, 2.0),
        lambda: rival.set_level("a", "NONE", 3.0),
    ]
    registry = LogRegistry(Interfering(log, acts))

    assert registry.register("a", SECOND, 4.0, by="me") == 3

    assert not acts
    for one in (registry, rival, LogRegistry(log)):
        assert one.versions("a", 5.0) == [1, 2]
        assert [one.text_of(number, 5.0) for number in (1, 2, 3)] == [OTHER, FIRST, SECOND]
    assert [(change.revision, change.by) for change in registry.changes] == [
        (1, ""), (2, ""), (3, ""), (4, "me"),
    ]  # fmt: skip


def test_who_was_second_with_what_does_not_follow_is_refused() -> None:
    log = MemoryLog(TOPICS)
    rival = LogRegistry(log)
    registry = LogRegistry(Interfering(log, [lambda: rival.register("a", FIRST, 1.0)]))

    assert code_of(lambda: registry.register("a", OTHER, 2.0)) == 409


# -- the REST shape --------------------------------------------------------------------------


def test_the_interface_has_confluents_shape(served: Served) -> None:
    with httpx.Client(base_url=served.url, headers={"Content-Type": CONTENT_TYPE}) as http:
        body = {"schema": FIRST, "schemaType": "JSON"}
        made = http.post("/subjects/a/versions", json=body)
        assert (made.status_code, made.json()) == (200, {"id": 1})
        assert made.headers["content-type"].startswith(CONTENT_TYPE)
        whole = {"subject": "a", "version": 1, "id": 1, "schemaType": "JSON", "schema": FIRST}
        assert http.get("/subjects/a/versions/latest").json() == whole
        assert http.get("/subjects/a/versions/1").json() == whole
        assert http.get("/subjects/a/versions/1/schema").json() == json.loads(FIRST)
        assert http.post("/subjects/a", json=body).json() == whole
        assert http.get("/subjects").json() == ["a"]
        assert http.get("/subjects/a/versions").json() == [1]
        assert http.get("/schemas/ids/1").json() == {"schemaType": "JSON", "schema": FIRST}
        assert http.get("/schemas/ids/1/versions").json() == [{"subject": "a", "version": 1}]
        assert http.get("/schemas/types").json() == ["JSON"]
        assert http.get("/config").json() == {"compatibilityLevel": "BACKWARD"}
        assert http.put("/config/a", json={"compatibility": "FULL"}).json() == {
            "compatibility": "FULL"
        }
        assert http.get("/mode").json() == {"mode": "READWRITE"}
        wrong = {"schema": OTHER, "schemaType": "JSON"}
        place = "/compatibility/subjects/a/versions"
        assert http.post(f"{place}/latest", json=wrong).json() == {"is_compatible": False}
        told = http.post(f"{place}?verbose=true", json=wrong).json()
        assert "TYPE_CHANGED" in told["messages"][0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/subjects/x/versions", None, 404, 40401),
        ("GET", "/subjects/a/versions/7", None, 404, 40402),
        ("GET", "/schemas/ids/7", None, 404, 40403),
        ("GET", "/config/a", None, 404, 40408),
        ("GET", "/subjects/a/versions/0", None, 422, 42202),
        ("GET", "/subjects/a/versions/new", None, 422, 42202),
        ("PUT", "/config", {"compatibility": "SOMEHOW"}, 422, 42203),
        ("PUT", "/config", {}, 422, 42203),
        ("POST", "/subjects/a/versions", {"schema": OTHER, "schemaType": "JSON"}, 409, 409),
        ("POST", "/subjects/a/versions", {"schema": "{"}, 422, 42201),
        ("POST", "/subjects/a/versions", {"schema": 5, "schemaType": "JSON"}, 422, 42201),
        ("POST", "/subjects/a/versions", [], 422, 42201),
        ("DELETE", "/subjects/a", None, 422, 42205),
    ],
)
def test_refusals_have_confluents_codes(
    served: Served, method: str, path: str, body: object, status: int, code: int
) -> None:
    with httpx.Client(base_url=served.url) as http:
        http.post("/subjects/a/versions", json={"schema": FIRST, "schemaType": "JSON"})

        answer = http.request(method, path, json=body)

    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert answer.json()["message"]


def test_a_request_that_nobody_comes_round_for_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.registry_http.ANSWER_SECONDS", 0.05)
    server = HttpServer(Starlette(routes=registry_routes(Desk())), "127.0.0.1", 0)
    server.start()
    try:
        answer = httpx.get(f"{server.url}/subjects")
    finally:
        server.stop()

    assert (answer.status_code, answer.json()["error_code"]) == (500, 50002)
