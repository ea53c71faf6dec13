"""Wait for a condition, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

WAIT_SECONDS = 60.0
"""More than anything takes on a busy machine: only a test that fails waits so long."""
PAUSE_SECONDS = 0.01

Answer = TypeVar("Answer")


def until(
    condition: Callable[[], Answer],
    what: str,
    seconds: float = WAIT_SECONDS,
    *,
    pause_seconds: float = PAUSE_SECONDS,
) -> Answer:
    """Return the condition's first true answer; fail if there is none in time.

    ``what`` says what is waited for; ``pause_seconds`` is the time between two looks.

    >>> until(iter([0, 5]).__next__, "a number")
    5
    >>> until(lambda: [], "a number", seconds=0.0)
    Traceback (most recent call last):
    AssertionError: waited 0 s in vain for a number: []
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}: {answer!r}")
        time.sleep(pause_seconds)
    return answer
