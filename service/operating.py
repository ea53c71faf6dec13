"""What people ask of a running pipeline from the command line: status, proof, retirement."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.kafka_settings import chosen_client
from pipeline.kafka_topics import ensure_topics, look_at_topics
from pipeline.log_kafka import KafkaLog
from service.board import retirement_note
from service.configuration import Configuration
from service.gathering import Gatherer
from service.proving import Asking
from service.report import UNDECIDED, build_report, exit_code
from service.screen import print_schemas, print_summary, replica_table
from service.stores import migrate, replica_plans
from synchroscope.errors import ConfigurationError
from validator.hop_standing import HopStanding
from validator.hop_verdicts import KINDS
from validator.watch import Verdict

_VERDICTS = (Verdict.CONSISTENT, Verdict.UNKNOWN, Verdict.DIVERGED)
LOOK_SECONDS = 0.2


def prepare(configuration: Configuration, console: Console) -> int:
    """Create topics and tables that are missing; say what deviates. Returns the exit code.

    What only could be safer is said and lets the processes start that wait for this.
    """
    ensure_topics(configuration.log.kafka)
    migrate(configuration)
    deviations, advice = look_at_topics(configuration.log.kafka)
    for sentence in deviations + [f"could be safer: {sentence}" for sentence in advice]:
        console.print(sentence, style="yellow", highlight=False, soft_wrap=True)
    if not deviations:
        console.print("topics and tables are as they must be", highlight=False)
    return 2 if deviations else 0


def show_status(configuration: Configuration, console: Console, *, as_json: bool) -> int:
    """Show replicas, partitions and processes; return 0, 1 or 3 as a report does."""
    with closing(Gatherer(configuration)) as gatherer:
        now = time.time()
        account = gatherer.account(now)
        report = build_report(account)
        board = gatherer.board
        report["unvalidated_partitions"] = board.unvalidated(now)
        report["unpublished"] = account.unpublished or None
        report["undecodable_records"] = account.undecodable
        if board.hops is not None:
            report["hops"] = msgspec.to_builtins(board.hops)
        report["kafka_client"] = chosen_client(configuration.log.kafka)
        report["processes"] = [
            {
                "process": record.process,
                "role": record.role,
                "client": record.client,
                "partitions": record.partitions,
                "last_word_seconds_ago": round(max(now - record.at, 0.0), 1),
                "waiting": {n: work.waiting for n, work in record.replicas.items() if work.waiting},
            }
            for record in board.running(now)
        ]
    if as_json:
        console.file.write(json.dumps(report, ensure_ascii=False) + "\n")
        return exit_code(report)
    console.print(replica_table(report))
    console.print(_process_table(report))
    for process in report["processes"]:
        for name, why in process["waiting"].items():
            console.print(
                f"{process['process']}: {name} waits: {why}", style="yellow", highlight=False
            )
    if report["unvalidated_partitions"]:
        numbers = ", ".join(map(str, report["unvalidated_partitions"]))
        console.print(f"nobody validates partition {numbers}", style="yellow", highlight=False)
    if account.unpublished:
        console.print(account.unpublished, style="yellow", highlight=False)
    print_schemas(console, report)
    if board.hops is not None:
        console.print(_hop_table(board.hops, now))
    print_reasons(report, console)
    console.print(f"Kafka client here: {report['kafka_client']}", style="dim", highlight=False)
    return exit_code(report)


def print_reasons(report: dict[str, Any], console: Console) -> None:
    """Say why replicas are not CONSISTENT, by partition, and which records are no events."""
    for name, replica in report["replicas"].items():
        if replica["verdict"] == "CONSISTENT":
            continue
        by_reason: dict[str, list[str]] = {}
        for partition, reason in replica["reasons"].items():
            by_reason.setdefault(reason, []).append(partition)
        if len(by_reason) < 2:
            console.print(f"{name}: {replica['verdict']}, {replica['reason']}", highlight=False)
            continue
        for reason, partitions in by_reason.items():
            place = ", ".join(partitions)
            console.print(f"{name} on partition {place}: {reason}", highlight=False)
    refused = report["undecodable_records"]
    if refused:
        console.print(
            f"{refused:,} records of context.events are no events and were passed over: "
            "synchroscope findings",
            style="yellow",
            highlight=False,
        )


def _hop_table(standing: HopStanding, now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("hop", "windows alike", "unknown", "differ", "lost, doubled, altered", "up to"):
        table.add_column(name)
    for hop, work in standing.hops.items():
        until = work.judged_until
        table.add_row(
            hop.replace(">", " > "),
            *(f"{work.windows.get(verdict.value, 0):,}" for verdict in _VERDICTS),
            ", ".join(f"{work.events.get(kind, 0):,}" for kind in KINDS),
            "never" if until is None else f"{max(now - until, 0.0):.0f} s ago",
        )
    return table


def _process_table(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("process", "role", "Kafka client", "partitions", "last word", "waits for"):
        table.add_column(name)
    for process in sorted(report["processes"], key=lambda p: (p["role"], p["process"])):
        table.add_row(
            process["process"],
            process["role"],
            process["client"],
            ", ".join(map(str, process["partitions"])) or "stands by",
            f"{process['last_word_seconds_ago']:.1f} s ago",
            f"storage of {', '.join(process['waiting'])}" if process["waiting"] else "",
        )
    return table


def prove(configuration: Configuration, console: Console, *, seconds: float) -> int:
    """Have every replica compared and scrubbed where the log ends now; return 0, 1 or 3."""
    settings = configuration.log.kafka
    with closing(KafkaLog(settings)) as log, closing(Gatherer(configuration)) as gatherer:
        board, deadline, asking = gatherer.board, time.monotonic() + seconds, Asking()
        while True:
            account = gatherer.account(time.time(), final=True)
            report, is_over = build_report(account), time.monotonic() >= deadline
            is_settled = board.is_settled(account.heads, account.at, asking.asked)
            # Undecided after all: somebody else has asked meanwhile.
            if is_over or (is_settled and exit_code(report) != UNDECIDED):
                break
            if asking.is_due(time.monotonic(), account.heads, board.settled_total()):
                log.append([asking.question()], time.time())
            log.wait(LOOK_SECONDS)
    print_summary(console, report, 0.0)
    if account.unpublished:
        console.print(f"  {account.unpublished}", style="yellow", highlight=False)
    return exit_code(report)


def retire(configuration: Configuration, replica: str, console: Console, *, undo: bool) -> int:
    """Take a replica off the expected ones, or put it back."""
    names = [plan.name for plan in replica_plans(configuration)]
    if replica not in names:
        raise ConfigurationError(f"there is no replica {replica}: the file has {', '.join(names)}")
    with closing(KafkaLog(configuration.log.kafka)) as log:
        log.append([retirement_note(replica, retired=not undo)], time.time())
    state = "is expected again" if undo else "is no longer expected"
    console.print(f"{replica} {state}; validators follow within seconds", highlight=False)
    return 0
