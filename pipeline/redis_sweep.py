"""Finds the aggregates in Redis that no index names, whoever put them there, and enters them."""

from __future__ import annotations

import re

from pipeline.redis_connection import RedisConnection
from pipeline.redis_names import key_of, member_of, name_of
from pipeline.redis_scripts import ENTER
from synchroscope.ports import Swept


def sweep(redis: RedisConnection, base: str, partition: int, place: bytes, limit: int) -> Swept:
    """Look at some of the server's keys; see `ReplicaStorage.sweep`.

    The server is asked for its keys, whosoever they are, and tells those of the replica.
    """
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"{base}:a:") + "*"
    cursor, found = redis.command("SCAN", place or b"0", "MATCH", pattern, "COUNT", limit)
    names = [name for key in found if (name := _name(key, base)) is not None]
    mended = 0
    for start in range(0, len(names), limit):
        some = names[start : start + limit]
        keys = [f"{base}:{one}" for one in ("about", "partitions", "emptied")]
        members = [member_of(key_of(name), name) for name in some]
        keys += [f"{base}:a:{name}" for name in some]
        mended += redis.run(ENTER, keys, (base, partition, *members))
    return Swept(b"" if cursor == b"0" else cursor, len(found), mended)


def _name(key: bytes, base: str) -> str | None:
    """Return how the key ends; None where no aggregate has such a one."""
    try:
        name = key.decode()[len(base) + len(":a:") :]
    except UnicodeDecodeError:
        return None
    return name if name_of(key_of(name)) == name else None
