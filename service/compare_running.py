"""Runs a comparison and prints it: one line a key on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from types import FrameType
from typing import Any, TextIO

import msgspec
from msgspec import Struct

from service.terminal import INTERRUPTED
from synchroscope.errors import SynchroscopeError
from validator.compare.comparing import Comparison, Difference, Summary
from validator.compare.looking import Reason
from validator.stores.opening import open_store
from validator.stores.port import Key

SECONDS_DIGITS = 2
GRACE_SECONDS, LAST_WORDS_SECONDS = 5.0, 1.0
"""So long after an interrupt a server is waited for, and what was found is being printed."""
UNREAD = 141
"""Exit code where nobody reads what is printed: that of a process which SIGPIPE ends."""
_REASONS: Mapping[Reason, str] = {
    "changing": "went on changing on both sides",
    "unreadable": "cannot be read",
    "unfound": "listed, but not found by key",
    "twice": "listed twice, not alike",
}
_SIGNS = {"missing": "-", "extra": "+", "changed": "~", "undecided": "?"}


class CompareOptions(Struct, frozen=True):
    """What the user asked for; see the command's help."""

    left: str
    right: str
    key: Sequence[str]
    columns: Sequence[str] | None
    as_json: bool
    show_values: bool
    settle_seconds: float


def run_compare(options: CompareOptions, out: TextIO | None = None) -> int:
    """Compare, print, and return the exit code; what was found until an interrupt is printed."""
    out = sys.stdout if out is None else out
    try:
        return _printed(options, out)
    except BrokenPipeError:
        # Nobody reads on. What is left in the buffer goes nowhere, and not into an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return UNREAD
    except (SynchroscopeError, OSError):
        raise
    except Exception:  # 1 would say that keys differ.
        out.flush()
        print(traceback.format_exc(), file=sys.stderr)
        print(
            "synchroscope: the comparison ended before it was complete, by an unexpected error",
            file=sys.stderr,
        )
        return 3


def _printed(options: CompareOptions, out: TextIO) -> int:
    comparison = Comparison(
        lambda: open_store(options.left, options.key, options.columns),
        lambda: open_store(options.right, options.key, options.columns),
        columns=options.columns,
        settle_seconds=options.settle_seconds,
    )
    line = json_line if options.as_json else text_line
    is_watched = sys.stderr.isatty()

    def told() -> None:
        found = comparison.summary.differing
        print(f"interrupted, so this is incomplete: {found:,} keys differ so far", file=sys.stderr)

    try:
        with (
            terminable(lambda: _end(out, told)),
            watched(comparison) if is_watched else nullcontext(),
            closing(comparison.run()) as differences,
        ):
            for difference in differences:
                print(line(difference, options.show_values), file=out, flush=is_watched)
    except KeyboardInterrupt:
        out.flush()
        told()
        return INTERRUPTED
    out.flush()
    print(sentence(comparison.summary), file=sys.stderr)
    return comparison.summary.exit_code


@contextmanager
def terminable(end: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM end it as Ctrl-C does; what hangs even so is ended after `GRACE_SECONDS`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = threading.Timer(GRACE_SECONDS, end)
    waiting.daemon = True

    def on_signal(number: int, frame: FrameType | None) -> None:
        if waiting.ident is not None:
            end()  # The second one.
        waiting.start()
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield
    finally:
        waiting.cancel()
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _end(out: TextIO, told: Callable[[], None]) -> None:
    """End the process though threads wait for a server, or for who reads what is printed."""

    def say() -> None:
        out.flush()
        told()
        sys.stderr.flush()

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    saying.join(LAST_WORDS_SECONDS)
    os._exit(INTERRUPTED)


@contextmanager
def watched(comparison: Comparison) -> Iterator[None]:
    """Show on the terminal how far it is."""
    from rich.console import Console  # A tenth of a second that who is not there need not wait.

    with Console(stderr=True).status("opening both stores") as status:

        def show(what: str, done: int, total: int) -> None:
            share = f" {done:,} of {total:,}" if total else f" {done:,}" if done else ""
            status.update(f"{what}{share}")

        comparison.follow(show)
        yield


def key_form(key: Key) -> str | list[str]:
    """Return a key as JSON has it: text; of several columns a list of texts."""
    return key[0] if len(key) == 1 else list(key)


def json_line(difference: Difference, show_values: bool) -> str:
    """Return one strict JSON object on one line."""
    form: dict[str, Any] = {
        "key": key_form(difference.key),
        "kind": difference.kind,
        "columns": list(difference.columns),
    }
    if difference.reason is not None:
        form["reason"] = difference.reason
    if show_values:
        form["left"], form["right"] = _values(difference)
    return _written(form)


def text_line(difference: Difference, show_values: bool) -> str:
    """Return a line for people: sign, kind, key and columns."""
    key = _printable(", ".join(difference.key))
    line = f"{_SIGNS[difference.kind]} {difference.kind:9} {key}"
    if difference.reason is not None:
        line += f" ({_REASONS[difference.reason]})"
    if not show_values:
        return f"{line}  {_printable(', '.join(difference.columns))}".rstrip()
    left, right = _values(difference)
    names = difference.columns or sorted({*(left or {}), *(right or {})})
    for name in names:
        pair = [_written(side.get(name)) if side is not None else "-" for side in (left, right)]
        line += f"\n    {_printable(name)}: {pair[0]} | {pair[1]}"
    return line


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _values(difference: Difference) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    left, right = (
        None
        if row is None
        else {n: row.get(n) for n in difference.columns}
        if difference.columns
        else dict(row)
        for row in (difference.left, difference.right)
    )
    return left, right


def _written(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:  # A lone surrogate, which JSON can escape, and UTF-8 has not.
        return json.dumps(_finite(value), separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def sentence(summary: Summary) -> str:
    """Return what was done and what it came to, in a line or two."""
    left, right = summary.rows
    how = "read whole"
    if summary.method == "bucket digests":
        how = (
            f"summed up in their databases, {summary.buckets_differing:,} of "
            f"{summary.buckets:,} buckets differed and were read"
        )
    parts = [f"{summary.differing:,} keys differ"]
    if summary.undecided:
        why = ", ".join(f"{count:,} {_REASONS[why]}" for why, count in summary.reasons.items())
        parts.append(f"{summary.undecided:,} are undecided ({why})")
    if summary.cleared:
        parts.append(f"{summary.cleared:,} only lagged or agreed when they were read again")
    if any(summary.keyless):
        missing = " and ".join(f"{count:,}" for count in summary.keyless)
        parts.append(
            f"{missing} rows have no key (NULL, no UTF-8, or not as the URI says) and were not "
            "compared"
        )
    told = "; ".join(parts)
    return f"{told}. {left:,} and {right:,} rows {how}; {summary.seconds:.{SECONDS_DIGITS}f} s"
