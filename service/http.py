"""Metrics, health and a JSON API over what the pipeline last said of itself."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from synchroscope.errors import ConfigurationError
from tracing.metrics import Measurements, registry_for
from validator.finding import KINDS, STATES

STALE_SECONDS = 10.0
_PAGES = {
    "/metrics": "Prometheus metrics",
    "/healthz": "alive?",
    "/readyz": "ready? names what is missing",
    "/api/status": "everything at once",
    "/api/replicas": "verdict, position and counters of every replica",
    "/api/findings": "all findings; ?state=open for the open ones, ?replica=NAME for one replica's",
    "/api/report": "the report as --report writes it",
    "/subjects": "the schema registry, where this process serves it",
}


class Shown(Struct, frozen=True):
    """What the HTTP side may see; replaced as a whole, never changed."""

    measurements: Measurements
    report: Mapping[str, Any]
    unready: str
    hung: str = ""
    """Which roles have not come round for too long: only a new process helps."""


class Showcase:
    """Holds the newest `Shown` between the pipeline's thread and the server's."""

    def __init__(self) -> None:
        self.shown: Shown | None = None

    def measurements(self) -> Measurements | None:
        """Return the newest measurements."""
        return None if self.shown is None else self.shown.measurements


def make_app(showcase: Showcase, more: Sequence[Route] = ()) -> Starlette:
    """Return the ASGI application; `more` are routes of other parts."""
    registry = registry_for(showcase.measurements)

    def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def healthz(request: Request) -> Response:
        shown = showcase.shown
        if shown is not None and time.time() - shown.measurements.at > STALE_SECONDS:
            return JSONResponse({"status": "the pipeline has stopped stepping"}, 503)
        if shown is not None and shown.hung:
            return JSONResponse({"status": f"hangs: {shown.hung}"}, 503)
        return JSONResponse({"status": "ok"})

    def readyz(request: Request) -> Response:
        shown = showcase.shown
        why = "starting" if shown is None else shown.unready
        return JSONResponse({"status": why or "ok"}, 503 if why else 200)

    def part(name: str | None) -> Any:
        def endpoint(request: Request) -> Response:
            if showcase.shown is None or not showcase.shown.report:
                return JSONResponse({"error": "starting, or servers cannot be reached"}, 503)
            report = showcase.shown.report
            found: Any = report if name is None else report[name]
            if name == "findings":
                return _chosen(found, request.query_params)
            return JSONResponse(found)

        return endpoint

    def status(request: Request) -> Response:
        if showcase.shown is None or not showcase.shown.report:
            return JSONResponse({"error": "starting, or servers cannot be reached"}, 503)
        report = dict(showcase.shown.report)
        report["findings"] = [f for f in report["findings"] if f["state"] != "resolved"]
        del report["faults"]
        return JSONResponse(report)

    def index(request: Request) -> Response:
        rows = "".join(
            f'<li><a href="{path}">{path}</a> {text}</li>' for path, text in _PAGES.items()
        )
        return HTMLResponse(f"<!doctype html><title>Synchroscope</title><ul>{rows}</ul>")

    endpoints = {
        "/": index,
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
        "/-/healthy": healthz,
        "/-/ready": readyz,
        "/api/status": status,
        "/api/replicas": part("replicas"),
        "/api/findings": part("findings"),
        "/api/report": part(None),
    }
    routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
    return Starlette(routes=[*routes, *more])


def _chosen(findings: Sequence[Mapping[str, Any]], asked: Mapping[str, str]) -> Response:
    """Return those findings that are asked for; 400 where there can be none like that."""
    for field, allowed in (("state", STATES), ("kind", KINDS)):
        if asked.get(field, allowed[0]) not in allowed:
            told = {"error": f"there is no {field} {asked[field]!r}", "allowed": allowed}
            return JSONResponse(told, 400)
    wanted = {field: asked[field] for field in ("state", "replica", "kind") if field in asked}
    return JSONResponse([f for f in findings if all(f[n] == v for n, v in wanted.items())])


class HttpServer:
    """Serves an application from a thread of its own.

    Parameters
    ----------
    app: The application.
    host, port: Where to listen; port 0 takes any free one.
    """

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()  # Whoever connects before the thread is up waits.
        except OSError as error:
            self._socket.close()
            raise ConfigurationError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another --http-port, "
                "0 takes any free one"
            ) from None
        self.url = "http://{}:{}".format(*self._socket.getsockname()[:2])
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="http"
        )

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and wait for the thread, five seconds at most."""
        self._server.should_exit = True
        self._thread.join(5.0)
        self._socket.close()
