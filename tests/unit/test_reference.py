"""The reference against a naive fold that keeps every key, at every position."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchroscope.digest import Digest, Hasher, Lanes
from synchroscope.ports import EVENTS, NewRecord
from synchroscope.view import View
from tests.builders import event
from tests.validation_world import World
from validator import reference as module
from validator.folds import Fold
from validator.reference import Reference

VIEWS = (
    View("scorer", {"financial": frozenset({"limit", "risk"}), "geographic": frozenset()}),
    View("other", {"financial": frozenset()}),
)
HASHER = Hasher()
BITS = 4


def reference(world: World, *, interval: int = 4) -> Reference:
    return Reference(world.log, VIEWS, bits=BITS, marker_interval=interval)


def folded(world: World, position: int, *, step: int = 100) -> Reference:
    """Return a new reference that stands at the position."""
    made = reference(world)
    while made.position(0) < position:
        made.advance(0, min(step, position - made.position(0)))
    return made


def shape(fold: Fold) -> tuple[object, ...]:
    views = {m: (v.digest.table(), v.audit, v.applied) for m, v in fold.views.items()}
    return fold.position, fold.store_position, fold.unproven, views


def naive(world: World, view: View, position: int) -> tuple[bytes, Lanes, int]:
    """Fold the store's events as a dictionary of facts, which the reference never has."""
    facts: dict[tuple[str, str, str], Any] = {}
    audit, applied = [0, 0], 0
    for offset, stored in enumerate(world.store.read(0, position)):
        happened = stored.event
        if happened.context_type not in view.fields:
            continue
        lanes = HASHER.applied(offset, str(happened.event_id), (happened.sequence or 0) - 1)
        audit, applied = [(a + b) % 2**64 for a, b in zip(audit, lanes, strict=True)], applied + 1
        wanted = view.fields[happened.context_type]
        targets = happened.propagation_rules.target_models
        for name, update in happened.context_delta.updates.items():
            if wanted and name not in wanted:
                continue
            facts.pop((happened.context_type, happened.subject, name), None)
            if update.current is not None and (targets is None or view.model in targets):
                facts[happened.context_type, happened.subject, name] = update.current
    digest = Digest(BITS)
    for (kind, subject, name), value in facts.items():
        digest.add(digest.bucket(kind, subject), HASHER.fact(kind, subject, name, value))
    return digest.table(), (audit[0], audit[1]), applied


VALUES = st.sampled_from([None, 0, 1, 1.0, True, "a", [1], [True], {"a": 1}])
WRITES = st.lists(
    st.tuples(
        st.sampled_from("123"),
        st.sampled_from(["financial", "geographic", "temporal"]),
        st.dictionaries(st.sampled_from(["limit", "risk", "extra"]), VALUES, min_size=1),
        st.sampled_from([None, (), ("scorer",), ("other",), ("scorer", "other")]),
        st.sampled_from([None, 1, 3]),
        st.sampled_from([0.0, 2.0]),
    ),
    min_size=1,
    max_size=25,
)


def written(writes: list[Any]) -> World:
    world = World()
    for user, kind, fields, targets, ttl, pause in writes:
        world.now += pause
        world.write(user, kind, targets=targets, ttl=ttl, **fields)
    return world


@given(WRITES, st.integers(1, 9))
def test_at_any_position_the_reference_is_the_naive_fold(writes: list[Any], step: int) -> None:
    world = written(writes)
    head = world.log.head(EVENTS, 0)
    made = reference(world)
    while made.advance(0, step):
        for view in VIEWS:
            total = made.current(0).views[view.model]
            said = total.digest.table(), total.audit, total.applied
            assert said == naive(world, view, made.position(0))
    assert (made.position(0), made.current(0).unproven) == (head, "")


