"""The `synchroscope` command; the work of each one is imported when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from service.cli_attach import attach
from service.cli_compare import compare
from service.cli_distributed import COMMANDS
from service.cli_registry import registry
from service.cli_repair import findings, repair
from service.cli_types import Seconds
from service.terminal import INTERRUPTED, ending_with_its_reader, open_console
from synchroscope import __version__
from synchroscope.errors import ConfigurationError, SynchroscopeError


class Speed(click.ParamType[float | None]):
    """A factor, or ``max``."""

    name = "N|max"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Return the factor, None for as fast as possible."""
        if value == "max" or value is None:
            return None
        try:
            factor = float(str(value))
        except ValueError:
            factor = 0.0
        if not 0 < factor < float("inf"):
            self.fail("a number over 0, or max", param, ctx)
        return factor


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="synchroscope")
def cli() -> None:
    """Prove that every model's replica of shared context is what the log says it must be."""


@cli.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of invoice CSV files; default: three days that come with the package.",
)
@click.option(
    "--speed",
    type=Speed(),
    default="1200",
    show_default=True,
    help="Times faster than the stream's own time, or max.",
)
@click.option(
    "--duration",
    type=Seconds(),
    help="Stop producing after so many seconds.",
)
@click.option("--headless", is_flag=True, help="End when the data ends and all is judged.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:REPLICA:SHARE",
    help="Inject drop, duplicate, reorder, delay, corrupt or stale, "
    "e.g. drop:fraud-scorer@2:0.001. May be given several times.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the faults.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is kept, and taken up again; default: a temporary folder.",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    help="Port of metrics and API; 0 takes any free one.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run over the servers that this file names, two processes a role; "
    "default: in this process.",
)
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report as JSON to this file.",
)
def demo(
    data: Path | None,
    speed: float | None,
    duration: float | None,
    headless: bool,
    faults: tuple[str, ...],
    seed: int,
    data_dir: Path | None,
    config: Path | None,
    http_port: int,
    http_host: str,
    report: Path | None,
) -> None:
    """Replay the retail stream through the whole pipeline and judge every replica.

    Exit code: 0 all proven, 1 a divergence is open, 2 usage, 3 undecided.
    """
    from service.demo import DEFAULT_DATA, DemoOptions, run_demo

    if report is not None and not report.absolute().parent.is_dir():
        raise ConfigurationError(f"--report: there is no folder {report.absolute().parent}")
    options = DemoOptions(
        data=DEFAULT_DATA if data is None else data,
        speed=speed,
        duration_seconds=duration,
        headless=headless,
        faults=faults,
        seed=seed,
        data_dir=data_dir,
        config=config,
        http_host=http_host,
        http_port=http_port,
        report=report,
    )
    sys.exit(run_demo(options, open_console()))


@cli.command()
@click.option(
    "--seeds", type=click.IntRange(min=1), default=100, show_default=True, help="How many."
)
@click.option("--start-seed", type=int, default=0, show_default=True, help="The first one.")
@click.option("--keep-going", is_flag=True, help="Do not stop at the first failure.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
    show_default="one a core",
    help="How many at a time.",
)
def simulate(seeds: int, start_seed: int, keep_going: bool, jobs: int) -> None:
    """Run the roles under a seeded scheduler, a virtual clock, faults and crashes.

    Exit code: 0 every property held, 1 one did not; the seed and the command that repeats it are
    printed.
    """
    from rich.console import Console

    from service.simulation import run_simulation

    chosen = range(start_seed, start_seed + seeds)
    sys.exit(run_simulation(chosen, keep_going, Console(), jobs=jobs))


for command in (*COMMANDS, registry, attach, compare, findings, repair):
    cli.add_command(command)


def main() -> None:
    """Run the command; errors of our own end it with a sentence, not a traceback."""
    try:
        with ending_with_its_reader():
            code = cli.main(standalone_mode=False)
    except click.Abort:
        click.echo("synchroscope: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigurationError as error:
        click.echo(f"synchroscope: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(
            f"synchroscope: {error.filename or 'input or output'}: {error.strerror}", err=True
        )
        sys.exit(2)
    except SynchroscopeError as error:
        click.echo(f"synchroscope: {error}", err=True)
        sys.exit(3)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
