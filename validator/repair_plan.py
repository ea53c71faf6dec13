"""Whether a finding can be repaired, and what a repair has to say. Pure but for the history."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from synchroscope.digest import Hasher, aggregate_hash, lanes_hex
from synchroscope.ports import AggregateKey
from synchroscope.report import (
    AggregateRepair,
    Explanation,
    RepairedField,
    StoredAggregate,
    StoredFact,
)
from synchroscope.sketch import BELOW_BUCKET_BITS, number_of
from synchroscope.view import View
from validator.authority import Truth, truth_of
from validator.finding import Finding
from validator.histories import History, PartitionOf

BULK = "bulk"
REPAIRABLE = frozenset(
    {
        "missed",
        "doubled",
        "reordered",
        "stale",
        "corrupted",
        "foreign",
        "unexplained",
        "unlocated",
        BULK,
    }
)
LOG_KIND = "log-contradiction"


class Deviation(Struct, frozen=True):
    """An aggregate as a replica was seen to hold it, and what it must be there."""

    key: AggregateKey
    seen: StoredAggregate
    truth: Truth


def refusal(finding: Finding, *, force: bool) -> str:
    """Return why a finding is not to be repaired; empty when it can be tried."""
    if finding.state == "resolved":
        return f"finding {finding.id} is resolved: there is nothing to repair"
    if finding.replica is None or finding.kind not in REPAIRABLE:
        return (
            f"finding {finding.id} ({finding.kind}) is not of what a replica holds: what stands in "
            "the log, or comes from a producer, is put right there"
        )
    if finding.kind == BULK and not force:
        return (
            f"finding {finding.id} concerns so much of {finding.replica} that a rebuild is "
            "cheaper: start it on an empty storage, or add --force to repair it all the same"
        )
    return ""


def lack_of_authority(
    keys: Iterable[AggregateKey], model: str, bits: int, open_findings: Iterable[Finding]
) -> str:
    """Return which contradiction takes the history's authority over these keys, or nothing."""
    buckets = {bucket_of(key, bits) for key in keys}
    for finding in open_findings:
        evidence = finding.evidence
        if finding.kind != LOG_KIND or evidence.get("model") != model:
            continue
        if evidence.get("corrected_bucket") in buckets:
            return (
                f"the log contradicts the event store here ({finding.id}): there is no authority "
                "on what these keys must be; mend the log, then rebuild the replica"
            )
    return ""


def bucket_of(key: AggregateKey, bits: int) -> int:
    """Return an aggregate's bucket."""
    return aggregate_hash(*key) >> (64 - bits)


def candidates(
    finding: Finding,
    answer: Explanation,
    view: View,
    history: History,
    partition_of: PartitionOf,
    bits: int,
    differing: Collection[int],
    numbers: Collection[int] = (),
) -> list[AggregateKey]:
    """Return the keys that a finding may mean, as far as the answer shows them.

    It shows whole buckets, and aggregates of these `numbers`. A finding without keys means whatever
    deviates in the buckets that differ.
    """
    shown = set(answer.buckets)
    if finding.keys:
        return [
            key
            for key in finding.keys
            if bucket_of(key, bits) in shown or number_of(aggregate_hash(*key), bits) in numbers
        ]
    found: dict[AggregateKey, None] = {}
    differ = set(differing)
    singles = [number for number in numbers if number >> BELOW_BUCKET_BITS in differ]
    places = history.aggregates_in(sorted(shown & differ), bits)
    places += history.aggregates_in(singles, bits + BELOW_BUCKET_BITS)
    for key in sorted(places):
        if key[0] in view.fields and partition_of(*key) == finding.partition:
            found[key] = None
    for stored in answer.aggregates:
        if bucket_of((stored.context_type, stored.subject), bits) in differ:
            found[stored.context_type, stored.subject] = None
    return list(found)


def deviations(
    keys: Sequence[AggregateKey],
    answer: Explanation,
    view: View,
    history: History,
    store_position: int,
    hasher: Hasher,
) -> list[Deviation]:
    """Return those of the keys that the answer does not show as they must be at its position."""
    shown = {(one.context_type, one.subject): one for one in answer.aggregates}
    found = []
    for key in dict.fromkeys(keys):
        truth = truth_of(view, history, key, store_position)
        seen = _hidden(shown.get(key) or StoredAggregate(*key, 0, []))
        held = {fact.field: (fact.hash, fact.sequence) for fact in seen.facts}
        if seen.sequence != truth.sequence or held != hashes_of(key, truth, hasher):
            found.append(Deviation(key, seen, truth))
    return found


def hashes_of(
    key: AggregateKey, truth: Truth, hasher: Hasher
) -> Mapping[str, tuple[str | None, int]]:
    """Return field -> (fact hash, None where there is no fact; sequence that wrote it)."""
    return {
        name: (None if value is None else lanes_hex(hasher.fact(*key, name, value)), sequence)
        for name, (value, sequence) in truth.fields.items()
    }


def aggregate_repair(deviation: Deviation) -> AggregateRepair:
    """Return what the replica is to be told."""
    fields = [
        RepairedField(name, value, sequence)
        for name, (value, sequence) in sorted(deviation.truth.fields.items())
    ]
    kind, subject = deviation.key
    return AggregateRepair(kind, subject, deviation.truth.sequence, fields, deviation.seen)


def _hidden(stored: StoredAggregate) -> StoredAggregate:
    """Return the aggregate without values: hashes are enough to know it again."""
    facts = [StoredFact(fact.field, fact.hash, fact.sequence) for fact in stored.facts]
    return StoredAggregate(stored.context_type, stored.subject, stored.sequence, facts)
