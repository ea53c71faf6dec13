"""What attached mode knows, as one value for people, JSON and metrics; it ages by itself."""

from __future__ import annotations

from typing import Any

from service.http import STALE_SECONDS
from validator.attached.checker import StoreChecker
from validator.attached.standing import StoreStanding
from validator.attached.validator import AttachedValidator


def report(validator: AttachedValidator, now: float) -> dict[str, Any]:
    """Return everything that is known, for people, JSON and metrics."""
    standings = {standing.name: standing for standing in validator.standings(now)}
    return {
        "at": now,
        "log": {
            "records": validator.counts["records"],
            "keys": validator.reference.item_count(),
            "positions": dict(validator.log.positions),
            "behind": sum(
                max(head - validator.log.positions.get(partition, 0), 0)
                for partition, head in validator.log.heads.items()
            ),
            "is_complete": validator.log.is_complete,
            "deleted_unread": validator.counts["records deleted unread"],
            "is_caught_up": validator.is_caught_up,
            "unreadable": {
                name.removeprefix("unreadable: "): count
                for name, count in validator.counts.items()
                if name.startswith("unreadable: ")
            },
            "unavailable": validator.unavailable,
        },
        "findings_refused": validator.book.refused_total,
        "stores": {
            checker.settings.name: _store_report(
                validator, checker, standings[checker.settings.name], now
            )
            for checker in validator.checkers
        },
    }


def aged(report: dict[str, Any], now: float) -> dict[str, Any]:
    """Return a report as it is to be read at a later moment than it was made.

    >>> report = {"at": 5.0, "stores": {"a": {"verdict": "CONSISTENT", "reason": "…"}}}
    >>> aged(report, 9.0) == report, aged(report, 45.0)["stores"]["a"]
    (True, {'verdict': 'UNKNOWN', 'reason': 'nothing was looked at for 40 s'})
    """
    age = now - report["at"]
    if age <= STALE_SECONDS:
        return report
    reason = f"nothing was looked at for {age:.0f} s"

    def older(store: dict[str, Any]) -> dict[str, Any]:
        if store["verdict"] == "DIVERGED":
            return {**store, "reason": f"{store['reason']}; {reason}"}
        return {**store, "verdict": "UNKNOWN", "reason": reason}

    return {**report, "stores": {name: older(s) for name, s in report["stores"].items()}}


def _store_report(
    validator: AttachedValidator, checker: StoreChecker, standing: StoreStanding, now: float
) -> dict[str, Any]:
    name, walk = checker.settings.name, checker.walk
    return {
        "verdict": standing.verdict,
        "reason": standing.reason,
        "proof": checker.grade,
        "lag_events": standing.lag_events,
        "lag_seconds": round(standing.lag_seconds, 3),
        "horizons": [
            {
                "seconds": count.seconds,
                "looked": count.looked,
                "consistent": count.consistent,
                "ratio": count.consistent / count.looked if count.looked else None,
                "merged": count.merged,
                "skipped": count.skipped,
            }
            for count in checker.schedule.counts
        ],
        "looks": {
            result: checker.counts[result]
            for result in ("agrees", "lagging", "wrong", "unclear", "unknown")
        },
        "rows_read": checker.rows_read,
        "answered_at": checker.answered_at,
        "rows_without_key": checker.keyless,
        "unchecked_keys": checker.unchecked.by_reason(),
        "walks": walk.whole,
        "walk_rows": walk.last_rows,
        "walk_age_seconds": None if walk.finished_at is None else round(now - walk.finished_at, 3),
        "walk_progress": walk.phase,
        "suspects": len(checker.suspects),
        "suspects_refused": checker.suspects.refused,
        "open_findings": len(validator.book.open_of(name)),
        "findings": _by_kind(validator.book.opened_total, name),
        "resolved": _by_kind(validator.book.resolved_total, name),
    }


def _by_kind(counts: Any, name: str) -> dict[str, int]:
    prefix = f"{name} "
    return {
        key.removeprefix(prefix): count for key, count in counts.items() if key.startswith(prefix)
    }
