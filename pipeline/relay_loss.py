"""What a log lacks of what the relay certainly published, and from where it is published again.

With its position the relay stores, for each partition, the store position of the newest event that
is certainly there and the partition's head. A log holds no less later on, except by retention,
which takes the oldest records and leaves the head where it was. So a partition whose newest event
is an older one, or that never had a record, was lost: the topic was made anew, or a broker lost its
end. Whether all of it is lost or a part, what follows the newest event is missing, and nothing that
stands behind it is there; published again from the store, nothing is doubled.

Where the store has lost its end instead (an older copy was put back, or a standby took over that
lagged), the log holds what it does not have. That is refused as well: what the store numbers anew
would be passed over by every reader.

If events were published behind such a loss, the order is broken for good, since readers pass over
what comes behind a later event: that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synchroscope.errors import ConfigurationError
from synchroscope.ports import EVENTS, TopicPartition

PUBLISHED = "store.events/published"
"""By partition: the store position of the newest event that is certainly published."""
HEADS = "store.events/heads"
"""By partition: a position up to which the log has certainly come."""
_REMEDY = (
    "stop all processes, delete this topic, run `synchroscope prepare` and start again: the relay "
    "publishes everything from the event store; then start replicas on empty storages"
)


def store_is_older(position: int, event_id: str) -> ConfigurationError:
    """Return the error for a store that does not have what was published from it."""
    return ConfigurationError(
        f"the event store does not have event {event_id} any more, which was published from it up "
        f"to position {position}: it was put back to an older copy, and readers would pass over "
        f"what it numbers anew; put its newest copy back, or, where there is none, {_REMEDY}"
    )


def rows(kind: str, values: Mapping[int, int]) -> dict[TopicPartition, int]:
    """Return positions as they are stored."""
    return {(kind, partition): value for partition, value in values.items()}


def start_after_loss(
    stored: Mapping[TopicPartition, int], newest: Sequence[int], heads: Sequence[int]
) -> int | None:
    """Return the store position from which to publish again; None where nothing was lost.

    Parameters
    ----------
    stored: What the relay stored last.
    newest: By partition, the store position of the newest event in the log; 0 where there is none.
    heads: By partition, where the log ends.

    Raises
    ------
    ConfigurationError: Events were lost, and later ones published behind them.
    """
    certain = [stored.get((PUBLISHED, number), 0) for number in range(len(heads))]
    check_heads(
        {
            number: place
            for (kind, number), place in stored.items()
            if kind == HEADS and number < len(heads) and newest[number] > certain[number]
        },
        dict(enumerate(heads)),
    )
    lost = [
        found
        for found, head, known in zip(newest, heads, certain, strict=True)
        # Where records were there and none is left, retention took them.
        if found < known and (found > 0 or head == 0)
    ]
    return min(lost, default=None)


def check_heads(known: Mapping[int, int], heads: Mapping[int, int]) -> None:
    """Raise `ConfigurationError` where a partition ends before a head it once had."""
    for number, place in known.items():
        if heads[number] < place:
            raise ConfigurationError(
                f"partition {number} of {EVENTS} ends at {heads[number]} and had come to {place}: "
                f"events were lost while the relay ran, and later ones may stand there; {_REMEDY}"
            )
