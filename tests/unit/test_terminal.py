"""Whoever reads the output may go before its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import click
from rich.console import Console
from service.terminal import ending_with_its_reader

with ending_with_its_reader():
    for number in range({lines}):
        {write}
"""


@pytest.mark.parametrize(
    "lines", [1, 100_000], ids=["kept back to the end", "more than a pipe holds"]
)
@pytest.mark.parametrize(
    "write",
    ["print(number)", "click.echo(number)", "Console().print(number)", "sys.stdout.write('a')"],
)
def test_a_pipe_that_is_closed_ends_a_command_as_the_signal_would(write: str, lines: int) -> None:
    if lines > 1 and "Console" in write:
        lines = 3_000
    command = [sys.executable, "-c", CODE.format(lines=lines, write=write)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_the_output_is_what_was_written() -> None:
    command = [sys.executable, "-c", CODE.format(lines=3, write="print(number)")]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"0\n1\n2\n"
