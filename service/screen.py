"""What a person sees in the terminal while the pipeline runs, and at its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_COLOURS = {"CONSISTENT": "green", "UNKNOWN": "yellow", "DIVERGED": "bold red"}
PLAIN_INTERVAL_SECONDS = 2.0


def _seconds(value: float | None) -> str:
    """Return a latency for people.

    >>> _seconds(0.0042), _seconds(None)
    ('4.2 ms', '-')
    """
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def replica_table(report: dict[str, Any]) -> Table:
    """Return the replicas as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("replica", "verdict", "applied", "compared", "p50", "p95", "p99", "findings"):
        table.add_column(name, justify="left" if name in ("replica", "verdict") else "right")
    counts: dict[str, list[int]] = {}
    for finding in report["findings"]:
        pair = counts.setdefault(finding["replica"], [0, 0])
        pair[0] += finding["state"] != "resolved"
        pair[1] += 1
    for name, replica in report["replicas"].items():
        latency = replica["propagation_latency_seconds"]
        opened, total = counts.get(name, [0, 0])
        table.add_row(
            name,
            Text(replica["verdict"], style=_COLOURS[replica["verdict"]]),
            f"{replica['applied']:,}",
            f"{replica['markers_compared']:,}",
            _seconds(latency["p50"]),
            _seconds(latency["p95"]),
            _seconds(latency["p99"]),
            f"{opened} open of {total}" if total else "-",
        )
    return table


def headline(report: dict[str, Any], phase: str, rate: float) -> str:
    """Return the one line that matters."""
    letters = sum(letter["count"] for letter in report["dead_letters"])
    verdicts = [replica["verdict"] for replica in report["replicas"].values()]
    good = verdicts.count("CONSISTENT")
    return (
        f"{phase}: {report['rows_read']:,} rows, {report['events_produced']:,} events "
        f"({rate:,.0f}/s), {letters:,} dead letters, {good}/{len(verdicts)} replicas CONSISTENT, "
        f"{len(report['findings'])} findings"
    )


class Screen:
    """Live on a terminal; plain lines every two seconds elsewhere."""

    def __init__(self, console: Console, url: str) -> None:
        self._console = console
        self._url = url
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown_at = 0.0
        if self._live is not None:
            self._live.start()
        else:
            console.print(f"serving {url}", highlight=False, soft_wrap=True)

    def show(self, report: dict[str, Any], phase: str, rate: float, now: float) -> None:
        """Show how things stand."""
        line = headline(report, phase, rate)
        if self._live is not None:
            opened = [f for f in report["findings"] if f["state"] != "resolved"]
            group = Group(
                Text(line),
                Text(f"{self._url}  Ctrl-C to stop", style="dim"),
                replica_table(report),
                *[Text(describe(finding), style="red") for finding in opened[-5:]],
            )
            self._live.update(group, refresh=True)
        elif now - self._shown_at >= PLAIN_INTERVAL_SECONDS:
            self._shown_at = now
            self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()


def print_summary(console: Console, report: dict[str, Any], rate: float) -> None:
    """Print the end of a run."""
    if not console.is_terminal:
        console.print(replica_table(report))
    console.print(headline(report, "done", rate), highlight=False, soft_wrap=True)
    for letter in report["dead_letters"]:
        console.print(f"  dead letters: {letter['count']:,} {letter['reason']}", highlight=False)
    for fault in _counts(report["faults"], "kind"):
        console.print(f"  injected: {fault}", highlight=False)
    print_schemas(console, report)
    opened = [f for f in report["findings"] if f["state"] != "resolved"]
    closed = len(report["findings"]) - len(opened)
    if closed:
        console.print(f"  {closed} findings resolved by a later agreeing digest", highlight=False)
    for finding in opened[:10]:
        console.print(f"  {describe(finding)}", style="red", highlight=False, soft_wrap=True)
    if len(opened) > 10:
        console.print(f"  … and {len(opened) - 10} more open findings", style="red")


def print_schemas(console: Console, report: dict[str, Any]) -> None:
    """Say how events stand to their schemas, unless all is well or none are checked."""
    schemas = report["schemas"]
    if schemas is not None and schemas["verdict"] != "VALID":
        text = f"  schemas: {schemas['verdict']}, {schemas['reason']}"
        console.print(text, style="yellow", highlight=False, soft_wrap=True)


def describe(finding: dict[str, Any]) -> str:
    """Return a finding in a sentence."""
    where = finding["first_bad_position"]
    if finding["kind"] == "schema-violation":
        return _describe_violation(finding)
    place = "" if where is None else f" since {where['partition']}:{where['offset']}"
    subjects = ", ".join(finding["subjects"][:3]) or "location UNKNOWN"
    more = len(finding["subjects"]) - 3
    rest = f" and {more} more" if more > 0 else ""
    return (
        f"{finding['id']} {finding['state']}: {finding['replica'] or 'log'} {finding['kind']} "
        f"{finding['context_type'] or ''} of {subjects}{rest}{place}"
    )


def _describe_violation(finding: dict[str, Any]) -> str:
    told, where = finding["evidence"], finding["first_bad_position"]
    field = told["field"] or "event"
    expected = "" if told["expected"] is None else f", expected {told['expected']}"
    rule = f"{told['rule']} ({told['seen']}{expected})"
    return (
        f"{finding['id']} {finding['state']}: {told['producer']} writes {field} of "
        f"{finding['context_type']} against its schema's {rule}, "
        f"{told['count']:,} times since {where['partition']}:{where['offset']}"
    )


def _counts(items: list[dict[str, Any]], key: str) -> list[str]:
    found: dict[str, int] = {}
    for item in items:
        found[item[key]] = found.get(item[key], 0) + 1
    return [f"{count:,} {name}" for name, count in sorted(found.items())]
