"""A replica's facts in LMDB: read in microseconds, kept when the process dies.

A commit is one LMDB transaction, handed to the operating system before `commit` returns, so
``kill -9`` of the process loses nothing. A power cut is another matter: without flushes
(``MDB_NOSYNC``) it may leave a corrupt file, for common file systems do not keep the order of
writes. A flush for each commit at least doubles its time. As a replica can be rebuilt from the log,
the default is not to flush and not to trust: while the storage is open, a file beside it names the
kernel's boot; if it is still there at the next opening, and the machine was started anew since, the
storage is emptied and the replica begins a new life from the log.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import lmdb
import msgspec
from msgspec.structs import replace
from xxhash import xxh3_64_digest

from synchroscope.canonical import encode
from synchroscope.digest import aggregate_hash
from synchroscope.errors import InvalidEventError, StorageError
from synchroscope.event import check_value
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, Swept

DEFAULT_MAP_SIZE_BYTES = 256 * 1024 * 1024
MAXIMUM_MAP_SIZE_BYTES = 64 * 1024 * 1024 * 1024
SCAN_SLICE_RECORDS = 4_096

_UNFLUSHED = "unflushed"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_INCARNATION = b"incarnation"
_CHUNK_KEY = struct.Struct(">IQ")
_CHUNK_HEAD = struct.Struct(">QQ")
_PARTITION = struct.Struct(">I")
_BEYOND_KEYS = b"\xff" * 17
_encode_record = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(AggregateRecord).decode


class LmdbStorage:
    """The `ReplicaStorage` port on LMDB. One object a folder in a process; `get` from any thread.

    Parameters
    ----------
    path: The folder; made when absent.
    map_size_bytes: Address space to begin with; doubled when it is full.
    maximum_map_size_bytes: Bound of that growth; a commit beyond it raises `StorageError`.
    durable: Flush every commit to the disk, so that a power cut needs no rebuild either.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        map_size_bytes: int = DEFAULT_MAP_SIZE_BYTES,
        maximum_map_size_bytes: int = MAXIMUM_MAP_SIZE_BYTES,
        durable: bool = False,
    ) -> None:
        self._path = Path(path)
        self._maximum_map_size_bytes = maximum_map_size_bytes
        self._lock = threading.Lock()
        self._mark = self._path / _UNFLUSHED
        boot = _boot()
        # Where the boot has no name, nothing could tell that a flush was missed.
        flushes = durable or not boot
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._discard_if_untrusted(boot)
            was_marked = self._mark.exists()
            if not flushes:
                _write_flushed(self._mark, boot)
        except OSError as error:
            raise self._failure(error) from error
        try:
            self._environment = lmdb.open(
                str(self._path), map_size=map_size_bytes, max_dbs=4, sync=flushes, metasync=flushes
            )
        except lmdb.Error as error:
            if not was_marked:
                self._mark.unlink(missing_ok=True)
            raise self._failure(error) from error
        try:
            if flushes:
                self._flush()
            self._aggregates = self._environment.open_db(b"aggregates")
            self._states = self._environment.open_db(b"states")
            self._journal = self._environment.open_db(b"journal")
            self._about = self._environment.open_db(b"about")
        except (lmdb.Error, OSError) as error:
            self._environment.close()
            raise self._failure(error) from error

    def _discard_if_untrusted(self, boot: str) -> None:
        if self._mark.exists() and self._mark.read_text() != boot:
            for name in ("data.mdb", "lock.mdb", _UNFLUSHED):
                (self._path / name).unlink(missing_ok=True)

    def _flush(self) -> None:
        self._environment.sync(True)
        self._mark.unlink(missing_ok=True)

    def incarnation(self) -> str | None:
        """Return the name of this storage's life."""
        name = self._get(_INCARNATION, self._about)
        return None if name is None else name.decode()

    def begin(self, incarnation: str) -> None:
        """Empty the storage and start a new life, in one transaction."""

        def wipe(transaction: Any) -> None:
            for database in (self._aggregates, self._states, self._journal):
                transaction.drop(database, delete=False)
            transaction.put(_INCARNATION, incarnation.encode(), db=self._about)

        self._write(wipe)

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit stored."""
        return self._get(_PARTITION.pack(partition), self._states)

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        data = self._get(_record_key(*key), self._aggregates)
        record = None if data is None else _decode(data)
        if record is None or (record.context_type, record.subject) != key:
            return None
        return record

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Nothing is gained by it here."""

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket, in order of their hash.

        Read in slices of `SCAN_SLICE_RECORDS`: a bucket of up to that many is seen in one snapshot.
        """
        shift = 64 - bits
        start = (bucket << shift).to_bytes(8, "big")
        last = (((bucket + 1) << shift) - 1).to_bytes(8, "big") + b"\xff" * 8
        more = True
        while more:
            rows = self._range(self._aggregates, start, last, SCAN_SLICE_RECORDS)
            more = len(rows) == SCAN_SLICE_RECORDS
            for key, data in rows:
                start = key + b"\x00"
                record = _decode(data)
                if (
                    record is not None
                    and record.partition == partition
                    and _record_key(record.context_type, record.subject) == key
                ):
                    yield record

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Take into `partition` what bears a partition that there is not."""
        rows = self._range(self._aggregates, place, _BEYOND_KEYS, min(limit, SCAN_SLICE_RECORDS))
        known: dict[int, bool] = {}
        strays = []
        for key, data in rows:
            record = _decode(data)
            if record is None or _record_key(record.context_type, record.subject) != key:
                continue
            if record.partition not in known:
                known[record.partition] = self.partition_state(record.partition) is not None
            if not known[record.partition]:
                strays.append((key, data, _encode_record(replace(record, partition=partition))))
        if strays:
            self._write(lambda transaction: self._exchange(transaction, strays))
        is_end = len(rows) < min(limit, SCAN_SLICE_RECORDS)
        return Swept(b"" if is_end else rows[-1][0] + b"\x00", len(rows), len(strays))

    def _exchange(self, transaction: Any, rows: list[tuple[bytes, bytes, bytes]]) -> None:
        for key, seen, data in rows:
            if transaction.get(key, db=self._aggregates) == seen:
                transaction.put(key, data, db=self._aggregates)

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`."""
        first, last = _PARTITION.pack(partition), _CHUNK_KEY.pack(partition, 2**64 - 1)
        chunks = []
        for _, data in self._range(self._journal, first, last):
            start, end = _CHUNK_HEAD.unpack_from(data)
            if end > position:
                chunks.append(JournalChunk(start, end, data[_CHUNK_HEAD.size :]))
        return chunks

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Store all of it in one transaction."""
        rows = [(_record_key(*key), _encode_record(record)) for key, record in records.items()]

        def store(transaction: Any) -> None:
            with transaction.cursor(self._aggregates) as cursor:
                cursor.putmulti(rows)
            if state is not None:
                transaction.put(_PARTITION.pack(partition), state, db=self._states)
            with transaction.cursor(self._journal) as cursor:
                if chunk is not None:
                    data = _CHUNK_HEAD.pack(chunk.start, chunk.end) + chunk.data
                    cursor.put(_CHUNK_KEY.pack(partition, _next_number(cursor, partition)), data)
                _drop_chunks(cursor, partition, journal_floor)

        self._write(store)

    def snapshot(self, path: Path | str) -> None:
        """Write a compact copy, as of now, into a folder that is empty or absent."""
        target = Path(path)
        try:
            target.mkdir(parents=True, exist_ok=True)
            self._environment.copy(str(target), compact=True)
        except (lmdb.Error, OSError) as error:
            raise StorageError(
                f"no snapshot in {target} ({error}): name an empty folder on a disk with space"
            ) from error

    def close(self) -> None:
        """Flush, and release the folder; closing twice is harmless."""
        with self._lock, suppress(lmdb.Error, OSError):
            self._flush()
        self._environment.close()

    # -- LMDB ----------------------------------------------------------------------------------

    def _get(self, key: bytes, database: Any) -> bytes | None:
        try:
            # A reader for each look (the binding renews a spent one: under 1 µs). A held one would
            # block the reuse of pages, and see for ever what was there when it began.
            with self._lock, self._environment.begin(db=database) as transaction:
                data: bytes | None = transaction.get(key)
        except lmdb.Error as error:
            raise self._failure(error) from error
        return data

    def _range(
        self, database: Any, first: bytes, last: bytes, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        try:
            with self._lock, self._environment.begin(db=database) as transaction:
                cursor = transaction.cursor()
                found = cursor.set_range(first)
                while found and cursor.key() <= last and (limit is None or len(rows) < limit):
                    rows.append(cursor.item())
                    found = cursor.next()
        except lmdb.Error as error:
            raise self._failure(error) from error
        return rows

    def _write(self, work: Callable[[Any], None]) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    work(transaction)
                return
            except lmdb.MapFullError as error:
                self._grow(error)
            except lmdb.Error as error:
                raise self._failure(error) from error

    def _grow(self, error: lmdb.Error) -> None:
        # No transaction may be active while the map is moved, hence the lock.
        with self._lock:
            size = self._environment.info()["map_size"]
            if size >= self._maximum_map_size_bytes:
                raise StorageError(
                    f"{self._path} is full at {size} bytes: raise maximum_map_size_bytes"
                ) from error
            self._environment.set_mapsize(min(2 * size, self._maximum_map_size_bytes))

    def _failure(self, error: Exception) -> StorageError:
        remedy = "see the cause for what went wrong"
        if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError):
            remedy = (
                "this is no LMDB environment, or a damaged one: name another folder, or delete "
                "this one and the replica is rebuilt from the log"
            )
        elif isinstance(error, OSError | lmdb.DiskError | lmdb.ReadonlyError):
            remedy = "check that the folder can be written and that the disk has space"
        elif "already open" in str(error):
            remedy = "this process has it open already: share that object"
        return StorageError(f"{self._path}: {remedy} ({error})")


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _write_flushed(path: Path, text: str) -> None:
    # The mark must be on the disk before the first page that it warns of.
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@lru_cache(maxsize=16_384)
def _record_key(context_type: str, subject: str) -> bytes:
    # Seeded, as the low half of xxh3_128 is xxh3_64 again for long input.
    identity = b"\x82" + encode(context_type) + encode(subject)
    return aggregate_hash(context_type, subject).to_bytes(8, "big") + xxh3_64_digest(identity, 1)


def _decode(data: bytes) -> AggregateRecord | None:
    try:
        record = _decode_record(data)
        for value, _ in record.fields.values():
            # Damage may decode, but to what no event can hold: bytes, a date, NaN.
            if type(value) is not str:
                check_value(value, "$")
    except (msgspec.DecodeError, InvalidEventError, ValueError, RecursionError):
        return None
    return record


def _next_number(cursor: Any, partition: int) -> int:
    beyond = cursor.set_range(_PARTITION.pack(partition + 1))
    found = cursor.prev() if beyond else cursor.last()
    if not found:
        return 0
    owner, number = _CHUNK_KEY.unpack(cursor.key())
    return number + 1 if owner == partition else 0


def _drop_chunks(cursor: Any, partition: int, floor: int) -> None:
    found = cursor.set_range(_PARTITION.pack(partition))
    while found:
        owner, _ = _CHUNK_KEY.unpack(cursor.key())
        if owner != partition or _CHUNK_HEAD.unpack_from(cursor.value())[1] > floor:
            return
        cursor.delete()
        found = bool(cursor.key())
