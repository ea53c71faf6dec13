"""Whether all is well again in a soak: looks at the pipeline from outside and takes the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from service.configuration import Configuration
from service.gathering import Gatherer
from synchroscope.errors import SynchroscopeError

RECOVERY_LIMIT_SECONDS = 60.0
START_LIMIT_SECONDS = 180.0
"""For the first start of all processes at once, which has nothing to recover from."""
LOOK_SECONDS = 0.05
SHOWN_LINES = 5


class Violation(Exception):  # noqa: N818 - it is what the report calls it
    """Something that must not happen has happened."""


class Eyes:
    """Looks at the pipeline from outside, whatever server is away at the moment."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._gatherer: Gatherer | None = None

    def ask(self, question: Callable[[Gatherer], Any], default: Any = None) -> Any:
        """Return the answer, or the default while a server is away."""
        try:
            if self._gatherer is None:
                self._gatherer = Gatherer(self._configuration)
            self._gatherer.board.refresh()
            return question(self._gatherer)
        except SynchroscopeError:
            self.close()
            return default

    def close(self) -> None:
        """Release the connections."""
        if self._gatherer is not None:
            self._gatherer.close()
            self._gatherer = None


def is_past(gatherer: Gatherer, store_position: int, heads: dict[int, int]) -> bool:
    """Say whether all up to there is published, applied everywhere and compared."""
    board = gatherer.board
    relay = board.relay()
    if relay is None or relay.position < store_position:
        return False
    if not heads:
        heads.update(gatherer.heads())
        return False
    folded = {n: p for s in board.standings() for n, p in s.positions.items()}
    statuses = board.statuses(time.time())
    return (
        all(folded.get(number, -1) >= head for number, head in heads.items())
        and all(
            status.position.get(number, -1) >= head
            for status in statuses
            for number, head in heads.items()
        )
        and all(status.verdict.value != "UNKNOWN" for status in statuses)
    )


def recovery_seconds(
    eyes: Eyes, since: float, limit_seconds: float = RECOVERY_LIMIT_SECONDS
) -> float:
    """Return the time from `since` until an event accepted after now is validated everywhere."""
    position: int | None = None
    heads: dict[int, int] = {}
    while time.monotonic() - since < limit_seconds:
        if position is None:
            before = eyes.ask(lambda g: g.store.count())
            if before is not None:
                position = before + 1
        elif eyes.ask(partial(is_past, store_position=position, heads=heads), False):
            return time.monotonic() - since
        time.sleep(LOOK_SECONDS)
    raise Violation(
        f"not recovered after {limit_seconds:.0f} s: {eyes.ask(describe)}; "
        f"wanted: position {position}, heads {heads}"
    )


def why_not_started(pids: Mapping[str, int], running: Iterable[str], folder: Path) -> str:
    """Say which processes have not told that they run, with the last lines of their logs.

    A relay or a worker that stands by does not tell; of those too the log shows how they do.
    """
    told = {process.split("-")[-2] for process in running if process.count("-") >= 2}
    silent = [name for name, pid in pids.items() if str(pid) not in told]
    parts = [f"silent: {', '.join(silent) or 'none'}"]
    for name in silent or pids:
        path = folder / f"{name}.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        lines = text.splitlines()[-SHOWN_LINES:] or ["(its log is empty)"]
        parts.append("\n".join([f"{name}:", *(f"    {line}" for line in lines)]))
    return "\n".join(parts)


def describe(gatherer: Gatherer) -> dict[str, Any]:
    """Return where everything stands."""
    now, board = time.time(), gatherer.board
    return {
        "heads": gatherer.heads(),
        "store": gatherer.store.count(),
        "relay": board.relay(),
        "reference": {n: p for s in board.standings() for n, p in s.positions.items()},
        "replicas": {s.name: (s.verdict.value, s.reason, s.position) for s in board.statuses(now)},
        "processes": [(r.process, r.role, r.partitions) for r in board.running(now)],
    }
