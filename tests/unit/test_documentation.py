"""What is not documented, or documented and not there, fails here."""

from __future__ import annotations

import re
from pathlib import Path

import click

from service.cli import cli
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


def test_every_option_of_every_command_is_on_the_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(--[a-z-]+)", page, re.MULTILINE))
    existing = {
        option
        for command in cli.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }

    assert documented == existing
    for name in cli.commands:
        assert f"## {name}" in page


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
