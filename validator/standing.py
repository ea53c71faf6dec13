"""How the replicas stand on some partitions, as a validator publishes it with each checkpoint.

The record is written in the checkpoint's transaction, so a validator that lost its partitions
cannot publish it any more. What nobody renews gets old, and what is old is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from synchroscope.foreign import decoded
from validator.status import ReplicaStatus
from validator.watch import Judged

STANDING_PREFIX = "standing/"


class Standing(Struct, frozen=True, rename="camel"):
    """What one validator has to say of its partitions.

    ``at`` is wall time in seconds since 1970; ``heads`` and ``positions`` (of the reference) are
    by partition, ``applied`` is events by view, ``opened``, ``resolved`` and ``open`` findings by
    kind; ``final`` are the verdicts as they would be if the log ended at these heads.
    """

    worker: str
    at: float
    heads: dict[int, int]
    positions: dict[int, int]
    replicas: list[ReplicaStatus]
    final: dict[str, Judged]
    settled: bool
    settled_total: int
    applied: dict[str, int]
    checks: Mapping[str, int]
    opened: Mapping[str, int]
    resolved: Mapping[str, int]
    open: Mapping[str, int]
    requests: int
    repeated: int
    undecodable: int = 0
    """Records of these partitions that are no events."""
    proven: list[str] = []
    """Request IDs of the newest `Check`s after which all was compared and summed."""


def consumer_of(partitions: Sequence[int] | None) -> str:
    """Return the name under which a validator of these partitions keeps its checkpoint.

    >>> consumer_of(None), consumer_of([2])
    ('validator', 'validator/2')
    """
    if partitions is None:
        return "validator"
    return "validator/" + ",".join(map(str, partitions))


def standing_key(consumer: str) -> bytes:
    """Return the key of the record in `sync.state`."""
    return f"{STANDING_PREFIX}{consumer}".encode()


def encode_standing(standing: Standing) -> bytes:
    """Return the record's value, as JSON."""
    return msgspec.json.encode(standing)


_decode = msgspec.json.Decoder(Standing).decode


def decode_standing(data: bytes) -> Standing | None:
    """Return the standing; None for bytes that are none of this release."""
    return decoded(_decode, data)
