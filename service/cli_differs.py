"""`synchroscope differs`: what divergent keys share against the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from service.cli_types import Share


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The YAML configuration.",
)
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Data folder of the demo, which may be running.",
)
@click.option("--open", "only_open", is_flag=True, help="Only findings that are not resolved.")
@click.option("--kind", "kinds", multiple=True, help="Only findings of this kind; may be repeated.")
@click.option(
    "--dimension",
    "dimensions",
    multiple=True,
    metavar="NAME=JSONPATH",
    help="One more dimension, read from the event, e.g. region=$.contextDelta.updates.country."
    "current. May be given several times.",
)
@click.option(
    "--rate",
    type=Share(),
    default=0.05,
    show_default=True,
    help="Share of what is shown that may be chance.",
)
@click.option(
    "--events",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="So many of the newest events are read.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the samples.")
@click.option("--all", "show_all", is_flag=True, help="Show also what another line explains.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def differs(
    config: Path | None,
    data_dir: Path | None,
    only_open: bool,
    kinds: tuple[str, ...],
    dimensions: tuple[str, ...],
    rate: float,
    events: int,
    seed: int,
    show_all: bool,
    output: str,
) -> None:
    """Rank what divergent keys have in common: producer, version, partition, replica, hour, …

    Exit code: 0 done, whatever was found; 3 there are findings, but too few or none that name an
    event or a key.
    """
    from service.differs_running import Asked, run_differs

    if (config is None) == (data_dir is None):
        raise click.UsageError("name one place: --config FILE, or --data-dir DIR")
    asked = Asked(config, data_dir, only_open, kinds, dimensions, rate, events, seed)
    sys.exit(run_differs(asked, show_all=show_all, as_json=output == "json"))
