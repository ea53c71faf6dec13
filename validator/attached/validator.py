"""Attached mode: folds a foreign log and holds foreign stores against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from typing import Literal

from synchroscope.errors import UnavailableError
from synchroscope.ports import Progress, Record
from validator.attached.book import Book
from validator.attached.checker import StoreChecker
from validator.attached.history import Item
from validator.attached.log_view import ANY_PARTITION, Clock, LogView
from validator.attached.port import Topic
from validator.attached.record_mapping import (
    NO_CANONICAL_VALUE,
    Change,
    RecordReader,
    Unreadable,
)
from validator.attached.reference import KeyedReference, Mark, mark_of
from validator.attached.standing import LogStanding, StoreStanding, standing_of
from validator.attached.topic_identity import TopicIdentity

FOLD_RECORDS = 2_000
CLOSE_SECONDS = 1.0
_DELETES, _NO_FIELD = "deletes", "changes without a field"
Begin = Literal["earliest", "latest"] | float
MakeChecker = Callable[[KeyedReference, Book], StoreChecker]


class AttachedValidator:
    """The role: `step` folds a batch and has every store looked at a little.

    Parameters
    ----------
    topic: The log.
    reader: How its records are to be understood.
    reference: Where what it says is kept.
    checkers: One a store.
    book: The findings.
    begin: From where on the log is folded, the first time.
    """

    def __init__(
        self,
        topic: Topic,
        reader: RecordReader,
        reference: KeyedReference,
        checkers: Sequence[StoreChecker],
        book: Book,
        *,
        begin: Begin = "earliest",
        keep_seconds: float = 60.0,
    ) -> None:
        self.checkers = checkers
        self.book = book
        self.reference = reference
        self.counts: Counter[str] = Counter(reference.counts())
        self.unavailable = ""
        self.is_caught_up = False
        self._topic = topic
        self._reader = reader
        self._begin = begin
        self._identity = TopicIdentity(topic, reference.path)
        self._target: Mapping[int, int] | None = None
        self._positions: dict[int, int] = {}
        self._is_complete = False
        self._known_from: dict[int, int] = {}
        self._marks: dict[int, Mark] = {}
        self._compacted: bool | None = None
        self._stepped_at: float | None = None
        self.log = LogView(self._ask_heads, topic.group_positions, keep_seconds)
        self.log.accepts_unreadable = reader.accepts_unreadable

    def _ask_heads(self) -> dict[int, int]:
        heads = {p: self._topic.range(p)[1] for p in range(self._topic.partitions())}
        self._identity.note_ends(self._positions, heads)
        return heads

    # -- one step --------------------------------------------------------------------------------

    def step(self, clock: Clock) -> Progress:
        """Fold what is new, then look at the stores; none of them is waited for."""
        progress = self._step(clock)
        self._stepped_at = clock()
        return progress

    def _step(self, clock: Clock) -> Progress:
        try:
            folded = self._fold(clock)
            self.unavailable = ""
        except UnavailableError as error:
            self.unavailable = str(error)
            return Progress(0)
        if not self.is_caught_up:
            assert self._target is not None
            self.is_caught_up = self.log.covers(self._target)
            return Progress(folded)
        done = folded
        for checker in self.checkers:
            try:
                done += checker.step(self.log, clock)
            except UnavailableError as error:  # The log's server; a store's is met there.
                self.unavailable = str(error)
        return Progress(done)

    def _start(self) -> None:
        state = self.reference.state()
        count = self._topic.partitions()
        heads = self._ask_heads()
        self._identity.start(state, heads)
        if state is None:
            starts = {p: self._first(p) for p in range(count)}
            is_complete = self._begin == "earliest" and all(
                self._topic.range(p)[0] == 0 for p in starts
            )
            self._positions, self._is_complete = starts, is_complete
            self.reference.fold([], starts, is_complete, self.counts)
        else:
            self._positions, self._is_complete = dict(state.positions), state.is_complete
            self._known_from, self._marks = dict(state.known_from), dict(state.marks)
            self.log.lost_deletes = dict(state.lost_deletes)
            self.log.unread = dict(state.unread)
        self._compacted = self._topic.is_compacted()
        self._target = self.log.heads = heads

    def _first(self, partition: int) -> int:
        if self._begin == "earliest":
            return self._topic.range(partition)[0]
        if self._begin == "latest":
            return self._topic.range(partition)[1]
        return self._topic.position_at(partition, self._begin)

    def _fold(self, clock: Clock) -> int:
        if self._target is None:
            self._start()
        self._identity.check()
        for partition in range(len(self._positions), self._topic.partitions()):
            # The topic has grown: what the new partition has lost already is not known.
            first = self._topic.range(partition)[0]
            self._positions[partition] = first
            self._is_complete = self._is_complete and first == 0
        changes: list[tuple[int, Change]] = []
        positions = dict(self._positions)
        read = 0
        for partition in sorted(positions):
            batch = self._topic.read(partition, positions[partition], FOLD_RECORDS)
            read += len(batch.records)
            first = batch.records[0].offset if batch.records else batch.position
            if first > positions[partition]:
                self._check_gap(partition, positions[partition])
            self.counts["offsets without a record"] += (
                batch.position - positions[partition] - len(batch.records)
            )
            if batch.records:
                self._marks[partition] = mark_of(batch.records[-1])
            for record in batch.records:
                found = self._reader.read(record)
                if isinstance(found, Change):
                    changes.append((partition, found))
                    self._count_fields(found)
                    if found.unreadable or found.is_unreadable:
                        self.counts[f"unreadable: {NO_CANONICAL_VALUE}"] += 1
                elif isinstance(found, Unreadable):
                    changes += self._unreadable(partition, record, found)
                else:
                    self.counts["not meant"] += 1
            positions[partition] = batch.position
        now = clock()  # What was read may have been waited for.
        if positions != self._positions:
            self._keep(changes, positions, read, now)
        # Where nobody tells, holes do; those of transactions look like them.
        self.log.is_compacted = self._compacted or (
            self._compacted is None and self.counts["offsets without a record"] > 0
        )
        self.log.is_fieldless = self._is_fieldless()
        self.log.folded(
            now, self._positions, is_complete=self._is_complete, known_from=self._known_from
        )
        return read

    def _unreadable(
        self, partition: int, record: Record, found: Unreadable
    ) -> list[tuple[int, Change]]:
        """Count a record that cannot be read, and return what is not known since."""
        self.counts[f"unreadable: {found.reason}"] += 1
        if found.change is None and not found.is_deletion:
            # Without a key the other records of its subject may be anywhere.
            is_here = bool(record.key) or len(self._positions) == 1
            self.log.unread[partition if is_here else ANY_PARTITION] = record.offset
        if self.log.accepts_unreadable:
            return []
        if found.is_deletion:
            self.log.lost_deletes[partition] = record.offset
        return [] if found.change is None else [(partition, found.change)]

    def _count_fields(self, change: Change) -> None:
        if change.is_delete:
            self.counts[_DELETES] += 1
        elif not (change.fields or change.unreadable or change.is_unreadable):
            self.counts[_NO_FIELD] += 1

    def _is_fieldless(self) -> bool:
        """Say whether the mapping finds records, and no field in any of them."""
        without = self.counts[_NO_FIELD]
        is_every = without + self.counts[_DELETES] == self.counts["changes"]
        return self._reader.names_fields and without > 0 and is_every

    def _check_gap(self, partition: int, position: int) -> None:
        """Note where records were deleted before they could be read: what they said is unknown."""
        first = self._topic.range(partition)[0]
        if first > position:
            self._known_from[partition], self._is_complete = first, False
            self.counts["records deleted unread"] += first - position
            self.counts["offsets without a record"] -= first - position

    def _keep(
        self,
        changes: Sequence[tuple[int, Change]],
        positions: dict[int, int],
        read: int,
        now: float,
    ) -> None:
        self.counts["records"] += read
        self.counts["changes"] += len(changes)
        items: Mapping[bytes, Item] = self.reference.fold(
            changes,
            positions,
            self._is_complete,
            self.counts,
            self._known_from,
            self._marks,
            self.log.lost_deletes,
            self.log.unread,
        )
        self._positions = positions
        if self.is_caught_up:
            for checker in self.checkers:
                checker.changed(items, now)

    # -- how things stand ------------------------------------------------------------------------

    def unreadable(self) -> dict[str, int]:
        """Return how many records nobody accepts could not be read at all, by reason.

        Those of which single values cannot be read are not among them: their keys are known.
        """
        found = {
            name.removeprefix("unreadable: "): count
            for name, count in self.counts.items()
            if name.startswith("unreadable: ") and count
        }
        found.pop(NO_CANONICAL_VALUE, None)
        return {} if self.log.accepts_unreadable else found

    def _unreadable_sentence(self) -> str:
        found = self.unreadable()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.items()))
        return f"{sum(found.values()):,} records could not be read: {reasons}"

    def _fieldless_sentence(self) -> str:
        count = self.counts[_NO_FIELD]
        return (
            f"no field was found in any of {count:,} records: check record.fields and record.value"
        )

    def standings(self, now: float) -> list[StoreStanding]:
        """Return how each store stands."""
        unknown = [self._unreadable_sentence()] if self.unreadable() else []
        unknown += [self._fieldless_sentence()] if self.log.is_fieldless else []
        idle = 0.0 if self._stepped_at is None else now - self._stepped_at
        log = LogStanding(self._positions, self.is_caught_up, self.unavailable, unknown, idle)
        return [
            standing_of(checker, log, len(self.book.open_of(checker.settings.name)), now)
            for checker in self.checkers
        ]

    def close(self) -> None:
        """Release everything; a store that hangs is not waited for."""
        wait([checker.close() for checker in self.checkers], CLOSE_SECONDS)
        self._topic.close()
        self.reference.close()
