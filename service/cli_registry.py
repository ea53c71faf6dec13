"""The commands of the schema registry; their work is imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_DATA = click.Path(file_okay=False, path_type=Path)


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--data-dir", type=_DATA, help="Data folder of an embedded pipeline that is not running."
    )(command)
    return click.option("--config", type=_FILE, help="The YAML configuration.")(command)


@click.group()
def registry() -> None:
    """The registry of context types' schemas."""


@registry.command()
@_where
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=8081,
    show_default=True,
    help="Port; 0 takes any free one, which is printed.",
)
def serve(config: Path | None, data_dir: Path | None, http_host: str, http_port: int) -> None:
    """Serve the registry with Confluent's REST interface, until told to stop.

    A process with the role validator serves it beside its metrics already, and so does the demo.
    """
    from service.registry_running import serve

    sys.exit(serve(_one(config, data_dir), http_host, http_port))


@registry.command()
@click.argument("folder", type=_FOLDER)
@_where
@click.option("--url", help="A registry with Confluent's REST interface.")
@click.option("--dry-run", is_flag=True, help="Only say what would be refused.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def register(
    folder: Path,
    config: Path | None,
    data_dir: Path | None,
    url: str | None,
    dry_run: bool,
    output: str,
) -> None:
    """Register the schemas of a folder, one file CONTEXT_TYPE.json each.

    Exit code: 0 all are registered (or would be), 1 one is not compatible, 2 one is no schema.
    """
    from service.registry_running import register

    place = _one(config, data_dir, url)
    sys.exit(register(place, folder, dry_run=dry_run, as_json=output == "json"))


@registry.command()
@_where
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def history(config: Path | None, data_dir: Path | None, output: str) -> None:
    """Show who changed what in the registry, and when."""
    from service.registry_running import history

    sys.exit(history(_one(config, data_dir), as_json=output == "json"))


def _one(config: Path | None, data_dir: Path | None, url: str | None = None) -> Any:
    """Return the place that was named; there has to be exactly one."""
    from service.registry_running import Place

    if sum(place is not None for place in (config, data_dir, url)) != 1:
        raise click.UsageError("name one place: --config FILE, or --data-dir DIR, or --url URL")
    return Place(config, data_dir, url)
