"""The audit of the hops: its restarts and checkpoints, and who is told how they stand."""

from __future__ import annotations

import pytest

from benchmarks import hop_cost
from pipeline.event_store import StoredEvent
from service.board import Board
from synchroscope.freshness_follower import FreshnessFollower
from synchroscope.ports import EVENTS, NewRecord
from tests.hop_chain import START, Chain, once
from tracing.metrics import HopMeasurements, Measurements, registry_for
from validator import hops, pages
from validator.hop_verdicts import LOST, RELAY_LOG


def test_a_checkpoint_that_would_be_too_large_leaves_out_the_oldest_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hops, "MAXIMUM_CHECKPOINT_BYTES", 1_500)
    chain = Chain(checkpoint_seconds=0.0)
    for _ in range(6):
        chain.traffic()
    stored = chain.log.latest("sync.state", hops.CHECKPOINT_KEY)
    assert stored is not None and len(stored.value) <= 1_500
    chain.start_auditor()
    chain.settle()
    assert chain.wrong() == []


@pytest.mark.parametrize("page_bytes", [300, 500_000])
def test_an_audit_that_dies_goes_on_where_it_was(
    page_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", page_bytes)
    chain = Chain(checkpoint_seconds=0.0)
    chain.traffic()
    chain.publishing.on_append = once(lambda records: records[1:])
    chain.write("1")
    chain.run(2)
    chain.start_auditor()
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, LOST, 1)]
    chain.start_auditor()
    chain.run(5)
    assert [finding.state for finding in chain.findings()] == ["open"]
    assert len(chain.auditor.open_findings()) == 1


def test_an_audit_without_a_checkpoint_does_not_judge_what_had_begun() -> None:
    chain = Chain(checkpoint_seconds=1e9)
    chain.traffic()
    chain.log._newest.pop(("sync.state", b"hops/checkpoint"), None)
    chain.start_auditor()
    chain.settle()
    assert chain.wrong() == []


@pytest.mark.parametrize("told", [b"1.7e300", b"-1.7e308", b"1e19", b"-1e19"])
def test_a_record_of_no_time_that_can_be_is_of_no_window(told: bytes) -> None:
    chain = Chain(checkpoint_seconds=0.0)
    chain.traffic()
    for number in range(chain.partitions):
        forged = NewRecord(EVENTS, number, b"k", b"x", (("recorded", told),))
        chain.log.append([forged, forged], chain.now)
    last = chain.store._events[-1]
    chain.store._events.append(StoredEvent(last.position + 1, last.event, float(told)))
    chain.settle()
    chain.start_auditor()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []


def test_how_the_hops_stand_is_published_for_boards_and_metrics() -> None:
    chain = Chain(checkpoint_seconds=0.0)
    chain.traffic()
    chain.publishing.on_append = once(lambda records: records[1:])
    chain.write("1")
    chain.settle()
    board = Board(chain.log, {})
    board.refresh()
    assert board.hops is not None
    work = board.hops.hops[RELAY_LOG]
    assert work.windows["DIVERGED"] == work.events[LOST] == 1
    assert work.windows["CONSISTENT"] > 0
    assert board.hops.open == [finding.id for finding in chain.findings()]
    measured = HopMeasurements(work.windows, work.events, work.judged_until)
    registry = registry_for(lambda: Measurements(at=1.0, hops={RELAY_LOG: measured}))
    sample = registry.get_sample_value
    assert sample("synchroscope_hop_events_total", {"hop": RELAY_LOG, "kind": LOST}) == 1
    labels = {"hop": RELAY_LOG, "verdict": "DIVERGED"}
    assert sample("synchroscope_hop_windows_total", labels) == 1
    until = sample("synchroscope_hop_compared_timestamp_seconds", {"hop": RELAY_LOG})
    assert until is not None and START < until < chain.now


def test_what_counting_costs_is_printed_beside_its_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hop_cost, "EVENTS_MEASURED", 300)
    hop_cost.main()
    assert "counting adds" in capsys.readouterr().out


def test_a_named_loss_makes_the_reads_of_its_aggregate_suspect() -> None:
    chain = Chain()
    chain.publishing.on_append = once(lambda records: records[1:])
    chain.write("1")
    chain.write("1")
    chain.traffic()
    chain.settle()
    follower = FreshnessFollower(chain.log, "scorer@1", lambda kind, subject: 0)
    follower.step(chain.now)
    named = follower.freshness("user:1", "financial", chain.now).findings
    assert [one.kind for one in named or ()] == ["hop-lost"]
    assert follower.freshness("user:2", "financial", chain.now).findings == ()
