"""Who asked for a proof, and who got one: all storage summed after the question came."""

from __future__ import annotations

from collections import deque

MAXIMUM_PROOFS = 64
"""Questions that wait, and answered ones that are remembered."""


class Proofs:
    """The questions of those who want everything proven now, by their request IDs.

    >>> proofs = Proofs()
    >>> proofs.ask("a"); proofs.begin(); proofs.ask("b"); proofs.end()
    >>> list(proofs.given), proofs.is_wanted
    (['a'], True)
    """

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=MAXIMUM_PROOFS)
        self._current: deque[str] = deque(maxlen=MAXIMUM_PROOFS)
        self.given: deque[str] = deque(maxlen=MAXIMUM_PROOFS)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody asked since the last proof began."""
        return bool(self._waiting)

    @property
    def is_running(self) -> bool:
        """Whether a proof was begun and not given yet."""
        return bool(self._current)

    def ask(self, request_id: str) -> None:
        """Take a question."""
        self._waiting.append(request_id)

    def begin(self) -> None:
        """Begin one proof for all who wait, and for those whose proof did not come about."""
        self._current.extend(self._waiting)
        self._waiting.clear()

    def end(self) -> None:
        """Give it."""
        self.given.extend(self._current)
        self._current.clear()
