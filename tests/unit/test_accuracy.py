"""The measured accuracy repeats, and falls when the validator is broken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.accuracy import Share, line
from benchmarks.accuracy_instrumented import KINDS, run_seed
from benchmarks.accuracy_score import Score
from synchroscope.ports import AggregateKey
from validator import judgement
from validator.finding import Finding
from validator.judgement import Case, Judgement
from validator.ledger import Ledger


def score(kind: str, seeds: Sequence[int] = (0, 1)) -> Score:
    found = Score(kind)
    for seed in seeds:
        found.add(run_seed(kind, seed))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_fault_is_found_and_nothing_else_is_and_it_repeats(kind: str) -> None:
    found = score(kind)

    assert found.found == found.injected - found.masked
    assert found.right == found.findings
    assert found.inside == found.found - found.counted
    assert found.false_alarms == 0
    assert (found.injected > 0) == (kind != "no fault")
    assert line(score(kind)) == line(found)


def test_a_judge_that_names_the_wrong_keys_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Ledger.open

    def misnamed(ledger: Ledger, finding: Finding, log: object) -> None:
        keys: list[AggregateKey] = [(kind, f"not {subject}") for kind, subject in finding.keys]
        wrong = Finding(
            **{
                **{name: getattr(finding, name) for name in Finding.__struct_fields__},
                "keys": keys,
                "subjects": [subject for _, subject in keys],
            }
        )
        opened(ledger, wrong, log)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "open", misnamed)
    found = score("missed", (0, 1, 2))

    assert found.injected > 0
    assert (found.found, found.right) == (0, 0)
    assert found.findings > 0


def test_a_judge_that_is_blind_to_losses_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judgement.judge

    def blind(case: Case) -> Judgement:
        judged = judge(case)
        return Judgement(
            **{
                **{name: getattr(judged, name) for name in Judgement.__struct_fields__},
                "missed": [],
            }
        )

    monkeypatch.setattr("validator.locate.judge", blind)

    found = score("missed", (0, 1, 2))
    assert found.found < found.injected


def test_shares_have_wilson_intervals() -> None:
    assert Share(8, 10).text() == "80.0% (49.0% - 94.3%)"
    assert Share(0, 0).text() == "-"
    assert Share(200, 200).text() == "100.0% (98.1% - 100.0%)"
