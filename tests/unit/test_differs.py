"""From findings and a log to what the divergent share."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chaos.faults import parse_fault
from examples.retail.stream import RetailProducer
from examples.retail.views import RULES
from pipeline.commands import CommandSide
from pipeline.log_memory import MemoryLog
from service.cli import cli
from service.demo import DEFAULT_DATA, REPLICAS
from service.embedded import EmbeddedPipeline
from synchroscope.errors import ConfigurationError
from synchroscope.ports import CONTROL_TOPICS, EVENTS, NewRecord, Record
from synchroscope.view import View
from tests.builders import event
from validator.differs import Differs, PopulationRanking, what_differs
from validator.dimensions import DIMENSIONS, decode_compared, observe, sees
from validator.finding import Finding, Kind, Position, Since, finding_id
from validator.ranking import FALSE_DISCOVERY_RATE, Condition

PARTITIONS, SUBJECTS, EVENTS_TOTAL = 4, 60, 800
WIDE = View("wide", {"financial": frozenset(), "geographic": frozenset()})
NARROW = View("narrow", {"financial": frozenset({"limit"})})
VIEWS = {"wide@1": WIDE, "wide@2": WIDE, "narrow@1": NARROW}
Place = tuple[int, int]
Key = tuple[str, str]


class World:
    """A log of random events, and who has to apply which."""

    def __init__(self, seed: int, events: int = EVENTS_TOTAL) -> None:
        self.rng = rng = random.Random(seed)
        self.log = MemoryLog({EVENTS: PARTITIONS, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.events: dict[Place, dict[str, Any]] = {}
        self.sequences: dict[tuple[str, str], int] = {}
        for number in range(events):
            # Some subjects are written much more often than others.
            subject = str(int(SUBJECTS * rng.random() ** 2))
            kind = rng.choice(["financial", "geographic"])
            field = "country" if kind == "geographic" else rng.choice(["limit", "risk"])
            sequence = self.sequences.get((kind, subject), 0) + 1
            self.sequences[kind, subject] = sequence
            made = event(sequence, {field: number}, number=number, kind=kind, user=subject)
            made["source"] = {"modelId": f"till-{rng.randrange(6)}", "instanceId": "1"}
            made["timestamp"] = f"2026-03-01T{24 * number // events:02d}:00:00Z"
            partition = int(subject) % PARTITIONS
            offset = self.log.head(EVENTS, partition)
            value = json.dumps(made).encode()
            self.log.append([NewRecord(EVENTS, partition, b"", value)], 1_000.0 + number)
            self.events[partition, offset] = made

    def key(self, place: Place) -> tuple[str, str]:
        made = self.events[place]
        return made["contextType"], f"user:{made['contextDelta']['userId']}"

    def seeing(self, place: Place) -> list[str]:
        """Which replicas have to apply the event."""
        made = self.events[place]
        fields = set(made["contextDelta"]["updates"])
        return [
            name
            for name, view in VIEWS.items()
            if (seen := view.fields.get(made["contextType"])) is not None
            and (not seen or seen & fields)
        ]

    def finding(
        self, kind: Kind, replica: str | None, place: Place, key: Key | None = None
    ) -> Finding:
        partition, offset = place
        key = self.key(place) if key is None else key
        return Finding(
            id=finding_id(kind, replica, *place, *key),
            state="open",
            kind=kind,
            replica=replica,
            context_type=key[0],
            subjects=[key[1]],
            first_bad_position=Position(partition, offset),
            since=Since(partition, offset, offset),
            detected_at="",
            resolved_at=None,
            evidence={"checked_position": offset + 1},
            partition=partition,
            keys=[key],
        )

    def deliveries(self) -> list[tuple[str, Place]]:
        return [(replica, place) for place in self.events for replica in self.seeing(place)]

    def stored_key(self, wanted: int | None = None) -> tuple[str, Place, Key]:
        """At a random moment one of the aggregates that are stored then, each as likely."""
        moment = self.rng.randrange(1, len(self.events))
        known = list(self.events)[:moment]
        stored = {
            (replica, self.key(place), place[0]): None
            for place in known
            for replica in self.seeing(place)
            if wanted in (None, place[0])
        }
        if not stored:
            return self.stored_key(wanted)
        replica, key, partition = self.rng.choice(list(stored))
        return replica, max(place for place in known if place[0] == partition), key


def differs(world: World, findings: list[Finding], **more: Any) -> Differs:
    return what_differs(world.log, findings, VIEWS, **more)


def only(found: Differs) -> PopulationRanking:
    (population,) = found.populations
    return population


def test_events_that_were_missed_at_random_share_nothing_at_the_stated_rate() -> None:
    seeds, false = 80, 0
    for seed in range(seeds):
        world = World(seed, 400)
        struck = world.rng.sample(world.deliveries(), 25)
        found = only(differs(world, [world.finding("missed", *one) for one in struck], seed=seed))
        assert found.population == "deliveries" and found.divergent > 20
        false += bool(found.ranked)

    assert false <= chance(seeds)


def test_stored_values_that_changed_at_random_share_nothing_at_the_stated_rate() -> None:
    seeds, false = 80, 0
    for seed in range(seeds):
        world = World(seed, 400)
        findings = [world.finding("corrupted", *world.stored_key()) for _ in range(25)]
        found = only(differs(world, findings, seed=seed))
        assert found.population == "keys" and found.divergent > 15
        false += bool(found.ranked)

    assert false <= chance(seeds)


def chance(runs: int) -> float:
    """How many false results chance allows: three standard deviations above the stated rate."""
    rate = FALSE_DISCOVERY_RATE
    return runs * rate + 3 * math.sqrt(runs * rate * (1 - rate))


def produced_by(world: World, producer: str) -> list[tuple[str, Place]]:
    return [
        (replica, place)
        for replica, place in world.deliveries()
        if world.events[place]["source"]["modelId"] == producer
    ]


@pytest.mark.parametrize("seed", range(10))
def test_a_producer_whose_events_go_wrong_ranks_first_with_eight(seed: int) -> None:
    world = World(seed)
    struck = world.rng.sample(produced_by(world, "till-4"), 8)

    found = only(differs(world, [world.finding("missed", *one) for one in struck]))

    assert found.ranked[0].conditions[0] == Condition("producer", "till-4")
    assert found.ranked[0].share_divergent == 1.0
    assert 0.1 < found.ranked[0].share_rest < 0.25


@pytest.mark.parametrize("seed", range(5))
def test_a_replica_that_loses_one_partition_is_named_with_it(seed: int) -> None:
    world = World(seed, 2_000)
    mine = [one for one in world.deliveries() if one[0] == "wide@2" and one[1][0] == 3]
    struck = world.rng.sample(mine, 30)

    found = only(differs(world, [world.finding("missed", *one) for one in struck]))

    assert set(found.ranked[0].conditions) == {
        Condition("replica", "wide@2"),
        Condition("partition", "3"),
    }
    assert all(one.explained_by is not None for one in found.ranked[1:])


def test_keys_of_one_partition_are_found_by_what_is_stored_not_by_what_is_written() -> None:
    world = World(3, 1_500)
    findings = [world.finding("stale", *world.stored_key(1)) for _ in range(16)]

    found = only(differs(world, findings))

    assert found.ranked[0].conditions == (Condition("partition", "1"),)


def test_an_event_that_every_replica_missed_counts_once() -> None:
    world = World(1)
    places = world.rng.sample(list(world.events), 6)
    findings = [
        world.finding("missed", replica, place)
        for place in places
        for replica in world.seeing(place)
    ]

    found = only(differs(world, findings))

    assert len(findings) > 6
    assert (found.divergent, found.ranked) == (6, [])


def test_a_fault_of_a_producer_is_held_against_events() -> None:
    world = World(2)
    bad = [place for replica, place in produced_by(world, "till-2")]
    struck = world.rng.sample(list(dict.fromkeys(bad)), 12)

    found = only(differs(world, [world.finding("log-contradiction", None, p) for p in struck]))

    assert found.population == "events" and found.rest > EVENTS_TOTAL - 20
    assert found.ranked[0].conditions == (Condition("producer", "till-2"),)
    assert not any(one.conditions[0].dimension == "replica" for one in found.ranked)


def test_what_names_neither_event_nor_key_is_counted() -> None:
    world = World(2)
    place = next(iter(world.events))
    nowhere = world.finding("unlocated", "wide@1", place)
    lost = world.finding("missed", "wide@1", place)

    made = differs(
        world,
        [
            Finding(**{f: getattr(one, f) for f in one.__struct_fields__} | {"keys": []})
            for one in (nowhere, lost)
        ],
    )

    assert (made.findings, made.unlocated, made.populations) == (2, 2, [])


def test_the_same_seed_gives_the_same_answer_and_few_are_too_few() -> None:
    world = World(5)
    struck = world.rng.sample(world.deliveries(), 3)
    findings = [world.finding("missed", *one) for one in struck]

    made = differs(world, findings, seed=7, sample_size=100)

    assert made == differs(world, findings, seed=7, sample_size=100)
    assert only(made).has_few and only(made).rest <= 100


def test_divergent_events_that_are_older_than_what_is_read_are_found_all_the_same() -> None:
    world = World(6)
    struck = [(replica, place) for replica, place in world.deliveries() if place[1] < 20][:30]
    findings = [world.finding("missed", *one) for one in struck]

    made = differs(world, findings, maximum_events=200)

    assert made.events <= 200
    assert only(made).not_found == 0


def test_an_own_dimension_is_read_from_the_event() -> None:
    world = World(7)
    struck = world.rng.sample(produced_by(world, "till-1"), 10)
    findings = [world.finding("doubled", *one) for one in struck]

    def site(value: bytes) -> str:
        return "north" if json.loads(value)["source"]["modelId"] in ("till-1",) else ""

    found = only(differs(world, findings, dimensions={"site": site}))

    assert Condition("site", "north") in {one.conditions[0] for one in found.ranked}


@pytest.mark.parametrize(
    ("view", "updates", "targets", "is_seen"),
    [
        (WIDE, {"limit": 1}, None, True),
        (WIDE, {"limit": 1}, ["wide", "narrow"], True),
        (WIDE, {"limit": 1}, ["narrow"], False),
        (WIDE, {"limit": 1}, [], False),
        (NARROW, {"limit": 1, "risk": 2}, None, True),
        (NARROW, {"risk": 2}, None, False),
        (View("other", {"geographic": frozenset()}), {"limit": 1}, None, False),
    ],
)
def test_an_event_is_delivered_to_those_that_have_to_apply_it(
    view: View, updates: dict[str, int], targets: list[str] | None, is_seen: bool
) -> None:
    made = json.dumps(event(1, updates, targets=targets)).encode()
    decoded = decode_compared(Record(0, b"", made, (), 0.0))

    assert decoded is not None and sees(view, decoded) == is_seen


def test_the_command_names_the_replica_that_was_struck(tmp_path: Path) -> None:
    faults = [parse_fault("drop:fraud-scorer@2:0.02", [spec.name for spec in REPLICAS])]
    pipeline = EmbeddedPipeline(tmp_path, REPLICAS, faults=faults)
    producer = RetailProducer(
        DEFAULT_DATA, CommandSide(pipeline.store, RULES), pipeline.store, batch_rows=50
    )
    now = 0.0
    while producer.rows_read < 1_000:
        producer.step(now)
        pipeline.step()
    while not (pipeline.is_caught_up() and pipeline.is_settled()):
        pipeline.step()
        pipeline.ask_for_proof(now)
    # Beside the running pipeline: the command only reads.
    place = ["--data-dir", str(tmp_path)]
    told = CliRunner().invoke(cli, ["differs", *place, "--output", "json"])
    shown = CliRunner().invoke(cli, ["differs", *place, "--dimension", "invoice=$.correlationId"])
    pipeline.close()

    assert (told.exit_code, shown.exit_code) == (0, 0)
    (population,) = json.loads(told.stdout)["populations"]
    assert population["divergent"] > 8
    first = population["ranked"][0]
    assert first["conditions"] == [{"dimension": "replica", "value": "fraud-scorer@2"}]
    assert first["share_divergent"] == 1.0 and first["explained_by"] is None
    assert "replica = fraud-scorer@2" in shown.stdout


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    neither = CliRunner().invoke(cli, ["differs"])
    empty = CliRunner().invoke(cli, ["differs", "--data-dir", str(tmp_path)])

    assert neither.exit_code == 2 and "--config FILE, or --data-dir DIR" in neither.output
    assert "no data folder" in str(empty.exception)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--rate", "nan"], "nan is no number between 0 and 1"),
        (["--rate", "0"], "0"),
        (["--kind", "nope"], "--kind nope: choose of missed, doubled"),
        (["--kind", "missed", "--kind", "nope"], "--kind nope: choose of"),
        (["--dimension", "replica=$.a"], "events are compared by replica already"),
        (["--dimension", "a=$.a", "--dimension", "a=$.b"], "--dimension a is given twice"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, asked: list[str], told: str) -> None:
    (tmp_path / "synchroscope.db").touch()
    result = CliRunner().invoke(cli, ["differs", "--data-dir", str(tmp_path), *asked])
    assert result.exit_code != 0
    assert told in result.output + str(result.exception)
    assert isinstance(result.exception, SystemExit | ConfigurationError)


def test_the_names_of_dimensions_are_those_that_every_event_has() -> None:
    data = event(1, {"limit": 1}) | {"timestamp": "2026-03-01T10:00:00Z", "retention": "P1D"}
    record = Record(0, b"", json.dumps(data).encode(), (), 1.0)
    compared = decode_compared(record)
    assert compared is not None
    assert observe(compared, record, 0, ("wide@1", WIDE), {}).keys() == DIMENSIONS
