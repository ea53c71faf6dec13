"""What differing observations share against the rest: values of dimensions, ranked. Pure.

Each value of each dimension is held against the rest with Fisher's exact test, one-sided: is it
more frequent among the divergent than a random draw would make it? Of the p-values the Benjamini-
Hochberg procedure keeps those at which the stated share of false discoveries holds; values that
are so rare that they could not become significant are not counted as tests (Gilbert). Where nothing
is significant, nothing is returned.

Sources: R. A. Fisher, *The Design of Experiments*, 1935, chapter 2; Y. Benjamini and Y. Hochberg,
"Controlling the false discovery rate", *J. R. Statist. Soc. B* 57, 1995; P. B. Gilbert, "A modified
false discovery rate multiple-comparisons procedure for discrete data", *Appl. Statist.* 54, 2005.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Observation = Mapping[str, str | tuple[str, ...]]
"""Dimension -> value, or values; a dimension that is absent has none."""

FALSE_DISCOVERY_RATE = 0.05
MAXIMUM_VALUES = 200
"""Values of a dimension that are told apart; the others are one, which is not tested."""
MAXIMUM_SINGLES_PAIRED = 10
MINIMUM_PAIR_SHARE = 0.5
"""So much of what one value covers has to be covered by a pair with another, to be shown."""
EXPLAINED_LEVEL = 0.05
OTHER = "(other)"

Members = NDArray[np.bool_]


class Condition(Struct, frozen=True, order=True):
    """One value of one dimension."""

    dimension: str
    value: str


class Ranked(Struct, frozen=True):
    """A condition, or two together, that is more frequent among the divergent.

    ``divergent`` of ``divergent_total`` and ``rest`` of ``rest_total`` observations meet it; the
    shares are these as ratios. ``lift`` is the ratio of the shares, with half an observation added
    to the rest where it has none. ``p_value`` is Fisher's, ``q_value`` the false discovery rate at
    which it is just kept; of a pair both say how sure it is that it explains more than each alone.
    ``explained_by``: the place in the ranking (from 0) of what explains it: outside of that, it is
    not more frequent.
    """

    conditions: tuple[Condition, ...]
    divergent: int
    divergent_total: int
    rest: int
    rest_total: int
    lift: float
    p_value: float
    q_value: float
    explained_by: int | None = None

    @property
    def share_divergent(self) -> float:
        """Share of the divergent that meet it, from 0 to 1."""
        return self.divergent / self.divergent_total

    @property
    def share_rest(self) -> float:
        """Share of the rest that meet it, from 0 to 1."""
        return self.rest / self.rest_total


class _Table(Struct, frozen=True):
    """Which observations meet a condition, and what that comes to."""

    conditions: tuple[Condition, ...]
    order: int
    divergent: Members
    rest: Members
    p_value: float
    q_value: float = 1.0


def rank(
    divergent: Sequence[Observation],
    rest: Sequence[Observation],
    *,
    false_discovery_rate: float = FALSE_DISCOVERY_RATE,
    maximum_values: int = MAXIMUM_VALUES,
) -> list[Ranked]:
    """Return what the divergent share against the rest, the surest first; empty: nothing is sure.

    Parameters
    ----------
    divergent, rest: Two random samples, of what differs and of everything else.
    false_discovery_rate: Expected share of chance results among those returned, from 0 to 1. Where
        divergence has to do with no dimension, also the chance that anything is returned at all.
        Higher: more is found with fewer observations, and more of it is chance.
    maximum_values: Values of a dimension told apart, the most frequent ones.

    Examples
    --------
    >>> differing = [{"producer": "till-3", "hour": str(n)} for n in range(8)]
    >>> others = [{"producer": f"till-{n % 6}", "hour": str(n % 24)} for n in range(600)]
    >>> [(one.conditions[0].value, round(one.lift)) for one in rank(differing, others)]
    [('till-3', 6)]
    """
    if not divergent or not rest:
        return []
    tables = _singles(divergent, rest, maximum_values)
    smallest = [
        fisher(min(_count(one), len(divergent)), len(divergent), _least_rest(one), len(rest))
        for one in tables
    ]
    tested = [
        one
        for one, p_value in zip(tables, smallest, strict=True)
        if p_value <= _attainable(smallest, false_discovery_rate)
    ]
    singles = _kept(tested, false_discovery_rate)
    pairs = _pairs(singles[:MAXIMUM_SINGLES_PAIRED], tables, false_discovery_rate)
    return _explained(sorted([*singles, *pairs], key=_sureness))


# -- tallies -------------------------------------------------------------------------------------


def _values(observation: Observation, dimension: str) -> tuple[str, ...]:
    value = observation.get(dimension, ())
    return (value,) if isinstance(value, str) else value


def _singles(
    divergent: Sequence[Observation], rest: Sequence[Observation], maximum_values: int
) -> list[_Table]:
    """Return the table of every value that is told apart and seen among the divergent."""
    found: list[_Table] = []
    for dimension in dict.fromkeys(name for one in [*divergent, *rest] for name in one):
        ours, theirs = _members(divergent, dimension), _members(rest, dimension)
        counts = {
            value: len(ours.get(value, ())) + len(theirs.get(value, ()))
            for value in dict.fromkeys([*ours, *theirs])
            if value != OTHER
        }
        # Chosen by how often they are in both together, which says nothing of a difference.
        for value in sorted(counts, key=lambda value: -counts[value])[:maximum_values]:
            condition = (Condition(dimension, value),)
            our_marks = _marks(ours.get(value, ()), len(divergent))
            their_marks = _marks(theirs.get(value, ()), len(rest))
            found.append(_table(condition, len(found), our_marks, their_marks))
    return found


def _members(observations: Sequence[Observation], dimension: str) -> dict[str, list[int]]:
    """Return value -> the places of the observations that have it."""
    found: dict[str, list[int]] = {}
    for place, one in enumerate(observations):
        for value in _values(one, dimension):
            found.setdefault(value, []).append(place)
    return found


def _marks(places: Sequence[int], length: int) -> Members:
    marks = np.zeros(length, dtype=np.bool_)
    marks[list(places)] = True
    return marks


def _table(conditions: tuple[Condition, ...], order: int, ours: Members, theirs: Members) -> _Table:
    p_value = fisher(int(ours.sum()), len(ours), int(theirs.sum()), len(theirs))
    return _Table(conditions, order, ours, theirs, p_value)


def _sureness(table: _Table) -> tuple[float, float, int]:
    """Return a sort key; among p-values too small for a number the likelihood ratio decides."""
    ours, theirs = int(table.divergent.sum()), int(table.rest.sum())
    expected = (ours + theirs) / (len(table.divergent) + len(table.rest))
    ratio = sum(
        count * math.log(count / (total * share))
        for marked, total in ((ours, len(table.divergent)), (theirs, len(table.rest)))
        for count, share in ((marked, expected), (total - marked, 1.0 - expected))
        if count
    )
    return table.p_value, -ratio, table.order


def _count(table: _Table) -> int:
    return int(table.divergent.sum() + table.rest.sum())


def _least_rest(table: _Table) -> int:
    return max(_count(table) - len(table.divergent), 0)


# -- tests ---------------------------------------------------------------------------------------


def fisher(ours: int, our_total: int, theirs: int, their_total: int) -> float:
    """Return how likely `ours` of `our_total` or more are, if all were drawn alike.

    The upper tail of the hypergeometric distribution, summed exactly.

    >>> round(fisher(3, 3, 1, 5), 4), fisher(0, 3, 2, 5)
    (0.0714, 1.0)
    """
    marked, total = ours + theirs, our_total + their_total
    most = min(marked, our_total)
    if ours <= max(0, marked - their_total):
        return 1.0
    whole = _log_choose(total, our_total)
    tail = 0.0
    for count in range(ours, most + 1):
        term = math.exp(
            _log_choose(marked, count) + _log_choose(total - marked, our_total - count) - whole
        )
        tail += term
        if term < tail * 1e-16:
            break
    return min(tail, 1.0)


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _attainable(smallest: Sequence[float], rate: float) -> float:
    """Return the level that a test has to be able to reach to be counted as one.

    The first `tests` for which no more than so many could reach ``rate / tests``.
    """
    tests = 1
    while sum(p_value <= rate / tests for p_value in smallest) > tests:
        tests += 1
    return rate / tests


def q_values(p_values: Sequence[float]) -> list[float]:
    """Return the false discovery rate at which each is just kept (Benjamini-Hochberg).

    >>> [round(q, 3) for q in q_values([0.01, 0.04, 0.03, 0.8])]
    [0.04, 0.053, 0.053, 0.8]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index], reverse=True)
    found, least = [1.0] * len(p_values), 1.0
    for place, index in enumerate(order):
        least = min(least, p_values[index] * len(p_values) / (len(p_values) - place))
        found[index] = least
    return found


