"""Every rule of a replica, as timelines of records and what storage and report say after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.applying import MAXIMUM_MISSING, MAXIMUM_PENDING_NOTES
from synchroscope.digest import Digest, Hasher, event_hash, lanes_hex
from synchroscope.errors import ConfigurationError, StorageError
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, Record
from synchroscope.replica import Replica
from synchroscope.replica_state import Partition
from synchroscope.report import (
    Entry,
    Explanation,
    Note,
    Request,
    decode_message,
    encode_message,
)
from synchroscope.view import View
from tests.builders import (
    VIEW,
    event_id,
    raw_record,
    rebuilt,
    record,
    replica_of,
    update,
)

ANY_SPEED = settings(deadline=None)  # A law does not depend on how busy the machine is.

KEY: AggregateKey = ("financial", "user:1")
HASHER = Hasher()


def newest(replica: Replica) -> Note:
    return replica.report(0.0, [0]).notes[-1]


def applied_one_by_one(replica: Replica, records: Sequence[Record]) -> Note:
    for item in records:
        replica.apply(0, [item], item.offset + 1)
    return newest(replica)


def explained(replica: Replica, *, scrub: bool = False, since: int = 0) -> Explanation:
    return replica.explain(Request("r", replica.name, 0, since, list(range(16)), scrub))


def hash_of(field: str, value: Any, key: AggregateKey = KEY) -> str:
    return lanes_hex(HASHER.fact(*key, field, value))


def overwrite(storage: MemoryStorage, sequence: int | None = None, **fields: Any) -> None:
    """Change stored fields behind the replica's back; each keeps its sequence."""
    held = storage.get(KEY)
    assert held is not None
    twin = held.copy()
    twin.sequence = sequence or held.sequence
    for name, value in fields.items():
        twin.fields[name] = (value, twin.fields[name][1])
    storage.commit({KEY: twin}, 0, None)


def assert_digest_is_that_of_storage(replica: Replica, storage: MemoryStorage) -> None:
    assert explained(replica).table == rebuilt(storage).table()


# -- the rules, one timeline each -----------------------------------------------------------------

