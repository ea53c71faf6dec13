"""All findings: opened once, resolved only by proof, published on `sync.findings`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from synchroscope.ports import FINDINGS, AggregateKey, Log, NewRecord
from validator.finding import Finding, encode_finding, finding_in, timestamp

logger = logging.getLogger("synchroscope.ledger")

READ_RECORDS = 1_000


class Ledger:
    """The findings that are open, and how many were ever opened and resolved, by kind."""

    def __init__(self) -> None:
        self._open: dict[str, Finding] = {}
        self._changed: dict[str, Finding] = {}
        self.opened_total: Counter[str] = Counter()
        self.resolved_total: Counter[str] = Counter()

    def restore(
        self,
        opened: Iterable[Finding],
        opened_total: Mapping[str, int],
        resolved_total: Mapping[str, int],
    ) -> None:
        """Go on from a checkpoint."""
        self._open = {finding.id: finding for finding in opened}
        self.opened_total = Counter(opened_total)
        self.resolved_total = Counter(resolved_total)

    def open_findings(
        self, replica: str | None = None, partition: int | None = None
    ) -> list[Finding]:
        """Return the open findings, of one replica and partition if named."""
        return [
            finding
            for finding in self._open.values()
            if (replica is None or finding.replica == replica)
            and (partition is None or finding.partition == partition)
        ]

    def open(self, finding: Finding, log: Log) -> None:
        """Open a finding; one whose ID is known already keeps the time of its first detection."""
        if finding.id in self._open:
            return
        record = log.latest(FINDINGS, finding.id.encode())
        earlier = None if record is None else finding_in(record.value)
        if earlier is None:
            self.opened_total[finding.kind] += 1
        else:
            finding = replace(finding, detected_at=earlier.detected_at)
        self._open[finding.id] = finding
        self._changed[finding.id] = finding

    def tell(self, finding: Finding, log: Log) -> None:
        """Open a finding, or take the newer form of one that is open."""
        known = self._open.get(finding.id)
        if known is None:
            self.open(finding, log)
        elif known != finding:
            self.mark(finding)

    def get(self, name: str) -> Finding | None:
        """Return an open finding by its ID."""
        return self._open.get(name)

    def mark(self, finding: Finding) -> None:
        """Take a finding's new state or evidence, if it is still open."""
        if finding.id in self._open:
            self._open[finding.id] = finding
            self._changed[finding.id] = finding

    def resolve(
        self,
        replica: str | None,
        partition: int,
        position: int,
        now: float,
        agrees: Callable[[Finding], bool],
    ) -> None:
        """Close those findings of a partition whose keys a digest at `position` shows in order."""
        for finding in self.open_findings(replica, partition):
            if finding.replica != replica or not agrees(finding):
                continue
            evidence = {**finding.evidence, "agreed_position": position}
            closed = replace(
                finding, state="resolved", resolved_at=timestamp(now), evidence=evidence
            )
            del self._open[finding.id]
            self._changed[finding.id] = closed
            self.resolved_total[finding.kind] += 1

    def narrow(self, replica: str, partition: int, is_open: Callable[[AggregateKey], bool]) -> None:
        """Take from findings of several keys those that are in order again."""
        for finding in self.open_findings(replica, partition):
            if len(finding.keys) < 2:
                continue
            keys = [key for key in finding.keys if is_open(key)]
            if 0 < len(keys) < len(finding.keys):
                self.mark(replace(finding, keys=keys))

    def drain(self) -> list[NewRecord]:
        """Return the records to publish for what changed since the last call."""
        records = [
            NewRecord(FINDINGS, 0, finding.id.encode(), encode_finding(finding))
            for finding in self._changed.values()
        ]
        self._changed.clear()
        return records


class FindingsReader:
    """Follows `sync.findings` and knows the newest form of every finding."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._position = 0
        self._found: dict[str, Finding] = {}

    def read(self) -> list[Finding]:
        """Return all findings in order of detection."""
        strange: list[int] = []
        while True:
            batch = self._log.read(FINDINGS, 0, self._position, READ_RECORDS)
            for record in batch.records:
                finding = finding_in(record.value)
                if finding is not None:
                    self._found[finding.id] = finding
                elif not record.value:  # Somebody has taken it off.
                    self._found.pop(record.key.decode(errors="replace"), None)
                else:
                    strange.append(record.offset)
            if batch.position == self._position:
                _tell(strange)
                return sorted(self._found.values(), key=lambda f: (f.detected_at, f.id))
            self._position = batch.position


def _tell(strange: Sequence[int]) -> None:
    if strange:
        logger.warning(
            "%s: %d records are no findings and are passed over, the first at offset %d",
            FINDINGS,
            len(strange),
            strange[0],
        )
