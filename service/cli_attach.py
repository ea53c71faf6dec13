"""The command of attached mode; its work is imported when it runs."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from service.cli_types import Seconds
from service.terminal import open_console
from synchroscope.errors import SynchroscopeError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--once", is_flag=True, help="Look at everything once, then end.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the reference and the findings are kept, and taken up again; "
    "default: a temporary folder.",
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="With --once: what was not looked at by then is UNKNOWN.",
)
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Serve metrics and findings there; 0 takes any free one. Default: not at all.",
)
def attach(
    file: Path,
    once: bool,
    output: str,
    data_dir: Path | None,
    timeout: float,
    http_host: str,
    http_port: int | None,
) -> None:
    """Watch a Kafka topic and stores that somebody else fills; FILE says how they are to be read.

    Nothing is written to either. Exit code: 0 all CONSISTENT, 1 a finding is open, 2 a wrong
    setting, 3 something is UNKNOWN.
    """
    from service.attached_command import AttachOptions, attach_and_watch

    options = AttachOptions(
        file=file,
        once=once,
        as_json=output == "json",
        data_dir=data_dir,
        timeout_seconds=timeout,
        http_host=http_host,
        http_port=http_port,
    )
    try:
        code = attach_and_watch(options, os.environ, open_console())
    except (SynchroscopeError, click.ClickException, OSError):
        raise
    except Exception:  # 1 would say that a finding is open.
        click.echo(traceback.format_exc(), err=True)
        code = 3
    sys.exit(code)
