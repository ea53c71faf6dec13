"""What processes publish of partitions, put together: what is old or absent is UNKNOWN."""

from __future__ import annotations

import json
import math

import pytest

from pipeline.log_memory import MemoryLog
from service.board import (
    DEAD_SECONDS,
    STANDING_LIMIT_SECONDS,
    Board,
    ProcessRecord,
    RelayWork,
    ReplicaWork,
    farewell_notes,
    is_retired,
    process_note,
    retirement_note,
)
from synchroscope.latency import Latencies
from synchroscope.ports import EVENTS, STATE, NewRecord
from validator.hop_standing import HOP_STANDING_KEY
from validator.schemas.checker import STANDING_KEY
from validator.standing import Standing, consumer_of, encode_standing, standing_key
from validator.status import ReplicaStatus
from validator.watch import Judged, Verdict

GOOD, BAD, OPEN = Verdict.CONSISTENT, Verdict.DIVERGED, Verdict.UNKNOWN
NOW = 5_000.0
ASKED = ["a lost question", "the question"]


def status(name: str, verdict: Verdict, partition: int, applied: int = 5) -> ReplicaStatus:
    return ReplicaStatus(
        name, "scorer", verdict, f"{verdict.value} there", applied, {partition: 7}, 1, 0, 0, 0, 0,
        3, 3, 0, NOW,
    )  # fmt: skip


def standing(
    partition: int,
    verdict: Verdict = GOOD,
    *,
    at: float = NOW,
    final: Verdict = GOOD,
    head: int = 7,
) -> NewRecord:
    made = Standing(
        worker=f"worker-{partition}",
        at=at,
        heads={partition: head},
        positions={partition: head},
        replicas=[status("scorer@1", verdict, partition)],
        final={"scorer@1": Judged(final, f"finally {final.value}")},
        settled=final is GOOD,
        settled_total=head,
        applied={"scorer": 5},
        checks={"match": 3, "mismatch": 1},
        opened={"missed": 1},
        resolved={},
        open={"missed": 1},
        requests=2,
        repeated=0,
        proven=["an earlier question", "the question"],
    )
    key = standing_key(consumer_of([partition]))
    return NewRecord(STATE, 0, key, encode_standing(made))


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({EVENTS: 2})


def board(log: MemoryLog) -> Board:
    made = Board(log, {"scorer@1": "scorer"})
    made.refresh()
    return made


def verdict(log: MemoryLog, now: float = NOW) -> tuple[Verdict, str]:
    [found] = board(log).statuses(now)
    return found.verdict, found.reason


def test_a_partition_that_nobody_validated_yet_is_unknown(log: MemoryLog) -> None:
    log.append([standing(0)], NOW)
    assert verdict(log) == (OPEN, "nobody has validated partition 1 yet")
    assert board(log).unvalidated(NOW) == [1]


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [((GOOD, GOOD), GOOD), ((GOOD, OPEN), OPEN), ((OPEN, BAD), BAD), ((BAD, GOOD), BAD)],
)
def test_the_worst_of_all_partitions_holds(
    log: MemoryLog, verdicts: tuple[Verdict, Verdict], worst: Verdict
) -> None:
    log.append([standing(p, v) for p, v in enumerate(verdicts)], NOW)
    assert verdict(log)[0] is worst


def test_every_partition_tells_its_own_reason_and_not_only_the_worst_one(log: MemoryLog) -> None:
    log.append([standing(0, OPEN)], NOW)
    [found] = board(log).statuses(NOW)
    assert found.reasons.keys() == {0, 1}
    assert found.reasons[1] == "UNKNOWN, nobody has validated partition 1 yet"
    log.append([standing(0), standing(1)], NOW)
    [found] = board(log).statuses(NOW)
    assert found.reasons == {}


def test_what_a_validator_does_not_renew_gets_old(log: MemoryLog) -> None:
    log.append([standing(0), standing(1, at=NOW - STANDING_LIMIT_SECONDS - 1)], NOW)
    found, reason = verdict(log)
    assert (found, "nobody has validated partition 1 for 11 s" in reason) == (OPEN, True)


def test_a_divergence_outweighs_a_partition_without_a_validator(log: MemoryLog) -> None:
    log.append([standing(0, BAD)], NOW)
    assert verdict(log)[0] is BAD


