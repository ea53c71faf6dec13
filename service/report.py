"""The report of a run: JSON for machines, a summary for people."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.faults import STORAGE_KINDS, Injected
from service.embedded import EmbeddedPipeline
from validator.finding import public_form, timestamp
from validator.watch import Verdict

SCHEMA_VERSION = 1


def build_report(pipeline: EmbeddedPipeline, now: float, *, final: bool = False) -> dict[str, Any]:
    """Return what happened in the data folder, over all its runs.

    `final`: what was not compared and scrubbed at the log's head is UNKNOWN.
    """
    store, validator = pipeline.store, pipeline.validator
    produced = store.count()
    seconds = pipeline.ledger.producing_seconds
    statuses = validator.status(now, final=final)
    letters = store.dead_letter_counts()
    return {
        "schema_version": SCHEMA_VERSION,
        "created_at": timestamp(now),
        "runs": pipeline.ledger.runs,
        "rows_read": store.counter("rows_read"),
        "events_produced": produced,
        "dead_letters": [{"reason": r, "count": n} for r, n in sorted(letters.items())],
        "views": {s.model: {"events": validator.applied(s.model)} for s in statuses},
        "replicas": {
            status.name: {
                "verdict": status.verdict.value,
                "reason": status.reason,
                "applied": status.applied,
                "position": {str(p): offset for p, offset in sorted(status.position.items())},
                "duplicates": status.duplicates,
                "gaps": status.gaps,
                "late": status.late,
                "markers_compared": status.markers_compared,
                "propagation_latency_seconds": {
                    f"p{round(share * 100)}": pipeline.projectors[status.name].latencies.percentile(
                        share
                    )
                    for share in (0.5, 0.95, 0.99)
                },
            }
            for status in statuses
        },
        "consistent_ratio": validator.consistent_ratio,
        "ordering_violations": sum(status.late for status in statuses),
        "throughput_events_per_second": produced / seconds if seconds > 0 else None,
        "faults": [_fault(pipeline, fault) for fault in pipeline.faults.faults()],
        "findings": [public_form(finding) for finding in pipeline.findings.read()],
    }


def _fault(pipeline: EmbeddedPipeline, fault: Injected) -> dict[str, Any]:
    """Return a fault as it is shown; damage to memory ends with its process, found or not."""
    form: dict[str, Any] = msgspec.to_builtins(fault)
    life = form.pop("life")
    form["lost_with_process"] = (
        fault.kind in STORAGE_KINDS
        and life < pipeline.faults.life
        and fault.replica in pipeline.in_memory
    )
    return form


def exit_code(report: dict[str, Any]) -> int:
    """Return 0 when all is proven, 1 when a divergence is open, 3 when something is undecided."""
    verdicts = {replica["verdict"] for replica in report["replicas"].values()}
    is_open = any(finding["state"] != "resolved" for finding in report["findings"])
    if is_open or Verdict.DIVERGED.value in verdicts:
        return 1
    return 3 if Verdict.UNKNOWN.value in verdicts else 0
