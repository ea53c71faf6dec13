"""From a record that is no event to a finding of the log's own, and what closes it.

Replicas and the reference refuse such records by one rule (`decode_wire`) and apply nothing of
them, so they take no proof away and blame no replica. They are found all the same: whoever wrote
them meant something by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

from synchroscope.ports import Log
from validator.finding import Finding, Position, finding_id, timestamp
from validator.ledger import Ledger
from validator.refused import Refused
from validator.watch import PartitionWatch, ReplicaWatch

MAXIMUM_OPEN = 100
"""Most findings of refused records that are open at once; beyond that they are only counted."""
_REASON = (
    "the record is no event: replicas and the reference pass over it; have its producer go through "
    "the command side, which refuses such input"
)


def open_refused(refused: Iterable[Refused], ledger: Ledger, log: Log, now: float) -> None:
    """Open a finding a record, as long as not too many are open."""
    room = MAXIMUM_OPEN - sum(map(_is_refused, ledger.open_findings()))
    for one in refused:
        if room <= 0:
            return
        ledger.open(_finding(one, now), log)
        room -= 1


def close_refused(ledger: Ledger, watches: Collection[ReplicaWatch], now: float) -> None:
    """Close the findings of records beyond which every expected replica's digest agrees.

    Then all have passed over the record, and none of its content is in any replica.
    """
    found = [finding for finding in ledger.open_findings() if _is_refused(finding)]
    if not found:
        return
    for number in {finding.partition for finding in found}:
        end = min((_agreed(watch.partitions.get(number)) for watch in watches), default=0)
        ledger.resolve(None, number, end, now, partial(_is_before, end))


def _is_refused(finding: Finding) -> bool:
    return finding.replica is None and "undecodable" in finding.evidence


def _is_before(end: int, finding: Finding) -> bool:
    place = finding.first_bad_position
    return _is_refused(finding) and place is not None and place.offset < end


def _agreed(part: PartitionWatch | None) -> int:
    return 0 if part is None else part.agreed_position or 0


def _finding(one: Refused, now: float) -> Finding:
    return Finding(
        id=finding_id("undecodable", one.partition, one.offset),
        state="open",
        kind="log-contradiction",
        replica=None,
        context_type=None,
        subjects=[],
        first_bad_position=Position(one.partition, one.offset),
        since=None,
        detected_at=timestamp(now),
        resolved_at=None,
        evidence={
            "reason": _REASON,
            "undecodable": one.reason,
            "producer": one.producer,
        },
        partition=one.partition,
    )