def test_numbers_are_summed_over_partitions(log: MemoryLog) -> None:
    log.append([standing(0), standing(1)], NOW)
    made = board(log)
    [found] = made.statuses(NOW)
    assert (found.applied, found.position, found.markers_compared) == (10, {0: 7, 1: 7}, 6)
    assert (made.applied("scorer"), made.consistent_ratio) == (10, 0.75)
    assert made.count("open") == {"missed": 2}


def test_the_newest_word_on_a_partition_counts(log: MemoryLog) -> None:
    log.append([standing(0), standing(1), standing(1, BAD)], NOW)
    assert verdict(log)[0] is BAD
    log.append([standing(1)], NOW)
    assert verdict(log)[0] is GOOD


@pytest.mark.parametrize(
    ("final", "head", "expected"), [(GOOD, 7, GOOD), (OPEN, 7, OPEN), (GOOD, 6, OPEN)]
)
def test_a_final_verdict_needs_every_partition_validated_at_the_head(
    log: MemoryLog, final: Verdict, head: int, expected: Verdict
) -> None:
    log.append([standing(0), standing(1, final=final, head=head)], NOW)
    [found] = board(log).statuses(NOW, final_heads={0: 7, 1: 7})
    assert found.verdict is expected
    assert board(log).is_settled({0: 7, 1: 7}, NOW, ASKED) is (expected is GOOD)


def test_what_validators_said_in_an_earlier_run_settles_nothing(log: MemoryLog) -> None:
    old = NOW - STANDING_LIMIT_SECONDS - 1.0
    log.append([standing(0, at=old), standing(1)], NOW)
    assert not board(log).is_settled({0: 7, 1: 7}, NOW, ASKED)
    log.append([standing(0)], NOW)
    assert board(log).is_settled({0: 7, 1: 7}, NOW, ASKED)


def test_a_proof_that_somebody_else_asked_for_earlier_settles_nothing(log: MemoryLog) -> None:
    log.append([standing(0), standing(1)], NOW)
    for asked in ([], ["another question"]):
        assert not board(log).is_settled({0: 7, 1: 7}, NOW, asked)


def test_a_replica_that_the_validator_does_not_expect_is_unknown(log: MemoryLog) -> None:
    log.append([standing(0), standing(1)], NOW)
    made = Board(log, {"scorer@2": "scorer"})
    made.refresh()
    [found] = made.statuses(NOW)
    assert (found.verdict, "does not expect" in found.reason) == (OPEN, True)


def test_a_retired_replica_is_not_expected_until_it_is_put_back(log: MemoryLog) -> None:
    log.append([retirement_note("scorer@1", retired=True)], NOW)
    assert (board(log).expected(), is_retired(log, "scorer@1")) == ({}, True)
    log.append([retirement_note("scorer@1", retired=False)], NOW)
    assert board(log).expected() == {"scorer@1": "scorer"}
    assert not is_retired(log, "scorer@1")


def test_latencies_of_all_processes_count_and_the_newest_relay_speaks(log: MemoryLog) -> None:
    for number in range(2):
        measured = Latencies()
        measured.add(0.01, 5)
        work = ReplicaWork((measured.counts, measured.total_seconds), {0: 1}, {0: 0}, {0: 0.0})
        log.append(
            [
                process_note(
                    ProcessRecord(
                        f"p{number}", "projector", "confluent", 1.0, NOW - 60 * number, [0],
                        {"scorer@1": work}, RelayWork(10 * number, 99),
                    )
                )
            ],
            NOW,
        )  # fmt: skip
    made = board(log)
    assert made.latencies("scorer@1").count == 10
    assert made.relay() == RelayWork(0, 99)
    assert [record.process for record in made.running(NOW)] == ["p0"]


def projecting(process: str, at: float, partitions: list[int], waiting: str) -> NewRecord:
    empty = Latencies()
    work = ReplicaWork((empty.counts, 0.0), {0: 1}, {0: 0}, {}, waiting)
    return process_note(
        ProcessRecord(process, "projector", "confluent", 1.0, at, partitions, {"scorer@1": work})
    )


def test_what_a_replica_waits_for_is_named_where_it_is_unknown(log: MemoryLog) -> None:
    log.append([standing(0, OPEN), standing(1), projecting("p0", NOW, [0], "redis: away")], NOW)
    [found] = board(log).statuses(NOW)
    assert (found.verdict, found.reason) == (
        OPEN,
        "UNKNOWN there; its projector waits: redis: away",
    )
    assert board(log).waiting(NOW) == {"scorer@1": "redis: away"}


