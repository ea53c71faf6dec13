"""What attached mode shows: a live table, plain lines, or lines of JSON."""

from __future__ import annotations

import json
from collections import deque
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from service.screen import describe

_COLOURS = {"CONSISTENT": "green", "UNKNOWN": "yellow", "DIVERGED": "bold red"}
SHOWN_FINDINGS = 8


class AttachedScreen:
    """Keeps what was told last, for whoever asks; shows nothing by itself."""

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = None
        self.findings: dict[str, dict[str, Any]] = {}

    def finding(self, finding: dict[str, Any]) -> None:
        """Take a finding that was opened or resolved."""
        self.findings[finding["id"]] = finding

    def standing(self, report: dict[str, Any], *, is_last: bool = False) -> None:
        """Take how everything stands."""
        self.report = report

    def close(self) -> None:
        """Give back what is held."""


class JsonScreen(AttachedScreen):
    """One line of JSON per finding opened or resolved, and a summary at the end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def finding(self, finding: dict[str, Any]) -> None:
        """Write it."""
        super().finding(finding)
        self._write({"finding": finding})

    def standing(self, report: dict[str, Any], *, is_last: bool = False) -> None:
        """Write the last one."""
        super().standing(report)
        if is_last:
            self._write({"summary": report})

    def _write(self, what: dict[str, Any]) -> None:
        self._stream.write(json.dumps(what, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._stream.flush()


class PlainScreen(AttachedScreen):
    """Sentences as things happen, and the table at the end: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._verdicts: dict[str, str] = {}

    def finding(self, finding: dict[str, Any]) -> None:
        """Print it."""
        super().finding(finding)
        self._console.print(sentence(finding), highlight=False, soft_wrap=True)

    def standing(self, report: dict[str, Any], *, is_last: bool = False) -> None:
        """Print verdicts that changed; at the end everything."""
        super().standing(report)
        for name, store in report["stores"].items():
            if self._verdicts.get(name) != store["verdict"]:
                self._verdicts[name] = store["verdict"]
                text = f"{name}: {store['verdict']}: {store['reason']}"
                self._console.print(text, highlight=False, soft_wrap=True)
        if is_last:
            self._console.print(headline(report), highlight=False, soft_wrap=True)
            self._console.print(store_table(report))


class LiveScreen(AttachedScreen):
    """A table that is drawn anew."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()
        self._recent: deque[str] = deque(maxlen=SHOWN_FINDINGS)

    def finding(self, finding: dict[str, Any]) -> None:
        """Show it below the table."""
        super().finding(finding)
        self._recent.append(sentence(finding))

    def standing(self, report: dict[str, Any], *, is_last: bool = False) -> None:
        """Draw."""
        super().standing(report)
        lines: list[RenderableType] = [Text(headline(report)), store_table(report)]
        lines += [Text(line, style="red" if " open: " in line else "") for line in self._recent]
        self._live.update(Group(*lines), refresh=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


def sentence(finding: dict[str, Any]) -> str:
    """Return a finding in a sentence, with its cause."""
    return f"{describe(finding)}: {finding['evidence']['cause']}"


def headline(report: dict[str, Any]) -> str:
    """Return the log in a line."""
    log = report["log"]
    unreadable = sum(log["unreadable"].values())
    state = "" if log["is_caught_up"] else ", catching up"
    kept = "" if log["is_complete"] else ", not from its beginning"
    return (
        f"log: {log['records']:,} records folded, {log['behind']:,} to go, {log['keys']:,} keys, "
        f"{unreadable:,} unreadable{state}{kept}"
    )


def store_table(report: dict[str, Any]) -> Table:
    """Return the stores as a table: consistent within each horizon, in nines where there are."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    stores = report["stores"]
    horizons: list[dict[str, Any]] = next((s["horizons"] for s in stores.values()), [])
    names = ["store", "verdict", "lag"]
    names += [f"within {span(horizon['seconds'])}" for horizon in horizons]
    names += ["rows read", "walk", "findings", "because"]
    for name in names:
        is_text = name in ("store", "verdict", "because")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for name, store in stores.items():
        opened, total = store["open_findings"], sum(store["findings"].values())
        age = store["walk_age_seconds"]
        table.add_row(
            name,
            Text(store["verdict"], style=_COLOURS[store["verdict"]]),
            f"{store['lag_events']:,}" if store["lag_events"] else "-",
            *[_share(horizon) for horizon in store["horizons"]],
            f"{store['rows_read']:,}",
            "-" if age is None else f"{store['walk_rows']:,} rows {age:.0f} s ago",
            f"{opened} open of {total}" if total else "-",
            store["reason"],
        )
    return table


def span(seconds: float) -> str:
    """Return a time for people.

    >>> span(10.0), span(300.0), span(0.5)
    ('10 s', '5 min', '0.5 s')
    """
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:g} min"
    return f"{seconds:g} s"


def _share(horizon: dict[str, Any]) -> str:
    if horizon["ratio"] is None:
        return "-"
    missing = horizon["looked"] - horizon["consistent"]
    if not missing:
        return f"100 % of {horizon['looked']:,}"
    return f"{100 * horizon['ratio']:.4f} %"
