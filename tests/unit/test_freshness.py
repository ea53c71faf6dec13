"""A model is told how far it may trust a read; what is not known is never fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pipeline.partitioner import by_subject
from synchroscope import freshness_follower
from synchroscope.context_cache import ContextCache, stored_position
from synchroscope.context_reader import ContextReader, Given
from synchroscope.errors import ConfigurationError, UnavailableError
from synchroscope.freshness import (
    Decision,
    Freshness,
    Label,
    Limits,
    NamedFinding,
    decide,
)
from synchroscope.freshness_follower import FindingNews, FreshnessFollower, SinceNews
from synchroscope.ports import FINDINGS, STATE, NewRecord
from tests.validation_world import REPLICA, START, TamperedLog, World
from tracing.freshness_metrics import FRESHNESS_METRICS, ContextReaderCollector
from validator.standing import standing_key

FINDING = NamedFinding("F-1", "missed", 7)
FINE = Freshness(0.5, 0, "CONSISTENT", "equal", 1.0, ())
PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def known(**other: Any) -> Freshness:
    return msgspec.structs.replace(FINE, **other)


@pytest.mark.parametrize(
    ("freshness", "limits", "label", "response"),
    [
        (known(), Limits(1.0), Label.FRESH, "serve"),
        (known(staleness_seconds=9.0), Limits(), Label.FRESH, "serve"),
        (known(staleness_seconds=1.1), Limits(1.0, on_stale="default"), Label.STALE, "default"),
        (known(staleness_seconds=None), Limits(on_unknown="default"), Label.UNKNOWN, "default"),
        (known(findings=None), Limits(), Label.UNKNOWN, "serve"),
        (known(verdict="UNKNOWN"), Limits(), Label.UNKNOWN, "serve"),
        (known(verdict="something newer"), Limits(), Label.UNKNOWN, "serve"),
        (known(verdict_age_seconds=None), Limits(), Label.UNKNOWN, "serve"),
        (known(verdict_age_seconds=31.0), Limits(), Label.UNKNOWN, "serve"),
        (known(verdict="DIVERGED"), Limits(on_diverged="cached"), Label.DIVERGED, "cached"),
        (known(findings=(FINDING,)), Limits(), Label.SUSPECT, "cached"),
        (known(verdict="DIVERGED", findings=(FINDING,)), Limits(), Label.SUSPECT, "cached"),
        (known(staleness_seconds=9.0, verdict="UNKNOWN"), Limits(1.0), Label.STALE, "serve"),
    ],
)
def test_the_first_rule_that_applies_decides(
    freshness: Freshness, limits: Limits, label: Label, response: str
) -> None:
    decision = decide(freshness, limits)
    assert (decision.label, decision.response) == (label, response)
    assert decision.reason


@for_all(
    staleness=st.none() | st.floats(0, 100),
    verdict=st.sampled_from(["CONSISTENT", "UNKNOWN", "DIVERGED"]),
    age=st.none() | st.floats(0, 100),
    findings=st.sampled_from([None, (), (FINDING,)]),
    most=st.none() | st.floats(0.1, 100),
)
def test_nothing_is_fresh_unless_everything_is_known_and_good(
    staleness: float | None,
    verdict: str,
    age: float | None,
    findings: tuple[NamedFinding, ...] | None,
    most: float | None,
) -> None:
    decision: Decision = decide(
        Freshness(staleness, None, verdict, "because", age, findings), Limits(most)
    )
    is_good = (
        staleness is not None
        and (most is None or staleness <= most)
        and verdict == "CONSISTENT"
        and age is not None
        and age <= 30.0
        and findings == ()
    )
    assert (decision.label is Label.FRESH) == is_good


@pytest.mark.parametrize(
    "limits",
    [Limits(0.0), Limits(float("nan")), Limits(maximum_cached_age_seconds=-1.0)],
)
def test_limits_that_cannot_be_are_refused(limits: Limits) -> None:
    with pytest.raises(ConfigurationError):
        limits.check()


def test_a_response_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigurationError, match="serve, cached, default"):
        Limits(on_finding="guess").check()  # type: ignore[arg-type]


class Model:
    """A model beside the roles of a small world, reading its replica."""

    def __init__(self, limits: Limits | None = None, **more: Any) -> None:
        self.world = World(worker="w")
        self.limits = limits or Limits(1.0, default={"limit": 0})
        self.is_away = False
        self.follower = FreshnessFollower(
            self.world.log,
            REPLICA,
            lambda kind, subject: by_subject(kind, subject, 1),
            position_of=lambda number: stored_position(self.world.storages[REPLICA], number),
        )
        self.reader = ContextReader(
            self.read, self.follower, {"financial": self.limits}, settle_seconds=1.0, **more
        )

    def read(self, subject: str, context_type: str) -> dict[str, Any]:
        if self.is_away:
            raise UnavailableError("storage", "is away")
        return self.world.projectors[REPLICA].replica.get(subject, context_type)

    def run(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            self.world.step()
            self.follower.step(self.world.now)

    def get(self, user: str = "1") -> Given:
        return self.reader.get(f"user:{user}", "financial", self.world.now)


def test_a_replica_that_is_proven_and_at_the_head_is_fresh() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    given = model.get()
    assert (given.facts, given.label, given.source) == ({"limit": 5}, Label.FRESH, "replica")
    assert not given.is_degraded
    assert given.freshness.staleness_seconds is not None
    assert 0 <= given.freshness.staleness_seconds <= 0.5
    assert given.freshness.lag_events == 0
    assert given.freshness.verdict_age_seconds is not None


def test_before_anything_was_looked_at_nothing_is_known() -> None:
    model = Model()
    given = model.get()
    assert given.label is Label.UNKNOWN
    assert given.freshness.staleness_seconds is None
    assert given.freshness.lag_events is None
    assert given.freshness.findings is None
    assert given.freshness.verdict == "UNKNOWN"


def test_staleness_is_the_age_of_the_first_event_that_is_not_applied() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.world.links[REPLICA].hold_at = 1
    written_at = model.world.now
    model.world.write("1", limit=6)
    model.run(4)
    model.world.write("1", limit=7)
    model.run(11)
    given = model.get()
    assert given.label is Label.STALE
    waited = model.world.now - written_at
    # It is known no better than from one look to the next.
    assert given.freshness.staleness_seconds == pytest.approx(waited + 0.05, abs=0.051)
    assert given.freshness.lag_events == 2
    assert given.facts == {"limit": 5}


@pytest.mark.parametrize("ahead_seconds", [0.0, 0.5, 30.0, 3e6])
def test_a_producers_clock_that_is_ahead_makes_nothing_fresh(ahead_seconds: float) -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.world.links[REPLICA].hold_at = 1
    written_at = model.world.now
    model.world.now += ahead_seconds
    model.world.write("1", limit=6)
    model.world.now = written_at
    for steps in (1, 4, 30):
        model.run(steps)
        staleness = model.get().freshness.staleness_seconds
        assert staleness is not None
        assert model.world.now - written_at <= staleness <= model.world.now - written_at + 0.11


def test_the_longer_nobody_looks_the_staler_it_may_be() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.world.now += 3.0
    given = model.get()
    assert given.label is Label.STALE
    assert given.freshness.staleness_seconds == pytest.approx(3.0, abs=0.6)


def test_a_clock_that_was_set_back_makes_nothing_fresh() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.world.now -= 60.0
    assert model.get().label is Label.UNKNOWN
    assert model.get().freshness.staleness_seconds is None


def test_a_storage_that_fell_back_to_an_older_copy_is_not_taken_for_what_it_was() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.follower._position_of = lambda number: 0
    model.world.now += 0.6
    model.follower.step(model.world.now)
    assert model.get().freshness.lag_events == 1


def test_where_it_fell_back_to_and_what_comes_next_cannot_be_read_nothing_is_known() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.follower._position_of = lambda number: 0
    link = TamperedLog(model.world.log)
    link.hold_at = 0
    model.follower._log = link  # type: ignore[assignment]
    model.world.now += 0.6
    model.follower.step(model.world.now)
    assert model.get().freshness.staleness_seconds is None


def test_what_the_validator_no_longer_says_is_unknown() -> None:
    model = Model(Limits())
    model.world.write("1", limit=5)
    model.run()
    assert model.get().label is Label.FRESH
    model.world.now += 11.0
    model.follower.step(model.world.now)
    given = model.get()
    assert given.label is Label.UNKNOWN
    assert "nobody has validated partition 0 for 11 s" in given.reason


def test_a_standing_of_another_release_says_nothing() -> None:
    model = Model(Limits())
    model.world.write("1", limit=5)
    model.world.log.append([NewRecord(STATE, 0, standing_key("validator"), b"{}")], START)
    model.follower.step(START)
    assert model.get().label is Label.UNKNOWN


def test_a_replica_that_nobody_expects_is_unknown() -> None:
    model = Model()
    model.follower.replica = "scorer@9"
    model.world.write("1", limit=5)
    model.run()
    assert "does not expect scorer@9" in model.get().reason


def lose_an_event(model: Model) -> None:
    """Let user 1's second event be lost, and the validator find out."""
    model.world.write("1", limit=5)
    model.world.write("2", limit=50)
    model.run()
    assert model.get().label is Label.FRESH
    assert model.get("2").label is Label.FRESH
    model.world.drop(2)
    model.world.write("1", limit=6)
    model.run(30)


