"""What is true, told by the event store alone and as naively as possible.

The simulator holds replicas, verdicts and findings against this; it shares no code with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.event_store import EventStore
from synchroscope.event import ContextEvent
from synchroscope.ports import ReplicaStorage
from synchroscope.view import View

Facts = dict[tuple[str, str, str], Any]
"""(context type, subject, field) -> value."""


def all_events(store: EventStore) -> list[ContextEvent]:
    """Return every event of the store in order."""
    found: list[ContextEvent] = []
    position = 0
    while True:
        batch = store.read(position, 1_000)
        if not batch:
            return found
        found += [stored.event for stored in batch]
        position = batch[-1].position


def facts_of_view(events: Sequence[ContextEvent], view: View) -> Facts:
    """Return what the view must hold after all events."""
    facts: Facts = {}
    for event in events:
        if event.context_type not in view.fields:
            continue
        wanted = view.fields[event.context_type]
        targets = event.propagation_rules.target_models
        for name, update in event.context_delta.updates.items():
            if wanted and name not in wanted:
                continue
            key = (event.context_type, event.subject, name)
            facts.pop(key, None)
            if update.current is not None and (targets is None or view.model in targets):
                facts[key] = update.current
    return facts


def facts_of_storage(storage: ReplicaStorage, partitions: int) -> Facts:
    """Return what a replica's storage really holds."""
    return {
        (record.context_type, record.subject, name): value
        for partition in range(partitions)
        for bucket in range(2)
        for record in storage.scan(partition, bucket, 1)
        for name, (value, _) in record.fields.items()
        if value is not None
    }
