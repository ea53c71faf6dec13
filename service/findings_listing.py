"""What `synchroscope findings` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.attached_command import LOCKED_FILE
from service.differs_running import Asked, open_log
from validator.attached.book import stored_findings
from validator.finding import Finding, public_form
from validator.ledger import FindingsReader

PLAIN_WIDTH = 140
SHOWN_SUBJECTS = 3


def list_findings(
    config: Path | None, data_dir: Path | None, *, only_open: bool, as_json: bool
) -> int:
    """Print the findings; return 1 where any of all is not resolved, else 0."""
    found = _found(config, data_dir)
    shown = [finding for finding in found if not only_open or finding.state != "resolved"]
    console = Console()
    if as_json:
        for finding in shown:
            console.file.write(json.dumps(public_form(finding), ensure_ascii=False) + "\n")
    elif shown:
        wide = console if console.is_terminal else Console(width=PLAIN_WIDTH)
        wide.print(_table(shown))
    else:
        console.print("no finding is open" if only_open else "no findings", highlight=False)
    return int(any(finding.state != "resolved" for finding in found))


def is_attached(data_dir: Path | None) -> bool:
    """Say whether `synchroscope attach` keeps its findings in a folder."""
    return data_dir is not None and (data_dir / LOCKED_FILE).is_file()


def _found(config: Path | None, data_dir: Path | None) -> list[Finding]:
    if data_dir is not None and is_attached(data_dir):
        return sorted(stored_findings(data_dir), key=lambda finding: finding.detected_at)
    with open_log(Asked(config, data_dir)) as (log, _):
        return FindingsReader(log).read()


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("finding", "state", "kind", "replica", "context type", "subjects", "since"):
        table.add_column(name)
    table.add_column("repair", overflow="fold")
    for finding in findings:
        first = finding.first_bad_position
        table.add_row(
            finding.id,
            finding.state,
            finding.kind,
            finding.replica or "-",
            finding.context_type or "-",
            _subjects(finding.subjects),
            "-" if first is None else f"{first.partition}:{first.offset}",
            repair_text(finding),
        )
    return table


def _subjects(subjects: list[str]) -> str:
    text = ", ".join(subjects[:SHOWN_SUBJECTS])
    more = len(subjects) - SHOWN_SUBJECTS
    return f"{text} and {more:,} more" if more > 0 else text or "-"


def repair_text(finding: Finding) -> str:
    """Return how far the repair of a finding is; ``-`` where none was asked for."""
    work: dict[str, Any] | None = finding.evidence.get("repair")
    if work is None:
        return "-"
    for name in ("refused", "failed"):
        if name in work:
            return f"{name}: {work[name]}"
    text = f"{work['aggregates']} aggregates told in {work['attempts']} messages"
    return f"{text}, agreed" if finding.state == "resolved" else text