FIRST = record(0, 1, {"limit": 5, "risk": "low"})
TIMELINES: dict[str, tuple[list[Record], dict[str, Any], dict[str, int]]] = {
    "events in order": (
        [FIRST, record(1, 2, {"limit": update(6, 5)})],
        {"limit": 6, "risk": "low"},
        {"applied": 2},
    ),
    "an equal number in another spelling is no mismatch": (
        [FIRST, record(1, 2, {"limit": update(6, 5.0)})],
        {"limit": 6, "risk": "low"},
        {"applied": 2},
    ),
    "a duplicate is ignored": (
        [FIRST, record(1, 2, {"limit": update(6, 5)}), record(2, 1, {"limit": 5}, number=0)],
        {"limit": 6, "risk": "low"},
        {"applied": 2, "duplicates": 1},
    ),
    "a gap is remembered and seen in what is overwritten": (
        [FIRST, record(1, 4, {"limit": update(9, 8)})],
        {"limit": 9, "risk": "low"},
        {"applied": 2, "gaps": 2, "anomalies": 1},
    ),
    "a late event changes what is older than it and no newer field": (
        [
            FIRST,
            record(1, 3, {"limit": update(7, 6)}),
            record(2, 2, {"limit": update(6, 5), "risk": update("high", "low")}),
        ],
        {"limit": 7, "risk": "high"},
        {"applied": 3, "late": 1, "anomalies": 1},
    ),
    "a late event twice is a duplicate the second time": (
        [
            FIRST,
            record(1, 3, {"risk": update("mid", "low")}),
            record(2, 2, {"limit": update(6, 5)}),
            record(3, 2, {"limit": update(6, 5)}, number=2),
        ],
        {"limit": 6, "risk": "mid"},
        {"applied": 3, "late": 1, "duplicates": 1},
    ),
    "a late event that finds another value than its previous is evidence as well": (
        [
            FIRST,
            record(1, 4, {"risk": update("mid", "low")}),
            record(2, 3, {"limit": update(7, 6)}),
        ],
        {"limit": 7, "risk": "mid"},
        {"applied": 3, "late": 1, "gaps": 1, "anomalies": 1},
    ),
    "a null removes the fact and an older value that comes late does not bring it back": (
        [
            FIRST,
            record(1, 3, {"limit": update(None, 6)}),
            record(2, 2, {"limit": update(6, 5)}),
        ],
        {"risk": "low"},
        {"applied": 3, "late": 1, "anomalies": 1},
    ),
    "an event that does not name the model withdraws what it changes": (
        [FIRST, record(1, 2, {"limit": update(6, 5)}, targets=["other"])],
        {"risk": "low"},
        {"applied": 2},
    ),
    "an event for nobody withdraws as well": (
        [FIRST, record(1, 2, {"limit": update(6, 5)}, targets=[])],
        {"risk": "low"},
        {"applied": 2},
    ),
    "an event that names the model shows": (
        [FIRST, record(1, 2, {"limit": update(6, 5)}, targets=["other", "scorer"])],
        {"limit": 6, "risk": "low"},
        {"applied": 2},
    ),
    "a previous value that was for others is not expected": (
        [
            record(0, 1, {"limit": 5}, targets=["other"]),
            record(1, 2, {"limit": update(6, 5, previous_targets=["other"])}),
        ],
        {"limit": 6},
        {"applied": 2},
    ),
    "a previous value that was for this model too is expected": (
        [
            record(0, 1, {"limit": 5}, targets=["other"]),
            record(1, 2, {"limit": update(6, 5, previous_targets=["other", "scorer"])}),
        ],
        {"limit": 6},
        {"applied": 2, "anomalies": 1},
    ),
    "fields outside the view are not kept": (
        [record(0, 1, {"limit": 5, "secret": 1})],
        {"limit": 5},
        {"applied": 1},
    ),
    "an event with no field of the view still counts in its order": (
        [FIRST, record(1, 2, {"secret": 1}), record(2, 3, {"limit": update(6, 5)})],
        {"limit": 6, "risk": "low"},
        {"applied": 3},
    ),
    "another context type has an order of its own": (
        [FIRST, record(1, 7, {"x": 1}, kind="temporal"), record(2, 2, {"limit": update(6, 5)})],
        {"limit": 6, "risk": "low"},
        {"applied": 2},
    ),
    "an event without a sequence follows the last": (
        [FIRST, record(1, None, {"limit": update(6, 5)}), record(2, 3, {"limit": update(7, 6)})],
        {"limit": 7, "risk": "low"},
        {"applied": 3, "unsequenced": 1},
    ),
    "what is no event is counted": (
        [raw_record(0, b"{"), FIRST, raw_record(2, b'{"eventId": "x"}')],
        {"limit": 5, "risk": "low"},
        {"applied": 1, "undecodable": 2},
    ),
    "what cannot be hashed or stored is counted and stops nothing": (
        [
            record(0, 1, {"limit": 10**30}),
            record(1, 1, {"limit": update(5, 2**64)}),
            record(2, 2**60, {"limit": 5}),
            record(3, 1, {"limit": 6}),
        ],
        {"limit": 6},
        {"applied": 1, "undecodable": 3},
    ),
    "a list of true is not the list of one that python holds for equal": (
        [record(0, 1, {"limit": [True]}), record(1, 2, {"limit": update([2], [1])})],
        {"limit": [2]},
        {"applied": 2, "anomalies": 1},
    ),
}
COUNTERS = ("applied", "anomalies", "duplicates", "gaps", "late", "undecodable", "unsequenced")


@pytest.mark.parametrize("is_one_batch", [True, False], ids=["one batch", "one by one"])
@pytest.mark.parametrize("records, facts, counts", TIMELINES.values(), ids=TIMELINES)
def test_after_this_timeline_the_replica_holds_and_says(
    records: list[Record], facts: dict[str, Any], counts: dict[str, int], is_one_batch: bool
) -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    if is_one_batch:
        replica.apply(0, records, len(records))
        note = newest(replica)
    else:
        note = applied_one_by_one(replica, records)

    assert replica.get("user:1", "financial") == facts
    assert {name: getattr(note, name) for name in COUNTERS if getattr(note, name)} == counts
    assert (note.position, note.facts) == (len(records), len(facts))
    assert_digest_is_that_of_storage(replica, storage)
    assert explained(replica, scrub=True).note.anomalies == note.anomalies


