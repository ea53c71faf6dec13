"""What the divergent have in common: from the findings and the log to what `rank` compares.

What is compared with what decides whether chance can be told from cause:

* An event that was missed, doubled or reordered is held against **deliveries**: each event, once
  for each replica that has to apply it. A fault that strikes deliveries at random favours nothing.
* A stored value that changed is held against **keys**: each aggregate, once for each replica that
  stores it, with the event that was its last then, however often it was written.
* A fault of the log or of a producer, which is no replica's, is held against **events**.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from msgspec import Struct

from synchroscope.ports import EVENTS, AggregateKey, Log, Record
from synchroscope.view import View
from validator.dimensions import (
    ComparedEvent,
    Dimension,
    decode_compared,
    observe,
    sees,
)
from validator.finding import Finding
from validator.ranking import FALSE_DISCOVERY_RATE, Observation, Ranked, rank
from validator.sampling import DistinctSample, Reservoir

SAMPLE_SIZE = 4_000
MAXIMUM_UNITS = 4_000
"""Divergent observations of a population; of more, a sample is taken."""
MAXIMUM_EVENTS = 1_000_000
READ_RECORDS = 1_000
MAXIMUM_MOMENTS = 64
"""Moments at which keys are compared: those at which divergent ones were seen, or fewer."""
MAXIMUM_KINDS = 10_000
"""Kinds of events of which it is kept who sees them."""
IDLE_READS = 1_000
WAIT_SECONDS = 0.01
FEW_UNITS = 4
"""With fewer, next to nothing can be significant."""

Population = Literal["deliveries", "keys", "events"]
POPULATIONS: tuple[Population, ...] = get_args(Population)
_OF_DELIVERY = frozenset({"missed", "doubled", "reordered"})

Place = tuple[int, int]
"""(partition, offset)"""
_Kind = tuple[str, tuple[str, ...], tuple[str, ...] | None]


class Unit(Struct, frozen=True):
    """One divergent observation: an event at an offset, or an aggregate's last event before it."""

    population: Population
    partition: int
    offset: int
    key: AggregateKey | None
    replica: str | None


class PopulationRanking(Struct, frozen=True):
    """What the divergent of one population share.

    ``divergent`` and ``rest`` are how many were compared; ``not_found`` those whose event is not in
    the part of the log that was read.
    """

    population: Population
    divergent: int
    rest: int
    not_found: int
    ranked: list[Ranked]

    @property
    def has_few(self) -> bool:
        """Whether there are so few that nothing can be told."""
        return self.divergent < FEW_UNITS


class Differs(Struct, frozen=True):
    """What divergent keys have in common.

    ``unlocated`` findings name neither event nor key; ``events`` were read; ``seed`` repeats it.
    """

    findings: int
    unlocated: int
    events: int
    seed: int
    false_discovery_rate: float
    populations: list[PopulationRanking]


def what_differs(
    log: Log,
    findings: Sequence[Finding],
    replicas: Mapping[str, View],
    *,
    seed: int = 0,
    false_discovery_rate: float = FALSE_DISCOVERY_RATE,
    sample_size: int = SAMPLE_SIZE,
    maximum_events: int = MAXIMUM_EVENTS,
    dimensions: Mapping[str, Dimension] | None = None,
    wait: Callable[[float], None] = lambda seconds: None,
) -> Differs:
    """Return what the divergent share against the rest; see `rank` for the statistics.

    Parameters
    ----------
    log: Where the events are; of each partition the newest are read.
    findings: What is divergent.
    replicas: Name -> view, of every replica that is expected.
    seed: Chooses the samples: the same seed, log and findings give the same answer.
    sample_size: So many of the rest are compared. Higher: finer shares, more time.
    maximum_events: So many of the newest events are read.
    dimensions: Name -> own dimension of an event, beside those that every event has.
    wait: Waits for records, at most so many seconds; for logs that fetch them by and by.
    """
    rng = random.Random(seed)
    units, unlocated = units_of(findings, replicas, rng)
    survey = _Survey(log, replicas, units, rng, seed, sample_size, dimensions or {})
    events = survey.read(maximum_events, wait)
    populations = []
    for population in POPULATIONS:
        wanted = [unit for unit in units if unit.population == population]
        if not wanted:
            continue
        divergent = [survey.found[unit] for unit in wanted if unit in survey.found]
        rest = survey.rest(population)
        ranked = rank(divergent, rest, false_discovery_rate=false_discovery_rate)
        missing = len(wanted) - len(divergent)
        populations.append(
            PopulationRanking(population, len(divergent), len(rest), missing, ranked)
        )
    return Differs(len(findings), unlocated, events, seed, false_discovery_rate, populations)


