"""The console that commands print to, and the code of one that is interrupted there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM: not 1, which says that something diverges."""
CLOSED_PIPE = 141
"""Exit code where nobody reads the output to its end, as after SIGPIPE."""


def open_console() -> Console:
    """Return it; where nobody looks, lines are as wide as on a wide terminal."""
    from rich.console import Console  # A twentieth of a second, which not every command needs.

    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


@contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """Within the block, end with `CLOSED_PIPE` when whoever reads the output has gone.

    Click and rich would end with 1, and the signal itself would also end who writes to a socket
    that a server has closed.
    """
    stream = sys.stdout
    sys.stdout = _Pipe(stream)
    try:
        yield
    finally:
        written, sys.stdout = sys.stdout, stream
        written.flush()


class _Pipe:
    """A text stream that ends the command where it is closed at the other end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._end()

    def flush(self) -> None:
        """Write what is kept back."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._end()

    def _end(self) -> NoReturn:
        # What is kept back goes nowhere, lest Python complain of it when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        sys.exit(CLOSED_PIPE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
