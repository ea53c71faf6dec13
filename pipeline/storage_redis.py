"""A replica's facts in Redis: one hash an aggregate, for models that read by plain commands.

Keys (the braces keep all keys of a replica in one slot of a cluster)::

    {PREFIX:REPLICA}:a:TYPE:SUBJECT   hash: f:FIELD = the value as JSON; meta = bookkeeping
    {PREFIX:REPLICA}:i:PARTITION      sorted set: the aggregates in order of their hash
    {PREFIX:REPLICA}:p:PARTITION      hash: version and state
    {PREFIX:REPLICA}:j:PARTITION      list: journal chunks
    {PREFIX:REPLICA}:life             the incarnation;  {PREFIX:REPLICA}:partitions  their numbers

A commit is one Lua script. Several processes may use one replica's storage, each with partitions of
its own. Every partition has a version that each commit raises; a commit of a process that did not
see the newest version is refused, so one that was paused and comes back changes nothing, and a
Redis that lost its newest writes in a crash is noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec
import redis
from msgspec import Struct
from redis.backoff import NoBackoff
from redis.retry import Retry

from synchroscope.digest import aggregate_hash
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    InvalidEventError,
    StorageError,
    UnavailableError,
)
from synchroscope.event import check_value
from synchroscope.ports import AggregateKey, AggregateRecord, JournalChunk

ANSWER_SECONDS = 3.0
SCAN_SLICE_RECORDS = 500
_SAFE_POLICIES = ("noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl")
_EMPTYING = b"\0emptying "
_HEAD = struct.Struct(">QQ")

_COMMIT = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 'life' end
if (redis.call('HGET', KEYS[2], 'version') or '0') ~= ARGV[2] then return 'version' end
redis.call('HINCRBY', KEYS[2], 'version', 1)
redis.call('SADD', KEYS[4], ARGV[3])
if ARGV[4] == '1' then redis.call('HSET', KEYS[2], 'state', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('RPUSH', KEYS[3], ARGV[6]) end
local floor = tonumber(ARGV[7])
while true do
    local oldest = redis.call('LINDEX', KEYS[3], 0)
    if not oldest then break end
    local _, finish = struct.unpack('>I8I8', oldest)
    if finish > floor then break end
    redis.call('LPOP', KEYS[3])
end
local at = 8
for number = 5, #KEYS, 2 do
    local count = tonumber(ARGV[at])
    redis.call('DEL', KEYS[number])
    redis.call('HSET', KEYS[number], unpack(ARGV, at + 3, at + 2 + count))
    redis.call('ZADD', KEYS[number + 1], 0, ARGV[at + 1])
    redis.call('SADD', KEYS[4], ARGV[at + 2])
    at = at + 3 + count
end
return 'ok'
"""
_BEGIN = """
local now = redis.call('GET', KEYS[1]) or ''
if string.sub(now, 1, 10) == ARGV[3] then now = '' end
if now ~= ARGV[1] then return 'late' end
redis.call('SET', KEYS[1], ARGV[2])
return 'ok'
"""
_FINISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'late' end
redis.call('SET', KEYS[1], ARGV[2])
return 'ok'
"""


class _Meta(Struct, array_like=True):
    partition: int
    sequence: int
    sequences: dict[str, int]
    missing: list[int]


_encode = msgspec.json.Encoder().encode
_decode_meta = msgspec.json.Decoder(_Meta).decode
_decode_value = msgspec.json.Decoder().decode


class RedisStorage:
    """The `ReplicaStorage` port on Redis.

    Parameters
    ----------
    url: ``redis://`` or, with TLS, ``rediss://``.
    replica: Whose facts these are.
    prefix: Stands before every key.
    """

    def __init__(self, url: str, replica: str, *, prefix: str = "synchroscope") -> None:
        self._base = f"{{{prefix}:{replica}}}"
        self._replica = replica
        self._life: bytes | None = None
        self._versions: dict[int, int] = {}
        self._prefetched: dict[AggregateKey, AggregateRecord | None] = {}
        try:
            parts = urlsplit(url)
            self.server = f"redis {parts.hostname or 'localhost'}:{parts.port or 6379}"
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                socket_keepalive=True,
                retry=Retry(NoBackoff(), 0),
                client_name="synchroscope",
            )
        except ValueError as error:
            raise ConfigurationError(
                f"the Redis URL cannot be read ({error}): write redis://host:port/0"
            ) from None
        self._commit = self._client.register_script(_COMMIT)
        self._begin = self._client.register_script(_BEGIN)
        self._finish = self._client.register_script(_FINISH)
        try:
            self._check_policy()
        except BaseException:
            self.close()
            raise

    def _check_policy(self) -> None:
        try:
            self._client.ping()
            with suppress(redis.exceptions.ResponseError):  # Managed servers may hide it.
                found: Any = self._client.config_get("maxmemory-policy")
                policy = found.get("maxmemory-policy", "noeviction")
                if policy not in _SAFE_POLICIES:
                    raise ConfigurationError(
                        f"{self.server}: maxmemory-policy {policy} may drop facts: "
                        "set it to noeviction"
                    )
        except redis.RedisError as error:
            self._fail(error)

    def _key(self, kind: str, rest: object = "") -> str:
        return f"{self._base}:{kind}:{rest}" if rest != "" else f"{self._base}:{kind}"

    def _aggregate_key(self, key: AggregateKey) -> str:
        return self._key("a", _member(key))

    # -- lives -------------------------------------------------------------------------------

    def incarnation(self) -> str | None:
        """Return the name of this storage's life; None also while it is being emptied."""
        try:
            life: Any = self._client.get(self._key("life"))
        except redis.RedisError as error:
            self._fail(error)
        self._life = None if life is None or life.startswith(_EMPTYING) else life
        return None if self._life is None else self._life.decode()

    def begin(self, incarnation: str) -> None:
        """Empty the storage and start a new life, unless another process was faster.

        While it is emptied, in small steps, it has no life; whoever finds it so begins again.
        """
        self._prefetched.clear()
        self._versions.clear()
        life, mark = self._key("life"), _EMPTYING + incarnation.encode()
        try:
            if self._begin([life], [self._life or b"", mark, _EMPTYING]) != b"ok":
                return
            self._empty()
            if self._finish([life], [mark, incarnation]) != b"ok":
                raise FencedError(f"{self.server}: another process begins {self._replica} anew")
        except redis.RedisError as error:
            self._fail(error)
        self._life = incarnation.encode()

    def _empty(self) -> None:
        numbers: Any = self._client.smembers(self._key("partitions"))
        for number in sorted(numbers):
            index = self._key("i", number.decode())
            while True:
                members: Any = self._client.zrange(index, 0, SCAN_SLICE_RECORDS - 1)
                if not members:
                    break
                with self._client.pipeline(transaction=False) as pipe:
                    for member in members:
                        pipe.unlink(self._key("a", member[16:].decode()))
                    pipe.zrem(index, *members)
                    pipe.execute()
            for kind in ("p", "j", "i"):
                self._client.unlink(self._key(kind, number.decode()))
        self._client.unlink(self._key("partitions"))

    # -- reading -----------------------------------------------------------------------------

    def partition_state(self, partition: int) -> bytes | None:
        """Return what the last commit stored."""
        self._prefetched.clear()
        try:
            found: Any = self._client.hmget(self._key("p", partition), ["version", "state"])
        except redis.RedisError as error:
            self._fail(error)
        self._versions[partition] = int(found[0] or 0)
        state: bytes | None = found[1]
        return state

    def get(self, key: AggregateKey) -> AggregateRecord | None:
        """Return an aggregate as stored."""
        if key in self._prefetched:
            return self._prefetched[key]
        return self._read([key])[0]

    def prefetch(self, keys: Sequence[AggregateKey]) -> None:
        """Read these aggregates in one round trip."""
        self._prefetched.clear()
        distinct = list(dict.fromkeys(keys))
        if distinct:
            self._prefetched = dict(zip(distinct, self._read(distinct), strict=True))

    def _read(self, keys: Sequence[AggregateKey]) -> list[AggregateRecord | None]:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hgetall(self._aggregate_key(key))
                found = pipe.execute()
        except redis.RedisError as error:
            self._fail(error)
        return [_record(key, fields) for key, fields in zip(keys, found, strict=True)]

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the aggregates of one bucket, in order of their hash, read in slices."""
        shift = 64 - bits
        place = f"[{bucket << shift:016x}".encode()
        end = b"+" if bucket + 1 == 1 << bits else f"({(bucket + 1) << shift:016x}".encode()
        while True:
            try:
                members: Any = self._client.zrangebylex(
                    self._key("i", partition), place, end, 0, SCAN_SLICE_RECORDS
                )
            except redis.RedisError as error:
                self._fail(error)
            keys = [_key_of(member) for member in members]
            for record in self._read(keys) if keys else ():
                if record is not None and record.partition == partition:
                    yield record
            if len(members) < SCAN_SLICE_RECORDS:
                return
            place = b"(" + members[-1]

    def journal(self, partition: int, position: int) -> list[JournalChunk]:
        """Return the kept chunks that end after `position`."""
        try:
            found: Any = self._client.lrange(self._key("j", partition), 0, -1)
        except redis.RedisError as error:
            self._fail(error)
        chunks = []
        for item in found:
            start, end = _HEAD.unpack_from(item)
            if end > position:
                chunks.append(JournalChunk(start, end, item[_HEAD.size :]))
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
        """Store all of it in one step, if nobody else went on with the partition."""
        self._prefetched.clear()
        if self._life is None:
            self.incarnation()
        if partition not in self._versions:
            self.partition_state(partition)
        keys = [
            self._key("life"),
            self._key("p", partition),
            self._key("j", partition),
            self._key("partitions"),
        ]
        data = b"" if chunk is None else _HEAD.pack(chunk.start, chunk.end) + chunk.data
        arguments: list[Any] = [
            self._life or b"",
            self._versions[partition],
            partition,
            int(state is not None),
            state or b"",
            data,
            journal_floor,
        ]
        for key, record in records.items():
            keys += [self._aggregate_key(key), self._key("i", record.partition)]
            fields = _fields(record)
            member = f"{aggregate_hash(*key):016x}{_member(key)}"
            arguments += [len(fields), member, record.partition, *fields]
        try:
            outcome: Any = self._commit(keys, arguments)
        except redis.RedisError as error:
            self._fail(error)
        if outcome != b"ok":
            raise FencedError(
                f"{self.server}: another process went on with partition {partition} of "
                f"{self._replica}, or the server lost its newest writes"
            )
        self._versions[partition] += 1

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        with suppress(redis.RedisError):
            self._client.close()

    def _fail(self, error: redis.RedisError) -> NoReturn:
        text = " ".join(str(error).split())
        kinds = redis.exceptions
        if isinstance(error, kinds.AuthenticationError) or "WRONGPASS" in text:
            raise ConfigurationError(
                f"{self.server} refuses the user or password ({text}): "
                "give them in the URL as redis://user:${NAME}@host"
            ) from None
        if isinstance(error, kinds.NoPermissionError | kinds.AuthorizationError):
            raise ConfigurationError(
                f"{self.server}: the user may not do this ({text}): allow it the keys and commands"
            ) from None
        if isinstance(error, kinds.ConnectionError | kinds.TimeoutError):
            raise UnavailableError(
                self.server,
                f"cannot be reached or did not answer ({text}); what was sent may be stored",
            ) from error
        remedy = "see the cause for what went wrong"
        if isinstance(error, kinds.ReadOnlyError):
            remedy = "this is a read-only replica: name the primary"
        elif isinstance(error, kinds.OutOfMemoryError):
            remedy = "it is out of memory: raise maxmemory; nothing was half written"
        elif "MISCONF" in text:
            remedy = "it cannot write to its disk: free some space; nothing was half written"
        elif "WRONGTYPE" in text:
            remedy = "a key is of another kind: choose another prefix, or delete the key"
        elif "BUSY" in text:
            raise UnavailableError(self.server, f"is busy with a script ({text})") from error
        raise StorageError(f"{self.server}: {remedy} ({text})") from error


def _member(key: AggregateKey) -> str:
    """Return the part of a key that names the aggregate; the first colon ends the type."""
    kind = key[0].replace("%", "%25").replace(":", "%3A")
    return f"{kind}:{key[1]}"


def _key_of(member: bytes) -> AggregateKey:
    kind, _, subject = member[16:].decode().partition(":")
    return kind.replace("%3A", ":").replace("%25", "%"), subject


def _fields(record: AggregateRecord) -> list[bytes]:
    sequences = {name: sequence for name, (_, sequence) in record.fields.items()}
    meta = _Meta(record.partition, record.sequence, sequences, record.missing)
    fields = [b"meta", _encode(meta)]
    for name, (value, _) in record.fields.items():
        if value is not None:
            fields += [b"f:" + name.encode(), _encode(value)]
    return fields


def _record(key: AggregateKey, stored: Mapping[bytes, bytes]) -> AggregateRecord | None:
    """Return the aggregate, or None where what is stored is nothing that an event can write."""
    if b"meta" not in stored:
        return None
    try:
        meta = _decode_meta(stored[b"meta"])
        # In the order in which they were written; what nobody knows of comes last.
        fields: dict[str, tuple[Any, int]] = {
            name: (None, sequence) for name, sequence in meta.sequences.items()
        }
        for field, data in stored.items():
            if field.startswith(b"f:"):
                name, value = field[2:].decode(), _decode_value(data)
                check_value(value, "$")
                fields[name] = (value, meta.sequences.get(name, 0))
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidEventError, RecursionError):
        return None
    return AggregateRecord(*key, meta.partition, meta.sequence, fields, meta.missing)
