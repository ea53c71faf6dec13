"""A replica storage as several processes have it: one server, a connection each.

`SharedStorage` is the executable specification of what `ReplicaStorage` says of several processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from chaos.crashing import CrashPoint
from synchroscope.digest import aggregate_hash
from synchroscope.errors import FencedError, UnavailableError
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, Swept


class PlainStorage:
    """What a server holds; made for few facts and many copies."""

    def __init__(self) -> None:
        self._life: str | None = None
        self._records: dict[AggregateKey, tuple[int, AggregateRecord]] = {}
        self._states: dict[int, bytes] = {}
        self._chunks: dict[int, list[JournalChunk]] = {}

    def copy(self) -> PlainStorage:
        """Return an independent copy."""
        twin = PlainStorage()
        twin._life = self._life
        twin._records = self._records.copy()
        twin._states = self._states.copy()
        twin._chunks = {number: chunks[:] for number, chunks in self._chunks.items()}
        return twin

    def incarnation(self) -> str | None:
        """Return the storage's life."""
        return self._life

    def begin(self, incarnation: str) -> None:
        """Start a new life."""
        self._records.clear()
        self._states.clear()
        self._chunks.clear()
        self._life = incarnation

    def partition_state(self, partition: int) -> bytes | None:
        """Return the partition's state."""
        return self._states.get(partition)

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate."""
        found = self._records.get(key)
        return None if found is None else found[1]

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Nothing is gained by it here."""

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield a bucket's aggregates as they are at the first one."""
        for number, record in list(self._records.values()):
            if record.partition == partition and number >> (64 - bits) == bucket:
                yield record

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Look at everything, and take into `partition` what bears none that there is."""
        strays = [
            (key, number, record)
            for key, (number, record) in self._records.items()
            if record.partition not in self._states
        ]
        for key, number, record in strays:
            self._records[key] = (number, replace(record, partition=partition))
        return Swept(b"", len(self._records), len(strays))

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return journal chunks."""
        return [chunk for chunk in self._chunks.get(partition, ()) if chunk.end > position]

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Commit."""
        for key, record in records.items():
            self._records[key] = (aggregate_hash(*key), record)
        if state is not None:
            self._states[partition] = state
        chunks = self._chunks.get(partition, [])
        if chunk is not None:
            chunks = [*chunks, chunk]
        self._chunks[partition] = [kept for kept in chunks if kept.end > journal_floor]

    def close(self) -> None:
        """Nothing is held."""


class StorageServer:
    """What a server holds now: it may come back with an older copy of it, or with nothing.

    ``restarts`` counts how often connections were lost by that.
    """

    def __init__(self) -> None:
        self.held = PlainStorage()
        self.restarts = 0


class CurrentStorage:
    """Whatever the server holds at each moment, looked at from behind everybody's back."""

    def __init__(self, server: StorageServer) -> None:
        self._server = server

    def _held(self) -> PlainStorage:
        return self._server.held

    def incarnation(self) -> str | None:
        """Return the storage's life."""
        return self._held().incarnation()

    def begin(self, incarnation: str) -> None:
        """Start a new life."""
        self._held().begin(incarnation)

    def partition_state(self, partition: int) -> bytes | None:
        """Return the partition's state."""
        return self._held().partition_state(partition)

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate."""
        return self._held().get(key)

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Nothing is gained by it here."""

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield a bucket's aggregates as they are now."""
        return self._held().scan(partition, bucket, bits)

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Sweep."""
        return self._held().sweep(partition, place, limit)

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return journal chunks."""
        return self._held().journal(partition, position)

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Commit."""
        self._held().commit(records, partition, state, chunk, journal_floor)

    def close(self) -> None:
        """Nothing is held."""


class SharedStorage(CurrentStorage):
    """One process's connection: stores only on top of what this process knows.

    Parameters
    ----------
    server: What all processes share.
    pause: Called before each call; the process may stand still there while others go on.
    long_pause: Called where that does the most harm and where a process seldom comes.
    """

    def __init__(self, server: StorageServer, pause: CrashPoint, long_pause: CrashPoint) -> None:
        super().__init__(server)
        self._pause = pause
        self._long_pause = long_pause
        self._restarts = server.restarts
        self._life: str | None = None
        self._known: dict[int, bytes | None] = {}

    def _held(self) -> PlainStorage:
        self._pause()
        if self._server.restarts != self._restarts:
            raise UnavailableError("storage", "the connection was lost")
        return self._server.held

    def incarnation(self) -> str | None:
        """Return the storage's life."""
        self._life = super().incarnation()
        return self._life

    def begin(self, incarnation: str) -> None:
        """Start a new life, if nobody else has meanwhile."""
        held = self._held()
        if held.incarnation() == self._life:
            held.begin(incarnation)

    def partition_state(self, partition: int) -> bytes | None:
        """Return the partition's state."""
        self._known[partition] = super().partition_state(partition)
        return self._known[partition]

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return journal chunks. What is read after this belongs to it: a moment to be paused."""
        found = super().journal(partition, position)
        self._long_pause()
        return found

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Commit, or raise `FencedError` where somebody else has gone on with the partition."""
        held = self._held()
        if (
            partition not in self._known
            or held.partition_state(partition) != self._known[partition]
        ):
            raise FencedError(f"another process has gone on with partition {partition}")
        held.commit(records, partition, state, chunk, journal_floor)
        if state is not None:
            self._known[partition] = state
