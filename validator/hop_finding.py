"""From a verdict on a hop to a finding that anybody can follow up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synchroscope.digest import lanes_hex
from synchroscope.errors import InvalidEventError
from synchroscope.event import decode_wire
from synchroscope.ports import AggregateKey
from synchroscope.tally import Sum
from validator.finding import Finding, Kind, Since, finding_id, subjects_of, timestamp
from validator.hop_books import PartitionBook
from validator.hop_naming import Suspect
from validator.hop_verdicts import ALTERED, DOUBLED, LOST, HopVerdict

KINDS: dict[str, Kind] = {LOST: "hop-lost", DOUBLED: "hop-doubled", ALTERED: "hop-altered"}
NO_PARTITION = -1
MAXIMUM_NAMED = 100


def finding_of(
    verdict: HopVerdict, part: PartitionBook | None, suspects: Sequence[Suspect], now: float
) -> Finding:
    """Return the finding; `part` is what the log has of the window in the verdict's partition."""
    place, kind = verdict.place, KINDS[verdict.kind or LOST]
    keys = _keys(suspects[:MAXIMUM_NAMED])
    since = None
    if place.partition is not None and part is not None and part.last >= part.first:
        recorded = timestamp(verdict.window_start)
        since = Since(place.partition, part.first, part.last + 1, recorded)
    evidence: dict[str, Any] = {
        "reason": verdict.reason,
        "hop": place.hop,
        "window": [timestamp(verdict.window_start), timestamp(verdict.window_end)],
        "events": verdict.events,
        "event_ids": None if verdict.event_ids is None else list(verdict.event_ids[:MAXIMUM_NAMED]),
        "expected": _shown(verdict.expected),
        "seen": _shown(verdict.seen),
        "place": [str(place), verdict.window],
    }
    return Finding(
        id=finding_id("hop", place.hop, place.replica, place.partition, verdict.window, kind),
        state="open",
        kind=kind,
        replica=place.replica,
        context_type=keys[0][0] if keys else None,
        subjects=subjects_of(keys),
        first_bad_position=None,
        since=since,
        detected_at=timestamp(now),
        resolved_at=None,
        evidence=evidence,
        # Without a partition it concerns no reader of one: the events say whom it does.
        partition=NO_PARTITION,
        keys=list(keys),
    )


def _keys(suspects: Sequence[Suspect]) -> list[AggregateKey]:
    found: dict[AggregateKey, None] = {}
    for one in suspects:
        try:
            event = decode_wire(one.value)
        except InvalidEventError:
            continue
        found[event.context_type, event.subject] = None
    return list(found)


def _shown(total: Sum) -> dict[str, Any]:
    return {"count": total.count, "checksum": lanes_hex((total.lane0, total.lane1))}
