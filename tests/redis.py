"""Keys of one test's own in a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import redis

from pipeline.storage_redis import RedisStorage
from tests.servers import redis_url


@contextmanager
def redis_prefix() -> Iterator[str]:
    """Name a prefix, and delete its keys in the end."""
    url, prefix = redis_url(), f"test-{uuid4().hex[:12]}"
    try:
        yield prefix
    finally:
        with closing(redis.Redis.from_url(url)) as client:
            for key in client.scan_iter(f"{{{prefix}:*", count=1_000):
                client.delete(key)


@contextmanager
def redis_storage() -> Iterator[RedisStorage]:
    """Open a storage on keys of its own."""
    with redis_prefix() as prefix:
        yield RedisStorage(redis_url(), "scorer@1", prefix=prefix)
