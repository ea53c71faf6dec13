"""The console that commands print to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120


def open_console() -> Console:
    """Return it; where nobody looks, lines are as wide as on a wide terminal."""
    from rich.console import Console  # A twentieth of a second, which not every command needs.

    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
