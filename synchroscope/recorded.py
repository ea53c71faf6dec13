"""When the command side recorded an event: the one time that every hop agrees on."""

from __future__ import annotations

from synchroscope.ports import Record

RECORDED = "recorded"
MAXIMUM_DIGITS = 32
ERA_START_SECONDS = 0.0
"""1970, where the clocks of computers begin."""
ERA_END_SECONDS = 7_258_118_400.0
"""2200: sums of times up to then stay exact enough, and their windows fit 64 bits."""


def within_era(seconds: float) -> float | None:
    """Return a time at which an event can have been recorded; None for any other.

    >>> within_era(1_700_000_000.5)
    1700000000.5
    >>> [within_era(seconds) for seconds in (-1.0, 1.7e300, float("nan"))]
    [None, None, None]
    """
    return seconds if ERA_START_SECONDS <= seconds < ERA_END_SECONDS else None


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
            return within_era(seconds)
    return None
