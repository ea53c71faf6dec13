"""The check of events: what is found, how it is told, and what is never called fine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.retail.stream import RetailProducer
from examples.retail.views import RULES
from pipeline.commands import CommandSide
from pipeline.log_memory import MemoryLog
from service.demo import DEFAULT_DATA
from service.embedded import EmbeddedPipeline
from service.schema_room import register_folder
from synchroscope.ports import CONTROL_TOPICS, EVENTS, NewRecord
from tests.builders import event
from validator.finding import Finding
from validator.ledger import FindingsReader
from validator.schemas import violations
from validator.schemas.checker import SchemaChecker, SchemaStanding
from validator.schemas.document import compile_schema
from validator.schemas.registry_log import LogRegistry

SCHEMAS = DEFAULT_DATA.parent / "schemas"
PARTITIONS = 2
FIRST: dict[str, Any] = {
    "properties": {
        "limit": {"type": "integer", "minimum": 0},
        "risk": {"type": "string", "maxLength": 5},
        "tags": {"type": "array", "items": {"type": "string"}},
        "places": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "required": ["limit"],
}
SECOND: dict[str, Any] = {
    **FIRST,
    "properties": {**FIRST["properties"], "limit": {"type": "number"}},
}


class World:
    """A log in memory with a registry, a checker and what it found."""

    def __init__(self, *versions: Mapping[str, Any], **settings: Any) -> None:
        self.log = MemoryLog({EVENTS: PARTITIONS, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.registry = LogRegistry(self.log)
        self.settings = {"right_events": 3, "right_seconds": 10.0, **settings}
        self.now = 100.0
        for version in versions:
            self.registry.register("financial", json.dumps(version), self.now)
        self.checker = self.new_checker()

    def new_checker(self) -> SchemaChecker:
        return SchemaChecker(self.log, LogRegistry(self.log), **self.settings)

    def write(self, updates: Mapping[str, Any], *, partition: int = 0, **more: Any) -> None:
        made = event(1, updates, kind=more.pop("kind", "financial"))
        made["source"] = {
            "modelId": more.pop("producer", "till"),
            "instanceId": more.pop("instance", "till-1"),
        }
        if "version" in more:
            made["schemaVersion"] = more.pop("version")
        assert not more
        self.append(json.dumps(made).encode(), partition)

    def append(self, value: bytes, partition: int = 0) -> None:
        self.log.append([NewRecord(EVENTS, partition, b"", value)], self.now)

    def check(self) -> SchemaStanding:
        while self.checker.step(self.now).consumed:
            pass
        return self.checker.standing(self.now)

    def findings(self) -> list[Finding]:
        self.check()
        return FindingsReader(self.log).read()


BROKEN = [
    ({"limit": "5"}, "/limit", "type", ["integer"], "string of 1 characters"),
    ({"limit": -1}, "/limit", "minimum", 0, "integer"),
    ({"limit": 5, "risk": "too high"}, "/risk", "maxLength", 5, "string of 8 characters"),
    ({"limit": 5, "mood": "good"}, "/mood", "new-field", None, "string of 4 characters"),
    ({"risk": "low"}, "/limit", "required", None, "absent"),
    ({"limit": 5, "tags": ["a", 7]}, "/tags/*", "type", ["string"], "integer"),
    ({"limit": 5, "places": {"p-17": 1.5}}, "/places/*", "type", ["integer"], "number"),
]


@pytest.mark.parametrize(("updates", "field", "rule", "expected", "seen"), BROKEN)
def test_a_violation_is_found_with_field_rule_version_producer_and_offset(
    updates: dict[str, Any], field: str, rule: str, expected: Any, seen: str
) -> None:
    world = World(FIRST)
    world.write({"limit": 1})
    world.write({"limit": 2}, partition=1)
    world.write(updates, partition=1, version=1, instance="till-9")

    (finding,) = world.findings()

    assert (finding.kind, finding.state, finding.replica) == ("schema-violation", "open", None)
    assert finding.context_type == "financial" and finding.subjects == ["user:1"]
    assert finding.first_bad_position is not None
    assert (finding.first_bad_position.partition, finding.first_bad_position.offset) == (1, 1)
    told = finding.evidence
    assert (told["field"], told["rule"], told["expected"]) == (field, rule, expected)
    assert (told["seen"], told["producer"], told["schema_version"]) == (seen, "till", 1)
    assert (told["count"], told["instances"], told["versions"]) == (1, {"till-9": 1}, {"1": 1})
    assert ("evolution" in told) == (rule in ("type", "new-field"))
    # Values may be personal; nothing of them is told but their kind.
    assert not {"too high", "good", "p-17"} & set(json.dumps(told).split('"'))
    assert world.checker.standing(0.0).verdict({})[0] == "VIOLATED"


def test_the_events_own_version_is_checked_and_the_latest_where_it_has_none() -> None:
    world = World(FIRST, SECOND)
    world.write({"limit": 1.5}, version=2)
    world.write({"limit": 1.5})
    world.write({"limit": 1.5}, version=1)

    (finding,) = world.findings()

    assert finding.first_bad_position is not None and finding.first_bad_position.offset == 2
    assert (finding.evidence["schema_version"], finding.evidence["fits_version"]) == (1, 2)
    assert world.check().checks == {"valid": 2, "violation": 1}


def test_a_version_that_nobody_registered_is_a_violation_of_its_own() -> None:
    world = World(FIRST)
    world.write({"limit": 1}, version=7)

    (finding,) = world.findings()

    told = finding.evidence
    assert (told["rule"], told["field"], told["seen"]) == ("unknown-version", "", "version 7")
    assert (told["expected"], told["schema_version"], told["fits_version"]) == (1, 7, 1)


def test_a_context_type_without_a_schema_is_unknown_and_counted_until_there_is_one() -> None:
    world = World(FIRST)
    world.write({"limit": 1})
    world.write({"country": "F"}, kind="geographic")

    standing = world.check()
    assert standing.checks == {"valid": 1, "unregistered": 1}
    assert standing.unchecked == {"geographic": "no schema is registered"}
    assert standing.verdict({0: 2}) == ("UNKNOWN", "geographic: no schema is registered")

    world.registry.register("geographic", '{"properties": {"country": {"type": "string"}}}', 1.0)
    world.write({"country": "F"}, kind="geographic")

    standing = world.check()
    assert standing.checks == {"valid": 2, "unregistered": 1}
    # What went by unchecked stays unchecked.
    assert standing.verdict({0: 3}) == ("UNKNOWN", "1 events could not be checked")
    assert world.findings() == []


def test_only_what_was_checked_up_to_the_head_is_valid() -> None:
    world = World(FIRST)
    world.write({"limit": 1})

    assert world.checker.standing(0.0).verdict({0: 1})[0] == "UNKNOWN"
    assert world.check().verdict({0: 1}) == ("VALID", "")
    assert world.check().verdict({0: 1, 1: 1})[0] == "UNKNOWN"


def test_what_is_no_event_is_counted_and_is_not_fine() -> None:
    world = World(FIRST)
    world.append(b"{")
    world.append(b'{"contextDelta": 5}')

    standing = world.check()

    assert standing.checks == {"undecodable": 2}
    assert standing.verdict({0: 2})[0] == "UNKNOWN"


def test_a_sample_is_taken_only_where_a_setting_says_so_and_is_not_called_valid() -> None:
    world = World(FIRST, sample_every=3)
    for _ in range(9):
        world.write({"limit": "wrong"})

    assert world.check().checks == {"violation": 3, "skipped": 6}
    assert World(FIRST, sample_every=2).check().verdict({})[0] == "UNKNOWN"


def test_what_an_event_removes_is_not_checked() -> None:
    world = World(FIRST)
    world.write({"limit": None, "risk": None})
    world.write({"limit": 4, "risk": None})

    assert world.check().checks == {"empty": 1, "valid": 1}


def test_violations_of_one_kind_are_one_finding_that_counts() -> None:
    world = World(FIRST)
    for number in range(30):
        world.write({"limit": -1}, partition=number % 2, instance=f"till-{number % 3}")
        world.write({"limit": -1}, producer="other")
    world.check()
    world.now += violations.PUBLISH_SECONDS
    world.write({"limit": -1})

    found = {finding.evidence["producer"]: finding.evidence for finding in world.findings()}

    assert {name: told["count"] for name, told in found.items()} == {"till": 31, "other": 30}
    assert found["till"]["instances"] == {"till-0": 10, "till-1": 11, "till-2": 10}
    assert found["till"]["last_position"] == {"partition": 0, "offset": 45}
    assert world.check().rules == {"minimum": 61}


def test_a_producer_that_invents_fields_without_end_does_not_fill_the_memory() -> None:
    world = World(FIRST)
    for number in range(200):
        world.write({"limit": 1, f"field-{number}": 1})

    findings = world.findings()

    assert len(findings) == world.check().open == violations.MAXIMUM_OF_SOURCE + 1
    many = [finding for finding in findings if finding.evidence["rule"] == "many"]
    assert len(many) == 1
    world.now += violations.PUBLISH_SECONDS
    world.write({"limit": 1, "field-0": 1})
    assert sum(finding.evidence["count"] for finding in world.findings()) == 201


def test_a_finding_is_resolved_when_later_events_were_right_for_the_stated_span() -> None:
    world = World(FIRST)
    world.write({"limit": 1, "risk": "too high"})
    for _ in range(5):
        world.write({"limit": 1, "risk": "low"})
    assert [finding.state for finding in world.findings()] == ["open"], "too early"

    world.now += 10.0
    for _ in range(5):
        world.write({"limit": 1})
        world.write({"limit": 1, "risk": "low"}, producer="other")
    assert world.check().open == 1 or world.findings()[0].evidence["right_events"] >= 3
    world.write({"limit": 1, "risk": "low"})

    (finding,) = world.findings()
    assert (finding.state, finding.evidence["right_position"]) == (
        "resolved",
        {"partition": 0, "offset": 16},
    )
    standing = world.check()
    assert (standing.opened, standing.resolved, standing.open) == (1, 1, 0)
    assert standing.verdict({0: 17}) == ("VALID", "")


def test_events_that_do_not_have_the_field_do_not_show_that_it_is_right() -> None:
    world = World(FIRST)
    world.write({"limit": 1, "risk": "too high"})
    world.now += 100.0
    for _ in range(50):
        world.write({"limit": 1})

    assert [finding.state for finding in world.findings()] == ["open"]


def test_what_is_wrong_again_after_it_was_resolved_is_a_new_finding() -> None:
    world = World(FIRST)
    for _ in range(2):
        world.write({"limit": -1})
        world.now += 20.0
        for _ in range(4):
            world.write({"limit": 1})

    found = world.findings()

    assert [finding.state for finding in found] == ["resolved", "resolved"]
    assert len({finding.id for finding in found}) == 2


def test_a_checker_that_is_killed_at_any_step_finds_and_counts_the_same() -> None:
    def run(steps_until_killed: int) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
        world = World(FIRST, records_per_step=3, checkpoint_interval_seconds=5.0)
        for number in range(40):
            world.now = 100.0 + number
            world.write({"limit": -1 if number % 11 == 0 else 1})
        world.now = 200.0
        steps = 0
        while world.checker.step(world.now).consumed:
            world.now += 1.0
            steps += 1
            if steps == steps_until_killed:
                world.checker = world.new_checker()
        told = [(f.id, f.state, f.first_bad_position) for f in FindingsReader(world.log).read()]
        return world.checker.standing(0.0).checks, told

    undisturbed = run(-1)
    assert undisturbed[0] == {"valid": 36, "violation": 4}
    assert len(undisturbed[1]) == 4
    for steps in range(1, 15):
        assert run(steps) == undisturbed


def test_what_was_registered_before_an_event_was_written_is_known_when_it_is_checked() -> None:
    world = World(FIRST)
    world.write({"limit": 1})
    world.check()

    world.registry.register("financial", json.dumps(SECOND), world.now)
    world.write({"limit": 1.5}, version=2)

    assert world.check().checks == {"valid": 2}


# -- schemas that say nothing of undeclared fields -------------------------------------------


@pytest.mark.parametrize(
    ("schema", "is_welcome"),
    [
        ({"properties": {"a": {}}}, False),
        ({"properties": {"a": {}}, "additionalProperties": True}, True),
        ({"allOf": [{"properties": {"a": {}}}]}, False),
        ({"patternProperties": {"^x": {}}}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x1": {}}}}}, True),
        (True, True),
    ],
)
def test_a_field_that_nobody_declared_is_welcome_only_where_the_schema_says_so(
    schema: Any, is_welcome: bool
) -> None:
    assert compile_schema(json.dumps(schema)).validator.is_valid({"x1": 1}) == is_welcome


# -- the retail example ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def retail_log(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Events of the embedded demo's log, after its checker has found nothing in them."""
    folder = tmp_path_factory.mktemp("retail")
    pipeline = EmbeddedPipeline(folder, [], schemas=SCHEMAS)
    producer = RetailProducer(
        DEFAULT_DATA, CommandSide(pipeline.store, RULES), pipeline.store, batch_rows=200
    )
    now = 1_000.0
    while not producer.done or not pipeline.is_caught_up():
        producer.step(now)
        pipeline.step()
    account = pipeline.account(now)
    assert account.schemas is not None
    assert account.schemas.verdict(account.heads) == ("VALID", "")
    assert sum(account.schemas.checks.values()) == account.events_produced > 15_000
    assert account.findings == []
    records = [
        record.value
        for partition in account.heads
        for record in pipeline.log.read(EVENTS, partition, 0, 2_000).records
    ]
    pipeline.close()
    return records


