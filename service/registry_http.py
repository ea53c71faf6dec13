"""Our registry behind Confluent's REST interface, so that ordinary clients work with it.

Requests come in the server's thread, and the registry belongs to the thread of its log; between
them stands a `Desk`, where a request waits until the registry's owner comes round.
"""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from synchroscope.errors import SynchroscopeError, UnavailableError
from validator.schemas.model import (
    INVALID_LEVEL,
    INVALID_SCHEMA,
    INVALID_VERSION,
    STORE_FAILED,
    TIMED_OUT,
    RegistryError,
    SchemaVersion,
)
from validator.schemas.registry_client import CONTENT_TYPE
from validator.schemas.registry_log import LogRegistry

MAXIMUM_REQUEST_BYTES = 1_048_576
MAXIMUM_WAITING = 100
JOBS_PER_STEP = 20
ANSWER_SECONDS = 10.0
NOT_PERMITTED = 42205
NOT_THERE = 50003

T = TypeVar("T")
Job = Callable[[LogRegistry, float], T]


class Desk:
    """Where requests wait for the one thread that may use the registry."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[Job[Any], Future[Any]]] = queue.Queue(MAXIMUM_WAITING)

    def ask(self, job: Job[T]) -> Future[T]:
        """Put a job on the desk; its future is done when the registry's owner has done it."""
        future: Future[T] = Future()
        try:
            self._waiting.put_nowait((job, future))
        except queue.Full:
            future.set_exception(RegistryError(NOT_THERE, "too many requests wait; try again"))
        return future

    def step(self, registry: LogRegistry, now: float) -> int:
        """Do some of the jobs that wait; return how many.

        Raises `UnavailableError` after a job that found the log away, which is told so as well.
        """
        for done in range(JOBS_PER_STEP):
            try:
                job, future = self._waiting.get_nowait()
            except queue.Empty:
                return done
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job(registry, now))
            except (RegistryError, ValueError) as error:
                future.set_exception(error)
            except SynchroscopeError as error:
                future.set_exception(error)
                raise
            except BaseException as error:
                future.set_exception(RegistryError(STORE_FAILED, f"internal error: {error!r}"))
                raise
        return JOBS_PER_STEP


def registry_routes(desk: Desk) -> list[Route]:
    """Return the routes of Confluent's interface."""

    def route(path: str, method: str, answer: Callable[[Request, Any], Job[Any]]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _respond(desk, request, answer)

        return Route(path, endpoint, methods=[method], name=f"{method} {path}")

    subject = "/subjects/{subject}"
    return [
        route("/subjects", "GET", lambda request, form: lambda r, now: r.subjects(now)),
        route(f"{subject}/versions", "GET", _versions),
        route(f"{subject}/versions", "POST", _register),
        route(f"{subject}/versions/{{version}}", "GET", _version),
        route(f"{subject}/versions/{{version}}/schema", "GET", _version_text),
        route(subject, "POST", _lookup),
        route(subject, "DELETE", _refuse_to_delete),
        route(f"{subject}/versions/{{version}}", "DELETE", _refuse_to_delete),
        route("/schemas/types", "GET", lambda request, form: lambda r, now: ["JSON"]),
        route("/schemas/ids/{id}", "GET", _text),
        route("/schemas/ids/{id}/schema", "GET", _text_alone),
        route("/schemas/ids/{id}/subjects", "GET", _subjects_of),
        route("/schemas/ids/{id}/versions", "GET", _versions_of),
        route("/compatibility/subjects/{subject}/versions/{version}", "POST", _compatibility),
        route("/compatibility/subjects/{subject}/versions", "POST", _compatibility_with_all),
        *(
            route(path, method, answer)
            for path in ("/config", "/config/{subject}")
            for method, answer in (("GET", _level), ("PUT", _set_level))
        ),
        route("/config/{subject}", "DELETE", _drop_level),
        route("/mode", "GET", lambda request, form: lambda r, now: {"mode": "READWRITE"}),
        route("/mode/{subject}", "GET", lambda request, form: lambda r, now: {"mode": "READWRITE"}),
    ]


async def _respond(
    desk: Desk, request: Request, answer: Callable[[Request, Any], Job[Any]]
) -> Response:
    try:
        form = await _form(request) if request.method in ("POST", "PUT") else {}
        return _answer(await _wait(desk.ask(answer(request, form))))
    except RegistryError as error:
        return _answer({"error_code": error.code, "message": str(error)}, error.status)
    except TimeoutError:
        message = "the registry did not come round in time; try again"
        return _answer({"error_code": TIMED_OUT, "message": message}, 500)
    except UnavailableError as error:
        return _answer({"error_code": NOT_THERE, "message": str(error)}, 503)
    except SynchroscopeError as error:
        return _answer({"error_code": STORE_FAILED, "message": str(error)}, 500)


def _wait(future: Future[T]) -> Awaitable[T]:
    return asyncio.wait_for(asyncio.wrap_future(future), ANSWER_SECONDS)


def _answer(form: Any, status: int = 200) -> Response:
    text = json.dumps(form, ensure_ascii=False)
    return Response(text, status, media_type=CONTENT_TYPE)


async def _form(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAXIMUM_REQUEST_BYTES:
            raise HTTPException(413, f"more than {MAXIMUM_REQUEST_BYTES} bytes")
    try:
        form = json.loads(bytes(data))
    except (ValueError, RecursionError):
        form = None
    if not isinstance(form, dict):
        raise RegistryError(INVALID_SCHEMA, "the request's body has to be a JSON object")
    return form


def _text_in(form: dict[str, Any]) -> str:
    """Return the schema of a request."""
    kind, text = form.get("schemaType", "AVRO"), form.get("schema")
    if kind != "JSON":
        raise RegistryError(
            INVALID_SCHEMA,
            f"Invalid schema type {kind}: this registry has JSON schemas; "
            'send "schemaType": "JSON"',
        )
    if form.get("references"):
        raise RegistryError(
            INVALID_SCHEMA, "references are not supported: put what is referred to under $defs"
        )
    if not isinstance(text, str):
        raise RegistryError(INVALID_SCHEMA, "Empty schema: the request needs schema, as text")
    return text


def _number(text: str) -> int | None:
    """Return the number of a version, None for the latest."""
    if text in ("latest", "-1"):
        return None
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:10]) <= 2**31 - 1:
        raise RegistryError(
            INVALID_VERSION,
            f"The specified version '{text}' is not a valid version id. Allowed values are "
            'between [1, 2^31-1] and the string "latest"',
        )
    return int(text)


