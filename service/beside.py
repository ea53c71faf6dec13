"""What a validator's process does beside validating: it may fail by itself.

A defect that what is in the log brings out would be met again by every process that takes the
partition over. Validation goes on without the part, which is built again later and later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from service.retrying import Retry
from service.supervision import Health, State
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import Progress

logger = logging.getLogger("synchroscope.beside")

PROVEN_SECONDS = 10.0
"""So long without a defect ends a row of failures: it may be met a few steps after each start."""


class Part(Protocol):
    """What is stepped."""

    def step(self, now: float) -> Progress:
        """Do one bounded round of work."""
        ...


class Beside:
    """Steps a part, and builds it again after a defect.

    Parameters
    ----------
    role: The name under which its health is told.
    build: Builds it from what it has stored.
    """

    def __init__(self, role: str, build: Callable[[], Part]) -> None:
        self._role = role
        self._build = build
        self._part: Part | None = None
        self._retry = Retry()
        self._state: State = "starting"
        self._reason = ""
        self._restarts = 0
        self._failed_at = 0.0
        self._stepped_at: float | None = None

    def step(self, now: float) -> int:
        """Step it, if it is not too soon after a defect; return what was consumed.

        Raises what servers raise: whoever steps it uses the same ones.
        """
        if not self._retry.is_due(now):
            return 0
        try:
            self._part = self._part or self._build()
            consumed = self._part.step(now).consumed
        except SynchroscopeError:
            raise
        except Exception as error:
            self._failed(error, now)
            return 0
        self._stepped_at = now
        if self._retry.failures == 0 or not 0 <= now - self._failed_at < PROVEN_SECONDS:
            self._retry.succeeded()
            self._state, self._reason = "running", ""
        return consumed

    def _failed(self, error: Exception, now: float) -> None:
        self._part = None
        self._restarts += 1
        self._failed_at = now
        self._retry.failed(now)
        self._state = "waiting"
        reason = f"defect: {type(error).__name__}: {error}"
        if reason != self._reason:
            logger.error("%s waits: %s", self._role, reason, exc_info=error)
        self._reason = reason

    def health(self) -> Health:
        """Return how it does."""
        return Health(
            self._role,
            self._state,
            self._reason,
            self._stepped_at,
            self._restarts,
            self._retry.circuit,
        )
