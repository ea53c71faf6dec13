"""Many items back at one older position are one thing: a copy was put in a store's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

BULK_ITEMS = 10
"""So many items that went back together are called one finding."""
NEVER_ENDS = 2**63 - 1


class Reversal(Struct, frozen=True):
    """An item that went back: it was so at the positions from `low` to `high` of its partition."""

    key: bytes
    partition: int
    low: int
    high: int


def common_position(
    reversals: Sequence[Reversal],
) -> tuple[list[Reversal], dict[int, tuple[int, int]]]:
    """Return the reversals that one older position per partition explains, and those positions.

    In each partition it is the position that explains most of them: a sweep over the ends.

    >>> rows = [Reversal(b"a", 0, 3, 9), Reversal(b"b", 0, 7, 8), Reversal(b"c", 0, 20, 30)]
    >>> found, positions = common_position(rows)
    >>> [row.key for row in found], positions
    ([b'a', b'b'], {0: (7, 8)})
    """
    chosen: list[Reversal] = []
    positions: dict[int, tuple[int, int]] = {}
    for partition in sorted({row.partition for row in reversals}):
        rows = [row for row in reversals if row.partition == partition]
        best = _most_covered(rows)
        fitting = [row for row in rows if row.low <= best <= row.high]
        chosen += fitting
        positions[partition] = (max(r.low for r in fitting), min(r.high for r in fitting))
    return chosen, positions


def _most_covered(rows: Sequence[Reversal]) -> int:
    ends = sorted([(row.low, 0) for row in rows] + [(row.high, 1) for row in rows])
    covered, most, best = 0, 0, rows[0].low
    for place, is_end in ends:
        covered += -1 if is_end else 1
        if covered > most:
            most, best = covered, place
    return best


def fits(positions: Mapping[int, tuple[int, int]], row: Reversal) -> bool:
    """Say whether an item is one of those that went back to known positions.

    Where nothing of its partition went back so far, it is taken to be one of them.
    """
    low, high = positions.get(row.partition, (0, NEVER_ENDS))
    return row.low <= high and low <= row.high
