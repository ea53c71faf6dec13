"""Whether a message can be believed at all: numbers in range, and no tale against itself.

A replica may be written in any language and may be wrong in any way. What is refused here is
treated as if it had not come, so its verdict stays UNKNOWN; it must never stop the validator.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from synchroscope.digest import Digest, aggregate_hash, lanes_from_hex, lanes_hex, sum_lanes
from synchroscope.ports import EVENTS, Log
from synchroscope.report import Explanation, Note, Report

HIGHEST = 2**63 - 1
HIGHEST_HASH = 2**64 - 1


class Heads:
    """How far a log reaches, asked again only where that is not known to be far enough.

    Parameters
    ----------
    log: The log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.count = log.partitions(EVENTS)
        self._known: dict[int, int] = {}

    def reach(self, partition: int, position: int) -> bool:
        """Say whether the log has come to that position."""
        if position > self._known.get(partition, -1):
            self._known[partition] = self._log.head(EVENTS, partition)
        return position <= self._known[partition]


def flaw_of_report(report: Report, heads: Heads) -> str:
    """Return what is impossible in a report of a log with these heads; empty when nothing is."""
    return next((flaw for note in report.notes if (flaw := flaw_of_note(note, heads))), "")


def flaw_of_note(note: Note, heads: Heads) -> str:
    """Return what is impossible in a note; empty when nothing is."""
    if not 0 <= note.partition < heads.count:
        return f"partition {note.partition} of {heads.count}"
    if note.position < 0 or not heads.reach(note.partition, note.position):
        return (
            f"position {note.position} lies beyond the log's head: if the topic was lost and made "
            "anew, start the replica on an empty storage"
        )
    counters = (
        note.facts,
        note.applied,
        note.anomalies,
        note.duplicates,
        note.gaps,
        note.late,
        note.undecodable,
        note.unsequenced,
        note.repaired,
    )
    return "" if _are_numbers(counters) else "a counter is negative or needs over 63 bits"


def flaw_of_explanation(answer: Explanation, heads: Heads, bits: int) -> str:
    """Return why an answer cannot be believed; empty when it can.

    The table has to sum to the note, and after a scrub the facts that are shown to the table.
    """
    flaw = flaw_of_note(answer.note, heads)
    if flaw:
        return flaw
    position = answer.note.position
    if not 0 <= answer.journal_from <= position:
        return "the journal begins beyond the position"
    for entry in answer.entries:
        if not (0 <= entry.offset < position and 0 <= entry.event <= HIGHEST_HASH):
            return "an entry lies beyond the position"
        if not _are_numbers((entry.sequence, entry.prior)):
            return "a sequence is negative or needs over 63 bits"
    for mismatch in answer.mismatches:
        numbers = (mismatch.sequence, mismatch.prior)
        if not (0 <= mismatch.offset < position and _are_numbers(numbers)):
            return "a mismatch is out of range"
    for repaired in answer.repairs:
        if not (
            0 < repaired.serial <= answer.note.repaired
            and 0 <= repaired.applied <= answer.note.applied
            and 0 <= repaired.position <= position
            and _are_numbers((repaired.prior,))
        ):
            return "a repair is out of range"
    repaired_aggregates = [repaired.aggregate for repaired in answer.repairs]
    for aggregate in [*answer.aggregates, *repaired_aggregates]:
        if not _are_numbers((aggregate.sequence, *(fact.sequence for fact in aggregate.facts))):
            return "a sequence is negative or needs over 63 bits"
    try:
        msgspec.msgpack.encode(answer)
    except (OverflowError, RecursionError, UnicodeEncodeError, ValueError):
        return "a value cannot be stored"
    if len(answer.table) != 24 << bits:
        return f"the table has {len(answer.table)} bytes, not {24 << bits}"
    digest = Digest.from_table(answer.table)
    root = digest.root()
    if (lanes_hex((root.lane0, root.lane1)), root.facts) != (answer.note.state, answer.note.facts):
        return "the table does not sum to the digest"
    if answer.scrubbed and not _shows_its_digest(answer, digest):
        return "the facts that are shown do not sum to the scrubbed digest"
    return ""


def _are_numbers(numbers: Iterable[int]) -> bool:
    return all(0 <= number <= HIGHEST for number in numbers)


def _shows_its_digest(answer: Explanation, digest: Digest) -> bool:
    shown: dict[int, list[str]] = {bucket: [] for bucket in answer.buckets}
    for aggregate in answer.aggregates:
        bucket = aggregate_hash(aggregate.context_type, aggregate.subject) >> (64 - digest.bits)
        if bucket in shown:
            shown[bucket] += [fact.hash for fact in aggregate.facts if fact.hash is not None]
    return all(
        not 0 <= bucket < len(digest.counts)
        or (sum_lanes(map(lanes_from_hex, facts)), len(facts))
        == (digest.sum_of(bucket), digest.counts[bucket])
        for bucket, facts in shown.items()
    )
