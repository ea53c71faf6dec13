"""When to ask the validators for a proof, and when to ask again."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from synchroscope.ports import REQUESTS, NewRecord
from synchroscope.report import Check, encode_message

ASK_SECONDS = 3.0
"""After so long without any progress, the question is taken for lost."""


class Asking:
    """Asks once, and again only where the log went on or where nothing has come of it for a while.

    >>> asking = Asking()
    >>> [asking.is_due(now, {0: 5}, seen) for now, seen in ((10.0, 1), (14.0, 2), (18.0, 2))]
    [True, False, True]
    """

    def __init__(self) -> None:
        self._heads: dict[int, int] | None = None
        self._progress = 0
        self._moved_at = 0.0
        #: Request IDs of all questions.
        self.asked: list[str] = []

    def is_due(self, now: float, heads: Mapping[int, int], progress: int) -> bool:
        """Say whether to ask now.

        Parameters
        ----------
        heads: Where the log ends, by partition.
        progress: A number that changes with every answer that validators have drawn a conclusion
            from.
        """
        is_asked = self._heads == heads
        if is_asked and progress != self._progress:
            self._progress, self._moved_at = progress, now
            return False
        if is_asked and 0 <= now - self._moved_at < ASK_SECONDS:
            return False
        self._heads, self._progress, self._moved_at = dict(heads), progress, now
        return True

    def question(self) -> NewRecord:
        """Return the record that asks."""
        self.asked.append(uuid4().hex)
        return NewRecord(REQUESTS, 0, b"validator", encode_message(Check(self.asked[-1])))
