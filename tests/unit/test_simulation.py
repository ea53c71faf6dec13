"""`synchroscope simulate` in several processes."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from service.simulation import run_simulation
from synchroscope.errors import SynchroscopeError


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = path.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            command = path.with_name("cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if int(status[1]) == pid and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return found


def test_several_processes_count_what_one_counts() -> None:
    told = []
    for jobs in (1, 2):
        output = io.StringIO()
        assert run_simulation(range(3), False, Console(file=output), jobs=jobs) == 0
        told.append(output.getvalue())
    assert told[0] == told[1]
    assert told[0].startswith("3 seeds, 0 failed")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it has no /proc")
def test_a_process_that_is_killed_ends_the_run_with_an_error() -> None:
    before = set(children(os.getpid()))

    def kill_one() -> None:
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            mine = [pid for pid in children(os.getpid()) if pid not in before]
            if mine:
                os.kill(mine[0], signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(SynchroscopeError, match="killed or crashed"):
        run_simulation(range(100), True, Console(file=io.StringIO()), jobs=2)
    killer.join()
