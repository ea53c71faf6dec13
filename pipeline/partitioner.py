"""Which partition of the log an aggregate belongs to.

All events of one aggregate must land in one partition, for order exists within a partition only.
The choice is fixed for a log's life: `tests/contract/test_partitioner.py` pins it by golden values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xxhash import xxh3_64_intdigest

from synchroscope.errors import ConfigurationError

DEFAULT_SPREAD = 4

#: (context type, subject, number of partitions) -> partition
Partitioner = Callable[[str, str, int], int]


def by_subject(context_type: str, subject: str, partitions: int) -> int:
    """Keep everything of one subject in one partition, so that its types stay in order as well.

    >>> by_subject("financial", "user:1", 4) == by_subject("geographic", "user:1", 4)
    True
    """
    return xxh3_64_intdigest(subject.encode()) % partitions


def by_context_type(context_type: str, subject: str, partitions: int) -> int:
    """Keep everything of one context type in one partition: a model reads only what it sees.

    The load is as uneven as the types are; prefer `hybrid` where a type may outgrow a partition.
    """
    return xxh3_64_intdigest(context_type.encode()) % partitions


def hybrid(spread: int = DEFAULT_SPREAD) -> Partitioner:
    """Return a partitioner that goes by context type first, then by subject.

    Parameters
    ----------
    spread: How many neighbouring partitions one type is spread over by subject; 1 is
        `by_context_type`, as many as there are partitions spreads every type over all of them.
    """
    if spread < 1:
        raise ConfigurationError(f"a partitioner's spread must be 1 or more, not {spread}")

    def by_type_then_subject(context_type: str, subject: str, partitions: int) -> int:
        within = xxh3_64_intdigest(subject.encode()) % min(spread, partitions)
        return (xxh3_64_intdigest(context_type.encode()) + within) % partitions

    return by_type_then_subject


PARTITIONERS: Mapping[str, Partitioner] = {
    "by_subject": by_subject,
    "by_context_type": by_context_type,
    "hybrid": hybrid(),
}
