"""Keep each user's context in Redis or PostgreSQL for a model; know nothing of Synchroscope.

python -m examples.attached.consumers redis --url redis://127.0.0.1:6379/0
python -m examples.attached.consumers postgresql --url postgresql://127.0.0.1/postgres

They have bugs, so that there is something to find: a record's header ``bug`` triggers them
(``drop@redis``: the record is not applied; ``misdirect@redis@user-7``: it is applied to another
user). `inject.py` writes such records.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any, Protocol

import psycopg
import redis
from kafka import KafkaConsumer
from psycopg.types.json import Jsonb

from examples.attached.producer import TOPIC

CREATE = """CREATE TABLE IF NOT EXISTS {0}
    (user_id text PRIMARY KEY, context jsonb NOT NULL, source_offset bigint NOT NULL,
    seen_at timestamptz)"""
UPSERT = """INSERT INTO {0} VALUES (%s, %s, %s, %s) ON CONFLICT (user_id) DO UPDATE
    SET context = {0}.context || EXCLUDED.context, source_offset = EXCLUDED.source_offset,
    seen_at = coalesce(EXCLUDED.seen_at, {0}.seen_at)"""
DELETE = "DELETE FROM {0} WHERE user_id = %s"
Change = tuple[str, dict[str, Any] | None, int]


class Store(Protocol):
    """Where a consumer keeps what it reads: (user, fields or None for "gone", offset)."""

    def apply(self, changes: Iterable[Change]) -> None: ...


class RedisStore:
    """A hash a user, every value as text."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self._prefix = prefix

    def apply(self, changes: Iterable[Change]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for user, fields, _ in changes:
            if fields is None:
                pipe.delete(self._prefix + user)
            else:
                pipe.hset(self._prefix + user, mapping=fields)
        pipe.execute()


class PostgresqlStore:
    """A row a user, with the offset of the last event that was applied to it.

    When the user was seen last has a column of its type.
    """

    def __init__(self, url: str, table: str) -> None:
        self._connection: Any = psycopg.connect(url)
        self._upsert, self._delete = UPSERT.format(table), DELETE.format(table)
        self._connection.execute(CREATE.format(table))
        self._connection.commit()

    def apply(self, changes: Iterable[Change]) -> None:
        connection = self._connection
        with connection.pipeline(), connection.transaction(), connection.cursor() as cursor:
            for user, fields, offset in changes:
                if fields is None:
                    cursor.execute(self._delete, [user])
                else:
                    context = {name: value for name, value in fields.items() if name != "seen_at"}
                    row = [user, Jsonb(context), offset, fields.get("seen_at")]
                    cursor.execute(self._upsert, row)


def changes_of(records: Iterable[Any], name: str) -> list[Change]:
    """Return what records change, with the bugs that they trigger here."""
    changes = []
    for record in records:
        user = record.key.decode()
        bug, _, rest = dict(record.headers).get("bug", b"").decode().partition("@")
        store, _, other = rest.partition("@")
        if bug == "drop" and store == name:
            continue
        if bug == "misdirect" and store == name:
            user = other
        fields = None
        if record.value is not None:
            updates = json.loads(record.value)["updates"]
            fields = {field: update["current"] for field, update in updates.items()}
        changes.append((user, fields, record.offset))
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", choices=["redis", "postgresql"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default=TOPIC)
    parser.add_argument("--prefix", default="ctx:", help="of the keys in Redis")
    parser.add_argument("--table", default="user_context", help="in PostgreSQL")
    parser.add_argument("--group", help="default: the store's name with -writer")
    options = parser.parse_args()
    store: Store
    if options.store == "redis":
        store = RedisStore(options.url, options.prefix)
    else:
        store = PostgresqlStore(options.url, options.table)
    consumer = KafkaConsumer(
        options.topic,
        bootstrap_servers=options.servers,
        group_id=options.group or f"{options.store}-writer",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=500,
        fetch_min_bytes=20_000,
        fetch_max_wait_ms=100,
    )
    while True:
        batches = consumer.poll(timeout_ms=200)
        for records in batches.values():
            store.apply(changes_of(records, options.store))
        if batches:
            consumer.commit()


if __name__ == "__main__":
    main()
