"""One pass over everything: all rows of a store, then all items of the reference not met there."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from validator.attached.log_view import Positions

Phase = Literal["resting", "rows", "items", "settling"]


class Walk(Struct):
    """Where a store's walk is, and what the last whole one was.

    ``is_whole``: nothing of the current one had to be left out so far. ``finished_at``: when the
    last whole one that left nothing out began (so everything is at least that fresh).
    ``positions``, ``whole_positions``: where the fold was when this one and that one began.
    """

    number: int = 0
    phase: Phase = "resting"
    cursor: str | None = None
    after: bytes = b""
    started_at: float = float("-inf")
    is_whole: bool = True
    rows: int = 0
    items: int = 0
    whole: int = 0
    whole_number: int = 0
    finished_at: float | None = None
    last_rows: int = 0
    last_items: int = 0
    positions: Positions = {}
    whole_positions: Positions = {}

    def begin(self, now: float, number: int, positions: Positions) -> None:
        """Start one under a number that no other walk of the store ever had."""
        self.number, self.positions = number, positions
        self.phase, self.cursor, self.after = "rows", None, b""
        self.started_at, self.is_whole = now, True
        self.rows = self.items = 0

    def end(self) -> None:
        """Note that it came to its end."""
        self.phase = "resting"
        if self.is_whole:
            self.whole += 1
            self.whole_number = self.number
            self.finished_at = self.started_at
            self.last_rows, self.last_items = self.rows, self.items
            self.whole_positions = self.positions
