"""The commands of the distributed mode; their work is imported when they run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli_differs import differs
from service.cli_types import Seconds
from service.terminal import open_console

if TYPE_CHECKING:
    from service.configuration import Configuration

ROLE_NAMES = ("relay", "projector", "validator")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_config = click.option("--config", type=_FILE, required=True, help="The YAML configuration.")


def _load(path: Path) -> Configuration:
    from service.configuration import load_configuration

    return load_configuration(path, os.environ)


@click.command()
@click.argument("roles", nargs=-1, required=True, type=click.Choice(ROLE_NAMES))
@_config
@click.option(
    "--replica",
    "replicas",
    multiple=True,
    metavar="NAME",
    help="Run this replica, whose storage (memory, lmdb) belongs to one process. "
    "May be given several times; replicas in shared storages are run by every projector.",
)
@click.option("--http-host", help="Address of metrics and API; default: the file's.")
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port; 0 takes any free one.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:REPLICA:SHARE",
    help="Inject a fault on purpose, as in the demo. May be given several times.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the faults.")
@click.option(
    "--fault-journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where injected faults are written down.",
)
def run(
    roles: tuple[str, ...],
    config: Path,
    replicas: tuple[str, ...],
    http_host: str | None,
    http_port: int | None,
    faults: tuple[str, ...],
    seed: int,
    fault_journal: Path | None,
) -> None:
    """Run roles of the pipeline in this process, until it is told to stop.

    Start as many processes as you like: Kafka divides the partitions among those that run, and
    gives those of a process that dies to the others. Exit code: 0 stopped, 2 a wrong setting, 3 the
    servers could not be reached at start.
    """
    from service.process import RoleProcess, log_as_json_lines

    configuration = _load(config)
    log_as_json_lines()
    process = RoleProcess(
        configuration,
        roles,
        replicas=replicas,
        faults=faults,
        seed=seed,
        fault_journal=fault_journal,
    )
    host = configuration.http.host if http_host is None else http_host
    port = configuration.http.port if http_port is None else http_port
    sys.exit(process.run(http_host=host, http_port=port))


@click.command("check-config")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--connect", is_flag=True, help="Ask each server as well; nothing is changed there.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--print-schema", is_flag=True, help="Print the file's JSON schema, for editors.")
def check_config(file: Path | None, connect: bool, output: str, print_schema: bool) -> None:
    """Say what is wrong with a configuration file, or what it means, without starting anything.

    Exit code: 0 all is fine, 2 a setting is wrong or a server is not as it must be, 3 a server does
    not answer.
    """
    from service.check_config import check_config

    if print_schema:
        from service.configuration_schema import configuration_schema

        click.echo(json.dumps(configuration_schema(), indent=2))
        return
    if file is None:
        raise click.UsageError("name a FILE, or give --print-schema")
    as_json = output == "json"
    sys.exit(check_config(file, os.environ, open_console(), connect=connect, as_json=as_json))


@click.command()
@_config
def prepare(config: Path) -> None:
    """Create the topics and tables that are missing, and say what deviates.

    Exit code: 0 all is as it must be, 2 something deviates, 3 a server could not be reached.
    """
    from service.operating import prepare

    sys.exit(prepare(_load(config), open_console()))


@click.command()
@_config
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(config: Path, output: str) -> None:
    """Show how every replica stands, who validates what, and which processes run.

    Exit code: 0 all CONSISTENT, 1 a divergence is open, 3 something is UNKNOWN.
    """
    from service.operating import show_status

    sys.exit(show_status(_load(config), open_console(), as_json=output == "json"))


@click.command()
@_config
@click.option(
    "--timeout",
    type=Seconds(),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="What is not proven by then is UNKNOWN.",
)
def prove(config: Path, timeout: float) -> None:
    """Have every replica compared, and its storage summed, where the log ends now.

    Under load the log's end moves on; run it when producers are quiet. Exit code: 0 all is proven,
    1 a divergence is open, 3 something is UNKNOWN.
    """
    from service.operating import prove

    sys.exit(prove(_load(config), open_console(), seconds=timeout))


@click.group()
def replica() -> None:
    """Which replicas are expected."""


@replica.command()
@click.argument("name")
@_config
@click.option("--undo", is_flag=True, help="Expect it again.")
def retire(name: str, config: Path, undo: bool) -> None:
    """Take a replica off the expected ones, so that its silence is no longer UNKNOWN."""
    from service.operating import retire

    sys.exit(retire(_load(config), name, open_console(), undo=undo))


COMMANDS = (check_config, run, prepare, status, prove, replica, differs)