def changed(value: bytes, change: Any) -> bytes:
    made = msgspec.json.decode(value)
    change(made)
    return msgspec.json.encode(made)


def _set(field: str, value: Any) -> Any:
    def change(made: dict[str, Any]) -> None:
        made["contextDelta"]["updates"][field] = {"current": value}

    return change


def _drop(field: str) -> Any:
    return lambda made: made["contextDelta"]["updates"].pop(field)


BASKET = {"invoice": "1", "lines": 1, "units": 1}
INJECTED = [
    ("financial", _set("spend", "12.50"), "/spend", "type"),
    ("financial", _set("cancellations", -1), "/cancellations", "minimum"),
    ("financial", _set("cancellations", 1.5), "/cancellations", "type"),
    ("financial", _set("loyalty", 3), "/loyalty", "new-field"),
    ("financial", _drop("spend"), "/spend", "required"),
    ("financial", _drop("basket_invoice"), "/basket_invoice", "required"),
    ("behavioural", _set("products_seen", ["a"] * 11), "/products_seen", "maxItems"),
    ("behavioural", _set("products_seen", ["a", 5]), "/products_seen/*", "type"),
    ("behavioural", _set("basket", BASKET | {"lines": 0}), "/basket/lines", "minimum"),
    ("behavioural", _set("basket", {"invoice": "1", "lines": 1}), "/basket/units", "required"),
    ("behavioural", _set("basket", BASKET | {"till": 3}), "/basket/till", "new-field"),
    ("geographic", _set("country", ""), "/country", "minLength"),
    ("geographic", lambda made: made.update(schemaVersion=4), "", "unknown-version"),
]  # fmt: skip