def units_of(
    findings: Sequence[Finding], replicas: Mapping[str, View], rng: random.Random
) -> tuple[list[Unit], int]:
    """Return what is compared, and how many findings name nothing that could be.

    What several replicas show of one event or one key has one cause; one of them stands for it.
    """
    groups: dict[tuple[Population, int, int, AggregateKey | None], list[Unit]] = {}
    unlocated = 0
    for finding in findings:
        found = _units_of_finding(finding, replicas)
        unlocated += not found
        for unit in found:
            place = -1 if unit.population == "keys" else unit.offset
            key = unit.key if unit.population == "keys" else None
            groups.setdefault((unit.population, unit.partition, place, key), []).append(unit)
    units = [rng.choice(group) for group in groups.values()]
    chosen: list[Unit] = []
    for population in POPULATIONS:
        mine = [unit for unit in units if unit.population == population]
        chosen += mine if len(mine) <= MAXIMUM_UNITS else rng.sample(mine, MAXIMUM_UNITS)
    return chosen, unlocated


def _units_of_finding(finding: Finding, replicas: Mapping[str, View]) -> list[Unit]:
    place, since = finding.first_bad_position, finding.since
    if finding.replica is None or finding.replica not in replicas:
        if place is None:
            return []
        return [Unit("events", place.partition, place.offset, None, None)]
    checked = finding.evidence.get("checked_position")
    until = checked - 1 if isinstance(checked, int) else since.by_offset if since else None
    if finding.kind in _OF_DELIVERY and "causes" not in finding.evidence:
        if place is None or not finding.keys:
            return []
        unit = Unit("deliveries", place.partition, place.offset, finding.keys[0], finding.replica)
        return [unit]
    if until is None:
        return []
    # Of many at once only the interval is known: each key's last event in it stands for it.
    return [
        Unit("keys", finding.partition, until, key, finding.replica) for key in _keys_ever(finding)
    ]


def _keys_ever(finding: Finding) -> list[AggregateKey]:
    """Return all keys that a finding told of, those that are in order again too."""
    kind = finding.context_type
    if kind is None or "causes" not in finding.evidence:
        return finding.keys
    told = [(kind, subject) for subject in finding.subjects]
    return list(dict.fromkeys([*finding.keys, *told]))