@given(WRITES, st.lists(st.integers(0, 30), max_size=5), st.data())
def test_going_back_is_a_fresh_fold(
    writes: list[Any], wanted: list[int], data: st.DataObject
) -> None:
    world = written(writes)
    for _ in range(data.draw(st.integers(0, 2))):  # Repeats, nonsense and what has no sequence.
        world.rogue(
            data.draw(
                st.sampled_from(
                    [
                        world.log.read(EVENTS, 0, 0, 1).records[0].value,
                        b"nonsense",
                        event(None, {"limit": 1}, number=900),
                    ]
                )
            )
        )
    head = world.log.head(EVENTS, 0)
    made = reference(world, interval=data.draw(st.integers(1, 7)))
    while made.advance(0, data.draw(st.integers(1, 9)), wanted):
        pass
    for position in data.draw(st.permutations(range(head + 1))):
        fold = made.at(0, position)
        assert fold is not None
        assert shape(fold) == shape(folded(world, position).current(0))
    assert made.at(0, head + 1) is None
    assert shape(made.current(0)) == shape(folded(world, head).current(0))


@given(WRITES, st.integers(0, 30))
def test_from_a_checkpoint_the_fold_goes_on_the_same(writes: list[Any], place: int) -> None:
    world = written(writes)
    world.rogue(world.log.read(EVENTS, 0, 0, 1).records[0].value)
    head = world.log.head(EVENTS, 0)
    straight = folded(world, head)
    other = reference(world)
    other.restore(folded(world, min(place, head)).store())
    while other.advance(0, 3):
        pass

    assert shape(other.current(0)) == shape(straight.current(0))
    assert other.repeated == straight.repeated == {0: 1}
    assert other.store() == straight.store()


@pytest.mark.parametrize(
    "views, bits, hasher",
    [
        (VIEWS[:1], BITS, None),
        ((VIEWS[0], View("other", {"financial": frozenset({"limit"})})), BITS, None),
        (VIEWS, BITS + 1, None),
        (VIEWS, BITS, Hasher("blake2b-128", b"k" * 16)),
    ],
    ids=["fewer views", "a view with other fields", "another size", "another hash"],
)
def test_a_checkpoint_of_something_else_is_refused(
    views: tuple[View, ...], bits: int, hasher: Hasher | None
) -> None:
    world = World()
    stored = reference(world).store()

    with pytest.raises(ValueError, match="checkpoint of"):
        Reference(world.log, views, bits=bits, hasher=hasher).restore(stored)


def test_the_stored_fold_does_not_grow_with_the_number_of_keys() -> None:
    sizes = []
    for users in (2_000, 4_000):
        world = World()
        for number in range(users):
            world.write(str(number), limit=number)
        stored = folded(world, users, step=1_000).store()
        part = stored[0]
        assert len(part.recent) == module.REPEAT_WINDOW
        sizes.append(sum(len(table) for table, _, _ in part.views.values()))
    assert sizes[0] == sizes[1] == len(VIEWS) * 24 * 2**BITS


def test_a_repeated_event_is_dropped_within_the_window() -> None:
    world = World()
    world.write("1", limit=5)
    world.write("1", limit=6)
    before = shape(folded(world, 2).current(0))[3]
    for record in world.log.read(EVENTS, 0, 0, 2).records:
        world.rogue(record.value)
    made = folded(world, 4)

    assert made.repeated == {0: 2}
    assert [record.offset for record, _ in made.events(0, 0, 4)] == [0, 1]
    assert shape(made.current(0))[3] == before
    back = made.at(0, 3)
    assert back is not None and shape(back)[3] == before


def test_where_repeats_are_no_longer_known_going_back_is_out_of_reach() -> None:
    world = World()
    world.write("1", limit=5)
    [record] = world.log.read(EVENTS, 0, 0, 1).records
    for _ in range(module.REPEAT_WINDOW + 50):
        world.log.append([NewRecord(EVENTS, 0, b"", record.value)], world.now)
    made = reference(world, interval=1_000_000)
    while made.advance(0, 500):
        pass

    assert made.at(0, 20) is None
    assert made.at(0, made.position(0)) is not None


