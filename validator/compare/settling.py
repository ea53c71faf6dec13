"""Is a difference lasting, or an update on its way? Pure: what was seen when, and a verdict.

A store that merely lags goes through the same values as the other one, later. So a column is

1. *cleared* when at one look both sides show the same, or when one side shows what the other one
   was seen with at this or an earlier look: it has come as far as the other was when we began;
2. *differing* when that did not happen for a whole window in which at least one side stood still: a
   side that lags by less than the window would have shown it;
3. *undecided* when both sides went on changing through all windows and never matched.

A row is cleared when all of its columns are, and differs when one of them does. Whether the row is
there counts as a column. A store that lags by more than the window is told from a lost update by
nobody: it differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Verdict = Literal["cleared", "differs", "undecided", "waiting"]
WINDOWS = 3
"""After so many windows what moves on both sides is undecided."""
MAXIMUM_SEEN = 4_096
"""Values remembered of one side of one column; older ones are forgotten first."""


class _Side:
    def __init__(self, value: bytes, now: float) -> None:
        self.value = value
        self.since = now
        self.seen: dict[bytes, None] = {value: None}

    def look(self, value: bytes, now: float) -> None:
        if value != self.value:
            self.value, self.since = value, now
        self.seen.pop(value, None)
        self.seen[value] = None
        if len(self.seen) > MAXIMUM_SEEN:
            del self.seen[next(iter(self.seen))]


class _Column:
    def __init__(self, left: bytes, right: bytes, now: float) -> None:
        self._left, self._right = _Side(left, now), _Side(right, now)
        self._opened = now
        self.is_cleared = left == right

    def look(self, left: bytes, right: bytes, now: float) -> None:
        self._left.look(left, now)
        self._right.look(right, now)
        self.is_cleared = self.is_cleared or left in self._right.seen or right in self._left.seen

    def verdict(self, now: float, window_seconds: float) -> Verdict:
        if self.is_cleared:
            return "cleared"
        if now - min(self._left.since, self._right.since) >= window_seconds:
            return "differs"
        return "undecided" if now - self._opened >= WINDOWS * window_seconds else "waiting"


class Candidate:
    """A key on which two stores were seen to differ.

    Parameters
    ----------
    window_seconds: How far one side may lag behind the other.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._columns: dict[str, _Column] = {}
        self._is_whole_row_cleared = False
        self._rows: tuple[set[bytes], set[bytes]] = set(), set()

    def look(
        self,
        values: Mapping[str, tuple[bytes, bytes]],
        rows: tuple[bytes, bytes],
        now: float,
    ) -> None:
        """Take what both sides show: column -> digests of its values, and those of the rows."""
        for name, (left, right) in values.items():
            if name in self._columns:
                self._columns[name].look(left, right, now)
            else:
                self._columns[name] = _Column(left, right, now)
        for seen, digest in zip(self._rows, rows, strict=True):
            if len(seen) < MAXIMUM_SEEN:
                seen.add(digest)
        if rows[0] in self._rows[1] or rows[1] in self._rows[0]:
            self._is_whole_row_cleared = True

    def remember(self, left: bytes | None, right: bytes | None) -> None:
        """Take a row's digests of before the first look, where they are known."""
        for seen, digest in zip(self._rows, (left, right), strict=True):
            if digest is not None:
                seen.add(digest)

    def verdict(self, now: float) -> Verdict:
        """Return what can be said of the key now."""
        if self._is_whole_row_cleared:
            return "cleared"
        verdicts = self._verdicts(now).values()
        for verdict in ("differs", "waiting", "undecided"):
            if verdict in verdicts:
                return verdict
        return "cleared"

    def columns(self, now: float, verdict: Verdict) -> Sequence[str]:
        """Return the columns of which that is the verdict."""
        return [name for name, found in self._verdicts(now).items() if found == verdict]

    def _verdicts(self, now: float) -> dict[str, Verdict]:
        return {
            name: column.verdict(now, self._window_seconds)
            for name, column in self._columns.items()
        }
