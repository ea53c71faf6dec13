"""What differs: the statistics against known values, the rate of false discoveries, the power."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.ranking import FALSE_DISCOVERY_RATE, Condition, fisher, q_values, rank

PRODUCERS, PARTITIONS, HOURS = 5, 4, 24


def observation(rng: random.Random, **fixed: str) -> dict[str, str | tuple[str, ...]]:
    """An event of a lively log: some dimensions even, some skewed, one derived from another."""
    producer = fixed.get("producer", f"till-{int(rng.random() ** 2 * PRODUCERS)}")
    fields = tuple(name for name in ("spend", "basket", "country") if rng.random() < 0.5)
    made: dict[str, str | tuple[str, ...]] = {
        "producer": producer,
        "instance": f"{producer}/{rng.randrange(3)}",
        "schema_version": rng.choices(["none", "1", "2"], [8, 1, 1])[0],
        "partition": str(rng.randrange(PARTITIONS)),
        "context_type": rng.choices(["behavioural", "financial", "geographic"], [5, 5, 1])[0],
        "priority": rng.choices(["normal", "high"], [9, 1])[0],
        "hour": f"{rng.randrange(HOURS):02d}h",
        "replica": f"model-{rng.randrange(4)}@{rng.randrange(2)}",
        "field": fields,
    }
    return {**made, **fixed}


def sample(rng: random.Random, count: int, **fixed: str) -> list[Any]:
    return [observation(rng, **fixed) for _ in range(count)]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_the_tail_is_the_hypergeometric_distributions(a: int, b: int, c: int, d: int) -> None:
    ours, theirs = a + b, c + d
    marked, total = a + c, a + b + c + d
    exact = sum(
        (
            Fraction(math.comb(marked, k) * math.comb(total - marked, ours - k))
            / math.comb(total, ours)
            for k in range(a, min(marked, ours) + 1)
        ),
        Fraction(0),
    )

    assert fisher(a, ours, c, theirs) == pytest.approx(float(exact), rel=1e-9)


def test_known_values_of_the_exact_test() -> None:
    # Fisher's tea: 3 of 4 right, and 4 of 4.
    assert fisher(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert fisher(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert 0.0 <= fisher(9_000, 10_000, 10, 10_000) < 1e-300


def test_q_values_are_those_of_the_paper() -> None:
    # Benjamini and Hochberg (1995), section 3.2: at 0.05 the first four are kept.
    p_values = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
        0.5719, 0.6528, 0.7590, 1.0,
    ]  # fmt: skip

    assert [q <= 0.05 for q in q_values(p_values)] == [True] * 4 + [False] * 11


@pytest.mark.parametrize("count", [8, 60, 300])
def test_random_faults_have_no_dimension_at_the_stated_rate(count: int) -> None:
    seeds = 200
    false = 0
    for seed in range(seeds):
        rng = random.Random(seed)
        false += bool(rank(sample(rng, count), sample(rng, 600)))

    # Of so many runs, no more than chance allows at that rate (three standard deviations above).
    rate = FALSE_DISCOVERY_RATE
    assert false <= seeds * rate + 3 * math.sqrt(seeds * rate * (1 - rate))


CAUSES = [
    {"producer": "till-4"},
    {"partition": "2"},
    {"schema_version": "2"},
    {"replica": "model-1@1"},
    {"hour": "07h"},
]


@pytest.mark.parametrize("cause", CAUSES, ids=[next(iter(cause)) for cause in CAUSES])
def test_a_fault_bound_to_one_value_ranks_first_with_eight_keys(cause: dict[str, str]) -> None:
    condition = Condition(*next(iter(cause.items())))
    firsts = 0
    for seed in range(40):
        rng = random.Random(seed)
        found = rank(sample(rng, 8, **cause), sample(rng, 2_000))
        firsts += bool(found) and condition in found[0].conditions
        assert found, seed

    assert firsts >= 39


def test_a_fault_bound_to_an_instance_names_it_before_its_producer() -> None:
    rng = random.Random(1)
    divergent = sample(rng, 8, producer="till-4", instance="till-4/2")

    found = rank(divergent, sample(rng, 2_000))

    assert found[0].conditions == (Condition("instance", "till-4/2"),)
    producer = next(f for f in found if f.conditions == (Condition("producer", "till-4"),))
    assert producer.explained_by == 0


def test_what_only_two_values_together_explain_is_one_pair() -> None:
    rng = random.Random(2)
    divergent = sample(rng, 12, producer="till-2", partition="1")

    found = rank(divergent, sample(rng, 3_000))

    assert found[0].conditions == (Condition("producer", "till-2"), Condition("partition", "1"))
    assert found[0].share_divergent == 1.0 and found[0].share_rest < 0.1
    assert found[0].lift > max(one.lift for one in found[1:] if len(one.conditions) == 1)
    assert all(one.explained_by == 0 for one in found[1:])


def test_two_values_that_always_come_together_are_no_pair() -> None:
    rng = random.Random(3)
    rest = sample(rng, 2_000)
    for one in rest:
        one["site"] = f"site-of-{one['producer']}"
    divergent = sample(rng, 20, producer="till-3", site="site-of-till-3")

    found = rank(divergent, rest)

    assert {len(one.conditions) for one in found} == {1}
    assert found[0].conditions == (Condition("producer", "till-3"),)
    assert found[1].conditions == (Condition("site", "site-of-till-3"),)
    assert {one.explained_by for one in found[1:]} == {0}


def test_a_cause_that_accounts_for_a_part_is_found_among_chance() -> None:
    rng = random.Random(4)
    divergent = [*sample(rng, 30, hour="07h"), *sample(rng, 70)]

    found = rank(divergent, sample(rng, 2_000))

    assert found[0].conditions == (Condition("hour", "07h"),)
    assert found[0].share_divergent == pytest.approx(0.3, abs=0.1)


def test_a_dimension_with_values_without_end_is_bounded_and_not_believed() -> None:
    rng = random.Random(5)
    rest = [{"session": str(rng.random()), "producer": "a"} for _ in range(2_000)]
    divergent = [{"session": str(rng.random()), "producer": "a"} for _ in range(500)]

    assert rank(divergent, rest) == []
    assert rank([], rest) == rank(divergent, []) == []


def test_shares_and_lift_are_those_of_the_counts() -> None:
    rest = [{"producer": "a" if n < 100 else "b"} for n in range(1_000)]

    (found,) = rank([{"producer": "a"}] * 9 + [{"producer": "b"}], rest)

    assert (found.divergent, found.divergent_total) == (9, 10)
    assert (found.rest, found.rest_total) == (100, 1_000)
    assert (found.share_divergent, found.share_rest) == (0.9, 0.1)
    assert found.lift == pytest.approx(9.0)
    assert found.p_value <= found.q_value < 1e-5
