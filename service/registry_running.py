"""What the registry's commands do: serve it, register a folder, show its history."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec
from msgspec import Struct
from starlette.applications import Starlette

from pipeline.log_sqlite import SqliteLog
from pipeline.sqlite_database import SqliteDatabase
from service.configuration import SchemasSection, load_configuration
from service.http import HttpServer
from service.registry_http import Desk, registry_routes
from service.schema_room import SchemaFile, read_folder
from synchroscope.errors import ConfigurationError, UnavailableError
from synchroscope.ports import CONTROL_TOPICS
from validator.finding import timestamp
from validator.schemas.model import (
    INCOMPATIBLE,
    RegistryError,
    SchemaRegistry,
    subject_of_context_type,
)
from validator.schemas.registry_client import RegistryClient
from validator.schemas.registry_log import Change, LogRegistry, Registered

IDLE_SECONDS = 0.01
RETRY_SECONDS = 1.0


class Place(Struct, frozen=True):
    """Where a registry is; one of the three is given."""

    config: Path | None
    data_dir: Path | None
    url: str | None = None


@contextmanager
def own_registry(place: Place, *, for_reading: bool = False) -> Iterator[LogRegistry]:
    """Open our registry on the log that the place names."""
    if place.data_dir is not None and for_reading:
        path = place.data_dir / "synchroscope.db"
        with closing(SqliteDatabase(path, exclusive=False)) as database:
            yield LogRegistry(SqliteLog(database, {}))
        return
    if place.data_dir is not None:
        place.data_dir.mkdir(parents=True, exist_ok=True)
        with closing(SqliteDatabase(place.data_dir / "synchroscope.db")) as database:
            yield LogRegistry(SqliteLog(database, dict.fromkeys(CONTROL_TOPICS, 1)))
        return
    if place.config is None:
        raise ConfigurationError("name --config FILE or --data-dir DIR")
    from pipeline.log_kafka import KafkaLog

    configuration = load_configuration(place.config, os.environ)
    if configuration.schemas is not None and configuration.schemas.url:
        raise ConfigurationError("schemas.url names another registry: ask that one")
    with closing(KafkaLog(configuration.log.kafka)) as log:
        yield LogRegistry(log, wait=log.wait)


@contextmanager
def any_registry(place: Place) -> Iterator[tuple[SchemaRegistry, SchemasSection]]:
    """Open the registry that the place names, with the settings that it is used by."""
    options = SchemasSection()
    if place.config is not None:
        options = load_configuration(place.config, os.environ).schemas or options
    if place.url or options.url:
        with closing(RegistryClient(place.url or options.url)) as client:
            yield client, options
        return
    with own_registry(place) as registry:
        yield registry, options


def serve(place: Place, http_host: str, http_port: int) -> int:
    """Serve our registry until a signal comes; wait while the log is away."""
    ended = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    desk = Desk()
    server = HttpServer(Starlette(routes=registry_routes(desk)), http_host, http_port)
    server.start()
    click.echo(server.url)
    try:
        while not ended.is_set():
            try:
                with own_registry(place) as registry:
                    _answer(desk, registry, ended)
            except UnavailableError as error:
                click.echo(f"synchroscope: {error}; trying again", err=True)
                ended.wait(RETRY_SECONDS)
    finally:
        server.stop()
    return 0


def _answer(desk: Desk, registry: LogRegistry, ended: threading.Event) -> None:
    while not ended.is_set():
        if not desk.step(registry, time.time()):
            ended.wait(IDLE_SECONDS)


def register(place: Place, folder: Path, *, dry_run: bool, as_json: bool) -> int:
    """Register a folder's schemas, or say what would be refused; return the exit code."""
    results = []
    with any_registry(place) as (registry, options):
        for file in read_folder(folder):
            subject = subject_of_context_type(file.context_type, options.subject)
            results.append(_register(registry, file, subject, dry_run))
    for result in results:
        if as_json:
            click.echo(json.dumps(result, ensure_ascii=False))
        else:
            told = result["error"] or (
                "would be accepted" if dry_run else f"version {result['version']}"
            )
            click.echo(f"{result['subject']}: {told}")
    codes = {result["code"] for result in results} - {0}
    return 0 if not codes else 1 if codes == {INCOMPATIBLE} else 2


def _register(
    registry: SchemaRegistry, file: SchemaFile, subject: str, dry_run: bool
) -> dict[str, str | int | None]:
    result: dict[str, str | int | None] = {
        "file": str(file.path),
        "subject": subject,
        "id": None,
        "version": None,
        "code": 0,
        "error": "",
    }
    now = time.time()
    try:
        if dry_run:
            reasons = registry.refusal(subject, file.text, now)
            if reasons:
                raise RegistryError(INCOMPATIBLE, "; ".join(reasons))
        else:
            result["id"] = registry.register(subject, file.text, now, by="registry register")
            result["version"] = registry.lookup(subject, file.text, now).version
    except RegistryError as error:
        result |= {"code": error.code, "error": str(error)}
    return result


def history(place: Place, *, as_json: bool) -> int:
    """Print every change of our registry, the oldest first."""
    with own_registry(place, for_reading=True) as registry:
        registry.refresh()
        for change in registry.changes:
            if as_json:
                click.echo(json.dumps(_form(change), ensure_ascii=False))
            else:
                click.echo(f"{change.revision} {timestamp(change.at)} {_text(change)} {change.by}")
    return 0


def _form(change: Change) -> dict[str, object]:
    form: dict[str, object] = msgspec.to_builtins(change)
    del form["token"]
    return form | {"at": timestamp(change.at)}


def _text(change: Change) -> str:
    what = change.what
    if isinstance(what, Registered):
        return f"registered {what.subject} version {what.version} as schema {what.id}"
    return f"set the level of {what.subject or 'all subjects'} to {what.level or 'the global one'}"
