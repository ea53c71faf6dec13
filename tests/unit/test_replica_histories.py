"""What holds for a replica after any history of records."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.applying import MAXIMUM_PENDING_NOTES
from synchroscope.digest import lanes_hex
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, Record
from synchroscope.report import Request, decode_message, encode_message
from tests.builders import raw_record, rebuilt, record, replica_of, update
from tests.replica_world import COUNTERS, explained, newest

ANY_SPEED = settings(deadline=None)  # A law does not depend on how busy the machine is.


SPARSE = st.sampled_from([1, 1, 1, 2, 5])
TARGETS = st.sampled_from([None, None, ["scorer"], ["other"], []])
VALUES = st.sampled_from([None, 1, 1.0, 2.5, True, "a", [1], [True], {"a": 1}])


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Return records with gaps, repeats, late events, nulls, withdrawals and nonsense."""
    made: list[Record] = []
    offset = draw(st.integers(0, 6))
    for _ in range(draw(st.integers(0, 20))):
        if draw(st.integers(0, 9)) == 0:
            made.append(raw_record(offset, b"nonsense"))
        else:
            updates = draw(
                st.dictionaries(
                    st.sampled_from(["limit", "risk", "secret"]),
                    st.builds(update, VALUES, VALUES, previous_targets=TARGETS),
                    min_size=1,
                )
            )
            made.append(
                record(
                    offset,
                    draw(st.none() | st.integers(1, 6)),
                    updates,
                    user=draw(st.sampled_from("12")),
                    kind=draw(st.sampled_from(["financial", "geographic", "temporal"])),
                    targets=draw(TARGETS),
                    priority=draw(st.sampled_from([None, "critical", "low"])),
                    number=draw(st.integers(0, 5)),
                )
            )
        offset += draw(SPARSE)
    return made


def split(records: list[Record], sizes: list[int]) -> list[list[Record]]:
    parts, left = [], records
    for size in sizes:
        parts.append(left[:size])
        left = left[size:]
    return [*parts, left]


@ANY_SPEED
@given(histories(), st.lists(st.integers(0, 5), max_size=8), st.integers(1, 7), st.data())
def test_however_records_are_split_into_batches_the_replica_says_the_same(
    records: list[Record], sizes: list[int], interval: int, data: st.DataObject
) -> None:
    end = records[-1].offset + 1 + data.draw(st.integers(0, 9)) if records else 9
    whole = replica_of(marker_interval=interval)
    whole.apply(0, records, end)
    parts = replica_of(marker_interval=interval)
    batches = split(records, sizes)
    for index, batch in enumerate(batches):
        following = [item.offset for later in batches[index + 1 :] for item in later]
        last = batch[-1].offset + 1 if batch else parts.position(0)
        until = following[0] if following else end
        parts.apply(0, batch, data.draw(st.integers(min(last, until), until)))
    parts.apply(0, [], end)

    assert whole.report(0.0, [0]) == parts.report(0.0, [0])
    assert explained(whole) == explained(parts)


@settings(ANY_SPEED, max_examples=50)
@given(histories(), st.integers(1, 7))
def test_a_marker_is_the_state_after_exactly_the_records_before_it(
    records: list[Record], interval: int
) -> None:
    end = records[-1].offset + interval + 1 if records else interval
    whole = replica_of(marker_interval=interval)
    whole.apply(0, records, end)
    notes = whole.report(0.0, [0]).notes[:-1]

    marks = list(range(interval, end + 1, interval))
    assert [note.position for note in notes] == marks[-MAXIMUM_PENDING_NOTES:]
    for note in notes:
        storage = MemoryStorage()
        upto = replica_of(storage, marker_interval=10**6)
        upto.apply(0, [item for item in records if item.offset < note.position], note.position)
        alone, root = newest(upto), rebuilt(storage).root()
        assert {n: getattr(note, n) for n in COUNTERS} == {n: getattr(alone, n) for n in COUNTERS}
        assert (note.state, note.facts, note.audit) == (alone.state, alone.facts, alone.audit)
        assert note.state == lanes_hex((root.lane0, root.lane1))


@ANY_SPEED
@given(histories(), st.lists(st.integers(1, 4), max_size=6))
def test_after_any_history_the_digest_is_that_of_a_rebuild(
    records: list[Record], sizes: list[int]
) -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    for batch in split(records, sizes):
        if batch:
            replica.apply(0, batch, batch[-1].offset + 1)
        assert explained(replica).table == rebuilt(storage).table()
        replica = replica_of(storage)  # A restart after every batch changes nothing.
    before = newest(replica)

    assert replica.scrub(0, range(16)) == 0
    assert newest(replica) == before


@ANY_SPEED
@given(histories())
def test_priority_never_reorders_within_an_aggregate(records: list[Record]) -> None:
    changes = replica_of().apply(0, records, 10**4)
    plain = sorted(changes, key=lambda change: change.offset)
    per_aggregate: dict[AggregateKey, list[int]] = {}
    for change in changes:
        key = (change.event.context_type, change.event.subject)
        per_aggregate.setdefault(key, []).append(change.offset)

    assert len(plain) == len(changes)
    for offsets in per_aggregate.values():
        assert offsets == sorted(offsets)


def test_an_urgent_change_takes_its_aggregates_earlier_ones_along() -> None:
    changes = replica_of().apply(
        0,
        [
            record(0, 1, {"limit": 1}, user="a", priority="low"),
            record(1, 1, {"limit": 1}, user="b"),
            record(2, 1, {"limit": 1}, user="c", priority="high"),
            record(3, 2, {"limit": update(2, 1)}, user="a", priority="critical"),
        ],
        4,
    )

    assert [change.offset for change in changes] == [0, 3, 2, 1]


@ANY_SPEED
@given(histories())
def test_what_a_replica_says_goes_through_json_unchanged(records: list[Record]) -> None:
    replica = replica_of()
    replica.apply(0, records, 10**4)
    for message in (explained(replica), replica.report(1.5, [0]), Request("r", "n", 0, 5, [1])):
        assert decode_message(encode_message(message)) == message
