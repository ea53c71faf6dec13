"""What replicas and the validator say to each other, as JSON records on `sync.*` topics.

Every number is a total since the incarnation began, so that a lost message loses nothing.
``docs/digest-spec.md`` describes the format for other languages.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from synchroscope.foreign import UNDECODABLE

FORMAT = 1
WORTH_DEFLATING_BYTES = 2_048
MAXIMUM_INFLATED_BYTES = 64 * 2**20
"""A message that would be larger is taken for no message."""
_DEFLATED = b"\x78"

Hex128 = Annotated[str, Meta(pattern="^[0-9a-f]+$", min_length=32, max_length=32)]
Index = Annotated[int, Meta(ge=0)]


class Note(Struct, frozen=True, rename="camel"):
    """One partition of a replica at an exact position (the next offset to read).

    ``state`` is the digest's root, ``audit`` the sum over every applied event; both are 32
    hexadecimal digits. ``anomalies`` counts stored values that were not what an event's
    ``previous`` says, and buckets whose stored facts did not sum to the digest; ``repaired``
    aggregates that a repair changed.
    """

    partition: Index
    position: Index
    state: Hex128
    facts: int
    audit: Hex128
    applied: int
    anomalies: int = 0
    duplicates: int = 0
    gaps: int = 0
    late: int = 0
    undecodable: int = 0
    unsequenced: int = 0
    marker: bool = False
    repaired: int = 0


class Report(Struct, frozen=True, rename="camel", tag="report"):
    """What a replica says of itself: its notes since the last report, the newest last."""

    replica: str
    view_hash: str
    algorithm: str
    bits: int
    incarnation: str
    at: float
    notes: list[Note]
    format: int = FORMAT


class Mismatch(Struct, frozen=True, rename="camel", gc=False):
    """At `offset` storage returned another value than the event's ``previous`` (fact hashes)."""

    offset: int
    context_type: str
    subject: str
    field: str
    sequence: int
    prior: int
    expected: Hex128 | None
    stored: Hex128 | None


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One applied event: where, which (64-bit hash of its ID), its sequence, the one before it."""

    offset: int
    event: int
    sequence: int
    prior: int


class StoredFact(Struct, frozen=True, rename="camel", gc=False):
    """One stored field of an aggregate, by hash; `value` only where the field is not personal."""

    field: str
    hash: Hex128 | None
    sequence: int
    value: Any = None


class StoredAggregate(Struct, frozen=True, rename="camel", gc=False):
    """One aggregate as the storage holds it."""

    context_type: str
    subject: str
    sequence: int
    facts: list[StoredFact]


class Repaired(Struct, frozen=True, array_like=True):
    """An aggregate that a repair changed at `position`, when `applied` events had been applied.

    ``serial`` counts the partition's repaired aggregates; ``prior`` is the aggregate's sequence
    before, ``aggregate`` how it was left.
    """

    serial: int
    position: int
    applied: int
    prior: int
    repair_id: str
    aggregate: StoredAggregate


class Explanation(Struct, frozen=True, rename="camel", tag="explanation"):
    """A replica's answer, read from its storage at exactly `note.position`.

    ``table`` is the digest's bucket table; ``entries`` and ``mismatches`` what was applied since
    ``journal_from``, and ``repairs`` what was repaired; ``aggregates`` what is stored in the
    buckets that were asked for, and under the numbers that were asked for: ``named`` says that it
    looked for these. ``sketches`` are those that were asked for, in that order; None: not yet.
    ``compact``: it goes deflated over the log.
    """

    replica: str
    incarnation: str
    request_id: str
    note: Note
    table: bytes
    journal_from: int
    entries: list[Entry]
    mismatches: list[Mismatch]
    buckets: list[int]
    aggregates: list[StoredAggregate]
    scrubbed: bool = False
    repairs: list[Repaired] = []
    sketches: list[bytes | None] = []
    named: bool = False
    compact: bool = False


class Sketched(Struct, frozen=True, array_like=True):
    """Buckets of which one sketch is wanted, and in how many cells."""

    cells: int
    buckets: list[int]


class Request(Struct, frozen=True, rename="camel", tag="request", omit_defaults=True):
    """The validator asks one replica to explain one partition.

    ``since`` is the position from which entries are wanted; ``buckets`` those whose stored facts
    are to be shown; ``scrub`` asks to sum every bucket again from storage first. ``numbers`` are
    those of single aggregates to be shown (`synchroscope.sketch.pack_numbers`). A digest of
    ``known_state`` needs no table in the answer. ``compact``: it may come deflated.
    """

    request_id: str
    replica: str
    partition: int
    since: int
    buckets: list[int] = []
    scrub: bool = False
    sketches: list[Sketched] = []
    numbers: bytes = b""
    known_state: str = ""
    compact: bool = False


class Check(Struct, frozen=True, rename="camel", tag="check"):
    """Somebody asks the validators to prove every replica at the log's head, storage included."""

    request_id: str


class RepairedField(Struct, frozen=True, rename="camel"):
    """What a field must hold, and the sequence that wrote it; value None: there is no fact."""

    field: str
    value: Any
    sequence: int


class AggregateRepair(Struct, frozen=True, rename="camel"):
    """What an aggregate must be, and how the replica was seen to hold it (sequence 0: not at all).

    ``sequence`` is that of its last event.
    """

    context_type: str
    subject: str
    sequence: int
    fields: list[RepairedField]
    seen: StoredAggregate


class Repair(Struct, frozen=True, rename="camel", tag="repair"):
    """The validator has one replica put aggregates right that deviated at `position`.

    ``accounted`` is up to which of the partition's repaired aggregates the validator knows.
    """

    repair_id: str
    replica: str
    incarnation: str
    view_hash: str
    partition: Index
    position: Index
    accounted: Index
    aggregates: list[AggregateRepair]


class RepairOrder(Struct, frozen=True, rename="camel", tag="repair-order"):
    """Somebody asks the validators to have a finding repaired; `force`: though it is in bulk."""

    request_id: str
    finding: str
    force: bool = False


Message = Report | Explanation | Request | Check | Repair | RepairOrder

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """Return the message as JSON; an answer to who can inflate it, and is long, deflated."""
    data = _encoder.encode(message)
    if isinstance(message, Explanation) and message.compact and len(data) >= WORTH_DEFLATING_BYTES:
        return min(data, zlib.compress(data), key=len)
    return data


def decode_message(data: bytes) -> Message | None:
    """Return the message, or None where the bytes are no message of this format."""
    try:
        if data[:1] == _DEFLATED:
            inflating = zlib.decompressobj()
            data = inflating.decompress(data, MAXIMUM_INFLATED_BYTES)
            if not inflating.eof:
                return None
        message: Message = _decoder.decode(data)
    except (*UNDECODABLE, zlib.error):
        return None
    if isinstance(message, Report) and message.format != FORMAT:
        return None
    return message
