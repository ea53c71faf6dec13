"""`synchroscope findings` and `synchroscope repair`; their work is imported when they run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from service.cli_types import Seconds

_config = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The YAML configuration.",
)


def _check_place(config: Path | None, data_dir: Path | None) -> None:
    if (config is None) == (data_dir is None):
        raise click.UsageError("name one place: --config FILE, or --data-dir DIR")


@click.command()
@_config
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Data folder of the demo or of `attach`, which may be running.",
)
@click.option("--open", "only_open", is_flag=True, help="Only findings that are not resolved.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def findings(config: Path | None, data_dir: Path | None, only_open: bool, output: str) -> None:
    """List what was found: which replica, which keys, since when, and how far a repair is.

    Exit code: 0 nothing is open, 1 a finding is.
    """
    from service.findings_listing import list_findings

    _check_place(config, data_dir)
    sys.exit(list_findings(config, data_dir, only_open=only_open, as_json=output == "json"))


@click.command()
@click.argument("finding")
@_config
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Data folder of the demo, which must not be running.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and change nothing.")
@click.option("--force", is_flag=True, help="Repair in bulk, where a rebuild would be cheaper.")
@click.option(
    "--timeout",
    type=Seconds(),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Do not wait longer for the proof; the repair goes on.",
)
def repair(
    finding: str,
    config: Path | None,
    data_dir: Path | None,
    dry_run: bool,
    force: bool,
    timeout: float,
) -> None:
    """Put right what FINDING names, from the event store, and wait for the proof.

    Replicas go on meanwhile, and nothing that a newer event wrote is taken back. Exit code: 0
    repaired, and a later digest proves it; 1 it still deviates; 2 there is nothing to repair; 3 it
    is not proven yet, or nobody knows what the keys must be.
    """
    from service.repair_running import run_repair

    _check_place(config, data_dir)
    sys.exit(run_repair(finding, config, data_dir, dry_run=dry_run, force=force, seconds=timeout))
