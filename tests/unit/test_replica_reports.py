"""What a replica reports: positions, markers, messages."""

from __future__ import annotations

import pytest

from synchroscope.applying import MAXIMUM_PENDING_NOTES
from synchroscope.memory_storage import MemoryStorage
from synchroscope.report import Request, decode_message, encode_message
from synchroscope.view import View
from tests.builders import VIEW, rebuilt, record, replica_of
from tests.replica_world import FIRST, explained, hash_of


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
