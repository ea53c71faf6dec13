"""A registry whose only storage is the log: the order of `sync.state` decides who was first.

Every change is a record that says which revision of the registry it follows. Whoever reads the
records in order takes a change if it follows the revision it has reached, and passes over it if
another came first; so all processes that read the log agree, and no two schemas get one ID, without
a lock or a leader. Who lost reads on and decides anew. What a change needs to be allowed (valid,
compatible) is decided before it is written and never again, so that a release with other rules
reads the same registry.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import msgspec
from msgspec import Struct

from synchroscope.foreign import decoded
from synchroscope.ports import STATE, Log, NewRecord
from validator.schemas.compatibility import (
    DEFAULT_LEVEL,
    LEVELS,
    Level,
    incompatibilities,
)
from validator.schemas.document import canonical_text, parse_schema
from validator.schemas.inclusion import Schema
from validator.schemas.model import (
    INCOMPATIBLE,
    INVALID_LEVEL,
    INVALID_SCHEMA,
    LEVEL_NOT_FOUND,
    MAXIMUM_SUBJECT_CHARACTERS,
    SCHEMA_NOT_FOUND,
    STORE_FAILED,
    SUBJECT_NOT_FOUND,
    VERSION_NOT_FOUND,
    RegistryError,
    SchemaVersion,
)

PREFIX = "schemas/"
READ_RECORDS = 1_000
ATTEMPTS = 20
IDLE_READS = 1_000
WAIT_SECONDS = 0.01
"""So often, and so long each time, is asked for records that the log has and did not hand out."""
MAXIMUM_VERSIONS = 100_000


class Registered(Struct, frozen=True, rename="camel", tag="registered"):
    """A subject has a new version."""

    subject: str
    version: int
    id: int
    text: str


class LevelSet(Struct, frozen=True, rename="camel", tag="level"):
    """A subject, or with None the whole registry, has another level; None: none of its own."""

    subject: str | None
    level: Level | None


class Change(Struct, frozen=True, rename="camel"):
    """One change: it counts if ``revision`` is one more than that of the change before it."""

    revision: int
    token: str
    at: float
    by: str
    what: Registered | LevelSet


_decode_change = msgspec.json.Decoder(Change).decode
_decode_any = msgspec.json.Decoder().decode


def _new_token() -> str:
    return uuid4().hex


class LogRegistry:
    """The `SchemaRegistry` on a log; used by one thread, by any number of processes.

    Parameters
    ----------
    log: Where `sync.state` is.
    wait: Waits for records, at most so many seconds; for logs that fetch them by and by.
    new_token: Makes names that are never made twice.
    """

    def __init__(
        self,
        log: Log,
        *,
        wait: Callable[[float], None] = lambda seconds: None,
        new_token: Callable[[], str] = _new_token,
    ) -> None:
        self._log = log
        self._wait = wait
        self._new_token = new_token
        self._position = 0
        self.revision = 0
        self.changes: list[Change] = []
        """All that ever counted, in order: who changed what, and when."""
        self._subjects: dict[str, list[SchemaVersion]] = {}
        self._texts: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._levels: dict[str | None, Level] = {None: DEFAULT_LEVEL}

    # -- following the log -------------------------------------------------------------------

    def refresh(self, now: float = 0.0) -> int:
        """Read all that the log holds now; return the revision.

        Where a log hands out only what it has fetched, it is asked until its head is reached.
        """
        head = self._log.head(STATE, 0)
        idle = 0
        while idle < IDLE_READS:
            batch = self._log.read(STATE, 0, self._position, READ_RECORDS)
            for record in batch.records:
                if record.key.startswith(PREFIX.encode()):
                    self._take(record.value)
            if batch.position > self._position:
                self._position, idle = batch.position, 0
            elif self._position >= head:
                return self.revision
            else:
                idle += 1
                self._wait(WAIT_SECONDS)
        raise RegistryError(STORE_FAILED, f"sync.state cannot be read up to {head}; try again")

    def _take(self, value: bytes) -> None:
        change = decoded(_decode_change, value)
        if change is None or change.revision != self.revision + 1:
            return  # Another came first; who wrote this one knows by reading it.
        what = change.what
        if isinstance(what, Registered) and decoded(_decode_any, what.text.encode()) is None:
            return  # No registry wrote it: a schema is an object, or true or false.
        self.revision = change.revision
        self.changes.append(change)
        if isinstance(what, LevelSet):
            if what.level is None:
                self._levels.pop(what.subject, None)
            else:
                self._levels[what.subject] = what.level
            return
        found = SchemaVersion(what.subject, what.version, what.id, what.text, change.at, change.by)
        self._subjects.setdefault(what.subject, []).append(found)
        self._texts.setdefault(what.id, what.text)
        self._ids.setdefault(canonical_text(_decode_any(what.text)), what.id)

    def _write(self, what: Registered | LevelSet, now: float, by: str) -> bool:
        """Append a change that follows what was read; return whether it was the first to do so."""
        change = Change(self.revision + 1, self._new_token(), now, by[:256], what)
        key = f"{PREFIX}{change.revision:08d}/{change.token}"
        record = NewRecord(STATE, 0, key.encode(), msgspec.json.encode(change))
        self._log.append([record], now)
        self.refresh(now)
        if self.revision < change.revision:
            raise RegistryError(STORE_FAILED, "the log does not show what was appended; try again")
        return self.changes[change.revision - 1].token == change.token

    # -- reading -----------------------------------------------------------------------------

    def find(
        self, subject: str, version: int | None, now: float, *, sure: bool = False
    ) -> SchemaVersion | None:
        """Return a version as far as `refresh` has read, None standing for the latest."""
        known = self._subjects.get(subject)
        if not known:
            return None
        if version is None:
            return known[-1]
        return known[version - 1] if 1 <= version <= len(known) else None

    def is_known(self, subject: str, now: float) -> bool:
        """Say whether the subject has any version."""
        return subject in self._subjects

    def subjects(self, now: float) -> list[str]:
        """Return the names of all subjects, in order."""
        self.refresh(now)
        return sorted(self._subjects)

    def versions(self, subject: str, now: float) -> list[int]:
        """Return the numbers of a subject's versions."""
        self.refresh(now)
        return [one.version for one in self._known(subject)]

    def _known(self, subject: str) -> list[SchemaVersion]:
        if subject not in self._subjects:
            raise RegistryError(SUBJECT_NOT_FOUND, f"Subject '{subject}' not found.")
        return self._subjects[subject]

    def version(self, subject: str, version: int | None, now: float) -> SchemaVersion:
        """Return a version, the latest for None."""
        self.refresh(now)
        self._known(subject)
        found = self.find(subject, version, now)
        if found is None:
            raise RegistryError(VERSION_NOT_FOUND, f"Version {version} not found.")
        return found

    def text_of(self, id: int, now: float) -> str:
        """Return the schema of that ID."""
        self.refresh(now)
        if id not in self._texts:
            raise RegistryError(SCHEMA_NOT_FOUND, f"Schema {id} not found")
        return self._texts[id]

    def subject_versions_of(self, id: int, now: float) -> list[SchemaVersion]:
        """Return every version of every subject that has the schema of that ID."""
        self.text_of(id, now)
        return [one for known in self._subjects.values() for one in known if one.id == id]

    def lookup(self, subject: str, text: str, now: float) -> SchemaVersion:
        """Return the subject's version that has this schema."""
        self.refresh(now)
        id = self._ids.get(canonical_text(parse_schema(text)))
        for known in self._known(subject):
            if known.id == id:
                return known
        raise RegistryError(SCHEMA_NOT_FOUND, "Schema not found")

    def level(self, subject: str | None, now: float, *, or_global: bool = False) -> Level:
        """Return a subject's own level, or the global one."""
        self.refresh(now)
        if subject in self._levels:
            return self._levels[subject]
        if not or_global:
            raise RegistryError(
                LEVEL_NOT_FOUND,
                f"Subject '{subject}' does not have subject-level compatibility configured",
            )
        return self._levels[None]

    def _level_of(self, subject: str) -> Level:
        return self._levels.get(subject, self._levels[None])

    def incompatibilities(
        self, subject: str, text: str, version: int | None, now: float
    ) -> list[str]:
        """Return why a schema would be refused after one version, the latest for None."""
        document = parse_schema(text)
        other = self.version(subject, version, now)
        level = self.level(subject, now, or_global=True)
        earlier = [(other.version, _document(other))]
        return [str(one) for one in incompatibilities(level, document, earlier)]

    # -- changing ----------------------------------------------------------------------------

    def register(self, subject: str, text: str, now: float, *, by: str = "") -> int:
        """Return the schema's ID; a new version is made if the subject does not have it yet."""
        canonical = canonical_text(parse_schema(text))
        if not 0 < len(subject) <= MAXIMUM_SUBJECT_CHARACTERS or not subject.isprintable():
            raise RegistryError(
                INVALID_SCHEMA,
                f"a subject has 1 to {MAXIMUM_SUBJECT_CHARACTERS} printable characters",
            )
        for _ in range(ATTEMPTS):
            self.refresh(now)
            known = self._subjects.get(subject, [])
            id = self._ids.get(canonical)
            for one in known:
                if one.id == id:
                    return one.id
            # From here to the append nothing is read: the change has to follow what was judged.
            reasons = self._refusal(subject, text)
            if reasons:
                level, details = self._level_of(subject), ", ".join(reasons)
                raise RegistryError(
                    INCOMPATIBLE,
                    "Schema being registered is incompatible with an earlier schema for subject "
                    f'"{subject}" (level {level}), details: [{details}]',
                )
            if sum(map(len, self._subjects.values())) >= MAXIMUM_VERSIONS:
                raise RegistryError(STORE_FAILED, f"there are {MAXIMUM_VERSIONS} versions already")
            new = Registered(
                subject,
                len(known) + 1,
                max(self._texts, default=0) + 1 if id is None else id,
                text,
            )
            if self._write(new, now, by):
                return new.id
        raise RegistryError(STORE_FAILED, "others register all the time; try again")

    def refusal(self, subject: str, text: str, now: float) -> list[str]:
        """Return why the subject's level does not allow a schema as its next version."""
        self.refresh(now)
        return self._refusal(subject, text)

    def _refusal(self, subject: str, text: str) -> list[str]:
        earlier = [(one.version, _document(one)) for one in self._subjects.get(subject, [])]
        level = self._level_of(subject)
        return [str(one) for one in incompatibilities(level, parse_schema(text), earlier)]

    def set_level(
        self, subject: str | None, level: Level | None, now: float, *, by: str = ""
    ) -> None:
        """Set a subject's level, or the global one; with None a subject has none of its own."""
        if level not in LEVELS and (level is not None or subject is None):
            raise RegistryError(
                INVALID_LEVEL,
                f"Invalid compatibility level {level!r}. Valid values are {', '.join(LEVELS)}",
            )
        for _ in range(ATTEMPTS):
            self.refresh(now)
            is_so = self._levels.get(subject) == level
            if is_so or self._write(LevelSet(subject, level), now, by):
                return
        raise RegistryError(STORE_FAILED, "others change levels all the time; try again")


def _document(version: SchemaVersion) -> Schema:
    """Return a schema that was checked before it was stored."""
    document: Schema = msgspec.json.decode(version.text)
    return document
