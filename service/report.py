"""The report of a run: JSON for machines, a summary for people."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.faults import Injected
from service.account import Account
from service.board import STANDING_LIMIT_SECONDS
from validator.finding import public_form, timestamp
from validator.watch import Verdict

SCHEMA_VERSION = 1
UNDECIDED = 3
"""Exit code where something is UNKNOWN."""


def build_report(account: Account) -> dict[str, Any]:
    """Return what happened, over all runs on the same stores."""
    produced, seconds = account.events_produced, account.producing_seconds
    letters = account.dead_letters
    return {
        "schema_version": SCHEMA_VERSION,
        "created_at": timestamp(account.at),
        "runs": account.runs,
        "rows_read": account.rows_read,
        "events_produced": produced,
        "dead_letters": [{"reason": r, "count": n} for r, n in sorted(letters.items())],
        "views": {model: {"events": applied} for model, applied in account.applied.items()},
        "replicas": {
            status.name: {
                "verdict": status.verdict.value,
                "reason": status.reason,
                "reasons": {str(p): reason for p, reason in sorted(status.reasons.items())},
                "applied": status.applied,
                "position": {str(p): offset for p, offset in sorted(status.position.items())},
                "duplicates": status.duplicates,
                "gaps": status.gaps,
                "late": status.late,
                "markers_compared": status.markers_compared,
                "propagation_latency_seconds": {
                    f"p{round(share * 100)}": account.latencies[status.name].percentile(share)
                    for share in (0.5, 0.95, 0.99)
                },
            }
            for status in account.statuses
        },
        "consistent_ratio": account.consistent_ratio,
        "ordering_violations": sum(status.late for status in account.statuses),
        "throughput_events_per_second": produced / seconds if seconds > 0 else None,
        "schemas": schemas_form(account),
        "faults": list(account.faults),
        "findings": [public_form(finding) for finding in account.findings],
    }


def schemas_form(account: Account) -> dict[str, Any] | None:
    """Return how events stand to their schemas; None where none are checked."""
    standing = account.schemas
    if standing is None:
        return None
    verdict, reason = standing.verdict(account.heads)
    silence = account.at - standing.at
    if verdict == "VALID" and silence > STANDING_LIMIT_SECONDS:
        verdict, reason = "UNKNOWN", f"nobody has checked events for {silence:.0f} s"
    return {
        "verdict": verdict,
        "reason": reason,
        "checks": dict(sorted(standing.checks.items())),
        "violations": dict(sorted(standing.rules.items())),
        "unchecked": dict(sorted(standing.unchecked.items())),
    }


def fault_form(fault: Injected, *, lost_with_process: bool) -> dict[str, Any]:
    """Return a fault as it is shown; damage to memory ends with its process, found or not."""
    form: dict[str, Any] = msgspec.to_builtins(fault)
    del form["life"]
    form["lost_with_process"] = lost_with_process
    return form


def exit_code(report: dict[str, Any]) -> int:
    """Return 0 when all is proven, 1 when a divergence is open, 3 when something is undecided."""
    verdicts = {replica["verdict"] for replica in report["replicas"].values()}
    is_open = any(finding["state"] != "resolved" for finding in report["findings"])
    if is_open or Verdict.DIVERGED.value in verdicts:
        return 1
    return UNDECIDED if Verdict.UNKNOWN.value in verdicts else 0