def test_a_missing_sequence_beyond_the_bound_comes_as_a_duplicate() -> None:
    far = MAXIMUM_MISSING + 10
    replica = replica_of()
    replica.apply(0, [record(0, far, {"limit": 1})], 1)
    replica.apply(0, [record(1, far - MAXIMUM_MISSING, {"risk": "a"})], 2)
    replica.apply(0, [record(2, far - MAXIMUM_MISSING - 1, {"risk": "b"})], 3)
    note = newest(replica)

    assert (note.late, note.duplicates, note.gaps) == (1, 1, far - 2)
    assert replica.get("user:1", "financial") == {"limit": 1, "risk": "a"}


def test_an_empty_list_of_fields_stands_for_every_field() -> None:
    replica = replica_of()
    replica.apply(0, [record(0, 1, {"country": "France", "city": "Ulm"}, kind="geographic")], 1)

    assert replica.get("user:1", "geographic") == {"country": "France", "city": "Ulm"}
    assert newest(replica).facts == 2


def test_the_session_is_the_subject_only_where_no_user_is_known() -> None:
    replica = replica_of()
    replica.apply(
        0,
        [
            record(0, 1, {"limit": 1}, session="s"),
            record(1, 1, {"limit": 2}, user=None, session="s"),
        ],
        2,
    )

    assert replica.get("user:1", "financial") == {"limit": 1}
    assert replica.get("session:s", "financial") == {"limit": 2}
    assert replica.get("session:x", "financial") == {}


def test_the_journal_says_what_was_applied_where_and_after_what() -> None:
    replica = replica_of()
    records = [FIRST, record(1, 3, {"limit": 7}), FIRST, record(3, 2, {"limit": 6})]
    replica.apply(0, records[:2], 2)
    replica.apply(0, records[2:], 4)
    entries = [
        Entry(0, event_hash(event_id(0)), 1, 0),
        Entry(1, event_hash(event_id(1)), 3, 1),
        Entry(3, event_hash(event_id(3)), 2, 3),
    ]

    assert explained(replica).entries == entries
    assert explained(replica, since=2).entries == entries[2:]
    total = [HASHER.applied(e.offset, event_id(e.offset), e.prior) for e in entries]
    audit = lanes_hex((sum(t[0] for t in total), sum(t[1] for t in total)))
    assert newest(replica).audit == audit


def test_the_journal_tells_order_apart_where_the_state_cannot() -> None:
    one, two = record(0, 1, {"limit": 1}), record(1, 2, {"risk": "a"})
    there, back = replica_of(), replica_of()
    there.apply(0, [one, two], 2)
    back.apply(0, [two, one], 2)

    assert newest(there).state == newest(back).state
    assert newest(there).audit != newest(back).audit


# -- deviations of the storage --------------------------------------------------------------------


def test_a_corrupted_value_is_evidence_when_the_next_event_meets_it() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    overwrite(storage, limit=55, risk="corrupt")
    replica.apply(0, [record(1, 2, {"limit": update(6, 5)})], 2)
    answer = explained(replica)

    [mismatch] = answer.mismatches
    assert (mismatch.offset, mismatch.field, mismatch.sequence, mismatch.prior) == (
        1,
        "limit",
        2,
        1,
    )
    assert (mismatch.expected, mismatch.stored) == (hash_of("limit", 5), hash_of("limit", 55))
    # The bucket was summed again, so the other field's corruption shows in the digest as well.
    assert answer.table == rebuilt(storage).table()
    assert answer.note.anomalies == 2
    assert explained(replica, scrub=True).note.anomalies == 2


def test_a_gap_sums_its_bucket_again_and_so_finds_what_else_is_wrong_there() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    overwrite(storage, risk="rotten")
    replica.apply(0, [record(1, 3, {"limit": update(6, 5)})], 2)

    assert explained(replica).mismatches == []
    assert newest(replica).anomalies == 1
    assert_digest_is_that_of_storage(replica, storage)


