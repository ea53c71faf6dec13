"""The rolling scrub: how much it has seen and when, and what it may cost."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.answering import SLICE_KEYS
from pipeline.kafka_settings import KafkaSettings
from pipeline.log_memory import MemoryLog
from pipeline.projector import Projector
from pipeline.scrubbing import COVERAGE_SECONDS, ScrubStanding
from service.board import ProcessRecord, ReplicaWork
from service.embedded import EmbeddedPipeline, ReplicaSpec
from service.measuring import measurements_of, process_measurements, scrub_measurements
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, REPORTS, REQUESTS, AggregateRecord, NewRecord
from synchroscope.replica import Replica
from synchroscope.report import Explanation, Request, decode_message, encode_message
from tests.builders import VIEW, record
from tracing.metrics import Measurements, ScrubMeasurements, registry_for

NAME = "fraud-scorer@1"
EVERY = 0.5
BUCKETS = 16


class Scrubbed:
    """A projector on a memory log, stepped by hand."""

    def __init__(self, partitions: int = 1, **settings: float) -> None:
        self.log = MemoryLog({EVENTS: partitions, **dict.fromkeys(CONTROL_TOPICS, 1)})
        self.now = 1_000.0
        self.storage = MemoryStorage()
        replica = Replica(NAME, VIEW, self.storage, incarnation="i", bits=4)
        settings = {"scrub_interval_seconds": EVERY, **settings}
        self.projector = Projector(replica, self.log, **settings)  # type: ignore[arg-type]

    def fill(self, users: Iterable[int]) -> None:
        for number in users:
            one = record(number, 1, {"limit": number}, user=f"u{number}")
            self.log.append([NewRecord(EVENTS, 0, one.key, one.value)], self.now)

    def go(self, steps: int, seconds: float = EVERY) -> None:
        for _ in range(steps):
            self.projector.step(self.now)
            self.now += seconds

    def standing(self, partition: int = 0) -> ScrubStanding:
        return self.projector.scrubbing.standings(self.now)[partition]


# -- what it has seen --------------------------------------------------------------------------


def test_before_the_first_pass_is_over_the_age_is_not_known() -> None:
    scrubbed = Scrubbed()
    assert scrubbed.standing() == ScrubStanding(0.0, None)
    scrubbed.go(BUCKETS - 1)
    assert scrubbed.standing() == ScrubStanding(15 / 16, None)
    scrubbed.go(1)
    assert scrubbed.standing() == ScrubStanding(1.0, 1_000.0)


def test_the_age_is_that_of_the_bucket_which_was_read_longest_ago() -> None:
    scrubbed = Scrubbed()
    scrubbed.go(BUCKETS + 3)
    assert scrubbed.standing().oldest_at == 1_000.0 + 3 * EVERY


def test_what_was_read_too_long_ago_is_not_covered_any_more() -> None:
    scrubbed = Scrubbed()
    scrubbed.go(BUCKETS)
    scrubbed.now = 1_000.0 + COVERAGE_SECONDS + 4 * EVERY - EVERY / 2
    assert scrubbed.standing() == ScrubStanding(12 / 16, 1_000.0)


def test_a_scrub_that_a_validator_asked_for_counts_too() -> None:
    scrubbed = Scrubbed(scrub_interval_seconds=None)  # type: ignore[arg-type]
    scrubbed.go(3)
    assert scrubbed.standing() == ScrubStanding(0.0, None)
    request = Request("r", NAME, 0, since=0, scrub=True)
    scrubbed.log.append([NewRecord(REQUESTS, 0, NAME.encode(), encode_message(request))], 0.0)
    asked_at = scrubbed.now
    scrubbed.go(2)
    assert scrubbed.standing() == ScrubStanding(1.0, asked_at)


def test_of_a_partition_that_came_back_nothing_is_known() -> None:
    scrubbed = Scrubbed(partitions=2)
    scrubbed.go(2 * BUCKETS)
    assert scrubbed.standing(1).coverage_ratio == 1.0
    scrubbed.projector.own({0: 0, 1: 1})
    assert scrubbed.standing(0).coverage_ratio == 1.0
    assert scrubbed.standing(1) == ScrubStanding(0.0, None)
    scrubbed.projector.own({0: 0})
    assert list(scrubbed.projector.scrubbing.standings(scrubbed.now)) == [0]


def test_the_keys_that_were_read_are_counted() -> None:
    scrubbed = Scrubbed()
    scrubbed.fill(range(50))
    scrubbed.go(1)
    scrubbed.projector.scrubbing.keys = 0
    scrubbed.go(BUCKETS)
    assert scrubbed.projector.scrubbing.keys == 50


# -- what it costs -----------------------------------------------------------------------------


@pytest.mark.parametrize("keys_per_second", [10.0, 25.0, 100.0])
def test_no_more_keys_are_read_than_the_budget_allows_however_large_a_bucket(
    keys_per_second: float,
) -> None:
    scrubbed = Scrubbed(scrub_interval_seconds=0.001, scrub_keys_per_second=keys_per_second)
    scrubbed.fill(range(800))
    scrubbed.projector.step(scrubbed.now)
    read, began = scrubbed.projector.scrubbing.keys, scrubbed.now
    while scrubbed.now < began + 60:
        scrubbed.go(1, 0.01)
        spent = scrubbed.projector.scrubbing.keys - read
        # A bucket is read at once, and paid for afterwards; as many keys are looked at beside it.
        assert spent <= keys_per_second / 2 * (scrubbed.now - began) + 100
    assert spent >= 0.4 * keys_per_second * 60 - 100


def test_small_buckets_are_read_no_sooner_than_the_interval_says() -> None:
    scrubbed = Scrubbed(scrub_interval_seconds=1.0, scrub_keys_per_second=1e6)
    scrubbed.fill(range(160))
    scrubbed.go(4 * 8, 0.25)
    assert scrubbed.standing().coverage_ratio == 8 / BUCKETS


def test_a_clock_that_was_set_back_does_not_stop_the_scrub() -> None:
    scrubbed = Scrubbed(scrub_interval_seconds=1.0)
    scrubbed.go(3, 1.0)
    scrubbed.now -= 500.0
    scrubbed.go(1)
    assert scrubbed.standing().coverage_ratio == 4 / BUCKETS


# -- as metrics --------------------------------------------------------------------------------


def test_an_age_that_is_not_known_is_absent() -> None:
    standings = {0: ScrubStanding(1.0, 990.0), 1: ScrubStanding(0.25, None)}
    scrubs = {NAME: scrub_measurements(standings, 70, 3, 1_000.0)}
    registry = registry_for(lambda: Measurements(at=1_000.0, scrubs=scrubs))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"synchroscope_scrub_{name}", labels)

    assert value("coverage_ratio", replica=NAME, partition="0") == 1.0
    assert value("coverage_ratio", replica=NAME, partition="1") == 0.25
    assert value("age_seconds", replica=NAME, partition="0") == 10.0
    assert value("age_seconds", replica=NAME, partition="1") is None
    assert value("keys_total", replica=NAME) == 70
    assert value("mended_total", replica=NAME) == 3


def test_a_clock_that_was_set_back_leaves_the_age_unknown() -> None:
    told = scrub_measurements({0: ScrubStanding(1.0, 990.0)}, 7, 0, 900.0)
    assert told == ScrubMeasurements({0: 1.0}, {}, 7, 0)


def test_the_embedded_pipeline_tells_of_all_its_replicas(tmp_path: Path) -> None:
    specs = [ReplicaSpec(NAME, VIEW, "memory"), ReplicaSpec("other@1", VIEW, "lmdb")]
    with closing(EmbeddedPipeline(tmp_path, specs, partitions=2, clock=lambda: 1_000.0)) as one:
        one.step()
        found = measurements_of(one.account(1_000.0)).scrubs
    assert found[NAME] == ScrubMeasurements({0: 1 / 256, 1: 0.0}, {}, 0, 0)
    assert found.keys() == {NAME, "other@1"}


def test_every_process_exposes_the_scrubs_of_its_own_replicas() -> None:
    work = ReplicaWork(
        ([], 0.0), {}, {}, {}, scrubs={2: ScrubStanding(0.5, None)}, scrubbed=9, mended=1
    )
    one = ProcessRecord("p", "projector", "c", 0.0, 1_000.0, [2], {NAME: work})
    settings = KafkaSettings(bootstrap_servers="localhost:9092")
    found = process_measurements(None, [], [one], settings, {}, 1_001.0, is_reporter=False)
    assert found.scrubs == {NAME: ScrubMeasurements({2: 0.5}, {}, 9, 1)}


# -- what no bucket shows ----------------------------------------------------------------------

STRAY = AggregateRecord("financial", "user:999", 99, 1, {"limit": (5, 1)}, [])


def test_what_stands_in_no_bucket_is_found_within_a_pass() -> None:
    scrubbed = Scrubbed()
    scrubbed.fill(range(100))
    scrubbed.go(1)
    scrubbed.storage.commit({(STRAY.context_type, STRAY.subject): STRAY}, 0, None)
    facts = scrubbed.projector.replica.report(scrubbed.now, [0]).notes[-1].facts
    scrubbed.go(3 * BUCKETS)
    note = scrubbed.projector.replica.report(scrubbed.now, [0]).notes[-1]
    assert scrubbed.projector.scrubbing.mended == 1
    assert (note.facts, note.anomalies) == (facts + 1, 1)


def test_a_proof_that_is_asked_for_misses_nothing() -> None:
    scrubbed = Scrubbed(scrub_interval_seconds=None)  # type: ignore[arg-type]
    scrubbed.fill(range(100))
    scrubbed.go(1)
    scrubbed.storage.commit({(STRAY.context_type, STRAY.subject): STRAY}, 0, None)
    request = Request("r", NAME, 0, since=0, scrub=True)
    scrubbed.log.append([NewRecord(REQUESTS, 0, NAME.encode(), encode_message(request))], 0.0)
    scrubbed.go(1)
    [answer] = [
        message
        for one in scrubbed.log.read(REPORTS, 0, 0, 99).records
        if isinstance(message := decode_message(one.value), Explanation)
    ]
    assert scrubbed.projector.scrubbing.mended == 1
    assert (answer.scrubbed, answer.note.facts, answer.note.anomalies) == (True, 101, 1)


def test_a_proof_of_a_large_storage_takes_several_steps_and_events_go_on() -> None:
    scrubbed = Scrubbed(scrub_interval_seconds=None, answer_buckets=2)  # type: ignore[arg-type]
    scrubbed.fill(range(3 * SLICE_KEYS))
    scrubbed.go(4)
    request = Request("r", NAME, 0, since=0, scrub=True)
    scrubbed.log.append([NewRecord(REQUESTS, 0, NAME.encode(), encode_message(request))], 0.0)
    scrubbed.go(1)
    before = scrubbed.projector.replica.position(0)
    scrubbed.fill(range(5_000, 5_010))
    scrubbed.go(1)
    assert scrubbed.projector.replica.position(0) == before + 10
