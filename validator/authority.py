"""What an aggregate must be in a view, with its values, from its own events in the store. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from synchroscope.ports import AggregateKey
from synchroscope.view import View
from validator.histories import History


class Truth(Struct, frozen=True):
    """An aggregate: the sequence of its last event, and field -> (value, sequence that wrote it).

    Value None: an event removed the fact, or withdrew it from this view.
    """

    sequence: int
    fields: dict[str, tuple[Any, int]]


NOTHING = Truth(0, {})


def truth_of(view: View, history: History, key: AggregateKey, until: int) -> Truth:
    """Return what a correct replica of the view holds after the events up to `until`.

    `until` is a position in the store's own order.
    """
    if key[0] not in view.fields:
        return NOTHING
    wanted, sequence = view.fields[key[0]], 0
    fields: dict[str, tuple[Any, int]] = {}
    for historic in history.history(key, until):
        event = historic.event
        sequence = event.sequence or 0
        targets = event.propagation_rules.target_models
        is_shown = targets is None or view.model in targets
        for name, update in event.context_delta.updates.items():
            if not wanted or name in wanted:
                fields[name] = (update.current if is_shown else None, sequence)
    return Truth(sequence, fields)
