"""The validator in a tiny world: faults in, findings out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import REPORTS, STATE
from tests.validation_world import REPLICA, World
from tests.validator_faults import (
    FAULTS,
    answering,
    missed,
    only,
    reordered_within_a_batch,
    way_to_look,
    world,
)
from validator.finding import public_form

__all__ = ["way_to_look"]


@pytest.mark.parametrize("is_restarted", [False, True], ids=["", "validator restarts each step"])
@pytest.mark.parametrize("cause, found", FAULTS.values(), ids=FAULTS)
def test_one_finding_for_each_cause(
    cause: Callable[[World], None], found: list[tuple[str, str, str]], is_restarted: bool
) -> None:
    w = world()
    cause(w)
    for _ in range(20):
        w.step()
        if is_restarted:
            w.restart_validator()
        w.validator.scrub(w.now)
    w.run()

    assert [(k, s, *names) for k, s, names in w.kinds()] == found
    is_open = any(state == "open" for _, state, _ in found)
    assert w.verdict() == ("DIVERGED" if is_open else "CONSISTENT")
    assert sum(w.validator.findings_total.values()) == len(found)


def test_an_order_that_leaves_no_trace_is_still_counted() -> None:
    w = world()
    reordered_within_a_batch(w)
    w.run()
    [status] = w.validator.status(w.now)

    assert (status.ordering_violations, status.late) == (1, 1)


def test_a_finding_stays_open_until_a_digest_agrees_and_keeps_its_first_detection() -> None:
    w = world()
    missed(w)
    w.run()
    first = only(w)
    w.run(20)
    assert only(w) == first
    w.write("1", limit=8)
    w.run()
    closed = only(w)

    assert (closed.state, closed.detected_at) == ("resolved", first.detected_at)
    assert closed.resolved_at is not None and closed.resolved_at > first.detected_at
    assert closed.evidence["agreed_position"] == 4
    assert w.settle() and only(w) == closed


def test_a_missed_event_is_named_with_its_offset_and_correlation() -> None:
    w = world()
    missed(w)
    w.run()
    finding = only(w)

    assert finding.first_bad_position is not None and finding.first_bad_position.offset == 2
    assert finding.since is not None
    assert (finding.since.after_offset, finding.since.by_offset) == (2, 2)
    assert finding.evidence["events"][0]["correlation_id"] == "correlation-3"
    assert finding.evidence["events"][0]["offset"] == 2


def test_since_of_a_corruption_lies_between_the_last_write_and_the_event_that_met_it() -> None:
    w = world()
    w.write("2", limit=7)
    w.overwrite("1", limit=99)
    w.write("2", limit=8)
    w.write("1", limit=9)
    w.run()
    finding = only(w)

    assert finding.since is not None
    assert (finding.since.after_offset, finding.since.by_offset) == (1, 4)
    assert finding.evidence["met_at"] == "event"


def test_evidence_shows_values_of_public_fields_only() -> None:
    w = world()
    w.overwrite("1", limit=99, note="private words")
    w.settle()
    fields = only(w).evidence["fields"]

    assert fields["limit"]["seen_value"] == 99
    assert set(fields["note"]) == {"expected_hash", "seen_hash"}
    for topic in (REPORTS, "sync.findings", STATE, "sync.requests"):
        assert all(b"private words" not in r.value for r in w.log.read(topic, 0, 0, 999).records)
    assert "keys" not in public_form(only(w))


def test_bulk_damage_is_one_bulk_finding_and_every_key_is_named_in_slices() -> None:
    w = World(bits=8, whole_facts=1_000)
    for number in range(300):
        w.write(str(number), limit=number)
    w.run()
    for number in range(300):
        w.overwrite(str(number), limit=-number - 1)
    w.settle()
    w.run(30)

    assert {(f.kind, f.state) for f in w.findings()} == {("corrupted", "open"), ("bulk", "open")}
    assert len({subject for f in w.findings() for subject in f.subjects}) == 300
    assert len(w.findings()) < 20
    assert len(w.requests()) < 40
    assert max(len(request.buckets) for request in w.requests()) == 64
    w.start_replica(REPLICA, MemoryStorage())
    assert w.settle() and w.verdict() == "CONSISTENT"
    assert {f.state for f in w.findings()} == {"resolved"}


def test_a_journal_that_is_no_longer_complete_leaves_the_cause_unknown_but_names_the_key() -> None:
    w = world()
    answering(w, lambda _, a: replace(a, journal_from=a.note.position, entries=[], mismatches=[]))
    missed(w)
    w.run()
    finding = only(w)

    assert (finding.kind, finding.subjects) == ("unexplained", ["user:1"])
    assert "cause UNKNOWN" in finding.evidence["reason"]
    w.write("1", limit=9)
    w.run()
    assert only(w).state == "resolved"
