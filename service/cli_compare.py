"""The command that compares two stores; its work is imported when it runs."""

from __future__ import annotations

import sys

import click

from service.cli_types import Seconds


@click.command()
@click.argument("left")
@click.argument("right")
@click.option(
    "--key", required=True, metavar="COLUMNS", help="What identifies a row: id or region,id."
)
@click.option(
    "--columns",
    metavar="COLUMNS",
    help="Which columns beside the key are compared. Default: all, which both must have.",
)
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    help="Default: text on a terminal, and else json: one strict JSON object a line.",
)
@click.option(
    "--values", is_flag=True, help="Show what both sides have in the columns that differ."
)
@click.option(
    "--settle",
    type=Seconds(may_be_zero=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How far one store may lag behind the other: what differs is read again and again, and is "
    "a difference only if it outlives this. 0: one look counts, for stores at rest.",
)
def compare(
    left: str,
    right: str,
    key: str,
    columns: str | None,
    output: str | None,
    values: bool,
    settle: float,
) -> None:
    """Name the keys on which the stores LEFT and RIGHT differ.

    Each is a URI: postgresql://host/db?table=T, sqlite:///FILE?table=T, csv:FILE,
    redis://host/0?match=ctx:*, lmdb:///DIR, http(s)://host/path, in any mix. Nothing is written to
    either. Exit code: 0 no difference, 1 differences, 2 a wrong setting, 3 undecided, 130
    interrupted by Ctrl-C or SIGTERM, 141 nobody read what was printed: it is not all.
    """
    from service.compare_running import CompareOptions, run_compare

    options = CompareOptions(
        left=left,
        right=right,
        key=_names(key, "--key"),
        columns=None if columns is None else _names(columns, "--columns"),
        as_json=not sys.stdout.isatty() if output is None else output == "json",
        show_values=values,
        settle_seconds=settle,
    )
    sys.exit(run_compare(options))


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise click.BadParameter(f"{text!r} is no list of distinct names", param_hint=option)
    return names
