"""Every rule of a replica, as timelines of records and what storage and report say after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from synchroscope.applying import MAXIMUM_MISSING
from synchroscope.digest import event_hash, lanes_hex
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import Record
from synchroscope.replica import Replica
from synchroscope.report import Entry, Note
from tests.builders import event_id, raw_record, record, replica_of, update
from tests.replica_world import (
    COUNTERS,
    FIRST,
    HASHER,
    assert_digest_is_that_of_storage,
    explained,
    newest,
)


def applied_one_by_one(replica: Replica, records: Sequence[Record]) -> Note:
    for item in records:
        replica.apply(0, [item], item.offset + 1)
    return newest(replica)


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
