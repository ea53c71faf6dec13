"""How the check of events shows: on the board, in the report, the metrics and the summary."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from service.board import STANDING_LIMIT_SECONDS, Board
from service.demo import SCHEMAS
from service.embedded import EmbeddedPipeline
from service.measuring import measurements_of
from service.report import build_report, exit_code
from service.schema_room import read_folder, register_folder
from service.screen import print_summary
from synchroscope.errors import ConfigurationError
from synchroscope.ports import EVENTS, NewRecord
from tests.builders import event
from tracing.metrics import registry_for


class World:
    """An embedded pipeline without replicas, events written past its command side."""

    def __init__(self, folder: Path, schemas: Path | None = SCHEMAS) -> None:
        self.now = 1_000.0
        self.pipeline = EmbeddedPipeline(
            folder, [], partitions=1, clock=lambda: self.now, schemas=schemas
        )

    def write(self, *values: Any, kind: str = "geographic") -> None:
        for number, value in enumerate(values):
            made = event(number + 1, {"country": value}, number=number, kind=kind)
            record = NewRecord(EVENTS, 0, b"", json.dumps(made).encode())
            self.pipeline.log.append([record], self.now)
        while self.pipeline.step():
            pass

    def report(self) -> dict[str, Any]:
        return build_report(self.pipeline.account(self.now))


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    made.pipeline.close()


def test_a_violation_is_an_open_finding_everywhere(world: World) -> None:
    world.write("France", 5, 6)

    report = world.report()
    assert report["schemas"]["verdict"] == "VIOLATED"
    assert report["schemas"]["checks"] == {"valid": 1, "violation": 2}
    assert report["schemas"]["violations"] == {"type": 2}
    (finding,) = report["findings"]
    assert (finding["kind"], finding["evidence"]["field"]) == ("schema-violation", "/country")
    assert exit_code(report) == 1
    account = world.pipeline.account(world.now)
    assert account.open == account.opened == {"schema-violation": 1}
    board = Board(world.pipeline.log, {})
    board.refresh()
    assert board.count("open") == {"schema-violation": 1}
    assert board.schemas == msgspec.structs.replace(account.schemas, at=board.schemas.at)  # type: ignore[union-attr, type-var]


def test_the_metrics_are_those_of_the_check(world: World) -> None:
    world.write("France", 5)
    world.write("x", kind="weather")
    measured = measurements_of(world.pipeline.account(world.now))

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry_for(lambda: measured).collect()
        for sample in family.samples
    }
    assert samples["synchroscope_schema_checks_total", "valid"] == 1
    assert samples["synchroscope_schema_checks_total", "unregistered"] == 1
    assert samples["synchroscope_schema_violations_total", "type"] == 1
    assert samples["synchroscope_schema_unchecked_context_types",] == 1
    assert samples["synchroscope_schema_lag_events",] == 0
    assert samples["synchroscope_open_findings", "schema-violation"] == 1


def test_the_summary_tells_what_is_wrong_and_what_is_unknown_and_no_value(world: World) -> None:
    world.write("France", "")
    world.write("x", kind="weather")
    assert "VIOLATED" in summary(world)
    assert "minLength (string of 0 characters, expected 1), 1 times since 0:1" in summary(world)
    assert "France" not in summary(world)


def test_what_is_not_registered_is_told_as_unknown_and_what_is_right_is_not_told(
    world: World,
) -> None:
    world.write("France")
    assert "schemas" not in summary(world)
    world.write("x", kind="weather")
    assert "schemas: UNKNOWN, weather: no schema is registered" in summary(world)


def summary(world: World) -> str:
    console = Console(file=StringIO(), width=200)
    print_summary(console, world.report(), 0.0)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_check_that_has_fallen_silent_is_not_called_valid(world: World) -> None:
    world.write("France")
    account = world.pipeline.account(world.now)
    assert build_report(account)["schemas"]["verdict"] == "VALID"

    late = msgspec.structs.replace(account, at=account.at + STANDING_LIMIT_SECONDS + 1.0)

    told = build_report(late)["schemas"]
    assert (told["verdict"], told["reason"]) == ("UNKNOWN", "nobody has checked events for 11 s")


def test_nothing_is_checked_before_anything_is_registered_and_then_all_of_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, schemas=None)
    world.write("France", 5)
    assert world.report()["schemas"] is None

    register_folder(world.pipeline.schemas.registry, SCHEMAS, world.now)
    world.write("Spain")

    assert world.report()["schemas"]["checks"] == {"valid": 2, "violation": 1}
    world.pipeline.close()


def test_a_folder_that_holds_no_schemas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(ConfigurationError, match=r"CONTEXT_TYPE\.json"):
        read_folder(tmp_path)
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_folder(tmp_path)
