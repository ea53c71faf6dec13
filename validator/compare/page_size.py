"""How many rows to read at once, so that memory is bounded in bytes, not in rows."""

from __future__ import annotations

PAGE_BYTES = 8 << 20
"""Of the rows of one page, as the last page's rows were; more of it moves more at once."""
FIRST_ROWS = 100
GROWTH = 8


class PageSize:
    """Begins small, and follows the size of the rows that were seen.

    Parameters
    ----------
    most_rows: Never more than these.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self.rows = min(FIRST_ROWS, most_rows)

    def saw(self, rows: int, size_bytes: int) -> None:
        """Take what a page had.

        >>> size = PageSize(5_000)
        >>> size.saw(100, 100_000), size.rows, size.saw(800, 80_000_000), size.rows
        (None, 800, None, 83)
        """
        if rows:
            fitting = PAGE_BYTES * rows // max(size_bytes, 1)
            self.rows = max(1, min(fitting, self.rows * GROWTH, self._most_rows))
