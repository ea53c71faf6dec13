"""Which events they are that a hop lost, doubled or altered: found by their sums.

The difference of two sums is the sum of the hashes of what differs. Where some of the events that
can be read add up to exactly that difference, it is these: with 128 bits nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from msgspec import Struct

from synchroscope.tally import NOTHING, Sum, event_lanes
from validator.hop_books import head_of
from validator.hop_verdicts import ALTERED, DOUBLED, LOST

MAXIMUM_COMBINED = 12
"""Of so few candidates every combination is tried."""


class Suspect(Struct, frozen=True):
    """An event, what may have happened to it, and the difference that this makes."""

    event_id: str
    kind: str
    difference: Sum
    value: bytes


def lost(values: Iterable[bytes]) -> list[Suspect]:
    """Return each event as one that may be missing after the hop."""
    return _suspects(values, LOST, NOTHING)


def doubled(values: Iterable[bytes]) -> list[Suspect]:
    """Return each event as one that may be there too often after the hop."""
    return [
        Suspect(one.event_id, DOUBLED, NOTHING - one.difference, one.value)
        for one in _suspects(values, LOST, NOTHING)
    ]


def _suspects(values: Iterable[bytes], kind: str, base: Sum) -> list[Suspect]:
    found = []
    for value in values:
        head = head_of(value)
        if head is not None:
            found.append(Suspect(head.event_id, kind, base + Sum(1, *event_lanes(value)), value))
    return found


def differing(before: Sequence[bytes], after: Sequence[bytes]) -> list[Suspect]:
    """Return what differs between two readings of the same events, by event ID."""
    held = {one.event_id: one for one in lost(before)}
    found: list[Suspect] = []
    seen: set[str] = set()
    for one in lost(after):
        other = held.get(one.event_id)
        if other is None or one.event_id in seen:
            nothing = NOTHING - one.difference
            found.append(Suspect(one.event_id, DOUBLED, nothing, one.value))
        elif other.difference != one.difference:
            change = other.difference - one.difference
            found.append(Suspect(one.event_id, ALTERED, change, other.value))
        seen.add(one.event_id)
    return found + [one for identity, one in held.items() if identity not in seen]


def name(difference: Sum, suspects: Sequence[Suspect]) -> list[Suspect] | None:
    """Return those that make up the difference: all, one, two, or some of a few; else None."""
    total = NOTHING
    for one in suspects:
        total += one.difference
    if suspects and total == difference:
        return list(suspects)
    by_difference = {one.difference: one for one in suspects}
    single = by_difference.get(difference)
    if single is not None:
        return [single]
    for one in suspects:
        other = by_difference.get(difference - one.difference)
        if other is not None and other is not one:
            return [one, other]
    if len(suspects) > MAXIMUM_COMBINED:
        return None
    for size in range(3, len(suspects)):
        for some in combinations(suspects, size):
            total = NOTHING
            for one in some:
                total += one.difference
            if total == difference:
                return list(some)
    return None