@pytest.mark.parametrize(
    "value, producer",
    [
        (b"\xff\x00", None),
        (b"{}", None),
        (event(1, {"limit": 2**70}, number=901), "risk-assessment/ra-1"),
    ],
    ids=["bytes", "empty", "too large a number"],
)
def test_a_record_that_is_no_event_is_passed_over_told_once_and_takes_no_proof_away(
    value: Any, producer: str | None
) -> None:
    world = World()
    world.write("1", limit=5)
    world.rogue(value, (("store-position", b"77"),))
    world.write("1", limit=6)
    made = folded(world, 3)
    clean = World()
    clean.write("1", limit=5)
    clean.write("1", limit=6)

    assert made.current(0).unproven == ""
    assert (made.undecodable, made.current(0).store_position) == ({0: 1}, 2)
    assert [shape(made.current(0))[3][v.model][::2] for v in VIEWS] == [
        shape(folded(clean, 2).current(0))[3][v.model][::2] for v in VIEWS
    ]
    assert [record.offset for record, _ in made.events(0, 0, 3)] == [0, 2]
    [refused] = made.drain_refused()
    assert (refused.partition, refused.offset, refused.producer) == (0, 1, producer)
    back = made.at(0, 2)
    assert back is not None and back.unproven == ""
    assert made.drain_refused() == []
    other = reference(world)
    other.restore(made.store())
    assert other.undecodable == {0: 1}


def test_a_checkpoint_that_could_not_pass_over_what_is_no_event_is_folded_anew() -> None:
    world = World()
    stored = folded(world, 0).store()
    stored[0].unproven = "record at 0:1 is no event"
    with pytest.raises(ValueError, match="could not pass over"):
        reference(world).restore(stored)


@pytest.mark.parametrize("written", [2, 4, 6], ids=["shorter", "as long", "longer"])
def test_a_checkpoint_of_a_log_that_was_made_anew_is_refused(written: int) -> None:
    world, anew = World(), World()
    for number in range(3):
        world.write("1", limit=number)
    world.rogue(world.log.read(EVENTS, 0, 2, 1).records[0].value)  # It is not in the new log.
    for number in range(written):
        anew.write("1", limit=number)
    stored = folded(world, 4).store()
    reference(world).restore(stored)
    with pytest.raises(ValueError, match="made anew"):
        reference(anew).restore(stored)


def test_a_record_without_a_sequence_takes_the_proof_away_and_names_its_producer() -> None:
    world = World()
    world.write("1", limit=5)
    world.rogue(event(None, {"limit": 1}, number=900))
    world.write("1", limit=6)
    made = folded(world, 3)
    back = made.at(0, 2)
    reason = "offset 1 of risk-assessment/ra-1 has no sequence"

    assert reason in made.current(0).unproven
    assert back is not None and reason in back.unproven
    before = made.at(0, 1)
    assert before is not None and before.unproven == ""
    other = reference(world)
    other.restore(made.store())
    assert reason in other.current(0).unproven


@pytest.mark.parametrize("header", [b"abc", b"", b"-1", b"9" * 30, b"\xff"])
def test_a_store_position_that_is_no_number_is_passed_over(header: bytes) -> None:
    world = World()
    world.write("1", limit=5)
    world.rogue(event(1, {"limit": 1}, number=7, user="7"), (("store-position", header),))

    assert folded(world, 2).current(0).store_position == 1


@settings(max_examples=20)
@given(st.integers(0, 3), st.integers(4, 8))
def test_a_corrected_bucket_stays_corrected(at: int, end: int) -> None:
    world = World()
    for number in range(8):
        world.write("1", limit=number)
    made = folded(world, end)
    point = made.at(0, at)
    assert point is not None
    bucket = Digest(BITS).bucket("financial", "user:1")
    extra = HASHER.fact("financial", "user:1", "risk", "true all along")
    truth = [extra] if at == 0 else [extra, HASHER.fact("financial", "user:1", "limit", at - 1)]
    before = made.current(0).views["scorer"].digest.copy()
    made.rebase(0, "scorer", bucket, truth, point.copy())
    before.add(bucket, extra)

    assert made.current(0).views["scorer"].digest.table() == before.table()
    other = folded(world, end).current(0).views["other"].digest.table()
    assert made.current(0).views["other"].digest.table() == other
    assert made.at(0, at) is None or at == end
