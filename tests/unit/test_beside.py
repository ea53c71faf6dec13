"""What is done beside validating may fail by itself."""

from __future__ import annotations

import pytest

from service.beside import PROVEN_SECONDS, Beside
from synchroscope.errors import FencedError, SynchroscopeError, UnavailableError
from synchroscope.ports import Progress


class Part:
    def __init__(self, raises: list[Exception | None]) -> None:
        self.raises = raises
        self.built = 0

    def build(self) -> Part:
        self.built += 1
        return self

    def step(self, now: float) -> Progress:
        error = self.raises.pop(0) if self.raises else None
        if error is not None:
            raise error
        return Progress(1)


def test_a_defect_is_told_and_the_part_built_again_later_and_later() -> None:
    part = Part([OverflowError("too large")] * 5)
    beside = Beside("validator/hops", part.build)
    assert [beside.step(now / 10) for now in range(10)] == [0] * 10
    health = beside.health()
    assert (health.state, health.circuit) == ("waiting", "open")
    assert health.reason == "defect: OverflowError: too large"
    assert part.built == health.restarts == 3
    assert beside.step(1_000.0) == beside.step(2_000.0) == 0
    assert beside.step(3_000.0) == 1
    assert (beside.health().state, beside.health().reason) == ("running", "")


def test_a_defect_a_few_steps_after_each_start_does_not_begin_a_new_row() -> None:
    part = Part([None, None, OverflowError("again")] * 3)
    beside = Beside("validator/hops", part.build)
    for now in range(12):
        beside.step(now / 4)
    assert (beside.health().state, beside.health().circuit) == ("waiting", "open")
    assert part.built == 3
    for now in range(3, 5 + int(PROVEN_SECONDS)):
        beside.step(float(now))
    assert (beside.health().state, beside.health().circuit) == ("running", "closed")


@pytest.mark.parametrize("error", [UnavailableError("store", "no answer"), FencedError("gone")])
def test_what_servers_raise_is_for_the_whole_role(error: SynchroscopeError) -> None:
    beside = Beside("validator/hops", Part([error]).build)
    with pytest.raises(type(error)):
        beside.step(1.0)
