"""What has to hold at the end of a simulated run, each property a function that raises `Broken`."""

from __future__ import annotations

from collections import Counter

from chaos.faults import Injected
from chaos.oracle import all_events, facts_of_storage, facts_of_view
from chaos.world import World
from synchroscope.ports import EVENTS
from validator.finding import Finding
from validator.watch import Verdict


class Broken(AssertionError):  # noqa: N818 - it is what a report says of a property
    """A property of the system does not hold."""


def check_log(world: World) -> None:
    """Nothing acknowledged is lost, nothing is published twice or out of order."""
    stored = [str(event.event_id) for event in all_events(world.store)]
    missing = set(world.acknowledged) - set(stored)
    if missing:
        raise Broken(f"acknowledged and not stored: {sorted(missing)[:3]}")
    published: list[str] = []
    for partition in range(world.settings.partitions):
        last = 0
        for record in world.log.read(EVENTS, partition, 0, 10**9).records:
            published.append((record.header("ce_id") or b"").decode())
            position = int(record.header("store-position") or b"0")
            if position <= last:
                raise Broken(f"partition {partition} is not in the store's order")
            last = position
    if Counter(published) != Counter(stored):
        raise Broken(f"{len(stored)} stored events, {len(published)} published")


def check_verdicts(world: World) -> None:
    """DIVERGED exactly where the content differs from the truth, CONSISTENT everywhere else."""
    events = all_events(world.store)
    for name, view, _ in world.settings.replicas:
        truth = facts_of_view(events, view)
        held = facts_of_storage(world.storages[name], world.settings.partitions)
        verdict = world.running_validator().judge(name, world.now)
        wanted = Verdict.CONSISTENT if held == truth else Verdict.DIVERGED
        if verdict.verdict != wanted:
            raise Broken(f"{name} is {wanted} and was judged {verdict}")
        named = {
            key
            for finding in world.running_validator().open_findings()
            if finding.replica == name
            for key in finding.keys
        }
        odd = {key[:2] for key in truth.keys() | held.keys() if truth.get(key) != held.get(key)}
        if odd != named:
            raise Broken(f"{name}: deviating {sorted(odd)}, named {sorted(named)}")


def check_counts(world: World) -> None:
    """Every late event is proven by the audit; an unharmed replica never shows any news."""
    harmless = ("duplicate", "delay")
    harmed = {f.replica for f in world.journal.faults() if f.kind not in harmless}
    for status in world.running_validator().status(world.now):
        if status.late != status.ordering_violations:
            raise Broken(f"{status.name}: {status.late} late, {status.ordering_violations} proven")
        if status.name not in harmed and status.agreements != status.markers_compared:
            raise Broken(f"{status.name} is unharmed and did not always agree: {status}")


def check_findings(world: World) -> tuple[int, int]:
    """Every fault that had an effect is found where it struck; nothing is found without cause."""
    findings = world.findings.read()
    found = masked = 0
    lives = dict(world.damage)
    faults = world.journal.faults()
    for index, fault in enumerate(faults):
        if fault.kind not in ("drop", "corrupt", "stale"):
            continue
        if any(_explains(finding, fault) for finding in findings):
            found += 1
        elif index in lives and lives[index] < world.lost_lives[fault.replica]:
            masked += 1  # the storage died before anything could read it
        elif any(_overwrites(later, fault) for later in faults[index + 1 :]):
            masked += 1  # a second damage undid it before anything could read it
        else:
            raise Broken(f"not found: {fault}")
    for finding in findings:
        if not any(_explains(finding, f, strictly=True) for f in faults):
            raise Broken(f"found without cause: {finding}")
    ids = Counter(finding.id for finding in findings)
    if ids and max(ids.values()) > 1:
        raise Broken("a finding was opened twice")
    return found, masked


def _overwrites(later: Injected, fault: Injected) -> bool:
    """Say whether a later fault struck the storage of the same aggregate."""
    return later.kind in ("corrupt", "stale") and (
        later.replica,
        later.context_type,
        later.subject,
    ) == (fault.replica, fault.context_type, fault.subject)


def _explains(finding: Finding, fault: Injected, *, strictly: bool = False) -> bool:
    """Say whether a fault is the cause of a finding; `strictly`: it lies within its interval."""
    if finding.replica != fault.replica or finding.context_type != fault.context_type:
        return False
    if fault.subject not in finding.subjects:
        return False
    where = finding.first_bad_position
    if fault.kind == "drop":
        return (
            finding.kind == "missed"
            and where is not None
            and (where.partition, where.offset)
            == (fault.position["partition"], fault.position["offset"])
        )
    if fault.kind in ("corrupt", "stale"):
        since, offset = finding.since, fault.position["offset"]
        return (
            finding.kind in ("corrupted", "stale")
            and since is not None
            and since.partition == fault.position["partition"]
            and (not strictly or (since.after_offset or 0) <= offset <= since.by_offset)
        )
    return fault.kind == "reorder" and finding.kind == "reordered"
