"""Metrics and findings of attached mode over HTTP."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.attached_report import aged
from service.attached_screen import AttachedScreen
from service.http import STALE_SECONDS, HttpServer
from tracing.attached_metrics import AttachedCollector


def serve(screen: AttachedScreen, host: str, port: int) -> HttpServer:
    """Serve what the screen was told last, and return the server."""
    server = HttpServer(make_app(screen), host, port)
    server.start()
    return server


def make_app(screen: AttachedScreen) -> Starlette:
    """Return the ASGI application."""

    def current() -> dict[str, Any] | None:
        # By the clock of who asks: what made the report may have come to a stop.
        report = screen.report
        return None if report is None else aged(report, time.time())

    registry = CollectorRegistry()
    registry.register(AttachedCollector(current))

    def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def healthz(request: Request) -> Response:
        report = screen.report
        if report is not None and time.time() - report["at"] > STALE_SECONDS:
            return JSONResponse({"status": "the validator has stopped stepping"}, 503)
        return JSONResponse({"status": "ok"})

    def status(request: Request) -> Response:
        report = current()
        if report is None:
            return JSONResponse({"error": "starting, or servers cannot be reached"}, 503)
        return JSONResponse(report)

    def findings(request: Request) -> Response:
        found: list[dict[str, Any]] = list(screen.findings.values())
        for field in ("state", "replica", "kind"):
            wanted = request.query_params.get(field)
            if wanted is not None:
                found = [finding for finding in found if finding[field] == wanted]
        return JSONResponse(found)

    endpoints = {
        "/metrics": metrics,
        "/healthz": healthz,
        "/api/status": status,
        "/api/findings": findings,
    }
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in endpoints.items()])
