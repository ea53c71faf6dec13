"""The record of an event is found by its store position, however unevenly these rise."""

from __future__ import annotations

import random

import pytest

from benchmarks.many_keys import VIEW, event_bytes
from pipeline.log_memory import MemoryLog
from synchroscope.ports import EVENTS, NewRecord
from validator.event_offsets import EventOffsets
from validator.reference import Reference


@pytest.mark.parametrize("seed", range(4))
def test_each_event_is_found_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    log, offsets, position = MemoryLog({EVENTS: 1}), {}, 0
    places: list[tuple[int, int]] = []
    for number in range(400):
        position += rng.choice([1, 1, 1, 2, 7, 1_000 if seed % 2 else 3])
        places.append((number, position))
        if seed > 1 and rng.random() < 0.05:
            places += places[-rng.randrange(1, 5) :]  # Published again.
    for offset, (number, place) in enumerate(places):
        offsets.setdefault(place, offset)
        header = ("store-position", str(place).encode())
        log.append([NewRecord(EVENTS, 0, b"", event_bytes(number), (header,))], 0.0)
    reference = Reference(log, [VIEW])
    while reference.advance(0, 1_000):
        pass
    finder = EventOffsets(reference)

    for place in range(position + 3):
        assert finder.offset_of(0, place) == offsets.get(place)