def test_a_marker_in_the_same_batch_is_noted_with_the_bucket_summed_again() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    overwrite(storage, limit=55, risk="rotten")
    replica.apply(0, [record(1, 2, {"limit": update(6, 5)})], 5)
    marker, end = replica.report(0.0, [0]).notes
    root = rebuilt(storage).root()

    assert marker.marker and marker.position == 4
    assert marker.state == end.state == lanes_hex((root.lane0, root.lane1))
    assert marker.anomalies == end.anomalies == 2


def test_without_an_event_only_a_scrub_finds_a_corrupted_value() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST, record(1, 1, {"limit": 3}, user="2")], 2)
    overwrite(storage, risk="rotten")

    assert explained(replica).table != rebuilt(storage).table()
    bucket = Digest(4).bucket(*KEY)
    assert replica.scrub(0, [b for b in range(16) if b != bucket]) == 0
    assert explained(replica).note.anomalies == 0
    answer = explained(replica, scrub=True)
    assert (answer.scrubbed, answer.note.anomalies) == (True, 1)
    assert answer.table == rebuilt(storage).table()
    assert replica.scrub(0, range(16)) == 0
    assert replica_of(storage).scrub(0, range(16)) == 0  # It was stored, not only remembered.


def test_a_stale_restore_of_an_aggregate_shows_as_gap_and_mismatch() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    old = storage.get(KEY)
    assert old is not None
    replica.apply(0, [record(n, n + 1, {"limit": update(5 + n, 4 + n)}) for n in (1, 2, 3)], 4)
    storage.commit({KEY: old.copy()}, 0, None)
    replica.apply(0, [record(4, 5, {"limit": update(9, 8)})], 5)
    answer = explained(replica)

    assert answer.entries[-1] == Entry(4, event_hash(event_id(4)), 5, 1)
    assert [(m.expected, m.stored) for m in answer.mismatches] == [
        (hash_of("limit", 8), hash_of("limit", 5))
    ]
    assert (answer.note.gaps, answer.note.anomalies) == (3, 2)
    assert_digest_is_that_of_storage(replica, storage)


class Unreadable(MemoryStorage):
    """Cannot read one aggregate any more."""

    lost: AggregateKey | None = None

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        return None if key == self.lost else super().get(key)

    def scan(self, partition: int, bucket: int, bits: int) -> Any:
        for held in super().scan(partition, bucket, bits):
            if (held.context_type, held.subject) != self.lost:
                yield held


def test_an_aggregate_that_cannot_be_read_is_out_of_the_digest_after_the_next_event() -> None:
    storage = Unreadable()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    storage.lost = KEY
    replica.apply(0, [record(1, 2, {"limit": update(6, 5)})], 2)
    storage.lost = None

    assert replica.get("user:1", "financial") == {"limit": 6}
    assert newest(replica).gaps == 1
    assert_digest_is_that_of_storage(replica, storage)


# -- all or nothing -------------------------------------------------------------------------------


class Failing(MemoryStorage):
    """Refuses to commit when told to."""

    fails = False

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        if self.fails:
            raise StorageError("disk full; make room")
        super().commit(records, partition, state, chunk, journal_floor)


def test_a_commit_that_fails_changes_nothing_and_can_be_tried_again() -> None:
    storage = Failing()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    before = (encode_message(explained(replica)), newest(replica), replica.position(0))
    more = [record(n, n + 1, {"limit": update(5 + n, 4 + n)}) for n in range(1, 9)]
    storage.fails = True
    with pytest.raises(StorageError):
        replica.apply(0, more, 9)

    assert before == (encode_message(explained(replica)), newest(replica), replica.position(0))
    storage.fails = False
    replica.apply(0, more, 9)
    straight = replica_of()
    straight.apply(0, [FIRST, *more], 9)
    assert replica.report(0.0, [0]) == straight.report(0.0, [0])


