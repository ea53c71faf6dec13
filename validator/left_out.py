"""What becomes of aggregates that deviate when there are too many to follow each. Pure.

What is left out is not named; a finding says how many there are. Nobody remembers how it was held,
so what is seen of it later may be older than it looks: that is told without a cause.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from synchroscope.ports import AggregateKey
from validator import watch
from validator.locate import Located
from validator.watch import PartitionWatch


def admitted(located: Located, held: Collection[AggregateKey]) -> tuple[Located, set[AggregateKey]]:
    """Return what is told, and the aggregates left out: these deviate and are too many."""
    healed = sum(one.key in held and not one.deviates for one in located.judgements)
    room = watch.MAXIMUM_HELD - len(held) + healed
    judgements = []
    left_out = set(located.left_out)
    for judgement in located.judgements:
        if judgement.deviates and judgement.key not in held:
            room -= 1
            if room < 0:
                left_out.add(judgement.key)
                continue
        judgements.append(judgement)
    return replace(located, judgements=judgements), left_out


def is_more_to_name(located: Located, held: Collection[AggregateKey]) -> bool:
    """Say whether some were left out that can be followed, when they are looked at again."""
    return bool(located.left_out) and len(held) < watch.MAXIMUM_HELD


def doubtful(located: Located, part: PartitionWatch) -> frozenset[AggregateKey]:
    """Return the aggregates whose storage may have been harmed earlier than is seen."""
    if not part.left_out:
        return frozenset()
    return frozenset(
        judgement.key
        for judgement in located.judgements
        if judgement.faults and judgement.key not in part.held
    )
