"""One partition of a replica: what is stored of it, and what is changed and not yet stored."""

from __future__ import annotations

from copy import copy

import msgspec
from msgspec import Struct

from synchroscope.digest import Digest, lanes_hex
from synchroscope.errors import StorageError
from synchroscope.event import WireEvent
from synchroscope.foreign import UNDECODABLE
from synchroscope.native_hashing import Exchange, Row, Step
from synchroscope.ports import AggregateKey, AggregateRecord
from synchroscope.report import Entry, Mismatch, Note, Repaired
from synchroscope.sketch import Numbers, Sketches


class PartitionState(Struct, array_like=True):
    """One partition of a replica at a position; stored with the facts, in one transaction."""

    position: int = 0
    table: bytes = b""
    audit: tuple[int, int] = (0, 0)
    applied: int = 0
    anomalies: int = 0
    duplicates: int = 0
    gaps: int = 0
    late: int = 0
    undecodable: int = 0
    unsequenced: int = 0
    journal_from: int = 0
    repaired: int = 0
    repairs: list[Repaired] = []
    """What was repaired at this very position, oldest first; it goes into the journal with the
    next step, as a step that ends here is not shown to who knows everything up to here."""


class Applied(Struct, array_like=True):
    """What a journal chunk holds, in the order in which it happened: repairs by their `applied`."""

    entries: list[Entry]
    mismatches: list[Mismatch]
    repairs: list[Repaired] = []


class Change(Struct, frozen=True):
    """One applied event, as a model may want to react to it."""

    event: WireEvent
    offset: int
    fields: tuple[str, ...]


class Partition:
    """A partition while it is worked on: the stored state with its digest unpacked.

    ``sketches`` are shared by all copies and of what is stored; ``parts`` is what they miss of what
    this copy has changed, and ``resummed`` the buckets of which only the sum is known.
    """

    __slots__ = (
        "digest",
        "is_reported",
        "notes",
        "parts",
        "resummed",
        "sketches",
        "state",
        "stored",
    )

    def __init__(
        self, state: PartitionState, digest: Digest, notes: list[Note], stored: bytes | None
    ) -> None:
        self.state = state
        self.digest = digest
        self.notes = notes
        self.stored = stored
        """The state as the storage holds it."""
        self.is_reported = False
        self.parts: list[tuple[Numbers, Numbers]] = []
        self.resummed: set[int] = set()
        self.sketches: Sketches | None = None

    def settle(self) -> None:
        """Have the sketches take what was changed and is stored now."""
        if self.sketches is not None:
            for hashes, lanes in self.parts:
                self.sketches.change_columns(hashes, lanes)
            self.sketches.forget(self.resummed)
        self.parts, self.resummed = [], set()

    def copy(self) -> Partition:
        """Return an independent copy."""
        state = copy(self.state)
        state.repairs = self.state.repairs[:]
        twin = Partition(state, self.digest.copy(), self.notes[:], self.stored)
        twin.is_reported = self.is_reported
        twin.sketches = self.sketches
        return twin

    def note(self, number: int, marker: int | None = None) -> Note:
        """Return what there is to report, at the position or at a marker just passed."""
        state, root = self.state, self.digest.root()
        return Note(
            partition=number,
            position=state.position if marker is None else marker,
            state=lanes_hex((root.lane0, root.lane1)),
            facts=root.facts,
            audit=lanes_hex(state.audit),
            applied=state.applied,
            anomalies=state.anomalies,
            duplicates=state.duplicates,
            gaps=state.gaps,
            late=state.late,
            undecodable=state.undecodable,
            unsequenced=state.unsequenced,
            repaired=state.repaired,
            marker=marker is not None,
        )


class Work:
    """What one `apply` has changed and not yet committed.

    ``exchanges`` and ``steps`` are what is not hashed yet: fields that were set, events applied.
    """

    def __init__(self) -> None:
        self.records: dict[AggregateKey, AggregateRecord] = {}
        self.exchanges: list[Exchange] = []
        self.steps: list[Step] = []
        self.entries: list[Row] = []
        self.mismatches: list[Mismatch] = []
        self.changes: list[Change] = []
        self.dirty: set[int] = set()


def decode_state(data: bytes) -> PartitionState:
    """Return what a storage holds of a partition."""
    try:
        return msgspec.msgpack.decode(data, type=PartitionState)
    except UNDECODABLE as error:
        raise StorageError(
            f"a partition's state cannot be read ({error}); empty the replica's storage, "
            "the replica is then built again from the log"
        ) from None
