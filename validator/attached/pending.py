"""A look on its way: what was known when the store was asked, and what it said then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from msgspec import Struct

from validator.attached.log_view import Positions
from validator.attached.row_mapping import SeenRow
from validator.attached.row_source import Answer, Question
from validator.attached.schedule import Due


class Asked(Struct):
    """A question that a store has not answered yet, with what was known before it was asked.

    ``at``: when. ``before``: where the fold was. ``lower``: where it was a settle window ago.
    ``frontier``: how far the store had come. ``committed``: what its group had committed a settle
    window ago.
    """

    at: float
    answer: Future[Answer]
    question: Question
    before: Positions
    lower: Positions
    frontier: Mapping[int, tuple[int, float]]
    committed: Positions
    suspects: Sequence[bytes]
    due: Sequence[Due]


class Pending(Struct):
    """Rows that were read, until they can be judged; ``heads``: where the log ended after that."""

    asked: Asked
    read_at: float
    rows: Mapping[bytes, SeenRow]
    heads: Positions
    walk: int

    @property
    def is_all_committed(self) -> bool:
        """Whether the group had committed a settle window ago all that was known by then."""
        lower, committed = self.asked.lower, self.asked.committed
        return bool(lower) and all(committed.get(p, 0) >= end for p, end in lower.items())
