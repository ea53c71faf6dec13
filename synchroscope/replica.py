"""One model instance's copy of its view: applies events, keeps its digest, answers for itself.

Usable alone: `apply` takes records from any poll loop, `report` and `explain` return the messages
to publish. Nothing here reads a clock, a socket or a random source.

The rules by which events change it are in `synchroscope.applying`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import msgspec

from synchroscope.applying import Applying, by_urgency
from synchroscope.digest import DEFAULT_BITS, Digest, Hasher
from synchroscope.errors import ConfigurationError, LostLifeError
from synchroscope.ports import (
    AggregateKey,
    AggregateRecord,
    JournalChunk,
    Record,
    ReplicaStorage,
    Swept,
)
from synchroscope.repairing import MAXIMUM_PENDING_REPAIRS, Repairing, shown
from synchroscope.replica_state import (
    Applied,
    Change,
    Partition,
    PartitionState,
    Work,
    decode_state,
)
from synchroscope.report import (
    Entry,
    Explanation,
    Mismatch,
    Note,
    Repair,
    Repaired,
    Report,
    Request,
    StoredAggregate,
)
from synchroscope.sketch import (
    BELOW_BUCKET_BITS,
    MAXIMUM_SKETCH_BITS,
    SIZES,
    Part,
    Sketches,
    to_bytes,
    unpack_numbers,
)
from synchroscope.summing import FactSums
from synchroscope.view import View

__all__ = ["DEFAULT_MARKER_INTERVAL", "MAXIMUM_MISMATCHES", "Change", "PartitionState", "Replica"]

DEFAULT_MARKER_INTERVAL = 1_024
JOURNAL_OFFSETS = 65_536
BUILT_PER_ANSWER = 20_000
"""Of how many facts, at least, sketches are built for one answer; the rest at the next."""
MAXIMUM_MISMATCHES = 4_096
SWEPT_AT_ONCE = 1_000
_CONTAINERS = frozenset({list, dict})


class Replica:
    """A replica of one view.

    Parameters
    ----------
    name: ``model@instance``, unique among replicas.
    view: What the model is to see.
    storage: Where the facts live; may hold an earlier life of this replica.
    incarnation: A new unique name, used when the storage is empty (or of another view).
    hasher, bits: The digest's algorithm and size; the validator must use the same.
    marker_interval: Offsets between two virtual markers; smaller tells more precisely since when,
        and costs one note of about 200 bytes each.
    """

    def __init__(
        self,
        name: str,
        view: View,
        storage: ReplicaStorage,
        *,
        incarnation: str,
        hasher: Hasher | None = None,
        bits: int = DEFAULT_BITS,
        marker_interval: int = DEFAULT_MARKER_INTERVAL,
    ) -> None:
        self.name = name
        self.view = view
        self._storage = storage
        self._hasher = hasher or Hasher()
        self.bits = bits
        self._sums = FactSums(storage, self._hasher, bits)
        self._applying = Applying(view, storage, self._hasher, self._sums, marker_interval)
        self._repairing = Repairing(storage, self._sums)
        self._view_hash = view.hash()
        self._partitions: dict[int, Partition] = {}
        if marker_interval < 1:
            raise ConfigurationError(f"marker interval must be 1 or more, not {marker_interval}")
        Digest(bits)  # Refuses wrong bits before the storage is emptied for them.
        life = f"/{self._view_hash}/{self._hasher.algorithm}/{bits}"
        stored = storage.incarnation()
        if stored is None or not stored.endswith(life):
            storage.begin(incarnation + life)
        self.incarnation = storage.incarnation() or ""

    # -- reading, by the model ---------------------------------------------------------------

    def get(self, subject: str, context_type: str) -> dict[str, Any]:
        """Return the facts of one aggregate, field -> value; empty when there are none."""
        record = self._storage.get((context_type, subject))
        if record is None:
            return {}
        return {
            # The model may do with the answer what it likes; the stored value stays.
            name: deepcopy(value) if type(value) in _CONTAINERS else value
            for name, (value, _) in record.fields.items()
            if value is not None
        }

    def position(self, partition: int) -> int:
        """Return the next offset to read."""
        return self._partition(partition).state.position

    def refresh(self, partition: int) -> bool:
        """Look whether the storage still holds what this object knows of a partition.

        If another process has gone on with it, what is known is dropped and read anew when it is
        needed; then False is returned. Raises `LostLifeError` where the storage has another life.
        """
        known = self._partitions.get(partition)
        if known is None:
            return True
        state = self._storage.partition_state(partition)
        self._check_life()
        if state == known.stored:
            return True
        del self._partitions[partition]
        return False

    def forget(self, partition: int) -> None:
        """Drop what is known of a partition that another process may go on with."""
        self._partitions.pop(partition, None)

    def is_reported(self, partition: int) -> bool:
        """Say whether a report was made of a partition since it was read from storage."""
        return self._partition(partition).is_reported

    # -- applying ----------------------------------------------------------------------------

    def apply(self, partition: int, records: Sequence[Record], position: int) -> list[Change]:
        """Apply records of one partition and move to `position`, in one transaction.

        Never moves back, nor to before the last record.
        Returns the changes, urgent ones first (never out of order within an aggregate). When it
        raises, nothing has happened; or, if that was after the commit, all of it is stored, and
        `position` says so.
        """
        current = self._partition(partition)
        start = current.state.position
        target = max(position, start, records[-1].offset + 1 if records else 0)
        if not records and target == start:
            return []
        after = current.copy()
        work = self._applying.apply(partition, after, records, target)
        self._commit(partition, after, work, start)
        return by_urgency(work.changes)

    def _commit(self, number: int, after: Partition, work: Work, start: int) -> None:
        state = after.state
        floor = max(state.journal_from, state.position - JOURNAL_OFFSETS)
        state.journal_from = floor
        chunk = None
        repairs = state.repairs if state.position > start else []
        if work.entries or work.mismatches or repairs:
            # As `Applied` is read.
            data = msgspec.msgpack.encode((work.entries, work.mismatches, repairs))
            chunk = JournalChunk(start, state.position, data)
        if repairs:
            state.repairs = []
        self._store(number, after, work.records, chunk, floor)

    def _store(
        self,
        number: int,
        after: Partition,
        records: dict[AggregateKey, AggregateRecord],
        chunk: JournalChunk | None,
        floor: int,
    ) -> None:
        after.state.table = after.digest.table()
        after.stored = msgspec.msgpack.encode(after.state)
        self._storage.commit(records, number, after.stored, chunk, floor)
        # What stops here has happened all the same, and is then read anew from storage.
        self._partitions.pop(number, None)
        after.settle()
        self._partitions[number] = after

    def _partition(self, number: int) -> Partition:
        known = self._partitions.get(number)
        if known is not None:
            return known
        data = self._storage.partition_state(number)
        self._check_life()
        state = PartitionState() if data is None else decode_state(data)
        digest = Digest(self.bits)
        if state.table:
            digest = Digest.from_table(state.table)
        partition = self._partitions[number] = Partition(state, digest, [], data)
        if self.bits <= MAXIMUM_SKETCH_BITS:
            partition.sketches = Sketches(self.bits)
        return partition

    def _check_life(self) -> None:
        """Raise if the storage was emptied, or is an older copy: this name stands for another."""
        if self._storage.incarnation() != self.incarnation:
            raise LostLifeError(f"the storage of {self.name} has another life: start anew from it")

    # -- answering ---------------------------------------------------------------------------

    def report(self, now: float, partitions: Sequence[int]) -> Report:
        """Return what this replica says of itself now, with every marker passed since the last."""
        notes: list[Note] = []
        for number in partitions:
            known = self._partition(number)
            notes.extend(known.notes)
            notes.append(known.note(number))
            known.notes.clear()
            known.is_reported = True
        return Report(
            replica=self.name,
            view_hash=self._view_hash,
            algorithm=self._hasher.algorithm,
            bits=self.bits,
            incarnation=self.incarnation,
            at=now,
            notes=notes,
        )

    def explain(self, request: Request, *, is_summed: bool = False) -> Explanation:
        """Answer a request, from storage, at exactly this replica's position.

        `is_summed`: every bucket was summed again since the request came, at this very position.
        """
        number = request.partition
        if request.scrub and not is_summed:
            self._scrub_all(number)
        sketches = self._sketches(number, request)
        known = self._partition(number)
        note = known.note(number)
        entries: list[Entry] = []
        mismatches: list[Mismatch] = []
        repairs: list[Repaired] = []
        for chunk in self._storage.journal(number, request.since):
            applied = msgspec.msgpack.decode(chunk.data, type=Applied)
            entries.extend(applied.entries)
            mismatches.extend(applied.mismatches)
            repairs.extend(applied.repairs)
        aggregates = [
            self._show(record)
            for bucket in request.buckets
            if 0 <= bucket < 1 << self.bits
            for record in self._storage.scan(number, bucket, self.bits)
        ]
        numbers = self._numbers(request)
        for one in numbers:
            records = self._storage.scan(number, one, self.bits + BELOW_BUCKET_BITS)
            aggregates.extend(map(self._show, records))
        return Explanation(
            replica=self.name,
            incarnation=self.incarnation,
            request_id=request.request_id,
            note=note,
            table=b"" if note.state == request.known_state else known.digest.table(),
            journal_from=known.state.journal_from,
            entries=entries,
            mismatches=mismatches[:MAXIMUM_MISMATCHES],
            buckets=list(request.buckets),
            aggregates=aggregates,
            scrubbed=request.scrub,
            repairs=repairs + known.state.repairs,
            sketches=sketches,
            named=bool(request.numbers),
            compact=request.compact,
        )

    def _numbers(self, request: Request) -> list[int]:
        """Return which single aggregates are asked for, beside those of whole buckets."""
        try:
            numbers = unpack_numbers(request.numbers, self.bits)
        except ValueError:
            return []
        whole = set(request.buckets)
        return [number for number in numbers if number >> BELOW_BUCKET_BITS not in whole]

    def _sketches(self, number: int, request: Request) -> list[bytes | None]:
        """Return the sketches that are asked for; some may have to be asked for again."""
        built = 0
        answers: list[bytes | None] = []
        for wanted in request.sketches if self.bits <= MAXIMUM_SKETCH_BITS else []:
            buckets = [bucket for bucket in wanted.buckets if 0 <= bucket < 1 << self.bits]
            for bucket in buckets:
                sketches = self._partition(number).sketches
                if sketches is None or sketches.is_built(bucket) or built >= BUILT_PER_ANSWER:
                    continue
                self.scrub(number, [bucket])
                built += self._partition(number).digest.counts[bucket]
            sketches = self._partition(number).sketches
            is_ready = sketches is not None and all(map(sketches.is_built, buckets))
            if sketches is None or not is_ready or wanted.cells not in SIZES:
                answers.append(None)
            else:
                answers.append(to_bytes(sketches.cells(buckets, wanted.cells)))
        return answers

    @property
    def keys_summed(self) -> int:
        """How many stored aggregates were read to sum buckets, since this object was made."""
        return self._sums.keys_read

    def scrub(self, partition: int, buckets: Sequence[int]) -> int:
        """Sum buckets again from storage; return how many were not what the digest said.

        The digest then says what storage holds, so that the validator sees it at the next report.
        """
        after = self._partition(partition).copy()
        wrong = 0
        for bucket in buckets:
            parts: list[Part] = []
            is_right = self._sums.sum_bucket(partition, after, bucket, {}, parts)
            wrong += not is_right
            if after.sketches and not (is_right and after.sketches.is_built(bucket)):
                after.sketches.build(bucket, parts)
                after.resummed.discard(bucket)
        if wrong:
            self._store(partition, after, {}, None, after.state.journal_from)
        return wrong

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Look for aggregates that no scrub would meet; see `ReplicaStorage.sweep`.

        What is found is in no digest yet: the next scrub of its bucket sees it.
        """
        return self._storage.sweep(partition, place, limit)

    def _scrub_all(self, partition: int) -> None:
        place = self.sweep(partition, b"", SWEPT_AT_ONCE).place
        while place:
            place = self.sweep(partition, place, SWEPT_AT_ONCE).place
        self.scrub(partition, range(1 << self.bits))

    def _show(self, record: AggregateRecord) -> StoredAggregate:
        """Return an aggregate by hashes, with the values of fields that are not personal."""
        return shown(record, self._sums, self.view.is_public)

    # -- being repaired ----------------------------------------------------------------------

    def repair(self, message: Repair) -> int:
        """Put right what a validator says, in one transaction; return how much was changed.

        0: it is for another life or view, this replica fell back since, there is nothing to do, or
        too much is not accounted for yet. Whoever asked sees it by the next report, and asks again.
        """
        number = message.partition
        known = self._partition(number)
        if (
            (message.incarnation, message.view_hash) != (self.incarnation, self._view_hash)
            or message.position > known.state.position
            or message.accounted > known.state.repaired
            or len(known.state.repairs) + len(message.aggregates) > MAXIMUM_PENDING_REPAIRS
        ):
            return 0
        after = known.copy()
        records, was_wrong = self._repairing.repair(after, message)
        if not records and not was_wrong:
            return 0
        state = after.state
        told = [repaired for repaired in state.repairs if repaired.serial <= message.accounted]
        state.repairs = state.repairs[len(told) :]
        chunk = None
        if told:
            data = msgspec.msgpack.encode(Applied([], [], told))
            chunk = JournalChunk(state.position, state.position, data)
        self._store(number, after, records, chunk, state.journal_from)
        return len(records) + was_wrong