def _id(request: Request) -> int:
    text = request.path_params["id"]
    if not text.isascii() or not text.isdecimal():
        raise HTTPException(404)
    return int(text[:10])


def _who(request: Request) -> str:
    client = request.client.host if request.client else ""
    return f"{client} {request.headers.get('user-agent', '')}".strip()


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _whole(found: SchemaVersion) -> dict[str, Any]:
    return {
        "subject": found.subject,
        "version": found.version,
        "id": found.id,
        "schemaType": "JSON",
        "schema": found.text,
    }


def _versions(request: Request, form: Any) -> Job[Any]:
    return lambda r, now: r.versions(request.path_params["subject"], now)


def _version(request: Request, form: Any) -> Job[Any]:
    number = _number(request.path_params["version"])
    return lambda r, now: _whole(r.version(request.path_params["subject"], number, now))


def _version_text(request: Request, form: Any) -> Job[Any]:
    number = _number(request.path_params["version"])
    subject = request.path_params["subject"]
    return lambda r, now: json.loads(r.version(subject, number, now).text)


def _register(request: Request, form: Any) -> Job[Any]:
    text, who = _text_in(form), _who(request)
    subject = request.path_params["subject"]
    return lambda r, now: {"id": r.register(subject, text, now, by=who)}


def _lookup(request: Request, form: Any) -> Job[Any]:
    text = _text_in(form)
    return lambda r, now: _whole(r.lookup(request.path_params["subject"], text, now))


def _refuse_to_delete(request: Request, form: Any) -> Job[Any]:
    raise RegistryError(
        NOT_PERMITTED, "nothing is deleted here: events of the log were written with it"
    )


def _text(request: Request, form: Any) -> Job[Any]:
    number = _id(request)
    return lambda r, now: {"schemaType": "JSON", "schema": r.text_of(number, now)}


def _text_alone(request: Request, form: Any) -> Job[Any]:
    number = _id(request)
    return lambda r, now: json.loads(r.text_of(number, now))


def _subjects_of(request: Request, form: Any) -> Job[Any]:
    number = _id(request)
    return lambda r, now: sorted({one.subject for one in r.subject_versions_of(number, now)})


def _versions_of(request: Request, form: Any) -> Job[Any]:
    number = _id(request)
    return lambda r, now: [
        {"subject": one.subject, "version": one.version}
        for one in r.subject_versions_of(number, now)
    ]


def _compatibility(request: Request, form: Any) -> Job[Any]:
    number, text = _number(request.path_params["version"]), _text_in(form)
    subject, is_verbose = request.path_params["subject"], _flag(request, "verbose")

    def job(registry: LogRegistry, now: float) -> dict[str, Any]:
        reasons = registry.incompatibilities(subject, text, number, now)
        return _verdict(reasons, is_verbose)

    return job


def _compatibility_with_all(request: Request, form: Any) -> Job[Any]:
    text, is_verbose = _text_in(form), _flag(request, "verbose")
    subject = request.path_params["subject"]

    def job(registry: LogRegistry, now: float) -> dict[str, Any]:
        return _verdict(registry.refusal(subject, text, now), is_verbose)

    return job


def _verdict(reasons: list[str], is_verbose: bool) -> dict[str, Any]:
    form: dict[str, Any] = {"is_compatible": not reasons}
    return form | {"messages": reasons} if is_verbose else form


def _level(request: Request, form: Any) -> Job[Any]:
    subject = request.path_params.get("subject")
    or_global = _flag(request, "defaultToGlobal")
    return lambda r, now: {"compatibilityLevel": r.level(subject, now, or_global=or_global)}


def _set_level(request: Request, form: Any) -> Job[Any]:
    level, subject, who = (
        form.get("compatibility"),
        request.path_params.get("subject"),
        _who(request),
    )
    if not isinstance(level, str):
        raise RegistryError(INVALID_LEVEL, 'the request needs "compatibility"')

    def job(registry: LogRegistry, now: float) -> dict[str, Any]:
        registry.set_level(subject, level.upper(), now, by=who)  # type: ignore[arg-type]
        return {"compatibility": level.upper()}

    return job


def _drop_level(request: Request, form: Any) -> Job[Any]:
    subject, who = request.path_params["subject"], _who(request)

    def job(registry: LogRegistry, now: float) -> dict[str, Any]:
        was = registry.level(subject, now)
        registry.set_level(subject, None, now, by=who)
        return {"compatibilityLevel": was}

    return job
