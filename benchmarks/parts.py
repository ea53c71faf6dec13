"""Rows of single parts on real retail events: decoding, reference, replica, command side, relay."""

from __future__ import annotations

import gc
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import lmdb
import msgspec
from msgspec import Struct

from benchmarks.measuring import Row, Settings, Side, Work, rates
from examples.retail.rows import read_rows, retail_files
from examples.retail.sale import Sale, read_sale
from examples.retail.sale_events import events_of
from examples.retail.views import FINANCIAL, RULES, VIEWS
from pipeline.commands import CommandSide
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_memory import MemoryLog
from pipeline.log_sqlite import SqliteLog
from pipeline.relay import Relay
from pipeline.sqlite_database import SqliteDatabase
from pipeline.storage_lmdb import LmdbStorage
from synchroscope.event import ContextEvent, decode_event, decode_wire, encode_event
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import EVENTS, Log, NewRecord, Record, ReplicaStorage
from synchroscope.replica import Replica
from synchroscope.view import View
from validator.reference import Reference

DATA = Path(__file__).resolve().parent.parent / "examples" / "retail" / "data"
PARTITIONS = 4
ROWS_A_BATCH = 50
RELAY_RECORDS = 1_000
REPLICA_RECORDS = 500
REFERENCE_RECORDS = 1_000
AT = 1_700_000_000.0
VIEW = VIEWS[1]
NARROW_VIEW = View(VIEW.model, {FINANCIAL: frozenset({"spend"})})


class BareUpdate(Struct, rename="camel", gc=False):
    """The least that a fold must read of an update."""

    current: Any
    previous: Any = None
    previous_targets: list[str] | None = None


class BareDelta(Struct, rename="camel", gc=False):
    """The least that a fold must read of a delta."""

    updates: dict[str, BareUpdate]
    user_id: str | None = None
    session_id: str | None = None


class BareRules(Struct, rename="camel", gc=False):
    """The least that a fold must read of the rules."""

    target_models: list[str] | None = None


class BareEvent(Struct, rename="camel", gc=False):
    """The least that a fold must read of an event: nothing is checked, nothing is wrapped."""

    event_id: str
    context_delta: BareDelta
    propagation_rules: BareRules | None = None
    context_type: str = "general"
    sequence: int | None = None


decode_bare = msgspec.json.Decoder(BareEvent).decode


class Corpus(Struct, frozen=True):
    """The shipped retail days: submitted batches, and the store and log they became."""

    batches: list[list[ContextEvent]]
    store: MemoryEventStore
    log: MemoryLog
    partitions: list[list[Record]]

    @property
    def values(self) -> list[bytes]:
        """The bytes of every event in the log."""
        return [record.value for records in self.partitions for record in records]

    @property
    def count(self) -> int:
        """How many events the log has."""
        return sum(map(len, self.partitions))


@lru_cache(maxsize=1)
def corpus(rows: int | None) -> Corpus:
    """Return the events of the first `rows` invoice lines (None: of all)."""
    store = MemoryEventStore()
    side = CommandSide(store, RULES)
    sales = [read_sale(row) for row in read_rows(retail_files(DATA))][:rows]
    batches: list[list[ContextEvent]] = []
    for start in range(0, len(sales), ROWS_A_BATCH):
        submitted: list[ContextEvent] = []
        with side.batch(AT) as batch:
            for line, sale in enumerate(sales[start : start + ROWS_A_BATCH], start):
                if isinstance(sale, Sale):
                    batch.expire(sale.time.timestamp())
                    for event in events_of(sale, "retail", line, batch.values):
                        batch.submit(event)
                        submitted.append(event)
        batches.append(submitted)
    log = MemoryLog({EVENTS: PARTITIONS})
    relay_all(Relay(store, log))
    read = [list(log.read(EVENTS, p, 0, 2**40).records) for p in range(PARTITIONS)]
    gc.collect()
    gc.freeze()  # or every collection would look through all of it, at the expense of what is timed
    return Corpus(batches, store, log, read)


