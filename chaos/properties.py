"""What has to hold at the end of a simulated run, each property a function that raises `Broken`."""

from __future__ import annotations

from typing import Any

from chaos.divided import DividedWorld
from chaos.faults import Injected
from chaos.oracle import all_events, facts_of_storage, facts_of_view
from chaos.remote_log import repeats_of
from chaos.world import World
from synchroscope.ports import EVENTS, FINDINGS
from validator.finding import Finding, decode_finding
from validator.watch import Verdict


class Broken(AssertionError):  # noqa: N818 - it is what a report says of a property
    """A property of the system does not hold."""


def check_log(world: World) -> None:
    """Nothing acknowledged is lost; without its repeats a partition is what the store has for it.

    Only where processes work on after they lost their place may there be repeats at all.
    """
    events = all_events(world.store)
    missing = set(world.acknowledged) - {str(event.event_id) for event in events}
    if missing:
        raise Broken(f"acknowledged and not stored: {sorted(missing)[:3]}")
    for partition in range(world.settings.partitions):
        must = [
            str(event.event_id)
            for event in events
            if world.place(event.context_type, event.subject) == partition
        ]
        repeats = repeats_of(world.log, partition)
        published = [
            (record.header("ce_id") or b"").decode()
            for record in world.log.read(EVENTS, partition, 0, 10**9).records
            if record.offset not in repeats
        ]
        if published != must:
            raise Broken(f"partition {partition}: {len(must)} stored, {len(published)} published")
        if repeats and not world.has_zombies:
            raise Broken(f"partition {partition}: published twice without need: {repeats}")


def check_no_alarm(world: World) -> None:
    """No replica that was never harmed is ever DIVERGED."""
    harmed = {fault.replica for fault in world.journal.faults()}
    for validator in world.validators():
        for name in world.views.keys() - harmed:
            verdict = validator.judge(name, world.now)
            if verdict.verdict is Verdict.DIVERGED:
                raise Broken(f"{name} is unharmed and was judged {verdict}")


