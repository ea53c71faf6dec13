"""Attached mode put together: one process that folds a topic and watches stores."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from pipeline.topic_kafka import KafkaTopic
from service.attached_configuration import AttachedConfiguration, StoreSection
from service.attached_screen import AttachedScreen
from synchroscope.errors import UnavailableError
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


class Running(Struct):
    """An open validator with what it stands on."""

    validator: AttachedValidator
    topic: KafkaTopic


def open_attached(
    configuration: AttachedConfiguration,
    folder: Path,
    *,
    on_wait: Callable[[], None] | None = None,
) -> Running:
    """Open the topic, the reference and all stores; what fails closes the rest."""
    with ExitStack() as opened:
        log = configuration.log
        topic = KafkaTopic(log.kafka, log.topic, on_wait=on_wait)
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
        return Running(validator, topic)


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
    return StoreChecker(section.settings(), number, store, reader, reference, book, horizons)


def run(
    running: Running,
    screen: AttachedScreen,
    *,
    once: bool,
    is_ended: Callable[[], bool],
    timeout_seconds: float,
    clock: Callable[[], float] = time.time,
) -> ExitCode:
    """Step until told to end, or with `once` until everything was looked at."""
    validator, topic = running.validator, running.topic
    shown_at = 0.0
    end = _Once(validator, clock(), timeout_seconds) if once else None
    while not is_ended():
        now = clock()
        progress = validator.step(now)
        for finding in validator.book.take_news():
            screen.finding(public_form(finding))
        if now - shown_at >= SHOW_SECONDS:
            shown_at = now
            screen.standing(report(validator, now))
        if end is not None and end.is_reached(now):
            break
        if not progress.consumed:
            try:
                topic.wait(RETRY_SECONDS if validator.unavailable else IDLE_SECONDS)
            except UnavailableError:
                time.sleep(RETRY_SECONDS)
    now = clock()
    screen.standing(report(validator, now), is_last=True)
    verdicts = {standing.verdict for standing in validator.standings(now)}
    return 1 if "DIVERGED" in verdicts else 3 if "UNKNOWN" in verdicts else 0


class _Once:
    """When a look at everything is done: a whole walk, every suspicion cleared or confirmed."""

    def __init__(self, validator: AttachedValidator, now: float, timeout_seconds: float) -> None:
        self._validator = validator
        self._deadline = now + timeout_seconds
        self._walked_at: dict[str, float] = {}

    def is_reached(self, now: float) -> bool:
        """Say whether it is time to end."""
        return now >= self._deadline or all(
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


def report(validator: AttachedValidator, now: float) -> dict[str, Any]:
    """Return everything that is known, for people, JSON and metrics."""
    standings = {standing.name: standing for standing in validator.standings(now)}
    return {
        "at": now,
        "log": {
            "records": validator.counts["records"],
            "keys": validator.reference.item_count(),
            "positions": dict(validator.log.positions),
            "behind": sum(
                max(head - validator.log.positions.get(partition, 0), 0)
                for partition, head in validator.log.heads.items()
            ),
            "is_complete": validator.log.is_complete,
            "deleted_unread": validator.counts["records deleted unread"],
            "is_caught_up": validator.is_caught_up,
            "unreadable": {
                name.removeprefix("unreadable: "): count
                for name, count in validator.counts.items()
                if name.startswith("unreadable: ")
            },
            "unavailable": validator.unavailable,
        },
        "findings_refused": validator.book.refused_total,
        "stores": {
            checker.settings.name: _store_report(
                validator, checker, standings[checker.settings.name], now
            )
            for checker in validator.checkers
        },
    }


def _store_report(
    validator: AttachedValidator, checker: StoreChecker, standing: Any, now: float
) -> dict[str, Any]:
    name, walk = checker.settings.name, checker.walk
    return {
        "verdict": standing.verdict,
        "reason": standing.reason,
        "proof": checker.grade,
        "lag_events": standing.lag_events,
        "lag_seconds": round(standing.lag_seconds, 3),
        "horizons": [
            {
                "seconds": count.seconds,
                "looked": count.looked,
                "consistent": count.consistent,
                "ratio": count.consistent / count.looked if count.looked else None,
                "merged": count.merged,
                "skipped": count.skipped,
            }
            for count in checker.schedule.counts
        ],
        "looks": {
            result: checker.counts[result]
            for result in ("agrees", "lagging", "wrong", "unclear", "unknown")
        },
        "rows_read": checker.rows_read,
        "rows_without_key": checker.keyless,
        "unchecked_keys": checker.unchecked.by_reason(),
        "walks": walk.whole,
        "walk_rows": walk.last_rows,
        "walk_age_seconds": None if walk.finished_at is None else round(now - walk.finished_at, 3),
        "walk_progress": walk.phase,
        "suspects": len(checker.suspects),
        "suspects_refused": checker.suspects.refused,
        "open_findings": len(validator.book.open_of(name)),
        "findings": _by_kind(validator.book.opened_total, name),
        "resolved": _by_kind(validator.book.resolved_total, name),
    }


def _by_kind(counts: Any, name: str) -> dict[str, int]:
    prefix = f"{name} "
    return {
        key.removeprefix(prefix): count for key, count in counts.items() if key.startswith(prefix)
    }
