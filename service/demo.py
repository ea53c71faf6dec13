"""`synchroscope demo`: the retail stream through the whole pipeline, in one process or many."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from msgspec import Struct
from rich.console import Console

from chaos.faults import parse_fault
from examples.retail.stream import RetailProducer
from examples.retail.views import RULES, VIEWS
from pipeline.commands import CommandSide
from pipeline.event_store import EventStore
from service.account import Account
from service.embedded import EmbeddedPipeline, ReplicaSpec
from service.http import HttpServer, Showcase, Shown, make_app
from service.measuring import measurements_of
from service.registry_http import Desk, registry_routes
from service.report import build_report, exit_code
from service.screen import Screen, print_summary
from synchroscope.errors import UnavailableError

BATCH_ROWS = 50
"""Rows a round: few enough for latencies under 100 ms at full speed, many enough for its rate."""
REFRESH_SECONDS = 0.5
IDLE_SECONDS = 0.002
RETRY_SECONDS = 0.2
SETTLE_SECONDS = 60.0
"""Without any progress for so long, what is not judged stays UNKNOWN."""
HURRIED_SETTLE_SECONDS = 15.0
DEFAULT_DATA = Path(__file__).resolve().parent.parent / "examples" / "retail" / "data"
SCHEMAS = DEFAULT_DATA.parent / "schemas"

REPLICAS = tuple(
    ReplicaSpec(f"{view.model}@{instance}", view, storage)
    for view in VIEWS
    for instance, storage in ((1, "lmdb"), (2, "memory"))
)


class DemoOptions(Struct, frozen=True):
    """What the command line says; see `service.cli`."""

    data: Path = DEFAULT_DATA
    speed: float | None = 1_200.0
    duration_seconds: float | None = None
    headless: bool = False
    faults: tuple[str, ...] = ()
    seed: int = 0
    data_dir: Path | None = None
    config: Path | None = None
    http_host: str = "127.0.0.1"
    http_port: int = 8787
    report: Path | None = None


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo to its end and return the exit code."""
    if options.data_dir is not None:
        return _Demo(options, options.data_dir, console).run()
    with tempfile.TemporaryDirectory(prefix="synchroscope-") as folder:
        return _Demo(options, Path(folder), console).run()


def _open_pipeline(options: DemoOptions, folder: Path, desk: Desk) -> DemoPipeline:
    if options.config is None:
        faults = [parse_fault(text, [spec.name for spec in REPLICAS]) for text in options.faults]
        return EmbeddedPipeline(
            folder, REPLICAS, faults=faults, seed=options.seed, schemas=SCHEMAS, desk=desk
        )
    # The embedded demo needs none of the clients that this imports.
    from service.configuration import load_configuration
    from service.distributed import DistributedPipeline

    configuration = load_configuration(options.config, os.environ)
    names = [replica.name for replica in configuration.replicas]
    for text in options.faults:
        parse_fault(text, names)
    return DistributedPipeline(
        configuration, options.config, folder, faults=options.faults, seed=options.seed
    )


