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
MAXIMUM_AN_HOUR = 100
"""Most findings of refused records that are open at once, and that are opened in an hour; beyond
that records are only counted."""
HOUR_SECONDS = 3_600.0
_REASON = (
    "the record is no event: replicas and the reference pass over it; have its producer go through "
    "the command side, which refuses such input"
)


class RefusedFindings:
    """Opens a finding a refused record, within bounds, and closes what is harmless."""

    def __init__(self, ledger: Ledger, log: Log) -> None:
        self._ledger = ledger
        self._log = log
        self._hour_from = 0.0
        self._told = 0

    def open(self, refused: Iterable[Refused], now: float) -> None:
        """Open a finding a record, as long as not too many are open or were told lately."""
        if not 0 <= now - self._hour_from < HOUR_SECONDS:
            self._hour_from, self._told = now, 0
        for one in refused:
            is_open = sum(map(_is_refused, self._ledger.open_findings()))
            if is_open >= MAXIMUM_OPEN or self._told >= MAXIMUM_AN_HOUR:
                return
            self._ledger.open(_finding(one, now), self._log)
            self._told += 1

    def close(self, watches: Collection[ReplicaWatch], now: float) -> None:
        """Close the findings of records beyond which every expected replica's digest agrees.

        Then all have passed over the record, and none of its content is in any replica.
        """
        found = {f.partition for f in self._ledger.open_findings() if _is_refused(f)}
        for number in found:
            end = min((_agreed(watch.partitions.get(number)) for watch in watches), default=0)
            self._ledger.resolve(None, number, end, now, partial(_is_before, end))


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