def _kept(tables: Sequence[_Table], rate: float) -> list[_Table]:
    """Return what is kept at the rate, the surest first."""
    found = q_values([one.p_value for one in tables])
    kept = [
        _Table(one.conditions, one.order, one.divergent, one.rest, one.p_value, q_value)
        for one, q_value in zip(tables, found, strict=True)
        if q_value <= rate
    ]
    return sorted(kept, key=_sureness)


# -- two together --------------------------------------------------------------------------------


def _pairs(singles: Sequence[_Table], others: Sequence[_Table], rate: float) -> list[_Table]:
    """Return pairs that explain more than each of the two: within each, the other is enriched.

    Only what is kept alone is paired, so that where nothing is kept nothing can be found here.
    """
    found: dict[frozenset[Condition], tuple[_Table, float]] = {}
    for one in singles:
        for two in others:
            first, second = sorted((one, two), key=lambda table: table.order)
            key = frozenset(first.conditions + second.conditions)
            if first.conditions[0].dimension == second.conditions[0].dimension or key in found:
                continue
            ours, theirs = first.divergent & second.divergent, first.rest & second.rest
            if ours.sum() < MINIMUM_PAIR_SHARE * one.divergent.sum():
                continue
            within = max(_within(first, ours, theirs), _within(second, ours, theirs))
            order = len(others) + len(found)
            found[key] = _table(first.conditions + second.conditions, order, ours, theirs), within
    kept = q_values([within for _, within in found.values()])
    return [
        _Table(table.conditions, table.order, table.divergent, table.rest, table.p_value, q_value)
        for (table, _), q_value in zip(found.values(), kept, strict=True)
        if q_value <= rate
    ]


