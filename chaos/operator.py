"""Somebody who orders repairs at random moments, and what must hold at every step meanwhile."""

from __future__ import annotations

import random
from typing import Any

from chaos.faults import KINDS, FaultSpec
from chaos.oracle import all_events
from chaos.world import World
from synchroscope.ports import REQUESTS, AggregateKey, AggregateRecord, NewRecord, ReplicaStorage
from synchroscope.report import RepairOrder, encode_message
from validator.finding import Finding

ROUNDS = 60
Held = dict[AggregateKey, AggregateRecord]


class Operator:
    """Orders repairs of findings that are not resolved; has dice of its own.

    Parameters
    ----------
    world: Where the findings are.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"operator of {world.seed}")
        self._chance = self._rng.choice([0.02, 0.1, 0.4])
        known = {(spec.kind, spec.replica) for spec in world.settings.faults}
        # There has to be something to repair.
        world.more_faults = tuple(
            FaultSpec(kind, name, self._rng.choice([0.01, 0.02, 0.05]))
            for name in world.views
            for kind in KINDS
            if self._rng.random() < 0.4 and (kind, name) not in known
        )
        self.orders = 0
        self.is_eager = False

    def turn(self) -> None:
        """Perhaps order one repair; who is eager orders every one."""
        if self.is_eager:
            for finding in self.unresolved():
                if finding.state == "open":
                    self.order(finding)
        elif self._rng.random() < self._chance and (found := self.unresolved()):
            self.order(self._rng.choice(found))

    def unresolved(self) -> list[Finding]:
        """Return the published findings of replicas that are not resolved."""
        return [finding for finding in self._world.findings.read() if finding.state != "resolved"]

    def order(self, finding: Finding) -> None:
        """Order a repair."""
        self.orders += 1
        data = encode_message(RepairOrder(f"order {self.orders}", finding.id, force=True))
        self._world.log.append([NewRecord(REQUESTS, 0, b"validator", data)], self._world.now)


class Observer:
    """Looks at every replica's storage after each step, and says what must not have happened.

    1. A field that was written stays, and never goes back to what an earlier event wrote.
    2. Whatever is written is what the event of its sequence says.

    What befell a storage from outside meanwhile is excused.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._places: dict[str, tuple[Any, list[bytes | None]]] = {}
        self._held: dict[str, Held] = {}
        self._said: dict[tuple[AggregateKey, int], dict[str, Any]] = {}
        self._targets: dict[tuple[AggregateKey, int], tuple[str, ...] | None] = {}
        self._known = 0

    def look(self) -> str:
        """Return what is wrong; empty when nothing is."""
        world = self._world
        self._learn()
        for name in world.views:
            storage = world.held(name)
            states = [storage.partition_state(n) for n in range(world.settings.partitions)]
            place = (storage, storage.incarnation(), world.strikes[name])
            known = self._places.get(name)
            if known == (place, states):
                continue
            before, self._held[name] = self._held.get(name, {}), self._read(storage)
            self._places[name] = (place, states)
            if known is None or known[0] != place:
                continue
            if flaw := self._compare(name, before, self._held[name]):
                return f"{name}: {flaw}"
        return ""

    def _learn(self) -> None:
        if self._world.store.count() == self._known:
            return
        events = all_events(self._world.store)
        for event in events[self._known :]:
            key = (event.context_type, event.subject), event.sequence or 0
            updates = event.context_delta.updates
            self._said[key] = {name: update.current for name, update in updates.items()}
            self._targets[key] = event.propagation_rules.target_models
        self._known = len(events)

    def _read(self, storage: ReplicaStorage) -> Held:
        return {
            (record.context_type, record.subject): record
            for partition in range(self._world.settings.partitions)
            for bucket in range(2)
            for record in storage.scan(partition, bucket, 1)
        }

    def _compare(self, name: str, before: Held, after: Held) -> str:
        model = self._world.views[name].model
        for key, record in before.items():
            now = after.get(key)
            if now is None or now.sequence < record.sequence:
                return f"{key} went back from {record} to {now}"
            for field, (_, wrote) in record.fields.items():
                if field not in now.fields or now.fields[field][1] < wrote:
                    return f"{field} of {key} went back from {record} to {now}"
        for key, record in after.items():
            earlier = before[key].fields if key in before else {}
            for field, pair in record.fields.items():
                if earlier.get(field) == pair:
                    continue
                targets = self._targets.get((key, pair[1]))
                said = self._said.get((key, pair[1]), {}).get(field)
                must = said if targets is None or model in targets else None
                if pair[0] != must:
                    return f"{field} of {key} was written as {pair}, its event says {must!r}"
        return ""
