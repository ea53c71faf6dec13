"""A replica's facts in Redis: one hash an aggregate, which any model reads by plain commands.

Keys (the braces keep all keys of a replica in one slot of a cluster)::

    {PREFIX:REPLICA}:a:TYPE:SUBJECT  hash: f:FIELD = the value as JSON, and meta, our bookkeeping
    {PREFIX:REPLICA}:about           hash: incarnation, and life, a random name for it
    {PREFIX:REPLICA}:partitions      set: the numbers of the partitions that there are
    {PREFIX:REPLICA}:p:PARTITION     hash: version and state
    {PREFIX:REPLICA}:i:PARTITION     sorted set: the aggregates in order of their hash
    {PREFIX:REPLICA}:j:PARTITION     list: journal chunks
    {PREFIX:REPLICA}:emptied         list: indexes of older lives, deleted slice by slice

In names, ``%``, ``:``, ``{`` and ``}`` are written ``%25``, ``%3A``, ``%7B`` and ``%7D``; a subject
stands at the end as it is. ``HGET '{synchroscope:scorer@1}:a:financial:user:1' f:limit`` is a fact.

A commit is one Lua script, and a compare-and-set. Several processes may use one replica's storage,
each with partitions of its own; every commit gives its partition a version that no other commit
ever had, and whoever did not see the newest one is refused. So a process that was paused and comes
back changes nothing, and a Redis that lost its newest writes in a crash is noticed.

A new life begins at once, however large the old one was: an aggregate bears the name of the life
that wrote it, and one of another life is no fact. A model that reads by plain commands may see what
was there before until it is overwritten or deleted.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.redis_connection import ANSWER_SECONDS, RedisConnection
from pipeline.redis_names import escaped, key_of_member, member_of, name_of
from pipeline.redis_scripts import BEGIN, COMMIT, EMPTY, READ, STATE
from pipeline.redis_sweep import sweep
from synchroscope.errors import FencedError, InvalidEventError, SynchroscopeError
from synchroscope.event import check_value
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk, Swept

SLICE_RECORDS = 500
"""Aggregates that one script touches at most, where it is not one commit: others wait meanwhile."""
SLICES_AT_BEGINNING = 20
"""So many slices of the old life are deleted at once; the rest goes with the next commits."""

_AFTER_ANY_HASH = b"(g"


class _Meta(Struct, array_like=True):
    """What is stored beside an aggregate's values. The life comes first: a script looks for it."""

    life: str
    partition: int
    sequence: int
    sequences: dict[str, int]
    missing: list[int]


class _Seen(Struct, frozen=True):
    """How a partition was when it was last read or written; an empty version: nothing there."""

    life: bytes
    version: bytes


class _Prefetched(threading.local):
    """What the batch that this thread works on has read; another thread reads for itself."""

    def __init__(self) -> None:
        self.records: dict[AggregateKey, AggregateRecord | None] = {}


_encode = msgspec.json.Encoder().encode
_decode_meta = msgspec.json.Decoder(_Meta).decode
_decode_value = msgspec.json.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[list[str] | bool]).decode