def relay_all(relay: Relay) -> None:
    while relay.step(AT).consumed:
        pass


def plain(work: Work) -> Side:
    """Return a side that needs no preparation."""

    @contextmanager
    def side() -> Iterator[Work]:
        yield work

    return side


def in_folder(prepare: Callable[[Path], tuple[Work, Callable[[], object]]]) -> Side:
    """Return a side that works in a folder of its own; `prepare` gives the work and the end."""

    @contextmanager
    def side() -> Iterator[Work]:
        with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder:
            work, end = prepare(Path(folder))
            try:
                yield work
            finally:
                end()

    return side


def decode_each(decode: Callable[[bytes], object], values: list[bytes]) -> Side:
    def work() -> None:
        for value in values:
            decode(value)

    return plain(work)


def decode_rows(settings: Settings) -> list[Row]:
    """Decoding alone."""
    values = corpus(settings.rows).values
    limits: tuple[tuple[str, Callable[[bytes], object]], ...] = (
        ("bare json.decode, untyped", msgspec.json.decode),
        ("bare typed decoder", decode_bare),
    )
    sides: dict[str, Callable[[bytes], object]] = {
        "decode_wire": decode_wire,
        "decode_event": decode_event,
    }
    return [
        rates(
            f"{name} / {'typed' if typed else 'untyped'}",
            len(values),
            decode_each(ours, values),
            limit,
            decode_each(theirs, values),
            settings.repeats,
        )
        for name, ours in sides.items()
        for typed, (limit, theirs) in enumerate(limits)
    ]


def fold_all(log: Log, views: tuple[View, ...]) -> Work:
    reference = Reference(log, views)

    def work() -> None:
        for partition in reference.partitions:
            while reference.advance(partition, REFERENCE_RECORDS):
                pass

    return work


def reference_rows(settings: Settings) -> list[Row]:
    """The validator's fold alone."""
    known = corpus(settings.rows)

    def from_memory(views: tuple[View, ...]) -> Side:
        @contextmanager
        def side() -> Iterator[Work]:
            yield fold_all(known.log, views)

        return side

    def from_sqlite(views: tuple[View, ...]) -> Side:
        def prepare(folder: Path) -> tuple[Work, Callable[[], object]]:
            database = SqliteDatabase(folder / "log.db", synchronous="OFF")
            log = SqliteLog(database, {EVENTS: PARTITIONS})
            relay_all(Relay(known.store, log))
            return fold_all(log, views), database.close

        return in_folder(prepare)

    return [
        rates(
            f"reference, {where} log, {title}",
            known.count,
            side(views),
            "bare typed decoder",
            decode_each(decode_bare, known.values),
            settings.repeats,
        )
        for where, side in (("memory", from_memory), ("sqlite", from_sqlite))
        for title, views in (("4 views", VIEWS), ("1 view 1 field", (NARROW_VIEW,)))
    ]


def apply_all(replica: Replica, partitions: list[list[Record]]) -> Work:
    def work() -> None:
        for number, records in enumerate(partitions):
            for start in range(0, len(records), REPLICA_RECORDS):
                batch = records[start : start + REPLICA_RECORDS]
                replica.apply(number, batch, batch[-1].offset + 1)

    return work


def replica_of(storage: ReplicaStorage) -> Replica:
    return Replica(f"{VIEW.model}@1", VIEW, storage, incarnation="benchmark")