def test_a_replica_whose_evidence_is_fresh_stays_what_it_was_shown_to_be(log: MemoryLog) -> None:
    log.append([standing(0), standing(1), projecting("p0", NOW, [0], "redis: away")], NOW)
    [found] = board(log).statuses(NOW)
    assert (found.verdict, found.reason) == (GOOD, "CONSISTENT there")


@pytest.mark.parametrize(
    ("at", "partitions"), [(NOW - 60.0, [0]), (NOW, [])], ids=["it ended", "it stands by"]
)
def test_only_a_process_that_runs_and_has_a_part_keeps_a_replica_waiting(
    log: MemoryLog, at: float, partitions: list[int]
) -> None:
    log.append([standing(0, OPEN), standing(1), projecting("p0", at, partitions, "away")], NOW)
    [found] = board(log).statuses(NOW)
    assert found.reason == "UNKNOWN there"


def test_a_process_that_ended_leaves_no_key_and_its_latencies_and_relay_still_count(
    log: MemoryLog,
) -> None:
    measured = Latencies()
    measured.add(0.01, 5)
    work = ReplicaWork((measured.counts, measured.total_seconds), {0: 1}, {0: 0}, {0: 0.0})
    told = ProcessRecord(
        "p", "relay", "confluent", 1.0, NOW, [0], {"scorer@1": work}, RelayWork(7, 9)
    )
    log.append([process_note(told)], NOW)
    made = board(log)
    assert made.dead(NOW + 60) == []
    assert made.dead(NOW + 2 * DEAD_SECONDS) == [told]
    log.append(farewell_notes([told]), NOW)
    made.refresh()
    assert (made.processes, made.running(NOW)) == ({}, [])
    assert (made.latencies("scorer@1").count, made.relay()) == (5, RelayWork(7, 9))
    assert board(log).processes == {}


def process_json(**more: object) -> bytes:
    told = {
        "process": "x",
        "role": "projector",
        "client": "a",
        "startedAt": 1.0,
        "at": NOW,
        "replicas": {
            "scorer@1": {
                "latencies": [[], 0.0],
                "positions": {"0": 1},
                "lagEvents": {"0": 0},
                "lagSeconds": {"0": 0.0},
                **more,
            }
        },
    }
    return json.dumps(told).encode()


def test_records_that_are_none_are_passed_over_and_named_once(
    log: MemoryLog, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = [b"", b"{", b"\xff", b'{"worker": 1}', b'{"process": "\xff"}', b"[" * 100_000]
    keys = [b"standing/validator/0", b"process/x/relay", STANDING_KEY, HOP_STANDING_KEY]
    made = board(log)
    for value in garbage:
        log.append([NewRecord(STATE, 0, key, value) for key in (*keys, b"retired/x", b"\xff")], NOW)
        made.refresh()
    assert made.statuses(NOW)[0].verdict is OPEN
    assert made.passed_over.total == len(keys) * (len(garbage) - 1)
    assert sorted(message.split("'")[1].encode() for message in caplog.messages) == sorted(keys)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latencies": [[1, 2, 3], 1.0]},
        {"latencies": [[-1] * 400, 1.0]},
        {"latencies": [[1] * 400, 1e300]},
        {"latencies": [[1] * 400, -1.0]},
        {"lagEvents": {"0": -5}},
        {"lagSeconds": {"0": -1e308}},
    ],
)
def test_what_no_process_tells_of_a_replica_is_passed_over(
    log: MemoryLog, wrong: dict[str, object]
) -> None:
    log.append([NewRecord(STATE, 0, b"process/x/projector", process_json())], NOW)
    assert len(board(log).running(NOW)) == 1
    log.append([NewRecord(STATE, 0, b"process/y/projector", process_json(**wrong))], NOW)
    made = board(log)
    assert (len(made.processes), made.passed_over.total) == (1, 1)
    assert made.latencies("scorer@1").count == 0


def test_a_sum_of_latencies_stays_finite_and_its_process_is_heard() -> None:
    measured = Latencies()
    for seconds in (1e308, 1e308, math.inf, math.nan, -1e308, 2.0):
        measured.add(seconds)
    assert (measured.count, measured.total_seconds) == (2, 2.0)
