"""The validator's checkpoint: never too large for the log, and whole again after a restart."""

from __future__ import annotations

import pytest

from synchroscope.ports import STATE, NewRecord
from tests.validation_world import REPLICA, World
from validator import pages
from validator.pages import stored

PAGE_BYTES = 6_000


def diverged(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world whose validator's checkpoint takes several records."""
    monkeypatch.setattr(pages, "PAGE_BYTES", PAGE_BYTES)
    w = World()
    for number in range(40):
        w.write(str(number), limit=number)
    w.run()
    w.links[REPLICA].tamper = lambda records: [r for r in records if r.offset < 40]
    for number in range(40):
        w.write(str(number), limit=-number - 1)
        w.run(3)
    return w


def state_of(w: World) -> dict[bytes, bytes]:
    return {record.key: record.value for record in w.log.read(STATE, 0, 0, 100_000).records}


def test_no_record_of_a_checkpoint_is_larger_than_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    w = diverged(monkeypatch)
    sizes = [len(value) for key, value in state_of(w).items() if key.startswith(b"validator")]

    assert sum(sizes) > 2 * PAGE_BYTES
    assert max(sizes) <= PAGE_BYTES


def test_a_checkpoint_in_pages_is_resumed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    w = diverged(monkeypatch)
    before, opened = w.validator.open_findings(), w.validator.findings_total
    w.restart_validator()

    assert len(before) == 40
    assert w.validator.open_findings() == before
    w.settle()
    assert w.validator.findings_total == opened
    w.links[REPLICA].tamper = list
    for number in range(40):
        w.write(str(number), limit=number)
    w.run()
    assert {finding.state for finding in w.findings()} == {"resolved"}
    assert w.validator.findings_total == opened
    assert w.settle() and w.verdict() == "CONSISTENT"
    w.restart_validator()  # In one record again; pages of before are not read.
    assert not w.validator.open_findings()


def test_a_checkpoint_of_which_a_page_is_another_ones_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    w = diverged(monkeypatch)
    assert stored(w.log, b"validator") is not None
    w.log.append([NewRecord(STATE, 0, b"validator/page/1", b"other")], w.now)

    assert stored(w.log, b"validator") is None
    w.restart_validator()
    w.run(20)
    assert w.verdict() == "DIVERGED" and REPLICA in {f.replica for f in w.findings()}


@pytest.mark.parametrize("value", [b"", b"nonsense", b"\x92\xa5pages\x05"])
def test_a_checkpoint_that_cannot_be_read_is_passed_over(value: bytes) -> None:
    w = World()
    w.write("1", limit=1)
    w.run()
    w.log.append([NewRecord(STATE, 0, b"validator", value)], w.now)
    w.restart_validator()

    assert w.validator.reference.position(0) == 0
    assert w.settle() and w.verdict() == "CONSISTENT"
