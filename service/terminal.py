"""The console that commands print to, and the code of one that is interrupted there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM: not 1, which says that something diverges."""


def open_console() -> Console:
    """Return it; where nobody looks, lines are as wide as on a wide terminal."""
    from rich.console import Console  # A twentieth of a second, which not every command needs.

    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
