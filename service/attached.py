"""Attached mode put together: one process that folds a topic and watches stores."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from msgspec import Struct

from pipeline.topic_kafka import KafkaTopic
from service.attached_configuration import AttachedConfiguration, StoreSection
from service.attached_report import aged, report
from service.attached_screen import AttachedScreen
from synchroscope.errors import UnavailableError
from validator.attached.asking import InThread
from validator.attached.book import Book
from validator.attached.checker import StoreChecker
from validator.attached.record_mapping import RecordReader
from validator.attached.reference import KeyedReference
from validator.attached.row_mapping import RowReader
from validator.attached.validator import AttachedValidator
from validator.finding import public_form
from validator.stores.opening import open_store
from validator.stores.port import ForeignStore

IDLE_SECONDS = 0.02
RETRY_SECONDS = 1.0
SHOW_SECONDS = 0.5
UNDECIDED_AFTER_SECONDS = 60.0

ExitCode = Literal[0, 1, 3]


class EndedError(Exception):
    """It is time to end, in the midst of waiting for Kafka."""


class Waiting(Struct):
    """What is done about once a second while Kafka is waited for; it may raise `EndedError`."""

    act: Callable[[], None]


class Running(Struct):
    """An open validator with what it stands on."""

    validator: AttachedValidator
    topic: KafkaTopic
    waiting: Waiting


def open_attached(configuration: AttachedConfiguration, folder: Path, waiting: Waiting) -> Running:
    """Open the topic, the reference and all stores; what fails closes the rest."""
    with ExitStack() as opened:
        log = configuration.log
        topic = KafkaTopic(log.kafka, log.topic, on_wait=lambda: waiting.act())
        opened.callback(topic.close)
        reference = KeyedReference(folder, configuration.fingerprint())
        opened.callback(reference.close)
        book = Book(reference)
        checkers = []
        for section in configuration.stores:
            store = open_store(section.uri, section.keys, section.columns)
            opened.callback(store.close)
            checkers.append(_checker(configuration, section, store, reference, book))
        settle = max(section.settle_seconds for section in configuration.stores)
        validator = AttachedValidator(
            topic,
            RecordReader(configuration.record),
            reference,
            checkers,
            book,
            begin=log.begin,
            keep_seconds=2 * settle + 10,
        )
        opened.pop_all()
        return Running(validator, topic, waiting)


def _checker(
    configuration: AttachedConfiguration,
    section: StoreSection,
    store: ForeignStore,
    reference: KeyedReference,
    book: Book,
) -> StoreChecker:
    mapping = section.row_mapping(configuration.constant_type, is_typed=store.is_typed)
    reader = RowReader(mapping, store.key_columns)
    number = reference.number_of(section.name)
    horizons = configuration.horizons_seconds
    return StoreChecker(
        section.settings(),
        number,
        store,
        reader,
        reference,
        book,
        horizons,
        InThread(section.name),
    )


def run(
    running: Running,
    screen: AttachedScreen,
    *,
    once: bool,
    is_ended: Callable[[], bool],
    timeout_seconds: float,
    clock: Callable[[], float] = time.time,
) -> ExitCode:
    """Step until told to end, or with `once` until everything was looked at.

    It ends too while a server is waited for, within about a second.
    """
    validator = running.validator
    end = _Once(validator, clock(), timeout_seconds) if once else None

    def waits() -> None:
        now = clock()
        if is_ended() or (end is not None and end.is_late(now)):
            raise EndedError
        if screen.report is not None:
            screen.standing(aged(screen.report, now))

    running.waiting.act = waits
    with suppress(EndedError):
        _step_on(running, screen, end, is_ended, clock)
    now = clock()
    screen.standing(report(validator, now), is_last=True)
    verdicts = {standing.verdict for standing in validator.standings(now)}
    return 1 if "DIVERGED" in verdicts else 3 if "UNKNOWN" in verdicts else 0


def _step_on(
    running: Running,
    screen: AttachedScreen,
    end: _Once | None,
    is_ended: Callable[[], bool],
    clock: Callable[[], float],
) -> None:
    validator, topic = running.validator, running.topic
    shown_at = 0.0
    while not is_ended():
        progress = validator.step(clock)
        for finding in validator.book.take_news():
            screen.finding(public_form(finding))
        now = clock()
        if now - shown_at >= SHOW_SECONDS:
            shown_at = now
            screen.standing(report(validator, now))
        if end is not None and end.is_reached(now):
            return
        if not progress.consumed:
            try:
                topic.wait(RETRY_SECONDS if validator.unavailable else IDLE_SECONDS)
            except UnavailableError:
                time.sleep(RETRY_SECONDS)


class _Once:
    """When a look at everything is done: a whole walk, every suspicion cleared or confirmed."""

    def __init__(self, validator: AttachedValidator, now: float, timeout_seconds: float) -> None:
        self._validator = validator
        self._deadline = now + timeout_seconds
        self._walked_at: dict[str, float] = {}

    def is_late(self, now: float) -> bool:
        """Say whether the time is over."""
        return now >= self._deadline

    def is_reached(self, now: float) -> bool:
        """Say whether it is time to end."""
        return self.is_late(now) or all(
            self._is_done(checker, now) for checker in self._validator.checkers
        )

    def _is_done(self, checker: StoreChecker, now: float) -> bool:
        if checker.walk.finished_at is None:
            return False
        walked_at = self._walked_at.setdefault(checker.settings.name, now)
        if checker.is_busy:
            return False
        if now - walked_at > UNDECIDED_AFTER_SECONDS:
            return True
        return checker.unconfirmed(before=walked_at) == 0
