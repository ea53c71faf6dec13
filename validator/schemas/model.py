"""What a registry of schemas is asked and answers, and the errors it may raise.

A *subject* here is a name under which versions of one schema follow each other, as in Confluent's
registry; each context type has one (`subject_of_context_type`).
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from synchroscope.errors import SynchroscopeError
from validator.schemas.compatibility import Level

DEFAULT_SUBJECT = "{context_type}"
MAXIMUM_SUBJECT_CHARACTERS = 256
SURE_SECONDS = 1.0


class RegistryError(SynchroscopeError):
    """The registry refuses; ``code`` is the one that Confluent's registry gives for it.

    Parameters
    ----------
    code: The error code; its first three digits are the HTTP status.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return int(str(self.code)[:3])


SUBJECT_NOT_FOUND = 40401
VERSION_NOT_FOUND = 40402
SCHEMA_NOT_FOUND = 40403
LEVEL_NOT_FOUND = 40408
INCOMPATIBLE = 409
INVALID_SCHEMA = 42201
INVALID_VERSION = 42202
INVALID_LEVEL = 42203
STORE_FAILED = 50001
TIMED_OUT = 50002


class SchemaVersion(Struct, frozen=True):
    """One version of a subject. ``id`` is the schema's: the same schema has one everywhere.

    ``at`` (seconds since 1970; 0: not known) and ``by`` say when it was registered, and by whom.
    """

    subject: str
    version: int
    id: int
    text: str
    at: float = 0.0
    by: str = ""


class SchemaSource(Protocol):
    """Where schemas come from for the check of events."""

    def refresh(self, now: float) -> int:
        """Look for what is new; return a number that changes when answers may have changed."""
        ...

    def find(
        self, subject: str, version: int | None, now: float, *, sure: bool = False
    ) -> SchemaVersion | None:
        """Return a version, None standing for the latest; None where there is no such version.

        The answer may be as old as the last `refresh`, or an answer that is still believed; if
        `sure`, no older than `SURE_SECONDS`.

        Raises `UnavailableError` where the registry cannot be asked: nothing may be concluded.
        """
        ...

    def is_known(self, subject: str, now: float) -> bool:
        """Say whether the subject has any version."""
        ...


class SchemaRegistry(SchemaSource, Protocol):
    """A registry. Everything that is absent or not allowed raises `RegistryError`.

    `now` is in seconds since 1970.
    """

    def subjects(self, now: float) -> list[str]:
        """Return the names of all subjects, in order."""
        ...

    def versions(self, subject: str, now: float) -> list[int]:
        """Return the numbers of a subject's versions, in order."""
        ...

    def version(self, subject: str, version: int | None, now: float) -> SchemaVersion:
        """Return a version, the latest for None."""
        ...

    def text_of(self, id: int, now: float) -> str:
        """Return the schema of that ID, as it was registered."""
        ...

    def lookup(self, subject: str, text: str, now: float) -> SchemaVersion:
        """Return the subject's version that has this schema."""
        ...

    def register(self, subject: str, text: str, now: float, *, by: str = "") -> int:
        """Return the schema's ID; a new version is made if the subject does not have it yet.

        Raises `RegistryError` (409) where the subject's level does not allow it. Of processes that
        register at the same time each gets the ID of its own schema.
        """
        ...

    def incompatibilities(
        self, subject: str, text: str, version: int | None, now: float
    ) -> list[str]:
        """Return why a schema would be refused after one version, the latest for None."""
        ...

    def refusal(self, subject: str, text: str, now: float) -> list[str]:
        """Return why a schema would be refused as the next version; none for a new subject."""
        ...

    def level(self, subject: str | None, now: float, *, or_global: bool = False) -> Level:
        """Return a subject's own level, or the global one for None; `or_global` in its stead."""
        ...

    def set_level(
        self, subject: str | None, level: Level | None, now: float, *, by: str = ""
    ) -> None:
        """Set a subject's level, or the global one; with None a subject has none of its own."""
        ...


def subject_of_context_type(context_type: str, form: str = DEFAULT_SUBJECT) -> str:
    """Return the subject of a context type.

    >>> subject_of_context_type("financial", "context-{context_type}")
    'context-financial'
    """
    return form.replace("{context_type}", context_type)