def check_verdicts(world: World) -> None:
    """DIVERGED exactly where the content differs from the truth, CONSISTENT everywhere else."""
    events = all_events(world.store)
    for name, view in world.views.items():
        truth = facts_of_view(events, view)
        held = facts_of_storage(world.held(name), world.settings.partitions)
        verdict = world.judge(name)
        wanted = Verdict.CONSISTENT if held == truth else Verdict.DIVERGED
        if verdict.verdict != wanted:
            raise Broken(f"{name} is {wanted} and was judged {verdict}")
        named = {
            key
            for finding in world.open_findings()
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
    for status in world.statuses():
        if status.late != status.ordering_violations:
            raise Broken(f"{status.name}: {status.late} late, {status.ordering_violations} proven")
        if status.name not in harmed and status.agreements != status.markers_compared:
            raise Broken(f"{status.name} is unharmed and did not always agree: {status}")


def check_findings(world: World) -> tuple[int, int]:
    """Every fault that had an effect is found where it struck; nothing is found without cause."""
    findings = world.findings.read()
    found = masked = 0
    faults = _effective(world)
    for place, (index, fault) in enumerate(faults):
        if fault.kind not in ("drop", "corrupt", "stale"):
            continue
        if any(_explains(finding, fault) for finding in findings):
            found += 1
        elif (
            world.is_undone(index, fault)
            # a second damage undid it before anything could read it
            or any(_overwrites(later, fault) for _, later in faults[place + 1 :])
            or _is_delivered_again(world, fault)
        ):
            masked += 1
        else:
            raise Broken(f"not found: {fault}")
    for finding in findings:
        if not any(
            _explains(finding, fault, strictly=True) or _made_late(world, finding, fault)
            for _, fault in faults
        ):
            raise Broken(f"found without cause: {finding}")
    return found, masked


def check_resolutions(world: World) -> None:
    """A finding that was resolved stays resolved, unless its replica's storage fell back."""
    resolved: set[str] = set()
    for record in world.log.read(FINDINGS, 0, 0, 10**9).records:
        finding = decode_finding(record.value)
        if finding.state == "resolved":
            resolved.add(finding.id)
        elif finding.id in resolved and not world.fell_back(finding.replica):
            raise Broken(f"opened again: {finding}")


def check_places(world: DividedWorld) -> None:
    """Who lost a place says nothing more; who loses none in disorder is never thrown out."""
    seen: dict[bytes, list[str]] = {}
    for key, worker in world.server.standings:
        workers = seen.setdefault(key, [])
        if worker in workers[:-1]:
            raise Broken(f"{worker} published {key!r} after {workers[-1]} had taken over")
        if worker not in workers:
            workers.append(worker)
    if not world.has_zombies and not world.fallen and world.lost_places:
        raise Broken(f"places were lost without need: {world.lost_places}")


def _effective(world: World) -> list[tuple[int, Injected]]:
    """Return the faults with their numbers; what befell a repeated record had no effect."""
    repeats = [repeats_of(world.log, number) for number in range(world.settings.partitions)]
    return [
        (index, fault)
        for index, fault in enumerate(world.journal.faults())
        if fault.kind != "drop"
        or fault.position["offset"] not in repeats[fault.position["partition"]]
    ]


def _is_delivered_again(world: World, fault: Injected) -> bool:
    """Say whether a dropped record was published again, and was not dropped then."""
    if fault.kind != "drop":
        return False
    partition, offset = fault.position["partition"], fault.position["offset"]
    again = {at for at, first in repeats_of(world.log, partition).items() if first == offset}
    return any(
        not any(
            other.kind == "drop"
            and other.replica == fault.replica
            and other.position == {"partition": partition, "offset": at}
            for other in world.journal.faults()
        )
        for at in again
    )


def _overwrites(later: Injected, fault: Injected) -> bool:
    """Say whether a later fault struck the storage of the same aggregate."""
    return later.kind in ("corrupt", "stale") and (
        later.replica,
        later.context_type,
        later.subject,
    ) == (fault.replica, fault.context_type, fault.subject)


def _made_late(world: World, finding: Finding, fault: Injected) -> bool:
    """Say whether what was dropped came late with a repeat of it, and that was found."""
    return (
        finding.kind == "reordered"
        and _concerns(finding, fault)
        and _is_delivered_again(world, fault)
    )


def _concerns(finding: Finding, fault: Injected) -> bool:
    return (
        (finding.replica, finding.context_type) == (fault.replica, fault.context_type)
        and fault.subject in finding.subjects
        and finding.partition == fault.position["partition"]
    )


def _explains(finding: Finding, fault: Injected, *, strictly: bool = False) -> bool:
    """Say whether a fault is the cause of a finding; `strictly`: it lies within its interval."""
    if fault.subject is None or not _concerns(finding, fault):
        return False
    return any(
        cause["subject"] == fault.subject and _is_cause(finding.kind, cause, fault, strictly)
        for cause in _causes(finding, fault.subject)
    )


def _causes(finding: Finding, subject: str) -> list[dict[str, Any]]:
    """Return the causes that a finding names: a bundle's, or its only one."""
    if "causes" in finding.evidence:
        causes: list[dict[str, Any]] = finding.evidence["causes"]
        if finding.evidence["causes_total"] != len(causes):
            raise Broken(f"a bundle of more causes than it names: {finding}")
        return causes
    where, since = finding.first_bad_position, finding.since
    if where is None or since is None:
        return []
    return [{"subject": subject, "offset": where.offset, "after_offset": since.after_offset}]


def _is_cause(kind: str, cause: dict[str, Any], fault: Injected, strictly: bool) -> bool:
    offset = fault.position["offset"]
    if fault.kind == "drop":
        return kind == "missed" and cause["offset"] == offset
    if fault.kind in ("corrupt", "stale"):
        return kind in ("corrupted", "stale") and (
            not strictly or (cause["after_offset"] or 0) <= offset <= cause["offset"]
        )
    return fault.kind == "reorder" and kind == "reordered"