def test_what_was_read_before_a_lost_event_is_given_under_its_finding() -> None:
    model = Model()
    lose_an_event(model)
    given = model.get()
    assert (given.label, given.source, given.facts) == (Label.SUSPECT, "cached", {"limit": 5})
    assert given.cached_age_seconds is not None and given.cached_age_seconds >= 3.0
    assert [one.kind for one in given.freshness.findings or ()] == ["missed"]
    assert given.is_degraded


def test_what_was_read_after_the_event_was_lost_is_not_given_though_nobody_knew_then() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    assert model.get().label is Label.FRESH
    model.world.drop(1)
    model.world.write("1", limit=6)
    model.world.write("1", risk=1)
    model.world.now += 1.1
    model.world.projectors[REPLICA].step(model.world.now)
    model.follower.step(model.world.now)
    assert (model.get().label, model.get().facts) == (Label.FRESH, {"limit": 5, "risk": 1})
    model.run(30)
    given = model.get()
    assert (given.label, given.source, given.facts) == (Label.SUSPECT, "cached", {"limit": 5})


def test_a_finding_concerns_nobody_else() -> None:
    model = Model()
    lose_an_event(model)
    given = model.get("2")
    assert given.freshness.findings == ()
    assert given.label is Label.DIVERGED  # The replica is, and the label says so.
    assert (given.source, given.facts) == ("replica", {"limit": 50})


