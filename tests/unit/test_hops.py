"""A loss, a duplicate or an alteration is placed on exactly its hop, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from pipeline.event_store import StoredEvent
from synchroscope.event import ContextEvent
from synchroscope.ports import EVENTS, AggregateKey, AggregateRecord, NewRecord, Record
from tests.hop_chain import Chain, once
from validator.hop_verdicts import (
    ALTERED,
    DOUBLED,
    LOG_REPLICA,
    LOST,
    PRODUCER_STORE,
    RELAY_LOG,
    STORE_RELAY,
)
from validator.watch import Verdict


def altered_event(event: ContextEvent) -> ContextEvent:
    return replace(event, event_type="context.changed")


def altered_value(value: bytes) -> bytes:
    return value.replace(b"context.updated", b"context.changed")


def test_where_nothing_is_wrong_every_hop_is_consistent() -> None:
    chain = Chain()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == []
    for hop in (PRODUCER_STORE, STORE_RELAY, RELAY_LOG, LOG_REPLICA):
        assert chain.states(hop) == {"CONSISTENT"}, hop
    assert chain.findings() == []


def at_producer_store(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[ContextEvent]], list[ContextEvent]]] = {
        LOST: lambda events: events[1:],
        ALTERED: lambda events: [altered_event(events[0]), *events[1:]],
    }
    chain.store.on_append = once(change[kind])


def at_store_relay(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[StoredEvent]], list[StoredEvent]]] = {
        LOST: lambda rows: rows[1:],
        ALTERED: lambda rows: [replace(rows[0], event=altered_event(rows[0].event)), *rows[1:]],
    }
    chain.store.on_read = once(change[kind])


def at_relay_log(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[NewRecord]], list[NewRecord]]] = {
        LOST: lambda records: records[1:],
        ALTERED: lambda records: [
            replace(records[0], value=altered_value(records[0].value)),
            *records[1:],
        ],
    }
    chain.publishing.on_append = once(change[kind])


def at_log_replica(chain: Chain, kind: str) -> None:
    change: dict[str, Callable[[list[Record]], list[Record]]] = {
        LOST: lambda records: records[1:],
        ALTERED: lambda records: [
            replace(records[0], value=altered_value(records[0].value)),
            *records[1:],
        ],
    }
    chain.links["scorer@1"].tamper = once(change[kind])


@pytest.mark.parametrize("kind", [LOST, ALTERED])
@pytest.mark.parametrize(
    ("hop", "inject", "replica", "is_named"),
    [
        (PRODUCER_STORE, at_producer_store, None, False),
        (STORE_RELAY, at_store_relay, None, True),
        (RELAY_LOG, at_relay_log, None, True),
        (LOG_REPLICA, at_log_replica, "scorer@1", True),
    ],
)
def test_what_is_lost_or_altered_between_two_hops_is_placed_exactly_there(
    hop: str,
    inject: Callable[[Chain, str], None],
    replica: str | None,
    is_named: bool,
    kind: str,
) -> None:
    chain = Chain(blame_replicas=True)
    chain.traffic()
    inject(chain, kind)
    chain.write("1")
    chain.write("1")
    for _ in range(3):
        chain.step()
    # Repeated traffic for a window that has more than the one event.
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(hop, replica, kind, 1)]
    (finding,) = chain.findings()
    assert (finding.kind, finding.state, finding.replica) == (f"hop-{kind}", "open", replica)
    assert finding.evidence["hop"] == hop
    named = [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED]
    if is_named and (hop, kind) != (LOG_REPLICA, ALTERED):
        assert named == [(str(UUID(int=11, version=4)),)]
        assert finding.subjects == ["user:1"]
    else:
        assert named == [None]


def test_a_row_that_the_store_has_twice_is_placed_between_producer_and_store() -> None:
    chain = Chain()
    chain.traffic()
    chain.step()
    name = chain.write("1")
    chain.store.copy_last()
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(PRODUCER_STORE, None, DOUBLED, 1)]
    assert [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED] == [(name,)]


class Forgetful(list[int]):
    """Where a relay published to, forgotten at once."""

    def __getitem__(self, place: Any) -> Any:
        return 0


def test_an_event_that_the_relay_hands_over_twice_is_placed_there() -> None:
    chain = Chain()
    chain.traffic()
    chain.step()
    chain.relay._published = Forgetful(chain.relay._published)
    chain.store.on_read = once(lambda rows: [rows[0], *rows])
    name = chain.write("1")
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(STORE_RELAY, None, DOUBLED, 1)]
    assert [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED] == [(name,)]


def test_a_record_that_the_log_has_twice_is_placed_there_and_is_no_finding() -> None:
    chain = Chain()
    chain.traffic()
    chain.publishing.on_append = once(lambda records: [records[0], *records])
    name = chain.write("1")
    chain.traffic()
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, DOUBLED, 1)]
    (verdict,) = [v for v in chain.verdicts if v.verdict is Verdict.DIVERGED]
    assert verdict.is_harmless and verdict.event_ids == (name,)
    assert chain.findings() == []


def test_an_event_that_a_replica_applies_twice_is_placed_there() -> None:
    chain = Chain(partitions=1)
    chain.traffic()
    chain.settle()
    held: dict[AggregateKey, AggregateRecord] = {}
    storage, link = chain.storages["scorer@1"], chain.links["scorer@1"]
    key = ("financial", "user:1")
    before = storage.get(key)
    assert before is not None
    held[key] = before.copy()
    name = chain.write("1")
    chain.step()
    again = list(chain.log.read(EVENTS, 0, chain.log.head(EVENTS, 0) - 1, 1).records)
    # The storage falls back, for this aggregate only, and the event is delivered once more.
    storage.commit(held, 0, None)
    link.tamper = once(lambda records: [*again, *records])
    chain.write("2")
    chain.settle()
    assert chain.wrong() == [(LOG_REPLICA, "scorer@1", DOUBLED, 1)]
    assert [v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED] == [(name,)]


def test_three_losses_on_one_hop_are_counted_and_named() -> None:
    chain = Chain()
    chain.traffic()
    chain.publishing.on_append = once(lambda records: [])
    names = {chain.write(user) for user in ("1", "1", "1")}
    chain.step()
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, LOST, 3)]
    (verdict,) = [v for v in chain.verdicts if v.verdict is Verdict.DIVERGED]
    assert set(verdict.event_ids or ()) == names
    assert "3 lost between relay and log, partition" in verdict.reason


def test_losses_on_two_hops_in_one_window_are_told_apart() -> None:
    chain = Chain()
    chain.store.on_read = once(lambda rows: rows[1:])
    first = chain.write("1")
    chain.write("1")
    chain.step()
    chain.publishing.on_append = once(lambda records: records[1:])
    second = chain.write("1")
    chain.step()
    chain.traffic()
    chain.settle()
    found = {v.place.hop: v.event_ids for v in chain.verdicts if v.verdict is Verdict.DIVERGED}
    assert found == {STORE_RELAY: (first,), RELAY_LOG: (second,)}


def test_what_comes_late_is_judged_again_and_its_finding_is_resolved() -> None:
    chain = Chain()
    chain.traffic()
    chain.step()
    held: list[NewRecord] = []
    chain.publishing.on_append = once(lambda records: held.extend(records) or [])
    chain.write("1")
    chain.settle()
    assert chain.wrong() == [(RELAY_LOG, None, LOST, 1)]
    chain.log.append(held, chain.now)
    chain.run(5)
    (finding,) = chain.findings()
    assert (finding.state, finding.kind) == ("resolved", "hop-lost")
