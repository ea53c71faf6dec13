"""Faults in the validator's tiny world, and how a replica is made to lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from synchroscope.ports import Record
from synchroscope.report import Explanation, Request
from tests.builders import event, update
from tests.validation_world import REPLICA, World
from validator.finding import Finding

OTHER = "scorer@2"


@pytest.fixture(autouse=True, params=["whole buckets", "sketches"])
def way_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds whichever way differing buckets are looked into."""
    if request.param == "sketches":
        monkeypatch.setattr(World, "whole_facts", 0)


def world(**more: Any) -> World:
    """Return a world with two aggregates at sequence 1, all consistent."""
    made = World(**more)
    made.write("1", limit=5, note="secret")
    made.write("2", limit=6)
    made.run()
    assert made.verdict() == "CONSISTENT"
    return made


def only(made: World) -> Finding:
    [finding] = made.findings()
    return finding


def answering(made: World, change: Callable[[Request, Explanation], Explanation]) -> None:
    """Let the replica's answers be changed by a bug."""
    replica = made.projectors[REPLICA].replica
    explain = replica.explain
    replica.explain = lambda request, **more: change(  # type: ignore[method-assign]
        request, explain(request, **more)
    )


def missed(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)


def missed_and_overwritten(w: World) -> None:
    missed(w)
    w.write("1", limit=8, note="x")


def hot_corruption(w: World) -> None:
    w.overwrite("1", limit=99)
    w.write("1", limit=7)


def cold_corruption(w: World) -> None:
    w.overwrite("1", limit=99)


def corruption_to_what_the_next_event_writes(w: World) -> None:
    w.overwrite("1", limit=7)
    w.write("1", limit=7)


def missed_and_the_same_written(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)
    w.run()
    w.overwrite("1", limit=7)


def deletion(w: World) -> None:
    w.delete("1")


def extra_record(w: World) -> None:
    w.overwrite("9", limit=99)


def extra_record_outside_the_view(w: World) -> None:
    w.write("9", kind="temporal", hour=1)
    w.overwrite("9", kind="temporal", hour=2)


def stale(w: World) -> None:
    key = ("financial", "user:1")
    old = w.storages[REPLICA].get(key)
    assert old is not None
    w.write("1", limit=7)
    w.run()
    w.storages[REPLICA].commit({key: old}, 0, None)


def missed_and_corrupted(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)
    w.run()
    w.overwrite("1", note="changed")


def two_aggregates(w: World) -> None:
    w.drop(2)
    w.write("1", limit=7)
    w.overwrite("2", limit=99)


def doubled(w: World) -> None:
    """A replica that takes a second delivery for the next event."""

    def again(records: list[Record]) -> list[Record]:
        out = []
        for record in records:
            out.append(record)
            if record.offset == 2:
                twin = msgspec.json.decode(record.value)
                twin["sequence"] += 1
                out.append(replace(record, value=msgspec.json.encode(twin)))
        return out

    w.links[REPLICA].tamper = again
    w.write("1", limit=7)


def reordered_within_a_batch(w: World) -> None:
    w.links[REPLICA].tamper = lambda records: records[::-1]
    w.write("1", limit=7)
    w.write("1", limit=8)


FAULTS: dict[str, tuple[Callable[[World], None], list[tuple[str, str, str]]]] = {
    "missed": (missed, [("missed", "open", "user:1")]),
    "missed and overwritten": (missed_and_overwritten, [("missed", "resolved", "user:1")]),
    "corrupted, met by the next event": (hot_corruption, [("corrupted", "resolved", "user:1")]),
    "corrupted, met by the scrub": (cold_corruption, [("corrupted", "open", "user:1")]),
    "corrupted to what the next event writes": (
        corruption_to_what_the_next_event_writes,
        [("corrupted", "resolved", "user:1")],
    ),
    "missed, and the same written from outside": (
        missed_and_the_same_written,
        [("missed", "resolved", "user:1")],
    ),
    "a record deleted": (deletion, [("corrupted", "open", "user:1")]),
    "a record nobody wrote": (extra_record, [("corrupted", "open", "user:9")]),
    "a record of a type outside the view": (
        extra_record_outside_the_view,
        [("corrupted", "open", "user:9")],
    ),
    "put back to an older version": (stale, [("stale", "open", "user:1")]),
    "two faults on one aggregate": (
        missed_and_corrupted,
        [("corrupted", "open", "user:1"), ("missed", "open", "user:1")],
    ),
    "faults on two aggregates": (
        two_aggregates,
        [("corrupted", "open", "user:2"), ("missed", "open", "user:1")],
    ),
    "doubled": (doubled, [("doubled", "resolved", "user:1")]),
    "reordered without effect": (reordered_within_a_batch, []),
}


def rogue(number: int, sequence: int, previous: Any, user: str = "1") -> dict[str, Any]:
    made = event(sequence, {"limit": update(66, previous)}, number=number, user=user)
    return {**made, "source": {"modelId": "rogue", "instanceId": "r-1"}}
