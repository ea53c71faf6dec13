"""What an error of the PostgreSQL driver means for who compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import psycopg

from synchroscope.errors import ConfigurationError, SynchroscopeError, UnavailableError
from validator.stores.deadline import Deadline

_WRONG_SETTINGS = (
    "connection is bad: invalid",
    "invalid value for parameter",
    "unrecognized configuration parameter",
    "certificate",
    "does not support SSL",
)
"""What is said of a connection that was given a wrong setting, or is refused for want of one."""


def failure(name: str, error: psycopg.Error) -> SynchroscopeError:
    """Return an error of ours; ``name`` is the store's."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    state = error.sqlstate or ""
    if state == "42P01" or state == "3F000":
        return ConfigurationError(f"{name}: {text}: name the table as [schema.]table")
    is_data = not state and isinstance(error, psycopg.DataError)  # Refused by the driver.
    if is_data or state[:2] in ("28", "3D", "42", "22", "0A"):
        return ConfigurationError(f"{name}: {text}: correct the URI, or the rights")
    if not state and isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError):
        return ConfigurationError(f"{name}: cannot be asked: {text}")
    if not state and ("password" in text or "no pg_hba.conf entry" in text):
        return ConfigurationError(f"{name}: the login was refused: check user and password")
    if not state and any(sign in text for sign in _WRONG_SETTINGS):
        return ConfigurationError(f"{name}: {text}: correct the URI's parameters")
    if not state and "does not exist" in text:
        return ConfigurationError(f"{name}: the role or database does not exist")
    return UnavailableError(name, f"{text}: check that the server runs and the URI is right")


@contextmanager
def answering(name: str, connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Cut a connection, and raise `UnavailableError`, where what is asked takes longer."""
    with Deadline(seconds, lambda: [connection.fileno()]) as deadline:
        try:
            yield
        except psycopg.Error as error:
            if not deadline.is_over:
                raise
            raise UnavailableError(
                name, f"gave no answer within {seconds:g} s: check that it is not stopped"
            ) from error


def check_parameters(names: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a parameter of a URI that libpq does not know."""
    known = [option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()]
    for name in names:
        if name not in known and name != "ssl":
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "what is not table must be libpq's"
            raise ConfigurationError(f"the PostgreSQL URI's {name!r} is no parameter: {hint}")
