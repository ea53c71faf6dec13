"""One look at a key that may differ: both rows held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from validator.compare.row_equality import SIDES, Equality
from validator.compare.settling import Candidate, Verdict
from validator.compare.spill import TWICE, Pair
from validator.stores.port import DamagedRow, Row

Rows = tuple[Row | None, Row | None]
"""What both sides have of a key."""
Reason = Literal["changing", "unreadable", "unfound", "twice"]
"""Why a key is undecided: both sides went on changing, a row cannot be read, a walk showed a row
that is not found by its key, or a walk showed it twice, not alike."""
PRESENCE = ""
"""Stands among columns for whether the row is there."""
_THERE, _ABSENT = b"there", b"absent"


def look(
    rows: Rows,
    equality: Equality,
    candidate: Candidate,
    now: float,
    settle_seconds: float,
) -> tuple[Verdict, Sequence[str]]:
    """Hold two rows against each other; return the verdict, and the columns it is about."""
    left, right = rows
    odd: Sequence[str] = []
    if left is not None and right is not None:
        odd = equality.differing(left, right)
    elif left is not None or right is not None:
        odd = [PRESENCE]
    if not odd:
        return "cleared", []
    if not settle_seconds:
        return "differs", odd
    values = {PRESENCE: (_presence(left), _presence(right))}
    if left is not None and right is not None:
        names = equality.columns or sorted({*left, *right})
        for name in names:
            mark = other = equality.value_digest(name, left.get(name), 0)
            if name in odd:
                other = equality.value_digest(name, right.get(name), 1)
            values[name] = (mark, other)
    digests = (
        _ABSENT if left is None else equality.digest(left, 0),
        _ABSENT if right is None else equality.digest(right, 1),
    )
    candidate.look(values, digests, now)
    verdict = candidate.verdict(now)
    return verdict, candidate.columns(now, verdict)


def doubt(
    rows: Rows,
    shown: Pair,
    proves: tuple[bool, bool],
    verdict: Verdict,
    settle_seconds: float,
) -> Reason | None:
    """Return why nothing can be said of a key, whatever the verdict; None: it can.

    Parameters
    ----------
    rows: As just read.
    shown: What the walks showed.
    proves: Whether a side finds every row that its walk shows, so that what it does not find is
        not there.
    verdict: Of `look`.
    settle_seconds: 0: the stores are at rest, so a row that was shown is still there.
    """
    if not settle_seconds and rows == (None, None):
        return "unfound"
    for side, walked in zip(SIDES, (shown.left, shown.right), strict=True):
        if walked is None or proves[side]:
            continue
        if rows[side] is None:
            return "unfound"
        if walked.startswith(TWICE) and verdict == "cleared":
            return "twice"
    is_damaged = any(isinstance(row, DamagedRow) for row in rows)
    return "unreadable" if is_damaged and None not in rows else None


def _presence(row: Row | None) -> bytes:
    return _ABSENT if row is None else _THERE
