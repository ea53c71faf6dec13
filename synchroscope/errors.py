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
