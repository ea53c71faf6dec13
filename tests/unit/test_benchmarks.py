"""The benchmark program runs; what it measures depends on the machine and is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.measuring import Settings
from benchmarks.parts import corpus
from benchmarks.run import BASELINE, GROUPS, main, number
from benchmarks.scale import Watched, measure_fold
from benchmarks.whole import FullPipeline, PacedProducer, PlainPipeline, run


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


def test_every_spoilt_key_of_a_few_is_named_and_healed() -> None:
    watched = Watched(200)
    true = watched.spoil(3)

    _, sent, named = watched.locate()
    watched.heal(true)

    assert named == {record.subject for record in true}
    assert sent > 0


@pytest.mark.parametrize("fold", ["reference", "keyed"])
def test_a_fold_of_synthetic_keys_is_traced(fold: str) -> None:
    assert measure_fold(fold, 50, trace=True)["traced_bytes"] > 0


def test_the_baseline_holds_ratios_by_name() -> None:
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))

    assert baseline and all(value > 0 for value in baseline.values())


def test_values_are_shown_in_their_units() -> None:
    assert number(0.0004, "s") == "0.40 ms"
    assert number(1_500.0, "bytes") == "1.50 kB"
