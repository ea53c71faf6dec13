"""What happened to one aggregate of one replica: the cause, from what it applied and what it holds.

The idea: play the journal (what the replica says it applied, in its order) on the state it is
known to have had, by the published rules of a replica. Whatever the journal alone predicts - a
value that is old because an event was missed, a ``previous`` that did not match - has its cause in
the journal. What it does not predict was done to the storage behind the replica's back. Values are
known by their fact hashes only; nothing here reads a clock, a log or a store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from msgspec import Struct

from synchroscope.ports import AggregateKey
from synchroscope.report import Entry, Mismatch, Repaired, StoredAggregate

FactHash = str | None
_ABSENT: tuple[FactHash, int] = (None, 0)

# What is judged holds no cycles: the collector need not look at it (``gc=False``).


class Version(Struct, frozen=True, gc=False):
    """One event of the aggregate, as one view sees it.

    ``fields`` and ``previous``: field -> fact hash, None where the view has no fact. ``offset`` is
    known for events of the interval that is judged.
    """

    sequence: int
    event_id: str
    mark: int
    correlation_id: str | None
    offset: int | None
    fields: Mapping[str, FactHash]
    previous: Mapping[str, FactHash]


class Actual(Struct, array_like=True, gc=False):
    """An aggregate as a replica holds it: field -> (fact hash, sequence that wrote it)."""

    sequence: int
    fields: dict[str, tuple[FactHash, int]]

    def copy(self) -> Actual:
        """Return an independent copy."""
        return Actual(self.sequence, dict(self.fields))

    def facts(self) -> dict[str, str]:
        """Return field -> hash of the present facts."""
        return {name: mark for name, (mark, _) in self.fields.items() if mark is not None}


class Fault(Struct, frozen=True, gc=False):
    """Something done to the stored facts themselves."""

    kind: str
    offset: int
    fields: dict[str, tuple[FactHash, FactHash]]
    """Field -> (what it had to be, what was read)."""
    wrote: int
    """Sequence of the oldest event that wrote, on this replica, what these fields had to be; 0:
    none did."""


class Case(Struct, frozen=True, gc=False):
    """All that is known of one aggregate.

    Parameters
    ----------
    versions: Every event of the aggregate up to the answer's position, in order.
    before: How many of them lie before the interval that is judged.
    entries: What the replica applied of it in the interval, in its order; None: not known.
    mismatches: (offset, field) -> what storage returned instead of the event's ``previous``.
    shown: Whether the stored aggregate was shown; ``stored`` is None then if there is none.
    repairs: The repairs of the aggregate in the interval, each with how many of `entries` had been
        applied before it.
    known, known_before: How the replica held it after that many of the versions, where that was
        already known to be wrong; between there and `before` it applied everything as it must.
    position: The answer's position.
    """

    key: AggregateKey
    versions: Sequence[Version]
    before: int
    entries: Sequence[Entry] | None
    mismatches: Mapping[tuple[int, str], Mismatch]
    shown: bool
    stored: StoredAggregate | None
    known: Actual | None
    known_before: int
    position: int
    repairs: Sequence[tuple[int, Repaired]] = ()


class Judgement(Struct, frozen=True, gc=False):
    """What happened to the aggregate."""

    key: AggregateKey
    missed: list[Version]
    doubled: list[Version]
    foreign: list[Entry]
    late: list[Version]
    faults: list[Fault]
    expected: Actual
    actual: Actual
    unexplained: dict[str, tuple[FactHash, FactHash]]

    @property
    def has_other_facts(self) -> bool:
        """Whether the facts that the replica holds are not those that it must hold."""
        actual, expected = self.actual.fields, self.expected.fields
        return actual != expected and any(
            actual.get(name, _ABSENT)[0] != expected.get(name, _ABSENT)[0]
            for name in {**actual, **expected}
        )

    @property
    def deviates(self) -> bool:
        """Whether the replica does not hold now what it must."""
        return self.actual.sequence != self.expected.sequence or self.has_other_facts


def state_after(versions: Sequence[Version]) -> Actual:
    """Return what a correct replica holds after these events."""
    state = Actual(0, {})
    for version in versions:
        state.sequence = version.sequence
        for name, mark in version.fields.items():
            state.fields[name] = (mark, version.sequence)
    return state


def judge(case: Case) -> Judgement:
    """Decide what happened; pure."""
    expected = state_after(case.versions)
    is_new = case.known is None and case.before == len(case.versions)
    start = expected.copy() if is_new else _start(case)
    if case.entries is None:
        return _judge_without_journal(case, expected)
    by_mark = {version.mark: version for version in case.versions}
    entered = {entry.event for entry in case.entries}
    interval = case.versions[case.before :]
    missed = [v for v in interval if v.mark not in entered]
    never = {version.mark for version in missed}
    doubled: dict[int, Version] = {}
    applied: set[int] = set()
    foreign = [entry for entry in case.entries if entry.event not in by_mark]
    late: list[Version] = []
    faults: list[Fault] = []
    actual = start
    repairs = deque(case.repairs)
    for index, entry in enumerate(case.entries):
        while repairs and repairs[0][0] <= index:
            actual = _mend(case, repairs.popleft()[1], actual, faults)
        version = by_mark.get(entry.event)
        if version is None:
            actual.sequence = max(actual.sequence, entry.sequence)
            continue
        if entry.prior != actual.sequence:
            if entry.prior < actual.sequence:
                applied.clear()  # What storage lost is rightly applied when it comes again.
            actual = _shifted(case, entry.prior, entry.offset, actual, faults)
        fault = _play(case, version, entry, actual, never)
        if fault is not None and not any(f.offset < entry.offset for f in foreign):
            faults.append(fault)
        if version.mark in applied:
            doubled[version.mark] = version
        applied.add(version.mark)
        if entry.sequence <= entry.prior:
            late.append(version)
    for _, repaired in repairs:
        actual = _mend(case, repaired, actual, faults)
    if case.shown:
        seen = _stored(case.stored)
        odd = _differences(actual, seen)
        if odd and not foreign:  # What a foreign event wrote is its own doing.
            kind = _storage_kind(case, odd, actual.sequence, never)
            faults.append(Fault(kind, case.position, odd, _wrote(actual, odd)))
        actual = seen
    unexplained = {}
    if not (missed or doubled or foreign or late or faults or case.known):
        unexplained = _differences(expected, actual)
    return Judgement(
        case.key,
        missed,
        list(doubled.values()),
        foreign,
        late,
        faults,
        expected,
        actual,
        unexplained,
    )


def _shifted(case: Case, prior: int, offset: int, before: Actual, faults: list[Fault]) -> Actual:
    """Return what storage held where it had another sequence than predicted; note the fault."""
    actual = state_after([version for version in case.versions if version.sequence <= prior])
    actual.sequence = prior
    odd = _differences(before, actual)
    kind = "stale" if prior < before.sequence else "foreign"
    faults.append(Fault(kind, offset, odd, _wrote(before, odd)))
    return actual


def _mend(case: Case, repaired: Repaired, actual: Actual, faults: list[Fault]) -> Actual:
    """Return how a repair left the aggregate; it was seen before, so it hides nothing."""
    if repaired.prior != actual.sequence:
        _shifted(case, repaired.prior, repaired.position, actual, faults)
    return _stored(repaired.aggregate)


def _start(case: Case) -> Actual:
    if case.known is None:
        return state_after(case.versions[: case.before])
    start = case.known.copy()
    for version in case.versions[case.known_before : case.before]:
        start.sequence = max(start.sequence, version.sequence)
        for name, mark in version.fields.items():
            start.fields[name] = (mark, version.sequence)
    return start


def _play(
    case: Case, version: Version, entry: Entry, actual: Actual, missed: set[int]
) -> Fault | None:
    """Apply one event as a replica does; return what its storage returned beyond prediction."""
    odd: dict[str, tuple[FactHash, FactHash]] = {}
    writers: list[int] = []
    is_late = entry.sequence <= entry.prior
    for name, mark in version.fields.items():
        held, wrote = actual.fields.get(name, (None, 0))
        if is_late and wrote > entry.sequence:
            continue
        mismatch = case.mismatches.get((entry.offset, name))
        if mismatch is not None and mismatch.prior == entry.prior and mismatch.stored != held:
            odd[name] = (held, mismatch.stored)
            writers.append(wrote)
        actual.fields[name] = (mark, entry.sequence)
    actual.sequence = max(actual.sequence, entry.sequence)
    if not odd:
        return None
    kind = _storage_kind(case, odd, entry.prior, missed)
    return Fault(kind, entry.offset, odd, min(writers))


def _wrote(held: Actual, odd: Mapping[str, tuple[FactHash, FactHash]]) -> int:
    return min((held.fields.get(name, (None, 0))[1] for name in odd), default=0)


def _judge_without_journal(case: Case, expected: Actual) -> Judgement:
    """The replica no longer knows what it applied: say what differs, and not why."""
    actual = expected
    unexplained: dict[str, tuple[FactHash, FactHash]] = {}
    if case.shown:
        actual = _stored(case.stored)
        unexplained = {} if case.known else _differences(expected, actual)
    return Judgement(case.key, [], [], [], [], [], expected, actual, unexplained)


def _stored(stored: StoredAggregate | None) -> Actual:
    if stored is None:
        return Actual(0, {})
    return Actual(stored.sequence, {f.field: (f.hash, f.sequence) for f in stored.facts})


def _differences(must: Actual, seen: Actual) -> dict[str, tuple[FactHash, FactHash]]:
    if must.fields == seen.fields:
        return {}
    odd = {}
    for name in sorted({**must.fields, **seen.fields}):
        pair = must.fields.get(name, _ABSENT)[0], seen.fields.get(name, _ABSENT)[0]
        if pair[0] != pair[1]:
            odd[name] = pair
    return odd


def _storage_kind(
    case: Case, odd: Mapping[str, tuple[FactHash, FactHash]], sequence: int, missed: set[int]
) -> str:
    """Stale when every odd value is one that the field had before; else corrupted.

    The replica had what was written up to that sequence, but for what it missed.
    """
    had = [v for v in case.versions if v.sequence <= sequence and v.mark not in missed]
    for name, (_, seen) in odd.items():
        earlier = {v.fields[name] for v in had if name in v.fields}
        first = case.versions[0].fields if case.versions else {}
        if seen is None and name not in first:
            continue
        if seen not in earlier or (seen is None and None not in earlier):
            return "corrupted"
    return "stale"
