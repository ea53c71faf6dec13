"""When the command side recorded an event: the one time that every hop agrees on."""

from __future__ import annotations

import math

from synchroscope.ports import Record

RECORDED = "recorded"
MAXIMUM_DIGITS = 32


def recorded_at(record: Record) -> float | None:
    """Return seconds since 1970, from the record's header; None where it has none that can be.

    >>> recorded_at(Record(0, b"", b"", ((RECORDED, b"1700000000.5"),), 0.0))
    1700000000.5
    >>> recorded_at(Record(0, b"", b"", ((RECORDED, b"nan"),), 0.0)) is None
    True
    """
    for name, value in record.headers:
        if name == RECORDED and len(value) <= MAXIMUM_DIGITS:
            try:
                seconds = float(value)
            except ValueError:
                return None
            return seconds if math.isfinite(seconds) else None
    return None
