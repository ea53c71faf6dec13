"""Many items back at one older position are one thing: a copy was put in a store's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from validator.attached.comparison import NEVER_ENDS

BULK_ITEMS = 10
"""So many items that went back together are called one finding."""


class Reversal(Struct, frozen=True):
    """An item that went back: it was so at the positions of these spans, ends included.

    ``is_seen``: something newer was seen there before; else it may only have missed an event.
    """

    key: bytes
    partition: int
    spans: Sequence[tuple[int, int]]
    is_seen: bool = True

    def covers(self, position: int) -> bool:
        """Say whether the item was so at a position."""
        return any(low <= position <= high for low, high in self.spans)


def common_position(
    reversals: Sequence[Reversal],
) -> tuple[list[Reversal], dict[int, tuple[int, int]]]:
    """Return the reversals that one older position per partition explains, and those positions.

    In each partition it is the position that explains most of those that were seen to be newer: a
    sweep over the ends. Of the others, those are taken along that it explains too.

    >>> rows = [Reversal(b"a", 0, [(3, 9)]), Reversal(b"b", 0, [(1, 2), (7, 8)])]
    >>> found, positions = common_position([*rows, Reversal(b"c", 0, [(20, 30)])])
    >>> [row.key for row in found], positions
    ([b'a', b'b'], {0: (7, 8)})
    """
    chosen: list[Reversal] = []
    positions: dict[int, tuple[int, int]] = {}
    for partition in sorted({row.partition for row in reversals if row.is_seen}):
        rows = [row for row in reversals if row.partition == partition]
        best = _most_covered([row for row in rows if row.is_seen])
        fitting = [row for row in rows if row.covers(best)]
        chosen += fitting
        spans = [span for row in fitting for span in row.spans if span[0] <= best <= span[1]]
        positions[partition] = (max(low for low, _ in spans), min(high for _, high in spans))
    return chosen, positions


def _most_covered(rows: Sequence[Reversal]) -> int:
    spans = [span for row in rows for span in row.spans]
    ends = sorted([(low, 0) for low, _ in spans] + [(high, 1) for _, high in spans])
    covered, most, best = 0, 0, spans[0][0]
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
    return any(own_low <= high and low <= own_high for own_low, own_high in row.spans)
