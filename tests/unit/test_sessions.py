"""What consumers saw becomes a finding where it is a replica's own fault, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from synchroscope.ports import REPORTS, AggregateRecord, NewRecord
from synchroscope.session import Guarantee, Read, ReplicaClient, SessionMonitor
from synchroscope.session_report import SessionReporter
from tests.validation_world import World
from tracing.session_metrics import SESSION_METRICS, SessionCollector
from validator.finding import Finding
from validator.sessions import SessionChecker

NEAR, FAR = "scorer@1", "scorer@2"
KEY = ("financial", "user:1")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


class Shop:
    """A process with one consumer, two replicas, and the checker beside the validator."""

    def __init__(self) -> None:
        self.world = World((NEAR, FAR))
        self.monitor = SessionMonitor("shop")
        self.session = self.monitor.session("visitor")
        self.reporter = SessionReporter(self.monitor, self.world.log, "life-1")
        self.checker = self.start_checker()
        self.clients = {
            name: ReplicaClient(name, self.world.view, storage.get)
            for name, storage in self.world.storages.items()
        }

    def start_checker(self) -> SessionChecker:
        self.checker = SessionChecker(
            self.world.log, self.world.store, quiet_seconds=10.0, quiet_reads=5
        )
        return self.checker

    def read(self, name: str = NEAR) -> Read:
        return self.session.read(self.clients[name], "user:1", "financial", self.world.now)

    def report(self) -> None:
        self.world.now += 1.0
        self.reporter.step(self.world.now)
        self.checker.step(self.world.now)

    def findings(self) -> list[Finding]:
        return [one for one in self.world.findings() if one.kind == "session-violation"]

    def put(self, name: str, record: AggregateRecord) -> None:
        """Change what a storage holds, behind its replica's back."""
        self.world.storages[name].commit({KEY: record.copy()}, record.partition, None)

    def held(self, name: str) -> AggregateRecord:
        found = self.world.storages[name].get(KEY)
        assert found is not None
        return found.copy()


def fallen_back() -> Shop:
    """Let a replica show the second version, and then the first one again."""
    shop = Shop()
    shop.world.write("1", limit=1)
    shop.world.run(2)
    old = shop.held(NEAR)
    shop.world.write("1", limit=2)
    shop.world.run(2)
    shop.read()
    shop.put(NEAR, old)
    shop.read()
    shop.report()
    return shop


def test_a_replica_that_shows_an_older_version_than_before_is_a_finding() -> None:
    shop = fallen_back()
    (finding,) = shop.findings()
    assert (finding.replica, finding.state, finding.subjects) == (NEAR, "open", ["user:1"])
    evidence = finding.evidence
    assert evidence["guarantee"] == "monotonic-reads"
    assert (evidence["expected_sequence"], evidence["seen_sequence"]) == (2, 1)
    assert evidence["reason"] == "read sequence 1 after 2"


def test_a_replica_that_is_behind_another_is_counted_and_no_finding() -> None:
    shop = Shop()
    shop.world.links[FAR].hold_at = 1
    shop.world.write("1", limit=1)
    shop.world.write("1", limit=2)
    shop.world.run(2)
    shop.read(NEAR)
    assert shop.read(FAR).violations
    shop.report()
    assert shop.findings() == []
    assert shop.checker.violations == {(FAR, Guarantee.MONOTONIC_READS): 1}


def test_a_replica_that_is_behind_its_consumers_writes_is_no_finding() -> None:
    shop = Shop()
    shop.world.write("1", limit=1)
    (stored,) = shop.world.store.read(0, 1)
    shop.session.wrote(stored.event)
    assert shop.read().violations
    shop.report()
    assert shop.findings() == []


def test_an_event_without_its_predecessor_is_a_finding() -> None:
    shop = Shop()
    shop.world.drop(0, name=NEAR)
    shop.world.write("1", limit=1)
    shop.world.write("1", limit=2)
    shop.world.run(2)
    shop.read()
    shop.report()
    (finding,) = shop.findings()
    assert finding.evidence["guarantee"] == "ordering"


def test_a_version_that_the_event_store_does_not_have_proves_nothing() -> None:
    shop = Shop()
    shop.world.write("1", limit=1)
    shop.world.run(2)
    made_up = shop.held(NEAR)
    made_up.sequence = 99
    old = shop.held(NEAR)
    shop.put(NEAR, made_up)
    shop.read()
    shop.put(NEAR, old)
    assert shop.read().violations
    shop.report()
    assert shop.findings() == []
    assert shop.checker.unproven == 1


def test_a_finding_is_resolved_after_enough_time_and_enough_reads_without_another() -> None:
    shop = fallen_back()
    shop.put(NEAR, shop.held(FAR))  # Somebody puts it right.
    for _ in range(4):
        assert shop.read().violations == ()
        shop.report()
    shop.world.now += 20.0
    shop.report()
    assert [one.state for one in shop.findings()] == ["open"]  # Time enough, but 4 reads.
    shop.read()
    shop.report()
    assert [one.state for one in shop.findings()] == ["resolved"]


def test_reads_alone_do_not_resolve_it_at_once() -> None:
    shop = fallen_back()
    shop.put(NEAR, shop.held(FAR))  # Somebody puts it right.
    for _ in range(8):
        shop.read()
    shop.report()
    assert [one.state for one in shop.findings()] == ["open"]


def test_a_checker_that_dies_goes_on_with_what_is_open() -> None:
    shop = fallen_back()
    shop.start_checker()
    assert [one.replica for one in shop.checker.open_findings()] == [NEAR]
    shop.put(NEAR, shop.held(FAR))  # Somebody puts it right.
    for _ in range(6):
        shop.read()
    shop.world.now += 20.0
    shop.report()
    assert [one.state for one in shop.findings()] == ["resolved"]


def test_what_is_no_report_is_passed_over() -> None:
    shop = Shop()
    shop.world.log.append([NewRecord(REPORTS, 0, b"sessions/x", b"{}")], shop.world.now)
    shop.report()
    assert shop.checker.violations == {}


def test_reads_violations_and_waits_are_exposed() -> None:
    shop = fallen_back()
    registry = CollectorRegistry()
    registry.register(SessionCollector(shop.monitor))
    sample = registry.get_sample_value
    assert sample("synchroscope_session_reads_total", {"replica": NEAR}) == 2
    labels = {"replica": NEAR, "guarantee": "monotonic-reads"}
    assert sample("synchroscope_session_violations_total", labels) == 1
    assert sample("synchroscope_session_waits_total", {"came": "no"}) == 0


def test_every_metric_of_sessions_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in SESSION_METRICS)
