"""What the command side accepts, and what becomes a dead letter."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

import pytest

from pipeline.commands import Accepted, CommandSide, Refused, Repeated
from pipeline.event_store import AggregateState, EventStore
from pipeline.event_store_memory import MemoryEventStore
from synchroscope.event import MAXIMUM_EVENT_BYTES, ContextDelta, ContextEvent, Update, encode_event
from tests.command_world import KEY, RULES, START, make, store, stored, submit

__all__ = ["store"]


# -- what is accepted ---------------------------------------------------------------------------


def test_an_accepted_event_states_the_truth_about_what_it_replaces(store: EventStore) -> None:
    side = CommandSide(store, RULES)
    first = make(1, {"level": 1, "name": "a"}, targets=("x", "y"))
    forged = {"level": Update(2, previous=99, previous_targets=("z",)), "new": Update(3)}
    second = make(2)
    second = ContextEvent(
        **{
            **{name: getattr(second, name) for name in second.__struct_fields__},
            "context_delta": ContextDelta(forged, user_id="1"),
        }
    )
    _, outcome = submit(side, first, second)
    assert isinstance(outcome, Accepted)
    assert outcome.event.sequence == 2
    assert outcome.event.correlation_id == str(second.event_id)
    assert outcome.event.context_delta.updates == {
        "level": Update(2, previous=1, previous_targets=("x", "y")),
        "new": Update(3),
    }
    assert stored(store)[1] == outcome.event


def test_a_correlation_id_of_the_producer_is_kept(store: EventStore) -> None:
    submit(CommandSide(store), make(1, correlation_id="order-7"))
    assert stored(store)[0].correlation_id == "order-7"


def test_bytes_and_typed_events_are_decided_alike() -> None:
    one, other = MemoryEventStore(), MemoryEventStore()
    event = make(1, {"level": 1, "list": (1, 2.0, {"a": None})})
    assert submit(CommandSide(one), event) == submit(CommandSide(other), encode_event(event))
    assert stored(one) == stored(other)


def test_what_a_producer_does_to_its_objects_later_changes_nothing(store: EventStore) -> None:
    side = CommandSide(store)
    basket = {"lines": [1]}
    submit(side, make(1, {"basket": basket}))
    basket["lines"].append(2)
    with side.batch(0.0) as batch:
        assert batch.values(*KEY) == {"basket": {"lines": [1]}}


def test_a_batch_sees_its_own_writes_and_the_store_only_sees_the_commit(store: EventStore) -> None:
    side = CommandSide(store)
    with side.batch(5.0) as batch:
        assert batch.state(KEY) == AggregateState()
        batch.submit(make(1, {"level": 7}))
        assert batch.values(*KEY) == {"level": 7}
        assert store.count() == 0
        batch.track("file", "a:1")
        batch.count("rows", 2)
        batch.count("rows")
    assert store.read(0, 9)[0].recorded == 5.0
    assert (store.tracking("file"), store.counter("rows")) == ("a:1", 3)


def test_an_event_id_is_taken_once(store: EventStore) -> None:
    side = CommandSide(store)
    again = Repeated(str(uuid.UUID(int=1)))
    assert submit(side, make(1), make(1, {"level": 2}))[1] == again
    assert submit(side, make(1)) == [again]
    assert submit(CommandSide(store), make(1)) == [again]
    assert (store.count(), store.counter("events_repeated")) == (1, 3)
    assert store.dead_letter_counts() == {}


def test_an_event_of_another_language_is_stored_as_it_was_meant(store: EventStore) -> None:
    text = {
        "eventId": "6F9619FF-8B86-D011-B42D-00C04FC964FF",
        "timestamp": "2026-01-01T01:00:00+01:00",
        "eventType": "context.updated",
        "source": {"modelId": "m", "instanceId": "i"},
        "contextDelta": {"sessionId": "s", "updates": {"x": {"previous": 1, "current": [1, "é"]}}},
    }
    (outcome,) = submit(CommandSide(store), json.dumps(text).encode())
    assert isinstance(outcome, Accepted)
    assert outcome.event.subject == "session:s"
    assert outcome.event.context_delta.updates == {"x": Update([1, "é"])}
    assert store.contains(["6f9619ff-8b86-d011-b42d-00c04fc964ff"])


class CountingStore(MemoryEventStore):
    """Counts how often it is asked for IDs."""

    asked = 0

    def contains(self, event_ids: Sequence[str]) -> set[str]:
        self.asked += 1
        return super().contains(event_ids)


def test_many_are_decided_on_as_one_after_the_other_and_the_store_is_asked_once() -> None:
    earlier, again = make(number=1), make(number=2)
    many = [earlier, again, b"no event", again, make(number=3, sequence=9), make(number=4)]
    taken = []
    for together in (True, False):
        store = CountingStore()
        side = CommandSide(store)
        submit(side, earlier)
        asked = store.asked
        with side.batch(2.0) as batch:
            outcomes = (
                batch.submit_all(many, source="s")
                if together
                else [batch.submit(one, source="s") for one in many]
            )
        kinds = [type(outcome).__name__ for outcome in outcomes]
        assert kinds == ["Repeated", "Accepted", "Refused", "Repeated", "Conflicted", "Accepted"]
        taken.append((stored(store), store.read_dead_letters(0, 9), store.counter("repeated")))
        assert store.asked - asked == (1 if together else 4)
    assert taken[0] == taken[1]


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"{", "malformed JSON"),
        (b"\xff\xfe", "malformed JSON"),
        (b"{}", "schema violation"),
        (b" " * (MAXIMUM_EVENT_BYTES + 1), "too large"),
        (make(1, {"level": 101}), "out of range"),
        (encode_event(make(1, {"level": "x"})), "wrong kind"),
        (make(1, {"other": float("nan")}), "value out of range"),
        (make(1, {"other": 2**64}), "value out of range"),
        (make(1, {"other": b"bytes"}), "schema violation"),
        (make(1, {"other": "\ud800"}), "malformed JSON"),
        (make(1, {"other": "x" * MAXIMUM_EVENT_BYTES}), "too large"),
        (make(1, user=""), "schema violation"),
        (make(1, context_type="\ud800"), "schema violation"),
        (make(1, sequence=0), "schema violation"),
        (
            encode_event(make(1)).replace(b"2026-01-01T00:00:00Z", b"9999-12-31T23:59:59-12:00"),
            "timestamp out of range",
        ),
        (encode_event(make(1)).replace(b"00:00:00Z", b"00:00:00"), "schema violation"),
    ],
)
def test_bad_input_becomes_a_dead_letter(
    store: EventStore, event: ContextEvent | bytes, reason: str
) -> None:
    (outcome,) = submit(CommandSide(store, RULES), event, source="test")
    assert isinstance(outcome, Refused)
    assert outcome.reason == reason
    (letter,) = store.read_dead_letters(0, 9)
    assert (letter.letter.reason, letter.letter.source) == (reason, "test")
    assert letter.letter.detail
    if isinstance(event, bytes) and len(event) < MAXIMUM_EVENT_BYTES:
        assert letter.letter.data == event
    assert 0 < len(letter.letter.data) <= MAXIMUM_EVENT_BYTES
    assert store.count() == 0


def test_a_naive_time_of_a_typed_event_is_refused(store: EventStore) -> None:
    event = make(1)
    naive = ContextEvent(
        **{
            **{name: getattr(event, name) for name in event.__struct_fields__},
            "timestamp": START.replace(tzinfo=None),
        }
    )
    assert isinstance(submit(CommandSide(store), naive)[0], Refused)


def test_a_refused_event_names_its_own_source_when_none_is_given(store: EventStore) -> None:
    submit(CommandSide(store, RULES), make(1, {"level": 101}))
    assert store.read_dead_letters(0, 9)[0].letter.source == "model/one"


def test_input_that_is_no_event_can_be_refused_with_any_text(store: EventStore) -> None:
    with CommandSide(store).batch(0.0) as batch:
        batch.refuse("broken\ud800", "d" * 9_999, "file:1", b"x" * (MAXIMUM_EVENT_BYTES + 1))
    (letter,) = store.read_dead_letters(0, 9)
    assert letter.letter.reason == "broken\\ud800"
    assert len(letter.letter.detail) == 1_000
    assert len(letter.letter.data) == MAXIMUM_EVENT_BYTES


def test_a_closed_rule_set_refuses_other_context_types(store: EventStore) -> None:
    side = CommandSide(store, RULES, closed=True)
    outcome = submit(side, make(1), make(2, context_type="else"))[1]
    assert isinstance(outcome, Refused)
    assert outcome.reason == "unknown context type"