class DemoPipeline(Protocol):
    """What the demo asks of a pipeline, in one process or in many."""

    @property
    def store(self) -> EventStore:
        """The event store that the producer writes to."""
        ...

    def step(self) -> int:
        """Do a round of work; return how much was consumed."""
        ...

    def account(self, now: float, *, final: bool = False) -> Account:
        """Return what there is to tell."""
        ...

    def add_producing_seconds(self, seconds: float) -> None:
        """Count time in which events were produced."""
        ...

    def is_caught_up(self) -> bool:
        """Say whether everything accepted is in the log and read by every replica."""
        ...

    def is_settled(self) -> bool:
        """Say whether every replica was compared and scrubbed at every partition's head."""
        ...

    def ask_for_proof(self, now: float) -> None:
        """Have every replica's storage summed again."""
        ...

    def progress(self) -> int:
        """Return a number that grows as long as anything is still on its way."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class _Demo:
    """One run: produce, settle, serve, stop."""

    def __init__(self, options: DemoOptions, folder: Path, console: Console) -> None:
        self._options = options
        self._console = console
        self._showcase = Showcase()
        desk = Desk()
        more = registry_routes(desk) if options.config is None else []
        app = make_app(self._showcase, more)
        self._server = HttpServer(app, options.http_host, options.http_port)
        self._pipeline = _open_pipeline(options, folder, desk)
        self._producer = self._make_producer()
        self._stops = 0
        self._is_producer_lost = False
        self._phase = "producing"
        self._produced_before = self._pipeline.store.count()
        self._seconds = 0.0
        self._refreshed_at = 0.0

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self._server.start()
        self._refresh()
        screen = Screen(self._console, self._server.url)
        try:
            self._produce(screen)
            self._settle(screen)
            if not self._options.headless:
                self._serve(screen)
            report = self._refresh(final=True)
        finally:
            screen.close()
            self._server.stop()
            self._pipeline.close()
        print_summary(self._console, report, self._rate())
        if self._options.report is not None:
            text = json.dumps(report, indent=2, ensure_ascii=False)
            self._options.report.write_text(text + "\n", encoding="utf-8")
        return exit_code(report)

    def _make_producer(self) -> RetailProducer:
        store = self._pipeline.store
        return RetailProducer(
            self._options.data,
            CommandSide(store, RULES),
            store,
            speed=self._options.speed,
            batch_rows=BATCH_ROWS,
        )

    def _step_producer(self) -> int:
        """Produce; where the store went away, go on later from what it has."""
        try:
            if self._is_producer_lost:
                self._producer = self._make_producer()
                self._is_producer_lost = False
            return self._producer.step(time.time()).consumed
        except UnavailableError as error:
            self._is_producer_lost = True
            self._phase = f"waiting for {error.server}"
            time.sleep(RETRY_SECONDS)
            return 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        if self._stops > 2:
            raise KeyboardInterrupt

    def _produce(self, screen: Screen) -> None:
        started = last = time.monotonic()
        limit = self._options.duration_seconds
        while (self._is_producer_lost or not self._producer.done) and not self._stops:
            if limit is not None and time.monotonic() - started >= limit:
                return
            consumed = self._step_producer() + self._pipeline.step()
            if not self._is_producer_lost:
                self._phase = "producing"
            now = time.monotonic()
            self._seconds += now - last
            self._pipeline.add_producing_seconds(now - last)
            last = now
            self._pause(screen, consumed)

    def _settle(self, screen: Screen) -> None:
        """Wait until all is judged; give up only when nothing has moved for a while."""
        self._phase = "settling"
        span = HURRIED_SETTLE_SECONDS if self._stops else SETTLE_SECONDS
        moved_at, reached = time.monotonic(), -1
        while time.monotonic() - moved_at < span and self._stops < 2:
            consumed = self._pipeline.step()
            if self._pipeline.is_caught_up():
                if self._pipeline.is_settled():
                    return
                self._pipeline.ask_for_proof(time.time())
            progress = self._pipeline.progress()
            if progress > reached and not self._stops:
                moved_at, reached = time.monotonic(), progress
            self._pause(screen, consumed)

    def _serve(self, screen: Screen) -> None:
        self._phase = "done, serving"
        while not self._stops:
            self._pause(screen, self._pipeline.step())

    def _pause(self, screen: Screen, consumed: int) -> None:
        now = time.monotonic()
        if now - self._refreshed_at >= REFRESH_SECONDS:
            self._refreshed_at = now
            screen.show(self._refresh(), self._phase, self._rate(), now)
        if not consumed:
            time.sleep(IDLE_SECONDS)

    def _rate(self) -> float:
        made = self._pipeline_events - self._produced_before
        return made / self._seconds if self._seconds else 0.0

    def _refresh(self, *, final: bool = False) -> dict[str, Any]:
        now = time.time()
        account = self._pipeline.account(now, final=final)
        report = build_report(account)
        self._pipeline_events = report["events_produced"]
        unready = [
            f"{name}: {replica['reason']}"
            for name, replica in report["replicas"].items()
            if replica["verdict"] == "UNKNOWN"
        ]
        self._showcase.shown = Shown(measurements_of(account), report, "; ".join(unready))
        return report
