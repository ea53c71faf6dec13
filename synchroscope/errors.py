"""Every error that Synchroscope raises on purpose, in one family.

Adapters translate their driver's errors into these once; a message says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SynchroscopeError(Exception):
    """Base of the family."""


class InvalidEventError(SynchroscopeError):
    """The bytes are no valid context event.

    Parameters
    ----------
    reason: A short stable code such as ``"malformed JSON"``; few different values, fit for a count.
    detail: What exactly is wrong and where (JSON path).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class InvariantViolationError(InvalidEventError):
    """The event is well formed, but its aggregate may not change that way."""


class ConflictError(SynchroscopeError):
    """Another writer was faster: the aggregate is not at the sequence that was expected.

    Carries the current state, so that the caller can decide anew without another read.
    """

    def __init__(
        self,
        context_type: str,
        subject: str,
        *,
        expected: int,
        actual: int,
        state: Mapping[str, Any],
    ) -> None:
        super().__init__(
            f"{context_type} of {subject} is at sequence {actual}, expected {expected}; "
            "decide again on the state carried by this error and submit again"
        )
        self.context_type = context_type
        self.subject = subject
        self.expected = expected
        self.actual = actual
        self.state = dict(state)


class StorageError(SynchroscopeError):
    """A store could not read or write; the message names the store and the remedy."""


class ConfigurationError(SynchroscopeError):
    """A setting is wrong; the message names it and says what is accepted."""


class UnavailableError(SynchroscopeError):
    """A server cannot be reached, or does not answer in time; it may later, so wait and try again.

    What was asked for may or may not have happened: read again what is stored before going on.

    Parameters
    ----------
    server: Which one, as in the configuration (``"kafka 127.0.0.1:9092"``); few different values.
    message: What was tried, what came back, and what to look at.
    """

    def __init__(self, server: str, message: str) -> None:
        super().__init__(f"{server}: {message}")
        self.server = server
        self._message = message

    def __reduce__(self) -> tuple[type[UnavailableError], tuple[str, str]]:
        return type(self), (self.server, self._message)


class DamagedPartitionError(UnavailableError):
    """One partition of a log cannot be read on; the others can."""


class FencedError(SynchroscopeError):
    """Another process has taken over what this one was writing; nothing of this write is stored.

    Drop what is held in memory and read it again from the store.
    """


class LostLifeError(FencedError):
    """A replica's storage was emptied, or an older copy of it came back."""
