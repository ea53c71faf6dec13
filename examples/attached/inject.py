"""Does to the stores what bugs, people and bad memory do, at random with a seed; keeps a journal.

python -m examples.attached.inject --redis URL --postgresql URL --rounds 2 --seed 1

Victims are users of its own, which no producer changes meanwhile: an event that comes later would
heal most faults before anybody could have seen them. Knows nothing of Synchroscope.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any, Protocol, TextIO

import psycopg
import redis
from kafka import KafkaConsumer, TopicPartition
from psycopg.types.json import Jsonb

from examples.attached.producer import TOPIC, change, open_producer

SETTLED_SECONDS = 5.0
"""By then an event is applied, and whoever watches has seen that."""
Row = dict[str, Any]


class Store(Protocol):
    """What a person with a password could do to a store."""

    name: str
    is_typed: bool

    def read(self, user: str) -> Row: ...
    def write(self, user: str, row: Row) -> None: ...
    def delete(self, user: str) -> None: ...
    def copy(self) -> dict[str, Row]: ...
    def restore(self, rows: dict[str, Row]) -> None: ...


class RedisStore:
    name, is_typed = "redis", False

    def __init__(self, url: str, prefix: str) -> None:
        self._client: Any = redis.Redis.from_url(url, decode_responses=True)
        self._prefix = prefix

    def read(self, user: str) -> Row:
        return dict(self._client.hgetall(self._prefix + user))

    def write(self, user: str, row: Row) -> None:
        pipe = self._client.pipeline()
        pipe.delete(self._prefix + user)
        pipe.hset(self._prefix + user, mapping=row)
        pipe.execute()

    def delete(self, user: str) -> None:
        self._client.delete(self._prefix + user)

    def copy(self) -> dict[str, Row]:
        keys = set(self._client.scan_iter(self._prefix + "*", count=1_000))
        users = [key.removeprefix(self._prefix) for key in keys]
        pipe = self._client.pipeline()
        for user in users:
            pipe.hgetall(self._prefix + user)
        return dict(zip(users, pipe.execute(), strict=True))

    def restore(self, rows: dict[str, Row]) -> None:
        pipe = self._client.pipeline()
        for user in self.copy():
            pipe.delete(self._prefix + user)
        for user, row in rows.items():
            if row:
                pipe.hset(self._prefix + user, mapping=row)
        pipe.execute()


class PostgresqlStore:
    name, is_typed = "postgresql", True

    def __init__(self, url: str, table: str) -> None:
        self._connection: Any = psycopg.connect(url, autocommit=True)
        self._table = table

    def read(self, user: str) -> Row:
        query = f"SELECT context, source_offset, seen_at FROM {self._table} WHERE user_id = %s"
        found = self._connection.execute(query, [user]).fetchone()
        return {} if found is None else _row(*found)

    def write(self, user: str, row: Row) -> None:
        apart = ("source_offset", "seen_at")
        context = {name: value for name, value in row.items() if name not in apart}
        self._connection.execute(
            f"INSERT INTO {self._table} VALUES (%s, %s, %s, %s) ON CONFLICT (user_id) DO UPDATE "
            "SET context = EXCLUDED.context, source_offset = EXCLUDED.source_offset, "
            "seen_at = EXCLUDED.seen_at",
            [user, Jsonb(context), row.get("source_offset", 0), row.get("seen_at")],
        )

    def delete(self, user: str) -> None:
        self._connection.execute(f"DELETE FROM {self._table} WHERE user_id = %s", [user])

    def copy(self) -> dict[str, Row]:
        rows = self._connection.execute(f"SELECT * FROM {self._table}").fetchall()
        return {user: _row(*values) for user, *values in rows}

    def restore(self, rows: dict[str, Row]) -> None:
        with self._connection.transaction():
            self._connection.execute(f"LOCK TABLE {self._table} IN EXCLUSIVE MODE")
            self._connection.execute(f"DELETE FROM {self._table}")
            for user, row in rows.items():
                self.write(user, row)


def _row(context: Row, offset: int, seen_at: Any) -> Row:
    return {**context, "source_offset": offset, "seen_at": seen_at}


class Injector:
    """Injects one fault of a kind into a store; a method with a store is a kind."""

    def __init__(self, servers: str, topic: str, rng: random.Random, journal: TextIO) -> None:
        self._topic, self._rng, self._journal = topic, rng, journal
        self._producer = open_producer(servers)
        self._ends_of = KafkaConsumer(bootstrap_servers=servers)
        self._before: dict[int, int] = {}
        self._free: list[str] = []

    def prepare(self, count: int) -> None:
        """Produce victims, each with all fields and a second event."""
        fresh = [f"quiet-{self._rng.getrandbits(40):010x}" for _ in range(count)]
        for user in fresh:
            self._send(user, self._all_fields(user))
        for user in fresh:
            self._send(user, self._all_fields(user))
        self._producer.flush()
        self._free = fresh
        time.sleep(SETTLED_SECONDS)

    def _all_fields(self, user: str) -> Row:
        event = change(self._rng, user)
        while len(event["updates"]) < 5:
            event = change(self._rng, user)
        return event

    def _victim(self) -> str:
        return self._free.pop(self._rng.randrange(len(self._free)))

    def _send(self, user: str, event: Row | None, bug: str = "") -> Any:
        headers = [("bug", bug.encode())] if bug else []
        return self._producer.send(self._topic, event, key=user, headers=headers)

    def _sent(self, user: str, event: Row | None, bug: str = "") -> list[int]:
        told = self._send(user, event, bug).get(timeout=10)
        return [told.partition, told.offset]

    def _note(self, kind: str, store: Store, users: list[str], position: Any = None) -> None:
        row = {
            "kind": kind,
            "store": store.name,
            "users": users,
            "position": position,
            "at": time.time(),
            # Where the topic ended before and after it: what the log can say of when it was done.
            "ends": [self._before, self.ends()],
        }
        self._journal.write(json.dumps(row) + "\n")
        self._journal.flush()

    # -- in the pipeline -------------------------------------------------------------------------

    def dropped_event(self, store: Store) -> None:
        user = self._victim()
        at = self._sent(user, self._all_fields(user), f"drop@{store.name}")
        self._note("dropped event", store, [user], at)

    def dropped_delete(self, store: Store) -> None:
        user = self._victim()
        self._note("dropped delete", store, [user], self._sent(user, None, f"drop@{store.name}"))

    def wrong_subject(self, store: Store) -> None:
        user, other = self._victim(), self._victim()
        at = self._sent(user, self._all_fields(user), f"misdirect@{store.name}@{other}")
        self._note("wrong subject", store, [user, other], at)

    def older_write(self, store: Store) -> None:
        """Write what an earlier event said after its successor, as a late retry does."""
        user = self._victim()
        before = store.read(user)
        at = self._sent(user, self._all_fields(user))
        time.sleep(SETTLED_SECONDS)
        store.write(user, before)
        self._note("older write", store, [user], at)

    # -- in the store ----------------------------------------------------------------------------

    def bit_flip(self, store: Store) -> None:
        user = self._victim()
        row = store.read(user)
        text = row["note"]
        place = self._rng.randrange(len(text))
        flipped = chr(ord(text[place]) ^ 1 << self._rng.randrange(3))
        store.write(user, {**row, "note": text[:place] + flipped + text[place + 1 :]})
        self._note("bit flip", store, [user])

    def truncated(self, store: Store) -> None:
        user = self._victim()
        row = store.read(user)
        length = self._rng.randrange(1, len(row["note"]))
        store.write(user, {**row, "note": row["note"][:length]})
        self._note("truncated", store, [user])

    def changed_type(self, store: Store) -> None:
        if not store.is_typed:
            return  # Where everything is text there is no type to change.
        user = self._victim()
        row = store.read(user)
        field = self._rng.choice(("balance", "visits"))
        store.write(user, {**row, field: str(row[field])})
        self._note("changed type", store, [user])

    def out_of_band_write(self, store: Store) -> None:
        user = self._victim()
        row = store.read(user)
        store.write(user, {**row, "note": f"by hand {self._rng.getrandbits(32):08x}"})
        self._note("out-of-band write", store, [user])

    def out_of_band_delete(self, store: Store) -> None:
        user = self._victim()
        store.delete(user)
        self._note("out-of-band delete", store, [user])

    def extra_row(self, store: Store) -> None:
        user = f"ghost-{self._rng.getrandbits(40):010x}"
        store.write(user, {"risk": "high", "balance": 1, "visits": 2, "note": "who am I"})
        self._note("extra row", store, [user])

    def stale_restore(self, store: Store, seconds: float = 5.0) -> None:
        """Put a copy of the whole store in its place, a few seconds later."""
        position = self.ends()
        rows = store.copy()
        time.sleep(seconds)
        store.restore(rows)
        self._note("stale restore", store, [], position)

    def inject(self, kind: str, store: Store) -> None:
        """Inject a fault by the name of its method."""
        self._before = self.ends()
        getattr(self, kind)(store)

    def ends(self) -> dict[int, int]:
        """Return where each partition of the topic ends."""
        partitions = self._ends_of.partitions_for_topic(self._topic)
        ends = self._ends_of.end_offsets([TopicPartition(self._topic, one) for one in partitions])
        return {place.partition: end for place, end in ends.items()}


KINDS = (
    "dropped_event",
    "dropped_delete",
    "wrong_subject",
    "older_write",
    "bit_flip",
    "truncated",
    "changed_type",
    "out_of_band_write",
    "out_of_band_delete",
    "extra_row",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default=TOPIC)
    parser.add_argument("--redis")
    parser.add_argument("--postgresql")
    parser.add_argument("--prefix", default="ctx:", help="of the keys in Redis")
    parser.add_argument("--table", default="user_context", help="in PostgreSQL")
    parser.add_argument("--rounds", type=int, default=1, help="each kind so often in each store")
    parser.add_argument("--kind", action="append", choices=[*KINDS, "stale_restore"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", type=argparse.FileType("a"), default=sys.stdout)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    stores: list[Store] = []
    if options.redis:
        stores.append(RedisStore(options.redis, options.prefix))
    if options.postgresql:
        stores.append(PostgresqlStore(options.postgresql, options.table))
    injector = Injector(options.servers, options.topic, rng, options.journal)
    plan = [
        (kind, store)
        for kind in options.kind or KINDS
        for store in stores
        for _ in range(options.rounds)
    ]
    rng.shuffle(plan)
    injector.prepare(2 * len(plan))
    for kind, store in plan:
        injector.inject(kind, store)


if __name__ == "__main__":
    main()
