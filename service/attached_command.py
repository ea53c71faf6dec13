"""The `attach` command: opens what the file names, shows what is found, serves it if asked to."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

import click
from msgspec import Struct
from rich.console import Console

from pipeline.sqlite_database import SqliteDatabase
from service.attached import EndedError, Waiting, open_attached, run
from service.attached_configuration import AttachedConfiguration, load_attached
from service.attached_screen import AttachedScreen, JsonScreen, LiveScreen, PlainScreen
from synchroscope.errors import UnavailableError

RETRY_SECONDS = 2.0
LOCKED_FILE = "attached.db"
"""Who has it open for writing is the only one that keeps anything in the data folder."""


class AttachOptions(Struct, frozen=True):
    """What the command line says."""

    file: Path
    once: bool
    as_json: bool
    data_dir: Path | None
    timeout_seconds: float
    http_host: str
    http_port: int | None


def attach_and_watch(options: AttachOptions, environ: Mapping[str, str], console: Console) -> int:
    """Run the command; return the exit code."""
    configuration = load_attached(options.file, environ)
    ended = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        ended.set()

    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, on_signal)
                stack.callback(signal.signal, number, before)
        folder = _folder(options.data_dir, stack)
        screen = _screen(options, console)
        stack.callback(screen.close)
        if options.http_port is not None:
            from service.attached_http import serve

            server = serve(screen, options.http_host, options.http_port)
            stack.callback(server.stop)
            click.echo(f"serving {server.url}", err=True)
        return _watch(options, configuration, folder, screen, ended)


def _folder(data_dir: Path | None, stack: ExitStack) -> Path:
    """Return where things are kept; one that was named is this process's alone.

    Raises `StorageError` where another one has it. The lock is the demo's, which comes with a
    database: this one stays empty. The kernel lets go of it with the process.
    """
    if data_dir is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="synchroscope-")))
    data_dir.mkdir(parents=True, exist_ok=True)
    stack.enter_context(closing(SqliteDatabase(data_dir / LOCKED_FILE, synchronous="OFF")))
    return data_dir


def _watch(
    options: AttachOptions,
    configuration: AttachedConfiguration,
    folder: Path,
    screen: AttachedScreen,
    ended: threading.Event,
) -> int:
    while not ended.is_set():
        waiting = Waiting(lambda: _end_if(ended))
        try:
            running = open_attached(configuration, folder, waiting)
        except EndedError:
            break
        except UnavailableError as error:
            if options.once:
                raise
            click.echo(f"synchroscope: {error}; trying again", err=True)
            ended.wait(RETRY_SECONDS)
            continue
        try:
            return run(
                running,
                screen,
                once=options.once,
                is_ended=ended.is_set,
                timeout_seconds=options.timeout_seconds,
            )
        finally:
            running.validator.close()
    return 3


def _end_if(ended: threading.Event) -> None:
    if ended.is_set():
        raise EndedError


def _screen(options: AttachOptions, console: Console) -> AttachedScreen:
    if options.as_json:
        return JsonScreen(sys.stdout)
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)
