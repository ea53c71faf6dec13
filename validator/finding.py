"""A located deviation, from its discovery to the digest that proves it gone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_hexdigest

from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import AggregateKey

State = Literal["open", "repairing", "resolved"]
Kind = Literal[
    "missed",
    "doubled",
    "reordered",
    "stale",
    "corrupted",
    "foreign",
    "unexplained",
    "bulk",
    "unlocated",
    "log-contradiction",
    "schema-violation",
    "session-violation",
    "hop-lost",
    "hop-doubled",
    "hop-altered",
]

STATES: tuple[State, ...] = get_args(State)
KINDS: tuple[Kind, ...] = get_args(Kind)
MISSED: Kind = "missed"
MAXIMUM_SUBJECTS = 1_000


class Position(Struct, frozen=True):
    """An offset of one partition of `context.events`."""

    partition: int
    offset: int


class Since(Struct, frozen=True):
    """Since when: right before `after_offset` (None: unknown), known wrong at `by_offset`."""

    partition: int
    after_offset: int | None
    by_offset: int
    recorded_at: str | None = None


class Finding(Struct, frozen=True):
    """What is wrong with which keys of which replica, since when, and how that is known.

    ``replica`` is None where the fault is the log's own. Every key is always present.
    """

    id: str
    state: State
    kind: Kind
    replica: str | None
    context_type: str | None
    subjects: list[str]
    first_bad_position: Position | None
    since: Since | None
    detected_at: str
    resolved_at: str | None
    evidence: dict[str, Any]
    partition: int
    keys: list[AggregateKey] = []
    """The aggregates by which a later digest can prove it gone."""


def encode_finding(finding: Finding) -> bytes:
    """Return the finding as JSON."""
    return msgspec.json.encode(finding)


def decode_finding(data: bytes) -> Finding:
    """Return the finding that `encode_finding` wrote."""
    return msgspec.json.decode(data, type=Finding)


def finding_in(data: bytes) -> Finding | None:
    """Return the finding in a record of the log, where anybody may have written; None: none."""
    try:
        return decode_finding(data)
    except UNDECODABLE:
        return None


def public_form(finding: Finding) -> dict[str, Any]:
    """Return what users see: the finding without what only the validator needs."""
    form: dict[str, Any] = msgspec.to_builtins(finding)
    del form["keys"], form["partition"]
    return form


def finding_id(*parts: object) -> str:
    """Return a short ID that the same cause always gets again.

    >>> finding_id("a", 1) == finding_id("a", 1) != finding_id("a", 2)
    True
    """
    return "F-" + xxh3_64_hexdigest("\x1f".join(map(str, parts)).encode())[:12]


@lru_cache(maxsize=4_096)
def timestamp(now: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC.

    >>> timestamp(0.5)
    '1970-01-01T00:00:00.500000Z'
    """
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def subjects_of(keys: Iterable[AggregateKey]) -> list[str]:
    """Return the distinct subjects in order, at most `MAXIMUM_SUBJECTS`."""
    return list(dict.fromkeys(subject for _, subject in keys))[:MAXIMUM_SUBJECTS]
