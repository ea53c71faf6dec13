"""A difference that is sure: two looks, a pause apart, saw the same."""

from __future__ import annotations

from msgspec import Struct

from validator.attached.comparison import Look
from validator.attached.history import Item
from validator.attached.log_view import Positions
from validator.attached.row_mapping import SeenRow


class Arrival(Struct, frozen=True):
    """Between what a row came: a whole walk did not meet it, and then a look did.

    ``after``: where the fold was when that walk began, at ``absent_at``. ``by``: where the log
    ended at the look.
    """

    after: Positions
    absent_at: float
    by: Positions


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
    arrival: Arrival | None = None
