"""What the API answers to what it is asked."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.http import HttpServer, Showcase, Shown, make_app
from tracing.metrics import Measurements

FINDINGS = [
    {"id": "F-1", "state": "open", "kind": "missed", "replica": "a@1"},
    {"id": "F-2", "state": "resolved", "kind": "stale", "replica": "a@1"},
    {"id": "F-3", "state": "open", "kind": "stale", "replica": "b@1"},
]


def answer(**asked: str) -> tuple[int, Any]:
    showcase = Showcase()
    showcase.shown = Shown(Measurements(at=1.0), {"findings": FINDINGS}, "")
    server = HttpServer(make_app(showcase), "127.0.0.1", 0)
    server.start()
    try:
        found = httpx.get(f"{server.url}/api/findings", params=asked)
    finally:
        server.stop()
    return found.status_code, found.json()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ["F-1", "F-2", "F-3"]),
        ({"state": "open"}, ["F-1", "F-3"]),
        ({"state": "repairing"}, []),
        ({"kind": "stale", "replica": "b@1"}, ["F-3"]),
        ({"replica": "nobody@1"}, []),
    ],
)
def test_findings_are_those_that_were_asked_for(asked: dict[str, str], expected: list[str]) -> None:
    code, found = answer(**asked)
    assert (code, [one["id"] for one in found]) == (200, expected)


@pytest.mark.parametrize(("field", "one"), [("state", "open"), ("kind", "hop-lost")])
def test_a_state_or_kind_that_there_is_not_is_refused_with_those_that_there_are(
    field: str, one: str
) -> None:
    code, told = answer(**{field: "zzz"})
    assert (code, told["error"]) == (400, f"there is no {field} 'zzz'")
    assert one in told["allowed"]