def test_a_restart_on_the_same_storage_goes_on_where_it_stood() -> None:
    storage = MemoryStorage()
    first = replica_of(storage)
    first.apply(0, [FIRST, record(1, 3, {"limit": 7})], 2)
    told = newest(first)
    second = replica_of(storage, incarnation="another")

    assert (second.incarnation, newest(second)) == (first.incarnation, told)
    rest = [record(2, 2, {"limit": 6, "risk": "mid"}), record(3, 4, {"limit": update(8, 7)})]
    second.apply(0, rest, 4)
    first_time = replica_of()
    first_time.apply(0, [FIRST, record(1, 3, {"limit": 7}), *rest], 4)
    assert second.report(0.0, [0]) == first_time.report(0.0, [0])
    assert explained(second) == explained(first_time)


@pytest.mark.parametrize(
    "other",
    [
        {"view": View("scorer", {"financial": frozenset({"limit"})})},
        {"view": View("other", VIEW.fields)},
        {"bits": 5},
        {"hasher": Hasher("blake2b-128", b"k" * 16)},
    ],
    ids=["fields", "model", "bits", "hash"],
)
def test_another_view_or_digest_begins_a_new_life(other: dict[str, Any]) -> None:
    storage = MemoryStorage()
    first = replica_of(storage, incarnation="one")
    first.apply(0, [FIRST], 1)
    second = replica_of(storage, incarnation="two", **other)

    assert second.incarnation != first.incarnation
    assert (second.position(0), second.get("user:1", "financial")) == (0, {})
    assert newest(second).facts == 0


def test_another_key_begins_a_new_life() -> None:
    storage = MemoryStorage()
    first = replica_of(storage, incarnation="one", hasher=Hasher("blake2b-128", b"k" * 16))
    first.apply(0, [FIRST], 1)
    second = replica_of(storage, incarnation="two", hasher=Hasher("blake2b-128", b"l" * 16))

    assert second.incarnation != first.incarnation
    assert second.position(0) == 0


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 21}, {"marker_interval": 0}], ids=str)
def test_a_wrong_setting_is_refused_before_anything_is_lost(wrong: dict[str, int]) -> None:
    storage = MemoryStorage()
    first = replica_of(storage)
    first.apply(0, [FIRST], 1)
    with pytest.raises(ConfigurationError):
        replica_of(storage, **wrong)

    assert (storage.incarnation(), storage.get(KEY) is None) == (first.incarnation, False)


def test_a_state_that_cannot_be_read_says_what_to_do() -> None:
    storage = MemoryStorage()
    replica_of(storage).apply(0, [FIRST], 1)
    storage.commit({}, 0, b"\xc1 rotten")

    with pytest.raises(StorageError, match="empty the replica's storage"):
        replica_of(storage).position(0)


def test_a_model_may_change_what_it_was_given() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [record(0, 1, {"limit": [1, {"a": [2]}]})], 1)
    given_out = replica.get("user:1", "financial")
    given_out["limit"][1]["a"].append("mine")

    assert replica.get("user:1", "financial") == {"limit": [1, {"a": [2]}]}
    assert replica.scrub(0, range(16)) == 0


# -- positions and markers ------------------------------------------------------------------------


def test_a_position_moves_without_records_and_never_back() -> None:
    replica = replica_of()
    replica.apply(0, [], 3)
    replica.apply(0, [], 2)
    assert replica.position(0) == 3
    replica.apply(0, [record(5, 1, {"limit": 1})], 1)
    assert replica.position(0) == 6
    assert [(n.position, n.marker) for n in replica.report(0.0, [0]).notes] == [
        (4, True),
        (6, False),
    ]


def test_partitions_have_positions_and_digests_of_their_own() -> None:
    storage = MemoryStorage()
    replica = replica_of(storage)
    replica.apply(0, [FIRST], 1)
    replica.apply(3, [record(0, 1, {"limit": 2}, user="2")], 9)
    notes = replica.report(0.0, [0, 3]).notes

    assert [(n.partition, n.position, n.facts) for n in notes if not n.marker] == [
        (0, 1, 2),
        (3, 9, 1),
    ]
    answer = replica.explain(Request("r", replica.name, 3, 0, list(range(16))))
    assert answer.table == rebuilt(storage, 3).table()
    assert [a.subject for a in answer.aggregates] == ["user:2"]