@pytest.mark.parametrize(("context_type", "change", "field", "rule"), INJECTED)
def test_each_violation_that_is_put_into_the_retail_stream_is_found_alone(
    retail_log: list[bytes], context_type: str, change: Any, field: str, rule: str
) -> None:
    world = World()
    register_folder(world.registry, SCHEMAS, world.now)
    places = [
        place
        for place, value in enumerate(retail_log)
        if msgspec.json.decode(value).get("contextType") == context_type
        and b"basket_invoice" in value + b"basket_invoice" * (context_type != "financial")
        and b'"current":null' not in value
    ]
    struck = places[len(places) // 2]
    for place, value in enumerate(retail_log):
        world.append(changed(value, change) if place == struck else value)

    found = [f for f in world.findings() if f.evidence["rule"] == rule]

    assert len(found) >= 1
    assert {f.first_bad_position.offset for f in world.findings() if f.first_bad_position} == {
        struck
    }
    assert (found[0].evidence["field"], found[0].context_type) == (field, context_type)
    assert found[0].evidence["producer"] == "shop-frontend"
    assert world.check().checks["violation"] == 1


def test_the_examples_schemas_are_those_of_its_context_types() -> None:
    assert {path.stem for path in Path(SCHEMAS).glob("*.json")} == set(RULES)
