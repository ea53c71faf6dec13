"""What an aggregate must hold, and came from: its own events, as the authority tells them.

What was read for one location is kept for its next steps, up to a number of events.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from synchroscope.digest import Lanes, event_hash, lanes_hex
from synchroscope.event import ContextEvent, WireEvent
from synchroscope.ports import AggregateKey
from synchroscope.view import View
from validator.judgement import Version

PartitionOf = Callable[[str, str], int]
MAXIMUM_ALTERED = 1_000
"""Of so many events it is known that log and history have them otherwise."""
Changes = list[tuple[str, Lanes | None, Lanes | None]]
MAXIMUM_KEPT_EVENTS = 20_000
"""So many events of aggregates are kept from one step of a location to the next."""
FIRST_HISTORIES, HISTORIES_AT_ONCE, SHORT_HISTORY = 16, 250, 8
"""Of how many aggregates the events are read together at first, and at most; where they have more
events than that on average, of fewer the next time."""
LanesOf = Callable[[str, str, str, object], Lanes | None]
"""Context type, subject, field, value -> the fact's lanes; None: there is no fact."""


class HistoricEvent(Protocol):
    """An event in the authority's total order."""

    @property
    def position(self) -> int:
        """Its place in the order."""
        ...

    @property
    def event(self) -> ContextEvent:
        """The event."""
        ...


class History(Protocol):
    """The authority on what happened to an aggregate: the event store."""

    def history(self, key: AggregateKey, until: int | None = None) -> Sequence[HistoricEvent]:
        """Return the aggregate's events in order, up to and including position `until`."""
        ...

    def histories(
        self, keys: Sequence[AggregateKey], until: int | None = None
    ) -> Mapping[AggregateKey, Sequence[HistoricEvent]]:
        """Return what `history` does of several aggregates, in few queries."""
        ...

    def aggregates(self, bucket: int, bits: int) -> list[AggregateKey]:
        """Return the aggregates whose hash begins with `bucket`."""
        ...

    def aggregates_in(self, buckets: Sequence[int], bits: int) -> list[AggregateKey]:
        """Return what `aggregates` does of several buckets, in few queries and any order."""
        ...


Seen = tuple[HistoricEvent, Changes]
"""An event, and what one view sees of it."""


class Histories:
    """The events of aggregates, and what a view sees of them.

    Parameters
    ----------
    history: The authority.
    lanes: Hashes facts.
    """

    def __init__(self, history: History, lanes: LanesOf) -> None:
        self.history = history
        self._lanes = lanes
        self._kept: dict[AggregateKey, Sequence[Seen]] = {}
        self._kept_events = 0
        #: Event ID -> the event as the log has it, where the history has it otherwise.
        self._altered: OrderedDict[str, WireEvent] = OrderedDict()

    def forget(self) -> None:
        """Drop what was read for one location."""
        self._kept.clear()
        self._kept_events = 0

    def look_up(self, view: View, keys: Iterable[AggregateKey], until: int) -> None:
        """Read the events of aggregates together, as far as so many are kept."""
        missing = deque(
            key for key in dict.fromkeys(keys) if key not in self._kept and key[0] in view.fields
        )
        size = FIRST_HISTORIES
        while missing and self._kept_events < MAXIMUM_KEPT_EVENTS:
            together = [missing.popleft() for _ in range(min(size, len(missing)))]
            histories = self.history.histories(together, until)
            for key, history in histories.items():
                self._keep(view, key, history)
            is_short = sum(map(len, histories.values())) <= SHORT_HISTORY * len(together)
            size = min(2 * size, HISTORIES_AT_ONCE) if is_short else max(size // 2, 1)

    def _keep(
        self, view: View, key: AggregateKey, history: Sequence[HistoricEvent]
    ) -> Sequence[Seen]:
        known = [(historic, self.seen_of(view, historic)) for historic in history]
        if self._kept_events + len(known) <= MAXIMUM_KEPT_EVENTS:
            self._kept_events += len(known)
            self._kept[key] = known
        return known

    def known(self, view: View, key: AggregateKey, until: int) -> Sequence[Seen]:
        """Return an aggregate's events up to the store position that this location is at."""
        known = self._kept.get(key)
        return self._keep(view, key, self.history.history(key, until)) if known is None else known

    def true_facts(self, view: View, key: AggregateKey, until: int) -> dict[str, Lanes]:
        """Return field -> lanes of what an aggregate must hold."""
        return present(seen for _, seen in self.known(view, key, until))

    def position_of(self, key: AggregateKey, sequence: int) -> int | None:
        """Return the store position of an aggregate's event."""
        for historic, _ in self._kept.get(key, ()):
            if historic.event.sequence == sequence:
                return historic.position
        for historic in self.history.history(key):
            if historic.event.sequence == sequence:
                return historic.position
        return None

    def versions(
        self, view: View, key: AggregateKey, until: int, offsets: Mapping[int, int]
    ) -> tuple[list[Version], list[int]]:
        """Return an aggregate's events as `judge` takes them, and their store positions."""
        if key[0] not in view.fields:
            return [], []  # Whatever its history, this view has nothing of it.
        versions, positions = [], []
        for historic, seen in self.known(view, key, until):
            event = historic.event
            event_id = str(event.event_id)
            mark = event_hash(event_id)
            versions.append(
                Version(
                    event.sequence or 0,
                    event_id,
                    mark,
                    event.correlation_id,
                    offsets.get(mark),
                    {name: current and lanes_hex(current) for name, _, current in seen},
                    {name: before and lanes_hex(before) for name, before, _ in seen},
                )
            )
            positions.append(historic.position)
        return versions, positions

    def seen_of(self, view: View, historic: HistoricEvent) -> Changes:
        """Return what `seen` does, of the event as it counts: by the log, where that differs."""
        event_id = str(historic.event.event_id) if self._altered else ""
        return self.seen(view, self._altered.get(event_id, historic.event))

    def altered(self, event_id: str) -> WireEvent | None:
        """Return the event as the log has it, where that is known to count."""
        return self._altered.get(event_id)

    def follow(self, event: WireEvent) -> bool:
        """Go by the log from now on, of an event that it has otherwise; say if that is news."""
        if self._altered.get(event.event_id) == event:
            return False
        self._altered[event.event_id] = event
        if len(self._altered) > MAXIMUM_ALTERED:
            self._altered.popitem(last=False)
        return True

    def seen(self, view: View, event: ContextEvent | WireEvent) -> Changes:
        """Return (field, previous, current) of what the view sees of an event."""
        wanted = view.fields.get(event.context_type)
        if wanted is None:
            return []
        targets = event.propagation_rules.target_models
        seen: Changes = []
        for name, update in event.context_delta.updates.items():
            if wanted and name not in wanted:
                continue
            old = update.previous_targets
            previous = update.previous if old is None or view.model in old else None
            current = update.current if targets is None or view.model in targets else None
            kind, subject = event.context_type, event.subject
            seen.append(
                (
                    name,
                    self._lanes(kind, subject, name, previous),
                    self._lanes(kind, subject, name, current),
                )
            )
        return seen


def present(changes: Iterable[Changes]) -> dict[str, Lanes]:
    """Return field -> lanes of the facts that events leave behind."""
    found: dict[str, Lanes] = {}
    for seen in changes:
        for name, _, current in seen:
            found.pop(name, None)
            if current is not None:
                found[name] = current
    return found
