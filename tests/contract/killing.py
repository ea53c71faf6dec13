"""Runs a program that acknowledges what it has committed, and kills it without warning."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def acknowledged_when_killed(program: str, folder: Path, acknowledgements: int) -> int:
    """Return the last number that the program printed before it got SIGKILL.

    The program finds the folder in ``sys.argv[1]`` and prints 0, 1, 2, … each after its commit.
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        process.kill()
        rest = [
            line for line in process.stdout.read().splitlines(keepends=True) if line[-1] == "\n"
        ]
    numbers = [int(line) for line in lines + rest]
    assert numbers == list(range(len(numbers)))
    return numbers[-1]