def test_under_a_finding_the_default_is_given_where_nothing_was_kept() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.world.drop(1)
    model.world.write("1", limit=6)
    model.run(30)
    given = model.get()
    assert (given.label, given.source, given.facts) == (Label.SUSPECT, "default", {"limit": 0})


def test_a_model_may_want_the_suspect_facts_all_the_same() -> None:
    model = Model(Limits(1.0, on_finding="serve"))
    lose_an_event(model)
    given = model.get()
    assert (given.label, given.source, given.facts) == (Label.SUSPECT, "replica", {"limit": 5})


def test_when_the_finding_is_resolved_the_read_is_fresh_again() -> None:
    model = Model()
    lose_an_event(model)
    model.world.write("1", limit=7)
    model.run(20)
    given = model.get()
    assert (given.label, given.facts) == (Label.FRESH, {"limit": 7})


def test_nothing_that_was_kept_is_clean_when_the_storage_itself_was_changed() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.world.overwrite("1", limit=99)
    # Nobody can know yet: it is read, called fresh, and kept.
    assert (model.get().label, model.get().facts) == (Label.FRESH, {"limit": 99})
    model.world.validator.scrub(model.world.now)
    model.run(20)
    given = model.get()
    assert [one.kind for one in given.freshness.findings or ()] == ["corrupted"]
    assert (given.label, given.source, given.facts) == (Label.SUSPECT, "default", {"limit": 0})


def test_a_replica_that_cannot_be_read_gives_what_was_kept_and_says_so() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    model.get()
    model.is_away = True
    given = model.get()
    assert (given.label, given.source, given.facts) == (Label.UNKNOWN, "cached", {"limit": 5})
    assert "is away" in given.reason
    assert given.freshness.staleness_seconds is None
    nobody = model.get("7")
    assert (nobody.source, nobody.facts) == ("default", {"limit": 0})


