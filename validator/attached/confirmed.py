"""A difference that is sure: two looks, a pause apart, saw the same."""

from __future__ import annotations

from msgspec import Struct

from validator.attached.comparison import Look
from validator.attached.history import Item
from validator.attached.row_mapping import SeenRow


class Confirmed(Struct, frozen=True):
    """An item that two looks found wrong; ``agreed``: where the fold was when it last was right."""

    key: bytes
    name: tuple[str, str]
    item: Item | None
    row: SeenRow
    look: Look
    agreed: int
    by_offset: int
    at: float