def test_a_marker_is_noted_once_and_reported_once() -> None:
    replica = replica_of()
    replica.apply(0, [record(n, n + 1, {"limit": n}) for n in range(4)], 4)
    replica.apply(0, [], 4)
    first, second = replica.report(0.0, [0]), replica.report(1.0, [0])

    assert [(n.position, n.marker) for n in first.notes] == [(4, True), (4, False)]
    assert [(n.position, n.marker) for n in second.notes] == [(4, False)]


def test_a_log_that_begins_far_from_zero_leaves_only_its_last_markers() -> None:
    replica = replica_of(marker_interval=2)
    replica.apply(0, [record(10**15 + 1, 1, {"limit": 1})], 10**15 + 2)
    notes = replica.report(0.0, [0]).notes

    assert len(notes) == MAXIMUM_PENDING_NOTES + 1
    assert [n.position for n in notes[-3:]] == [10**15, 10**15 + 2, 10**15 + 2]
    assert [n.facts for n in notes[-3:]] == [0, 1, 1]


def test_the_bound_on_markers_drops_the_oldest() -> None:
    replica = replica_of(marker_interval=1)
    records = [record(n, n + 1, {"limit": n + 1}) for n in range(MAXIMUM_PENDING_NOTES + 6)]
    for item in records:
        replica.apply(0, [item], item.offset + 1)
    marks = [n.position for n in replica.report(0.0, [0]).notes if n.marker]

    assert marks == list(range(7, MAXIMUM_PENDING_NOTES + 7))


# -- any history ----------------------------------------------------------------------------------

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


# -- messages -------------------------------------------------------------------------------------


@ANY_SPEED
@given(histories())
def test_what_a_replica_says_goes_through_json_unchanged(records: list[Record]) -> None:
    replica = replica_of()
    replica.apply(0, records, 10**4)
    for message in (explained(replica), replica.report(1.5, [0]), Request("r", "n", 0, 5, [1])):
        assert decode_message(encode_message(message)) == message


def test_values_are_shown_only_of_fields_that_are_public() -> None:
    view = View("scorer", VIEW.fields, public={"financial": frozenset({"limit"})})
    replica = replica_of(view=view)
    replica.apply(0, [FIRST], 1)
    [shown] = explained(replica).aggregates

    assert [(f.field, f.value, f.hash) for f in shown.facts] == [
        ("limit", 5, hash_of("limit", 5)),
        ("risk", None, hash_of("risk", "low")),
    ]


@pytest.mark.parametrize(
    "old, new",
    [
        (b'"type":"report"', b'"type":"other"'),
        (b'"format":1', b'"format":2'),
        (b'"position":1', b'"position":-1'),
        (b'"partition":0', b'"partition":-1'),
        (b'"state":"', b'"state":"00'),
        (b'"audit":"', b'"audit":" '),
        (b'"notes":[', b'"notes":[7,'),
        (b"{", b"{{"),
    ],
)
def test_what_is_no_message_of_this_format_is_none(old: bytes, new: bytes) -> None:
    replica = replica_of()
    replica.apply(0, [FIRST], 1)
    data = encode_message(replica.report(0.0, [0]))

    assert old in data and decode_message(data) is not None
    assert decode_message(data.replace(old, new, 1)) is None


def test_what_is_stored_when_a_step_stops_right_after_its_commit_is_not_applied_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [record(n, n + 1, {"limit": n + 1}) for n in range(8)]
    whole, torn = replica_of(MemoryStorage()), replica_of(MemoryStorage())
    whole.apply(0, records, 8)
    torn.apply(0, records[:4], 4)

    def stop(self: Partition) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Partition, "settle", stop)
        with pytest.raises(MemoryError):
            torn.apply(0, records[4:], 8)
    assert torn.position(0) == 8
    torn.apply(0, records[4:], 8)
    one, other = newest(torn), newest(whole)
    assert one.duplicates == 4
    assert (one.state, one.audit, one.applied) == (other.state, other.audit, other.applied)