class _Survey:
    """One pass over the log: the samples of the rest, and the events of the divergent."""

    def __init__(
        self,
        log: Log,
        replicas: Mapping[str, View],
        units: Sequence[Unit],
        rng: random.Random,
        seed: int,
        sample_size: int,
        dimensions: Mapping[str, Dimension],
    ) -> None:
        self._log = log
        self._replicas = replicas
        self._dimensions = dimensions
        self._wanted = {unit.population for unit in units}
        self._deliveries: Reservoir[tuple[Place, Observation]] = Reservoir(sample_size, rng)
        self._events: Reservoir[tuple[Place, Observation]] = Reservoir(sample_size, rng)
        self._known: dict[_Kind, tuple[str, ...]] = {}
        self._keys: DistinctSample[_Past] = DistinctSample(sample_size, seed)
        self._rng = rng
        self._by_offset: dict[Place, list[Unit]] = {}
        self._by_key: dict[tuple[int, AggregateKey], list[Unit]] = {}
        for unit in units:
            if unit.population == "keys" and unit.key is not None:
                self._by_key.setdefault((unit.partition, unit.key), []).append(unit)
            else:
                self._by_offset.setdefault((unit.partition, unit.offset), []).append(unit)
        self.found: dict[Unit, Observation] = {}
        self._seen_at = sorted(
            self._moment(unit) for units in self._by_key.values() for unit in units
        )
        step = max(math.ceil(len(self._seen_at) / MAXIMUM_MOMENTS), 1)
        self._moments = self._seen_at[step - 1 :: step]
        if self._seen_at and self._moments[-1:] != self._seen_at[-1:]:
            self._moments.append(self._seen_at[-1])

    def _moment(self, unit: Unit) -> float:
        """Return when a divergent key was as it was compared, by the records' timestamps."""
        records = self._log.read(EVENTS, unit.partition, max(unit.offset, 0), 1).records
        return records[0].timestamp if records else math.inf

    def read(self, maximum_events: int, wait: Callable[[float], None]) -> int:
        """Read the newest events of every partition, and the divergent ones before those.

        Returns how many were read.
        """
        count = self._log.partitions(EVENTS)
        read = 0
        for partition in range(count):
            head = self._log.head(EVENTS, partition)
            position = max(head - maximum_events // count, 0)
            for (number, offset), units in self._by_offset.items():
                if number == partition and offset < position:
                    for record in self._log.read(EVENTS, partition, offset, 1).records:
                        self._take_divergent(partition, record, units)
            idle = 0
            while position < head and idle < IDLE_READS:
                batch = self._log.read(EVENTS, partition, position, READ_RECORDS)
                for record in batch.records:
                    self._take(partition, record)
                read += len(batch.records)
                if batch.position > position:
                    position, idle = batch.position, 0
                else:
                    idle += 1
                    wait(WAIT_SECONDS)
        return read

    def _take_divergent(self, partition: int, record: Record, units: Sequence[Unit]) -> None:
        event = decode_compared(record)
        for unit in units:
            is_it = event is not None and unit.offset == record.offset
            if event is not None and is_it and unit.key in (None, event.key):
                self.found[unit] = self._observe(event, record, partition, unit.replica)

    def _take(self, partition: int, record: Record) -> None:
        self._take_divergent(partition, record, self._by_offset.get((partition, record.offset), ()))
        event = decode_compared(record)
        if event is None:
            return
        key = event.key
        for unit in self._by_key.get((partition, key), ()):
            if record.offset <= unit.offset:
                self.found[unit] = self._observe(event, record, partition, unit.replica)
        place = partition, record.offset
        if "events" in self._wanted:
            self._events.offer(1, lambda _: (place, self._observe(event, record, partition, None)))
        if "deliveries" in self._wanted:
            seeing = self._seeing(event)
            self._deliveries.offer(
                len(seeing),
                lambda number: (place, self._observe(event, record, partition, seeing[number])),
            )
        if "keys" in self._wanted:
            self._take_key(event, record, partition)

    def _take_key(self, event: ComparedEvent, record: Record, partition: int) -> None:
        number = bisect_left(self._moments, record.timestamp)
        if number == len(self._moments):
            return  # After the last moment that is looked at.
        for replica in self._seeing(event):
            past = self._keys.offer("\x1f".join((replica, *event.key)), _Past)
            if past is not None:
                past.until[number] = self._observe(event, record, partition, replica)

    def _seeing(self, event: ComparedEvent) -> tuple[str, ...]:
        """Return the replicas that have to apply an event."""
        fields = tuple(event.context_delta.updates)
        kind = event.context_type, fields, event.propagation_rules.target_models
        known = self._known.get(kind)
        if known is None:
            known = tuple(name for name, view in self._replicas.items() if sees(view, event))
            if len(self._known) < MAXIMUM_KINDS:
                self._known[kind] = known
        return known

    def rest(self, population: Population) -> list[Observation]:
        """Return the sample of what is not divergent."""
        if population == "keys":
            return self._rest_of_keys()
        sample = self._deliveries if population == "deliveries" else self._events
        return [
            observation
            for place, observation in sample.items
            if not self._is_divergent(population, place)
        ]

    def _rest_of_keys(self) -> list[Observation]:
        """Return each key as it was at a moment at which some divergent one was seen, by chance.

        The divergent are among them: keys that have been there for long are more often struck, and
        to leave them out would make the rest younger than chance does.
        """
        found = []
        for past in self._keys.items:
            number = bisect_left(self._moments, self._rng.choice(self._seen_at))
            known = [place for place in past.until if place <= number]
            if known:
                found.append(past.until[max(known)])
        return found

    def _is_divergent(self, population: Population, place: tuple[int, int]) -> bool:
        units = self._by_offset.get(place, ())
        return any(unit.population == population for unit in units)

    def _observe(
        self, event: ComparedEvent, record: Record, partition: int, replica: str | None
    ) -> Observation:
        seen_for = None if replica is None else (replica, self._replicas[replica])
        return observe(event, record, partition, seen_for, self._dimensions)


class _Past(Struct):
    """A sampled key: its last event before each of the moments at which there was a new one."""

    until: dict[int, Observation] = {}
