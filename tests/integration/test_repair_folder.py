"""Findings and repair on the data folder of a demo that has ended: no server is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli import cli
from synchroscope.errors import ConfigurationError
from tests.integration.test_distributed import add_day

ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of a demo with damage that nothing healed."""
    base = tmp_path_factory.mktemp("demo")
    data = base / "data"
    data.mkdir()
    add_day(data, 0, ROWS)
    arguments = ["demo", "--data", str(data), "--data-dir", str(base / "run"), "--headless"]
    arguments += ["--speed", "max", "--http-port", "0"]
    arguments += ["--fault", "drop:fraud-scorer@1:0.03", "--fault", "corrupt:recommender@1:0.02"]
    arguments += ["--fault", "drop:fraud-scorer@2:0.03"]  # In memory: a new start would heal it.
    ended = CliRunner().invoke(cli, arguments)
    assert ended.exit_code == 1, ended.output
    return base / "run"


def findings(folder: Path) -> list[dict[str, Any]]:
    listed = run(folder, "findings", "--open", "--output", "json")
    found = [json.loads(line) for line in listed[1].splitlines()]
    assert listed[0] == int(bool(found))
    return found


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(cli, [*arguments, "--data-dir", str(folder)])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.exit_code, ended.output


def first(found: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(finding for finding in found if finding["kind"] == kind)


def test_what_is_open_is_shown_planned_repaired_and_proven(folder: Path) -> None:
    found = findings(folder)
    assert {finding["kind"] for finding in found} == {"missed", "corrupted"}
    assert found[0]["id"] in run(folder, "findings")[1]

    corrupted = first(found, "corrupted")
    code, plan = run(folder, "repair", corrupted["id"], "--dry-run")
    assert (code, f"of {corrupted['subjects'][0]}: sequence" in plan) == (0, True)
    [[field, evidence], *_] = corrupted["evidence"]["fields"].items()
    is_public = "seen_value" in evidence
    shown = repr(evidence["seen_value"]) if is_public else evidence["seen_hash"]
    assert f"  {field}: {shown} -> " in plan
    if not is_public:
        assert f"-> {evidence['expected_hash']} " in plan
    assert findings(folder) == found

    for finding in found:
        code, said = run(folder, "repair", finding["id"])
        assert (code, "resolved" in said) in ((0, True), (2, True)), said
    assert findings(folder) == []
    assert run(folder, "findings", "--open")[1] == "no finding is open\n"
    assert run(folder, "repair", found[0]["id"])[0] == 2


def test_a_finding_that_nobody_knows_is_a_wrong_usage(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no finding F-nothing"):
        run(folder, "repair", "F-nothing")
    assert CliRunner().invoke(cli, ["repair", "F-nothing"]).exit_code == 2
