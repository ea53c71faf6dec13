"""Records of the log that are no events, and who wrote a record."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from synchroscope.foreign import UNDECODABLE

MAXIMUM_REFUSED = 256
"""Most refused records of one step that are told singly; all are counted."""
NO_EVENT = "is no event"
"""How a checkpoint of an earlier release ends its reason for not being proven."""


class Refused(Struct, frozen=True):
    """A record that is no event: where it stands, why, and whose it is where it tells that."""

    partition: int
    offset: int
    reason: str
    producer: str | None


class _Source(Struct, rename="camel"):
    model_id: str = "?"
    instance_id: str = "?"


class _Sourced(Struct):
    source: _Source


def producer_of(data: bytes) -> str | None:
    """Return who wrote a record, as far as that can be read from it.

    >>> producer_of(b'{"source": {"modelId": "risk", "instanceId": "1"}}')
    'risk/1'
    >>> producer_of(b"nonsense") is None
    True
    """
    try:
        source = msgspec.json.decode(data, type=_Sourced).source
    except UNDECODABLE:
        return None
    return f"{source.model_id}/{source.instance_id}"