class RedisStorage:
    """The `ReplicaStorage` port on Redis. `get` from any thread, the rest from one.

    Parameters
    ----------
    url: ``redis://``, ``rediss://`` (TLS) or ``unix://``.
    replica: Whose facts these are.
    prefix: Stands before the replica's name in every key.
    answer_seconds: Without an answer for so long, the server counts as gone.
    """

    def __init__(
        self,
        url: str,
        replica: str,
        *,
        prefix: str = "synchroscope",
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._replica = replica
        self._base = f"{{{escaped(prefix)}:{escaped(replica)}}}"
        self._about = f"{self._base}:about"
        self._partitions = f"{self._base}:partitions"
        self._emptied = f"{self._base}:emptied"
        self._life: bytes | None = None
        """The life of which `incarnation` last told; empty where there was none."""
        self._seen: dict[int, _Seen] = {}
        self._prefetched = _Prefetched()
        self._writer = secrets.token_hex(6)
        self._commits = 0
        self._redis = RedisConnection(url, answer_seconds=answer_seconds)
        self.server = self._redis.server

    # -- lives -------------------------------------------------------------------------------

    def incarnation(self) -> str | None:
        """Return the name of this storage's life."""
        name, life = self._redis.command("HMGET", self._about, "incarnation", "life")
        self._life = life or b""
        return None if life is None or name is None else name.decode()

    def begin(self, incarnation: str) -> None:
        """Start a new, empty life, if it is still the one that `incarnation` told of."""
        self._prefetched.records = {}
        self._seen.clear()
        life = secrets.token_hex(4)
        keys = (self._about, self._partitions, self._emptied)
        if self._redis.run(BEGIN, keys, (self._life or b"", life, incarnation, self._base)):
            self._life = life.encode()
            self._empty(SLICES_AT_BEGINNING)

    def _empty(self, slices: int) -> None:
        """Delete what is left of older lives, a little of it; nothing depends on that."""
        with suppress(SynchroscopeError):
            for _ in range(slices):
                keys = (self._about, self._emptied)
                if not self._redis.run(EMPTY, keys, (self._base, SLICE_RECORDS)):
                    return

    # -- reading -----------------------------------------------------------------------------

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit stored."""
        self._prefetched.records = {}
        self._seen[partition], state = self._look(partition)
        return state

    def _look(self, partition: int) -> tuple[_Seen, bytes | None]:
        keys = (self._about, self._place(partition))
        life, version, state = self._redis.run(STATE, keys, ())
        if not version.startswith(life + b"-"):
            version, state = b"", None  # What an older life has left.
        return _Seen(life, version), state

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        prefetched = self._prefetched.records
        return prefetched[key] if key in prefetched else self._read((key,))[0]

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Read these aggregates, in one round trip for each `SLICE_RECORDS` of them."""
        self._prefetched.records = {}
        distinct = list(dict.fromkeys(keys))
        records: list[AggregateRecord | None] = []
        for start in range(0, len(distinct), SLICE_RECORDS):
            records += self._read(distinct[start : start + SLICE_RECORDS])
        self._prefetched.records = dict(zip(distinct, records, strict=True))

    def _read(self, keys: Sequence[AggregateKey]) -> list[AggregateRecord | None]:
        if not keys:
            return []
        places = [self._about, *[f"{self._base}:a:{name_of(key)}" for key in keys]]
        life, data = self._redis.run(READ, places, ())
        try:
            found = _unpack(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Somebody wrote what is no text: the others of this slice are sound.
            if len(keys) == 1:
                return [None]
            half = len(keys) // 2
            return self._read(keys[:half]) + self._read(keys[half:])
        name = life.decode()
        return [_record(key, name, items) for key, items in zip(keys, found, strict=True)]

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket, in order of their hash, read slice by slice."""
        shift = 64 - bits
        first = b"[%016x" % (bucket << shift)
        last = _AFTER_ANY_HASH
        if bucket + 1 < 1 << bits:
            last = b"(%016x" % ((bucket + 1) << shift)
        while True:
            members = self._redis.command(
                "ZRANGEBYLEX", self._index(partition), first, last, "LIMIT", 0, SLICE_RECORDS
            )
            for record in self._read([key_of_member(member) for member in members]):
                if record is not None and record.partition == partition:
                    yield record
            if len(members) < SLICE_RECORDS:
                return
            first = b"(" + members[-1]

    def sweep(self, partition: int, place: bytes, limit: int) -> Swept:
        """Enter into the indexes what none of them names."""
        return sweep(self._redis, self._base, partition, place, min(limit, SLICE_RECORDS))

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`."""
        chunks = []
        for item in self._redis.command("LRANGE", self._journal(partition), 0, -1):
            start, end, data = item.split(b" ", 2)
            if int(end) > position:
                chunks.append(JournalChunk(int(start), int(end), data))
        return chunks

    # -- writing -----------------------------------------------------------------------------

    def commit(
        self,
        records: Mapping[AggregateKey, AggregateRecord],
        partition: int,
        state: bytes | None,
        chunk: JournalChunk | None = None,
        journal_floor: int = 0,
    ) -> None:
        """Store all of it in one step, if nobody else went on with the partition.

        When it is not known whether that happened, what was seen of the partition stays: a second
        try is refused until `partition_state` has told.
        """
        self._prefetched.records = {}
        seen = self._seen.get(partition)
        if seen is None:
            seen, _ = self._look(partition)
            if self._life not in (None, seen.life):
                raise self._fenced(partition)
        self._commits += 1
        version = b"%s-%s-%d" % (seen.life, self._writer.encode(), self._commits)
        numbers = list({record.partition: None for record in records.values()})
        place = {number: index for index, number in enumerate(numbers, 1)}
        names = [name_of(key) for key in records]
        life = seen.life.decode()
        rows = [
            (place[record.partition], member_of(key, name), _fields(record, life))
            for (key, record), name in zip(records.items(), names, strict=True)
        ]
        keys = [
            self._about,
            self._place(partition),
            self._journal(partition),
            self._partitions,
            self._emptied,
            *map(self._index, numbers),
            *[f"{self._base}:a:{name}" for name in names],
        ]
        arguments = (
            seen.life,
            seen.version,
            version,
            partition,
            journal_floor,
            b"" if state is None else b"=" + state,
            b"" if chunk is None else b"%d %d %s" % (chunk.start, chunk.end, chunk.data),
            _pack((list(map(str, numbers)), rows)),
        )
        stored, left = self._redis.run(COMMIT, keys, arguments)
        if not stored:
            raise self._fenced(partition)
        self._seen[partition] = _Seen(seen.life, version)
        if left:
            self._empty(1)

    def _fenced(self, partition: int) -> FencedError:
        return FencedError(
            f"{self.server}: another process went on with partition {partition} of "
            f"{self._replica}, or the server lost its newest writes: read the partition anew"
        )

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        self._redis.close()

    def _place(self, partition: int) -> str:
        return f"{self._base}:p:{partition}"

    def _index(self, partition: int) -> str:
        return f"{self._base}:i:{partition}"

    def _journal(self, partition: int) -> str:
        return f"{self._base}:j:{partition}"


def _fields(record: AggregateRecord, life: str) -> list[str]:
    # As text: the MessagePack of Redis's Lua knows no bytes.
    sequences = {name: sequence for name, (_, sequence) in record.fields.items()}
    meta = _Meta(life, record.partition, record.sequence, sequences, record.missing)
    fields = ["meta", _encode(meta).decode()]
    for name, (value, _) in record.fields.items():
        if value is not None:
            fields += (f"f:{name}", _encode(value).decode())
    return fields


def _record(key: AggregateKey, life: str, items: list[str] | bool) -> AggregateRecord | None:
    """Return the aggregate, or None where what is stored is nothing that an event can write.

    A value that somebody wrote beside us has sequence 0, and a scrub sees it as any other. An
    aggregate that cannot be read is absent, and a scrub misses all its facts.
    """
    if isinstance(items, bool):
        return None
    stored = dict(zip(items[::2], items[1::2], strict=True))
    try:
        meta = _decode_meta(stored.pop("meta", ""))
        if meta.life != life:
            return None
        sequences = meta.sequences
        fields: dict[str, tuple[Any, int]] = {name: (None, at) for name, at in sequences.items()}
        for field, data in stored.items():
            if field.startswith("f:"):
                name, value = field[2:], _decode_value(data)
                if type(value) is not str:
                    check_value(value, "$")
                fields[name] = (value, sequences.get(name, 0))
    except (msgspec.DecodeError, InvalidEventError, RecursionError):
        return None
    return AggregateRecord(*key, meta.partition, meta.sequence, fields, meta.missing)
