"""The benchmark program runs; what it measures depends on the machine and is not asserted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.location import Watched, upkeep
from benchmarks.measuring import Settings
from benchmarks.parts import NARROW_VIEW, PARTITIONS, apply_all, corpus, fold_all, replica_of
from benchmarks.run import BASELINE, GROUPS, main, number
from benchmarks.scale import measure_fold
from benchmarks.servers import main as servers_main
from benchmarks.servers_propagation import Witness, pace
from benchmarks.servers_validator import one_field_records, repeated_retail, with_headers
from benchmarks.servers_world import (
    due_times,
    latencies,
    latency_rows,
    order_of,
    percentile,
    retail_records,
)
from benchmarks.soak_recovery import RECOVERY_LIMIT_SECONDS, START_LIMIT_SECONDS, why_not_started
from benchmarks.whole import FullPipeline, PacedProducer, PlainPipeline, run
from examples.retail.views import VIEWS
from pipeline.log_memory import MemoryLog
from pipeline.partitioner import by_subject
from pipeline.projector import Projector
from synchroscope.event import decode_event
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, NewRecord
from synchroscope.view import View
from validator.reference import Reference


def test_a_row_stands_beside_its_limit_in_table_and_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made" / "figures.json"

    main(["--quick", "--rows", "60", "--only", "decode", "--output", str(output)])

    shown = capsys.readouterr().out
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == [
        f"{side} / {limit}"
        for side in ("decode_wire", "decode_event")
        for limit in ("untyped", "typed")
    ]
    for row in rows:
        assert row["ratio"] > 0 and row["theirs"]["median"] > 0
        assert row["ours"]["least"] <= row["ours"]["median"] <= row["ours"]["greatest"]
        assert row["name"] in shown and row["limit"] in shown


@pytest.mark.parametrize("group", ["reference", "replica", "commands", "relay"])
def test_every_part_can_be_measured_on_a_few_lines(group: str) -> None:
    rows = GROUPS[group](Settings(quick=True, rows=20))

    assert rows
    assert all(row.ours.median > 0 and row.limit for row in rows)


def test_the_bare_pipeline_carries_the_same_facts_as_the_watched_one() -> None:
    events = [event for batch in corpus(60).batches for event in batch]
    counts = [
        run(variant, lambda store: PacedProducer(events, store, 1e6))[1:]
        for variant in (PlainPipeline, FullPipeline)
    ]

    assert counts[0][0] == counts[1][0] >= len(events)
    assert counts[0][1].count == counts[1][1].count > 0


@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_keys_of_a_few_are_named_and_healed(in_memory: bool) -> None:
    watched = Watched(200, in_memory=in_memory)

    costs = [watched.spoilt(3, 0), watched.missed(2, 1)]

    for cost in costs:
        assert (cost.share_named, cost.wrongly_named) == (1.0, 0)
        assert cost.due_bytes > 0 and cost.answer_bytes > 0
    assert [cost.findings for cost in costs] == [{"corrupted": 3}, {"missed": 2}]
    assert not watched.validator.open_findings()


def test_what_the_digest_adds_to_a_replica_is_what_the_same_replica_does_without_it_less() -> None:
    seen = upkeep(40, overwrite=True, repeats=1)

    assert seen["with"] > 0 and seen["without"] > 0


@pytest.mark.parametrize("fold", ["reference", "keyed"])
def test_a_fold_of_synthetic_keys_is_traced(fold: str) -> None:
    assert measure_fold(fold, 50, trace=True)["traced_bytes"] > 0


def test_the_baseline_holds_ratios_by_name() -> None:
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))

    assert baseline and all(value > 0 for value in baseline.values())


def test_values_are_shown_in_their_units() -> None:
    assert number(0.0004, "s") == "0.40 ms"
    assert number(1_500.0, "bytes") == "1.50 kB"


# -- over real servers: the parts that need none -------------------------------------------------


def test_percentiles_are_of_events_by_due_time_after_the_warm_up() -> None:
    seen = {number: 100.0 + number / 10 + 0.001 * number for number in range(30)}

    known = latencies(seen, due_times(100.0, 10.0, 30), warm=10)

    assert known == pytest.approx([0.001 * number for number in range(10, 30)])
    assert [percentile(known, share) for share in (5, 50, 95, 99, 100)] == pytest.approx(
        [0.010, 0.019, 0.028, 0.029, 0.029]
    )


def test_the_ratio_of_latencies_is_the_median_of_the_repeats_ratios() -> None:
    rows = latency_rows("path", [[1.0], [8.0], [3.0]], "bare", [[1.0], [2.0], [2.0]])

    assert [row.name for row in rows] == ["path, p50", "path, p95", "path, p99"]
    assert all(row.ratio == 1.5 and row.ours.median == 3.0 for row in rows)
    # Of all repeats together, 8 and 2 are the greatest.
    assert (rows[2].notes["pooled_ratio"], rows[2].notes["ratio_greatest"]) == (4.0, 4.0)


def test_records_are_known_by_where_a_log_puts_them() -> None:
    records = retail_records(20)
    log = MemoryLog({EVENTS: PARTITIONS})
    log.append(records, 0.0)

    order = order_of(records)

    assert len(order) == len(records) > 0
    for (partition, offset), place in order.items():
        (stored,) = log.read(EVENTS, partition, offset, 1).records
        assert stored.value == records[place].value


def test_nothing_is_sent_before_it_is_due_and_what_became_due_goes_together() -> None:
    sent: list[tuple[float, list[int]]] = []

    paced = pace(range(40), 20_000.0, lambda due: sent.append((time.monotonic(), list(due))), 7)

    assert [one for _, due in sent for one in due] == list(range(40))
    due_at = due_times(paced.start, 20_000.0, 40)
    assert all(len(due) <= 7 for _, due in sent)
    # An item's send is when the call that carried it began: not before it was due.
    assert all(due_at[due[-1]] <= paced.sends[one] <= at for at, due in sent for one in due)


def test_a_witness_knows_when_what_was_read_had_been_applied() -> None:
    records = retail_records(20)
    log = MemoryLog({**dict.fromkeys(CONTROL_TOPICS, 1), EVENTS: PARTITIONS})
    log.append(records, 0.0)
    witness = Witness(log)
    projector = Projector(replica_of(MemoryStorage()), log, events=witness, clock=witness.clock)

    while projector.step(0.0).consumed:
        pass

    assert witness.count == len(records)
    seen = [(part, record.offset) for _, part, batch in witness.commits for record in batch]
    assert sorted(seen) == sorted(order_of(records))


@pytest.mark.parametrize(
    ("records", "views"),
    [
        (list(one_field_records(600, users=50)), (NARROW_VIEW,)),
        (repeated_retail(retail_records(60), 600, headers=False), VIEWS),
        (repeated_retail(retail_records(60), 600, headers=True), VIEWS),
        ([with_headers(n, r) for n, r in enumerate(one_field_records(600))], (NARROW_VIEW,)),
    ],
)
def test_what_the_validator_is_timed_on_is_a_sound_log_without_repeats(
    records: list[NewRecord], views: tuple[View, ...]
) -> None:
    log = MemoryLog({EVENTS: PARTITIONS})
    log.append(records, 0.0)
    reference = Reference(log, views)

    fold_all(log, views)()
    for partition in reference.partitions:
        while reference.advance(partition, 100):
            pass

    assert len(records) >= 600
    assert sum(reference.repeated.values()) == 0
    assert not any(reference.current(number).unproven for number in reference.partitions)
    for record in records[:50] + records[-50:]:
        event = decode_event(record.value)
        assert by_subject(event.context_type, event.subject, PARTITIONS) == record.partition


def test_events_of_one_field_say_what_was_there_before() -> None:
    log = MemoryLog({EVENTS: PARTITIONS})
    log.append(list(one_field_records(300, users=20)), 0.0)
    replica = replica_of(MemoryStorage())
    parts = [list(log.read(EVENTS, number, 0, 300).records) for number in range(PARTITIONS)]

    apply_all(replica, parts)()

    assert replica.get("user:customer-000007", "financial") == {"spend": 287}
    assert replica.report(0.0, list(range(PARTITIONS))) is not None


def test_a_group_that_is_not_known_starts_no_server() -> None:
    with pytest.raises(SystemExit) as ended:
        servers_main(["--only", "nothing"])

    assert ended.value.code == 2


def test_a_soak_that_does_not_start_names_the_silent_processes_and_shows_their_logs(
    tmp_path: Path,
) -> None:
    (tmp_path / "relay-0.log").write_text("one\ntwo\n" + "waits for PostgreSQL\n" * 4)
    pids = {"relay-0": 11, "projector-0": 12, "validator-0": 13}
    told = why_not_started(pids, ["some-host-12-abcdef"], tmp_path)
    assert told.splitlines()[0] == "silent: relay-0, validator-0"
    assert "two" in told and "one" not in told and told.count("waits for PostgreSQL") == 4
    assert "validator-0:\n    (its log is empty)" in told
    assert START_LIMIT_SECONDS > RECOVERY_LIMIT_SECONDS
