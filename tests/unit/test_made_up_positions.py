"""Records that bear a store position which the store does not know them by."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.event_store import StoredEvent
from synchroscope.errors import UnavailableError
from synchroscope.ports import EVENTS, Log, NewRecord
from tests.validation_world import World
from validator.reference import Reference
from validator.repeats import StoreClaims, store_position


def foreign(number: int, position: int) -> NewRecord:
    """Return an event of another installation, with the header that its relay wrote."""
    event = {
        "eventId": f"{number:08d}-5d5c-4d7c-9e53-0242ac120002",
        "timestamp": "2026-03-01T12:00:00Z",
        "eventType": "context.updated",
        "source": {"modelId": "other", "instanceId": "o-1"},
        "contextType": "financial",
        "contextDelta": {"userId": f"foreign-{number}", "updates": {"limit": {"current": 1}}},
        "sequence": 1,
    }
    headers = (("store-position", b"%d" % position),)
    return NewRecord(EVENTS, 0, b"k", msgspec.json.encode(event), headers)


@pytest.mark.parametrize("position", [1, 3, 999_999_999])
@pytest.mark.parametrize("many", [1, 40])
def test_what_follows_is_folded_and_nobody_is_blamed(position: int, many: int) -> None:
    world = World()
    for number in range(10):
        world.write(str(number % 3), limit=number)
    world.run()
    log: Log = world.log
    log.append([foreign(number, position) for number in range(many)], world.now)
    for number in range(60):
        world.write(str(number % 3), limit=100 + number)
    world.run()
    assert world.verdict() == "CONSISTENT"
    assert world.findings() == []
    assert world.validator.reference.repeated[0] == 0
    assert world.validator.reference.current(0).store_position == world.store.count()


def test_going_back_takes_the_same_records_for_repeats() -> None:
    world = World()
    for number in range(10):
        world.write("1", limit=number)
    world.run()
    log: Log = world.log
    log.append([foreign(1, 999_999_999), foreign(2, 1)], world.now)
    for number in range(10):
        world.write("1", limit=100 + number)
    world.run()
    views = [world.view]
    made = Reference(log, views, bits=4, marker_interval=8, store=world.store)
    while made.advance(0, 100):
        pass
    for end in range(1, log.head(EVENTS, 0) + 1):
        other = Reference(log, views, bits=4, marker_interval=1_000, store=world.store)
        while other.position(0) < end:
            other.advance(0, end - other.position(0))
        back = made.at(0, end)
        assert back is not None
        held, wanted = back.views["scorer"], other.current(0).views["scorer"]
        assert held.digest.table() == wanted.digest.table() and held.audit == wanted.audit


def test_what_the_relay_publishes_again_is_passed_over() -> None:
    world = World()
    for number in range(30):
        world.write("1", limit=number)
    world.run()
    log: Log = world.log
    again = log.read(EVENTS, 0, 5, 20).records
    log.append([NewRecord(EVENTS, 0, r.key, r.value, r.headers) for r in again], world.now)
    assert all(store_position(record.headers) for record in again)
    world.write("1", limit=100)
    world.run()
    assert world.validator.reference.repeated[0] == len(again)
    assert world.verdict() == "CONSISTENT"


class Away:
    """A store that does not answer."""

    def count(self) -> int:
        raise UnavailableError("postgresql", "away")

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        raise UnavailableError("postgresql", "away")


def test_what_a_record_claims_is_believed_while_the_store_is_away() -> None:
    claims = StoreClaims(Away())
    assert not claims.is_beyond(999_999_999, 1)
    assert not claims.is_foreign(1, "x")
