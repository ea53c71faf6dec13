"""A store that lags is never called different; what was lost always is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.compare.settling import WINDOWS, Candidate, Verdict

WINDOW = 5.0


def mark(value: int | None) -> bytes:
    return str(value).encode()


class Side:
    """A value's history as one store has it: what it showed at any time."""

    def __init__(self, changes: list[tuple[float, int | None]]) -> None:
        self.changes = changes

    def at(self, now: float) -> int | None:
        return [value for when, value in self.changes if when <= now][-1]


def follow(left: Side, right: Side, looks: list[float]) -> Verdict:
    """Look as a comparison does, until there is a verdict."""
    candidate = Candidate(WINDOW)
    verdict: Verdict = "waiting"
    for now in looks:
        a, b = left.at(now), right.at(now)
        if a == b:
            return "cleared"
        candidate.look({"v": (mark(a), mark(b))}, (mark(a), mark(b)), now)
        verdict = candidate.verdict(now)
        if verdict != "waiting":
            return verdict
    return verdict


def looks_from(rng: random.Random, start: float) -> list[float]:
    now, found = start, []
    while now < start + WINDOW * (WINDOWS + 1):
        found.append(now)
        now += rng.uniform(0.02, 0.4)
    return found


@given(st.integers(0, 10**9))
def test_what_merely_lags_by_less_than_the_window_never_differs(seed: int) -> None:
    rng = random.Random(seed)
    rate = rng.choice([0.1, 0.5, 1.0, 5.0, 50.0])
    lag = rng.uniform(0.0, WINDOW * 0.9)
    values = rng.choice([2, 5, 10**9])  # Few values come back often.
    changes: list[tuple[float, int | None]] = [(-1000.0, 0)]
    now = -WINDOW
    while now < WINDOW * (WINDOWS + 3):
        now += rng.expovariate(rate)
        changes.append((now, None if rng.random() < 0.1 else rng.randrange(values)))
    leader = Side(changes)
    # A lag that varies, but never lets a later change overtake an earlier one.
    late, at = [], -1000.0
    for when, value in changes:
        at = max(at, when + rng.uniform(0.5, 1.0) * lag)
        late.append((at, value))
    sides = [leader, Side(late)]
    rng.shuffle(sides)

    assert follow(sides[0], sides[1], looks_from(rng, 0.0)) != "differs"


@given(st.integers(0, 10**9))
def test_what_was_lost_before_differs_once_one_side_stands_still(seed: int) -> None:
    rng = random.Random(seed)
    behind = Side([(-1000.0, 0)])
    # The other side went on, and perhaps still does; the lost value never comes again.
    changes: list[tuple[float, int | None]] = [(-1000.0, 1)]
    for number in range(rng.choice([0, 0, 3, 200])):
        changes.append((rng.uniform(-5.0, WINDOW * WINDOWS), number + 2))
    sides = [Side(sorted(changes)), behind]
    rng.shuffle(sides)

    assert follow(sides[0], sides[1], looks_from(rng, 0.0)) == "differs"


def test_both_sides_that_never_rest_and_never_match_are_undecided() -> None:
    left = Side([(when / 10, 2 * when) for when in range(-10, 400)])
    right = Side([(when / 10, 2 * when + 1) for when in range(-10, 400)])

    assert follow(left, right, looks_from(random.Random(1), 0.0)) == "undecided"


@pytest.mark.parametrize("others", [0, 40])
def test_a_column_that_stands_still_differs_though_others_move(others: int) -> None:
    candidate = Candidate(WINDOW)
    now, verdict = 0.0, "waiting"
    while verdict == "waiting":
        now += 0.1
        count = int(now * others)
        values = {"still": (b"a", b"b"), "moving": (mark(2 * count), mark(2 * count + 1))}
        candidate.look(values, (mark(2 * count), mark(2 * count + 1)), now)
        verdict = candidate.verdict(now)

    assert verdict == "differs"
    assert "still" in candidate.columns(now, "differs")
    assert now <= WINDOW + 0.3


def test_a_row_that_went_as_far_as_the_other_was_is_cleared() -> None:
    candidate = Candidate(WINDOW)
    candidate.look({"v": (b"new", b"old")}, (b"new", b"old"), 0.0)
    candidate.look({"v": (b"newer", b"old")}, (b"newer", b"old"), 0.1)
    candidate.look({"v": (b"newest", b"new")}, (b"newest", b"new"), 0.2)

    assert candidate.verdict(0.2) == "cleared"


def test_what_the_first_walk_saw_counts_as_seen() -> None:
    candidate = Candidate(WINDOW)
    candidate.remember(b"seen by the walk", None)
    candidate.look({"v": (b"2", b"1")}, (b"row 2", b"seen by the walk"), 0.0)

    assert candidate.verdict(0.0) == "cleared"
