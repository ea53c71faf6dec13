"""Samples of a stream: uniform, whatever the stream does."""

from __future__ import annotations

import random
from collections import Counter

from validator.sampling import DistinctSample, Reservoir

RUNS = 2_000


def test_every_item_of_a_stream_is_as_likely_to_be_kept() -> None:
    kept: Counter[int] = Counter()
    for seed in range(RUNS):
        sample: Reservoir[int] = Reservoir(5, random.Random(seed))
        for number in range(20):
            sample.offer(1, lambda place, number=number: number)  # type: ignore[misc]
        assert len(set(sample.items)) == 5
        kept.update(sample.items)

    # A quarter of 2,000 each; six standard deviations are 116.
    assert all(abs(kept[number] - RUNS / 4) < 116 for number in range(20))


def test_a_key_that_comes_often_is_no_more_likely_to_be_kept() -> None:
    kept: Counter[str] = Counter()
    for seed in range(RUNS):
        sample: DistinctSample[list[str]] = DistinctSample(5, seed)
        for number in range(20):
            for _ in range(1 + 30 * (number == 0)):
                item = sample.offer(str(number), list)
                if item is not None:
                    item.append(str(number))
        assert len(sample.items) == 5
        kept.update(item[0] for item in sample.items)

    assert all(abs(kept[str(number)] - RUNS / 4) < 116 for number in range(20))


def test_what_is_not_kept_is_never_made() -> None:
    made = []
    sample: Reservoir[int] = Reservoir(2, random.Random(0))
    for number in range(1_000):
        sample.offer(1, lambda place, number=number: made.append(number) or number)  # type: ignore

    assert sample.offered == 1_000 and len(made) < 50


def test_many_that_are_offered_at_once_are_as_likely_to_be_kept() -> None:
    kept: Counter[int] = Counter()
    for seed in range(RUNS):
        sample: Reservoir[int] = Reservoir(5, random.Random(seed))
        for start in range(0, 20, 4):
            sample.offer(4, lambda place, start=start: start + place)  # type: ignore[misc]
        kept.update(sample.items)

    assert sum(kept.values()) == 5 * RUNS
    assert all(abs(kept[number] - RUNS / 4) < 116 for number in range(20))
