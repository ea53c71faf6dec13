"""What is not documented, or documented and not there, fails here."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import msgspec
from msgspec import Struct

from service.cli import cli
from service.configuration import Configuration, load_configuration
from service.configuration_typing import hints_of, range_of
from tracing.metrics import METRICS, Measurements, registry_for

ROOT = Path(__file__).resolve().parents[2]


def rows(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_metric_is_in_the_table_with_its_labels_and_type() -> None:
    documented = {
        row[0].strip("`"): (row[1], tuple(re.findall(r"`(\w+)`", row[2])))
        for row in rows("metrics.md")
    }
    declared = {
        name: (kind.__name__.removesuffix("MetricFamily").lower(), labels)
        for name, (kind, _, labels) in METRICS.items()
    }

    assert documented == declared


def test_every_metric_is_exposed_under_its_declared_name() -> None:
    collected = registry_for(lambda: Measurements(at=1.0)).collect()
    exposed = {metric.name for metric in collected if not metric.name.startswith("process_")}

    assert exposed == {name.removesuffix("_total") for name in METRICS}


def commands(group: click.Group = cli, before: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found


def test_every_option_of_every_command_is_in_the_table_of_that_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    intro, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    documented = {
        section.splitlines()[0]: set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
        for section in sections
    }
    existing = {
        name: {
            option
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
        for name, command in commands().items()
    }

    assert documented == existing
    for name in existing:
        assert re.search(rf"^    synchroscope {name} ", intro, re.MULTILINE), name


def settings(kind: type[Struct] = Configuration, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Every setting of the configuration file: its place, its default and its range."""
    for field in msgspec.structs.fields(kind):
        hint, place = hints_of(kind)[field.name], path + field.name
        parts = (hint, *typing.get_args(hint))
        section = next((p for p in parts if isinstance(p, type) and issubclass(p, Struct)), None)
        if section is None or not section.__struct_fields__:
            yield place, default_of(field), range_of(hint) or choices_of(hint)
        else:
            inner = {list: "[]", dict: ".NAME"}.get(typing.get_origin(hint), "")
            yield from settings(section, f"{place}{inner}.")


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, (int, float)):
        return f"{field.default:,}".removesuffix(".0")
    return f"`{field.default}`" if field.default not in ("", msgspec.NODEFAULT) else "empty"


def choices_of(hint: Any) -> str:
    is_choice = typing.get_origin(hint) is typing.Literal
    return ", ".join(filter(None, typing.get_args(hint))) if is_choice else ""


def test_every_setting_is_on_the_page_with_its_default_and_range() -> None:
    table = [row for row in rows("configuration.md") if len(row) == 4]
    documented = {row[0].strip("`"): (row[1], row[2]) for row in table}
    existing = {place: (default, allowed) for place, default, allowed in settings()}

    assert documented.keys() == existing.keys()
    for place, (default, allowed) in existing.items():
        # What is no number's range is said in words.
        told = documented[place]
        assert told == (default, allowed or told[1]), place


def test_the_first_example_of_the_configuration_page_is_sound(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    example = re.search(r"(?:^    .*\n)+", page, re.MULTILINE)
    assert example is not None
    secret, file = tmp_path / "redis", tmp_path / "synchroscope.yaml"
    secret.write_text("hunter2")
    file.write_text(dedent(example[0]).replace("/run/secrets/redis", str(secret)))

    configuration = load_configuration(file, {"PG_PASSWORD": "hunter2"})
    assert [replica.name for replica in configuration.replicas] == ["fraud-scorer@1"]


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_target_of_the_makefile_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z]+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_sdk_imports_no_other_room() -> None:
    rooms = "pipeline|validator|tracing|chaos|service|examples|benchmarks"
    for file in (ROOT / "synchroscope").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert not re.search(rf"^\s*(from|import) ({rooms})\b", source, re.MULTILINE), file.name


def test_the_validator_cannot_reach_the_injector() -> None:
    for file in (ROOT / "validator").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert "chaos" not in source and "faults.jsonl" not in source, file.name
