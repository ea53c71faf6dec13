"""The schema registry and the check of events in one process, on one log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from service.registry_http import Desk
from synchroscope.errors import ConfigurationError
from synchroscope.ports import Log, Progress
from validator.schemas.checker import SCHEMA_VIOLATION, SchemaChecker, SchemaStanding
from validator.schemas.model import DEFAULT_SUBJECT, SchemaRegistry, subject_of_context_type
from validator.schemas.registry_log import LogRegistry

MAXIMUM_FILES = 10_000
MAXIMUM_FILE_BYTES = 1_048_576


class SchemaFile(Struct, frozen=True):
    """A schema in a file that is named by its context type."""

    path: Path
    context_type: str
    text: str


def read_folder(folder: Path) -> list[SchemaFile]:
    """Return the schemas of a folder, one file ``CONTEXT_TYPE.json`` each."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder: name one with CONTEXT_TYPE.json files")
    paths = sorted(folder.glob("*.json"))[:MAXIMUM_FILES]
    if not paths:
        raise ConfigurationError(f"{folder} has no CONTEXT_TYPE.json files")
    found = []
    for path in paths:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise ConfigurationError(f"{path} has more than {MAXIMUM_FILE_BYTES} bytes")
        try:
            found.append(SchemaFile(path, path.stem, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path} is not UTF-8 ({error})") from None
    return found


def register_folder(
    registry: SchemaRegistry, folder: Path, now: float, *, by: str = ""
) -> dict[str, int]:
    """Register the schemas of a folder; return the ID of each context type's."""
    return {
        file.context_type: registry.register(
            subject_of_context_type(file.context_type, DEFAULT_SUBJECT), file.text, now, by=by
        )
        for file in read_folder(folder)
    }


class SchemaRoom:
    """The registry, the desk where requests for it wait, and the check of events.

    Events are checked from the log's beginning on, as soon as anything is registered.

    Parameters
    ----------
    log: Where all of it is kept.
    desk: Where requests are put.
    """

    def __init__(self, log: Log, desk: Desk | None = None) -> None:
        self.desk = Desk() if desk is None else desk
        self.registry = LogRegistry(log)
        self.registry.refresh()
        self._make: Callable[[], SchemaChecker] = lambda: SchemaChecker(log, self.registry)
        self._checker: SchemaChecker | None = None

    def step(self, now: float) -> Progress:
        """Answer requests, and check a batch of events."""
        done = self.desk.step(self.registry, now)
        if self._checker is None and self.registry.revision:
            self._checker = self._make()
        if self._checker is None:
            return Progress(done)
        return Progress(done + self._checker.step(now).consumed)

    def standing(self, now: float) -> SchemaStanding | None:
        """Return how the check stands; None where nothing is registered."""
        return None if self._checker is None else self._checker.standing(now)

    def is_at(self, heads: Mapping[int, int]) -> bool:
        """Say whether all that is to be checked is checked."""
        return self._checker is None or self._checker.positions == heads


def findings_of(standing: SchemaStanding | None, field: str) -> Counter[str]:
    """Return how many findings the check has `opened`, `resolved` or `open`, by kind.

    >>> findings_of(None, "open")
    Counter()
    """
    if standing is None or not getattr(standing, field):
        return Counter()
    return Counter({SCHEMA_VIOLATION: getattr(standing, field)})
