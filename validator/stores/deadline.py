"""Ends a wait for an answer that never comes, though the connection stands."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType


class Deadline:
    """A span of time within which a block has to end, or else its connection is cut.

    The block then sees its connection break, so it must translate that error; `is_over` tells it
    why.

    Parameters
    ----------
    seconds: The span. Higher: a server that hangs is waited for longer.
    descriptors: Returns the file descriptors of the sockets; -1 for one that is closed.
    """

    def __init__(self, seconds: float, descriptors: Callable[[], Sequence[int]]) -> None:
        self.seconds = seconds
        self.is_over = False
        self._descriptors = descriptors
        self._has_ended = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def _cut(self) -> None:
        with self._lock:  # So that nobody else's socket has the number by then.
            if self._has_ended:
                return
            self.is_over = True
            with suppress(Exception):  # It is closed already, which ends the block as well.
                for number in self._descriptors():
                    _shut(number)

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._has_ended = True
        self._timer.cancel()


def _shut(number: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