def replica_rows(settings: Settings) -> list[Row]:
    """A replica alone, all of its view."""
    known = corpus(settings.rows)

    @contextmanager
    def in_memory() -> Iterator[Work]:
        yield apply_all(replica_of(MemoryStorage()), known.partitions)

    def in_lmdb(folder: Path) -> tuple[Work, Callable[[], object]]:
        storage = LmdbStorage(folder / "replica")
        return apply_all(replica_of(storage), known.partitions), storage.close

    def in_dict() -> None:
        facts: dict[tuple[str, str | None], dict[str, Any]] = {}
        for value in known.values:
            event = decode_bare(value)
            delta = event.context_delta
            fields = facts.setdefault((event.context_type, delta.user_id or delta.session_id), {})
            for name, update in delta.updates.items():
                fields[name] = update.current

    def in_bare_lmdb(folder: Path) -> tuple[Work, Callable[[], object]]:
        environment = lmdb.open(str(folder / "bare"), map_size=2**28, sync=False)

        def work() -> None:
            for records in known.partitions:
                for start in range(0, len(records), REPLICA_RECORDS):
                    with environment.begin(write=True) as transaction:
                        for record in records[start : start + REPLICA_RECORDS]:
                            delta = decode_bare(record.value).context_delta
                            held = {name: (u.current, 1) for name, u in delta.updates.items()}
                            transaction.put(record.key, msgspec.msgpack.encode(held))

        return work, environment.close

    return [
        rates(
            "replica, memory",
            known.count,
            in_memory,
            "bare decode and dict update",
            plain(in_dict),
            settings.repeats,
        ),
        rates(
            "replica, lmdb",
            known.count,
            in_folder(in_lmdb),
            "bare decode and lmdb put",
            in_folder(in_bare_lmdb),
            settings.repeats,
        ),
    ]


@contextmanager
def bare_table(folder: Path, columns: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 8192")
        connection.execute(f"CREATE TABLE rows(id INTEGER PRIMARY KEY, {columns})")
        yield connection


def insert_batches(columns: str, batches: list[list[tuple[Any, ...]]]) -> Side:
    """Return the limit of what is stored: one table, one executemany a batch, as durable."""
    marks = ", ".join("?" * (columns.count(",") + 1))

    @contextmanager
    def side() -> Iterator[Work]:
        with (
            tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder,
            bare_table(Path(folder), columns) as connection,
        ):

            def work() -> None:
                for batch in batches:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(f"INSERT INTO rows VALUES(NULL, {marks})", batch)
                    connection.execute("COMMIT")

            yield work

    return side


def commands_rows(settings: Settings) -> list[Row]:
    """The command side with the SQLite event store, `ROWS_A_BATCH` invoice lines a transaction."""
    known = corpus(settings.rows)

    def prepare(folder: Path) -> tuple[Work, Callable[[], object]]:
        database = SqliteDatabase(folder / "store.db")
        side = CommandSide(SqliteEventStore(database), RULES)

        def work() -> None:
            for events in known.batches:
                with side.batch(AT) as batch:
                    for event in events:
                        batch.submit(event)

        return work, database.close

    return [
        rates(
            f"command side, sqlite store, {ROWS_A_BATCH} lines a commit",
            sum(map(len, known.batches)),
            in_folder(prepare),
            "bare sqlite3 executemany",
            insert_batches(
                "data BLOB", [[(encode_event(e),) for e in events] for events in known.batches]
            ),
            settings.repeats,
        )
    ]


def relay_rows(settings: Settings) -> list[Row]:
    """The relay from a store in memory to the SQLite log."""
    known = corpus(settings.rows)

    def prepare(folder: Path) -> tuple[Work, Callable[[], object]]:
        database = SqliteDatabase(folder / "log.db")
        relay = Relay(known.store, SqliteLog(database, {EVENTS: PARTITIONS}))
        return lambda: relay_all(relay), database.close

    records: list[Record | NewRecord] = [r for part in known.partitions for r in part]
    rows = [(r.key, r.value, msgspec.msgpack.encode(r.headers), AT) for r in records]
    batches: list[list[tuple[Any, ...]]] = [
        list(rows[start : start + RELAY_RECORDS]) for start in range(0, len(rows), RELAY_RECORDS)
    ]
    return [
        rates(
            f"relay, sqlite log, {RELAY_RECORDS} records a commit",
            known.count,
            in_folder(prepare),
            "bare sqlite3 executemany",
            insert_batches("key BLOB, value BLOB, headers BLOB, timestamp REAL", batches),
            settings.repeats,
        )
    ]
