"""Keeps one role running: builds it, steps it, throws it away when anything goes wrong.

A role is never mended in place. Whatever it had not stored is read again by the next one, which is
the very way it comes back from a crash; so there is one way back, and the simulator goes it often.

Between attempts stands a circuit breaker: after some failures in a row it opens, and lets through
one attempt at a time, later each time, until one succeeds. An attempt is the whole way to the first
step that proves something: to have come as far as the one before ends no row of failures.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import pybreaker
from msgspec import Struct

from service import retrying
from service.board import ProcessRecord
from service.retrying import FAILURES_TO_OPEN
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)

logger = logging.getLogger("synchroscope.supervision")

IDLE_SECONDS = 0.02
HUNG_SECONDS = 90.0
"""Longer than any wait for a server that a step may hold."""

State = Literal["starting", "running", "waiting", "failed", "stopped"]


class Host(Protocol):
    """One role with its connections, as a process runs it."""

    def step(self, now: float) -> int:
        """Do one bounded round of work; return how much was consumed."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until there may be something to do, at most that long."""
        ...

    def close(self) -> None:
        """Release everything; must not raise and must not take long."""
        ...

    @property
    def record(self) -> ProcessRecord | None:
        """What the role told of itself last."""
        ...

    @property
    def is_proven(self) -> bool:
        """Whether, since it was built, it has done what it is there for, if only once."""
        ...

    def healths(self) -> Sequence[Health]:
        """Return how parts of it do that fail by themselves."""
        ...


class Health(Struct, frozen=True):
    """How a role does: ``reason`` is empty while it runs; ``stepped_at`` in seconds since 1970."""

    role: str
    state: State
    reason: str
    stepped_at: float | None
    restarts: int
    circuit: str


def is_hung(health: Health, now: float) -> bool:
    """Say whether a role that runs has not come round for too long."""
    if health.state != "running" or health.stepped_at is None:
        return False
    return now - health.stepped_at > HUNG_SECONDS


class Supervised:
    """Runs one host in a thread of its own until it is told to stop.

    Parameters
    ----------
    role: Its name, for logs, metrics and the thread.
    build: Opens connections and builds the role; may raise any `SynchroscopeError`.
    on_fatal: Called with the error when trying again cannot help (a wrong setting).
    """

    def __init__(
        self,
        role: str,
        build: Callable[[], Host],
        on_fatal: Callable[[str, SynchroscopeError], None],
    ) -> None:
        self.role = role
        self._build = build
        self._on_fatal = on_fatal
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=FAILURES_TO_OPEN,
            reset_timeout=retrying.PROBE_SECONDS,
            exclude=[FencedError],
            throw_new_error_on_trip=False,
        )
        self._host: Host | None = None
        self._stop = threading.Event()
        self._state: State = "starting"
        self._reason = "starting"
        self._stepped_at: float | None = None
        self._restarts = 0
        self._thread = threading.Thread(target=self._run, name=role, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; `join` waits for that."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(seconds)

    @property
    def host(self) -> Host | None:
        """The host that runs now, None while there is none. Only for looking at."""
        return self._host

    def health(self) -> Health:
        """Return how the role does."""
        return Health(
            self.role,
            self._state,
            self._reason,
            self._stepped_at,
            self._restarts,
            self._breaker.current_state,
        )

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._breaker.call(self._turn)
            except pybreaker.CircuitBreakerError:
                self._stop.wait(retrying.RETRY_SECONDS)
            except ConfigurationError as error:
                self._discard()
                self._state, self._reason = "failed", str(error)
                self._on_fatal(self.role, error)
                return
            except SynchroscopeError as error:
                self._recover(error)
            except Exception as error:
                logger.exception("%s stepped on a defect", self.role)
                self._recover(StorageError(f"defect: {type(error).__name__}: {error}"))
        self._discard()
        self._state, self._reason = "stopped", "stopped"

    def _turn(self) -> None:
        """One step, or the way to the first one that proves something."""
        host = self._host
        if host is None:
            host = self._host = self._build()
        while True:
            consumed = host.step(time.time())
            if self._state != "running":
                logger.info("%s runs", self.role)
                self._state, self._reason = "running", ""
            self._stepped_at = time.time()
            if not consumed:
                host.wait(IDLE_SECONDS)
            if host.is_proven or self._stop.is_set():
                return

    def _recover(self, error: SynchroscopeError) -> None:
        self._discard()
        self._restarts += 1
        self._breaker.reset_timeout = retrying.probe_seconds(self._breaker.fail_counter)
        self._state = "waiting"
        if isinstance(error, FencedError):
            logger.info("%s lost its place and starts anew: %s", self.role, error)
            self._reason = f"starting anew: {error}"
            return
        if self._reason != str(error):
            level = logging.WARNING if isinstance(error, UnavailableError) else logging.ERROR
            logger.log(level, "%s waits: %s", self.role, error)
        self._reason = str(error)
        self._stop.wait(retrying.RETRY_SECONDS)

    def _discard(self) -> None:
        host, self._host = self._host, None
        if host is None:
            return
        try:
            host.close()
        except Exception as error:
            logger.debug("%s: closing failed: %s", self.role, error)
