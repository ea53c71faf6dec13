"""Starts the real command in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples" / "retail" / "data"
DAY = "2010-12-01.csv"


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of `synchroscope` with these arguments."""
    return [sys.executable, "-m", "service.cli", *map(str, arguments)]


def run(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=timeout, check=False
    )


def headless(folder: Path, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Run the demo at full speed on one day; return exit code and report."""
    report = folder / "report.json"
    ended = run(
        "demo", "--headless", "--speed", "max", "--http-port", "0", "--report", report, *arguments
    )
    assert report.exists(), ended.stderr
    return ended.returncode, json.loads(report.read_text(encoding="utf-8"))


def one_day(folder: Path) -> Path:
    """Return a folder with the first of the shipped days."""
    data = folder / "day"
    data.mkdir()
    (data / DAY).write_bytes((DATA / DAY).read_bytes())
    return data


class Running:
    """A demo that serves until it is stopped."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            command("demo", "--http-port", "0", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://[0-9.:]+", first)
        assert found is not None, first + self.process.stdout.read()
        self.url = found.group()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *problem: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; return exit code and what was printed."""
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=60)
        return self.process.returncode, printed