def test_a_model_that_wants_the_error_gets_it() -> None:
    model = Model(Limits(on_unavailable="serve"))
    model.is_away = True
    with pytest.raises(UnavailableError):
        model.get()


def test_what_was_kept_cannot_be_changed_by_the_model() -> None:
    model = Model()
    model.world.write("1", limit=[1])
    model.run()
    model.get().facts["limit"].append(2)
    model.is_away = True
    model.get().facts["limit"].append(3)
    assert model.get().facts == {"limit": [1]}


def test_no_more_is_kept_than_was_agreed() -> None:
    model = Model(capacity_aggregates=2)
    for user in "123":
        model.world.write(user, limit=int(user))
    model.run()
    for user in "123":
        model.get(user)
    model.is_away = True
    assert [model.get(user).source for user in "123"] == ["default", "cached", "cached"]


def test_a_cache_that_sees_events_later_makes_the_read_staler() -> None:
    model = Model()
    world = model.world
    cache = ContextCache(world.storages[REPLICA], world.log, world.view, lambda kind, subject: 0)
    reader = ContextReader(cache.get, model.follower, {}, cache=cache)
    world.write("1", limit=5)
    cache.step(world.now)
    model.run(20)
    assert cache.is_following
    given = reader.get("user:1", "financial", world.now)
    assert given.freshness.staleness_seconds == pytest.approx(2.0)


def test_a_finding_that_cannot_name_its_keys_concerns_its_partition() -> None:
    model = Model()
    model.world.write("1", limit=5)
    model.run()
    for number, partition in enumerate((0, 1)):
        news = FindingNews(f"F-{number}", "bulk", "bulk", REPLICA, partition=partition)
        model.world.log.append(
            [NewRecord(FINDINGS, 0, news.id.encode(), msgspec.json.encode(news))], START
        )
    model.follower.step(model.world.now)
    assert [one.id for one in model.get().freshness.findings or ()] == ["F-0"]


def test_findings_about_other_replicas_are_not_ours_but_those_about_the_log_are() -> None:
    model = Model()
    for number, replica in enumerate(("other@1", None, REPLICA)):
        since = SinceNews(0, 3)
        news = FindingNews(
            f"F-{number}", "open", "missed", replica, "financial", ["user:1"], since=since
        )
        model.world.log.append(
            [NewRecord(FINDINGS, 0, news.id.encode(), msgspec.json.encode(news))], START
        )
    model.follower.step(model.world.now)
    found = model.get().freshness.findings or ()
    assert [(one.id, one.clean_until) for one in found] == [("F-1", 3), ("F-2", 3)]


def test_more_open_findings_than_can_be_followed_are_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freshness_follower, "MAXIMUM_OPEN_FINDINGS", 2)
    model = Model()

    def publish(number: int, state: str) -> None:
        news = FindingNews(f"F-{number}", state, "missed", REPLICA, "financial", [f"user:{number}"])
        model.world.log.append(
            [NewRecord(FINDINGS, 0, news.id.encode(), msgspec.json.encode(news))], START
        )

    for number in (11, 12, 13):
        publish(number, "open")
    model.follower.step(model.world.now)
    assert model.get("13").freshness.findings is None
    for number in (11, 12):
        publish(number, "resolved")
    for _ in range(3):
        model.world.now += 1.0
        model.follower.step(model.world.now)
    assert [one.id for one in model.get("13").freshness.findings or ()] == ["F-13"]
    assert model.get("11").freshness.findings == ()


def test_reads_are_counted_by_label_and_source_and_degraded_ones_together() -> None:
    model = Model()
    lose_an_event(model)
    model.get()
    model.get("2")
    registry = CollectorRegistry()
    registry.register(ContextReaderCollector(model.reader, REPLICA))

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"replica": REPLICA, **labels})

    assert read("synchroscope_context_reads_total", label="fresh", source="replica") == 2
    assert read("synchroscope_context_reads_total", label="suspect", source="cached") == 1
    assert read("synchroscope_context_reads_total", label="diverged", source="replica") == 1
    assert read("synchroscope_context_degraded_reads_total") == 2


def test_every_metric_of_the_reader_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in FRESHNESS_METRICS)
