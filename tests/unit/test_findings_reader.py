"""Findings as they stand in the log, where anybody may write."""

from __future__ import annotations

import pytest

from pipeline.log_memory import MemoryLog
from synchroscope.ports import CONTROL_TOPICS, EVENTS, FINDINGS, NewRecord
from tests.validation_world import World
from validator.ledger import FindingsReader, Ledger


def spoilt() -> World:
    """Return a world in which a value was changed behind the replica's back, and found."""
    world = World()
    world.write("1", limit=1)
    world.run()
    record = world.storages["scorer@1"].get(("financial", "user:1"))
    assert record is not None
    record.fields["limit"] = (7, 1)
    world.write("1", limit=2)
    world.run()
    return world


def test_what_is_no_finding_is_passed_over_and_a_null_takes_one_off() -> None:
    world = spoilt()
    found = world.findings()
    assert found
    log = world.log
    name = found[0].id.encode()
    log.append(
        [NewRecord(FINDINGS, 0, b"F-1", b"no finding"), NewRecord(FINDINGS, 0, b"\xff", b"")], 0
    )
    reader = FindingsReader(log)
    assert reader.read() == found
    log.append([NewRecord(FINDINGS, 0, name, b"")], 0)
    assert [one.id for one in reader.read()] == [one.id for one in found[1:]]


def test_what_is_no_finding_is_told_once_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    log.append([NewRecord(FINDINGS, 0, b"F", value) for value in (b"{", b'"\xff"') * 20], 0)
    reader = FindingsReader(log)
    assert reader.read() == reader.read() == []
    assert caplog.messages == [
        "sync.findings: 40 records are no findings and are passed over, the first at offset 0"
    ]


def test_a_finding_is_opened_where_the_log_has_something_else_under_its_name() -> None:
    world = spoilt()
    finding = world.findings()[0]
    log = MemoryLog({EVENTS: 1, **dict.fromkeys(CONTROL_TOPICS, 1)})
    log.append([NewRecord(FINDINGS, 0, finding.id.encode(), b"")], 0)
    ledger = Ledger()
    ledger.open(finding, log)
    assert ledger.get(finding.id) == finding
    assert ledger.opened_total == {finding.kind: 1}