def _within(one: _Table, ours: Members, theirs: Members) -> float:
    """Return the p-value of the pair among those that meet one of its conditions."""
    return fisher(int(ours.sum()), int(one.divergent.sum()), int(theirs.sum()), int(one.rest.sum()))


def _explained(tables: Sequence[_Table]) -> list[Ranked]:
    """Return the ranking; what is only enriched because of what stands before it says so."""
    found: list[Ranked] = []
    for table in tables:
        ours, theirs = int(table.divergent.sum()), int(table.rest.sum())
        explained_by = next(
            (
                place
                for place, before in enumerate(tables[: len(found)])
                if found[place].explained_by is None and _is_explained(table, before)
            ),
            None,
        )
        share = max(theirs, 0.5) / len(table.rest)
        found.append(
            Ranked(
                table.conditions,
                ours,
                len(table.divergent),
                theirs,
                len(table.rest),
                ours / len(table.divergent) / share,
                table.p_value,
                table.q_value,
                explained_by,
            )
        )
    return found


def _is_explained(table: _Table, before: _Table) -> bool:
    ours, theirs = ~before.divergent, ~before.rest
    p_value = fisher(
        int((table.divergent & ours).sum()),
        int(ours.sum()),
        int((table.rest & theirs).sum()),
        int(theirs.sum()),
    )
    return p_value > EXPLAINED_LEVEL
