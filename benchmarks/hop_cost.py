"""What counting at the hops costs: `python -m benchmarks.hop_cost` prints CPU time per event.

Each part is measured alone, as the best of several runs, since what it adds to a whole pipeline is
smaller than the noise of one; the last line is the three roles over SQLite without counting.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import msgspec

from pipeline.commands import CommandSide
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.log_sqlite import SqliteLog
from pipeline.projector import Projector
from pipeline.relay import Relay
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.event import ContextDelta, ContextEvent, Source, Update, encode_event
from synchroscope.hop_tallies import ReplicaTally, TalliedStorage
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import CONTROL_TOPICS, EVENTS, JournalChunk, Record
from synchroscope.replica import Replica
from synchroscope.report import Entry
from synchroscope.tally import Tally, sum_of
from synchroscope.view import View

EVENTS_MEASURED = 10_000
BATCH_EVENTS = 200
RUNS = 7
START = 1_700_000_000.0
VIEW = View("scorer", {"financial": frozenset()})


def event(number: int) -> ContextEvent:
    updates = {"limit": Update(number), "risk": Update("low"), "score": Update(number * 0.5)}
    return ContextEvent(
        event_id=UUID(int=number + 1, version=4),
        timestamp=dt.datetime.fromtimestamp(START + number, dt.UTC),
        event_type="context.updated",
        source=Source("shop", "one"),
        context_delta=ContextDelta(updates, user_id=str(number % 500)),
        context_type="financial",
    )


def microseconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """Return the CPU time of one event, as the best of the runs."""
    best = float("inf")
    for _ in range(runs):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best / EVENTS_MEASURED * 1e6


def producer(events: list[ContextEvent]) -> float:
    return microseconds(lambda: sum_of([encode_event(one) for one in events]))


def relay(values: list[bytes]) -> float:
    handed = [(START + n // BATCH_EVENTS, n % 4, value) for n, value in enumerate(values)]
    return microseconds(lambda: Tally().add_all(handed))


def replica(values: list[bytes]) -> float:
    headers = (("ce_id", b"x" * 36), ("recorded", b"1700000000.123"), ("store-position", b"12345"))
    records = [Record(n, b"", value, headers, 0.0) for n, value in enumerate(values)]
    entries = [Entry(n, 2**63 + n, n + 1, n) for n in range(len(values))]
    chunk = JournalChunk(0, len(values), msgspec.msgpack.encode((entries, [])))
    storage = TalliedStorage(MemoryStorage())
    tally = ReplicaTally("scorer@1", "life", storage)

    def work() -> None:
        tally.begin(0, 0)
        storage.commit({}, 0, None, chunk)
        tally.applied(0, records, len(records))
        tally.forget(0)

    return microseconds(work)


def roles(events: list[ContextEvent]) -> float:
    """Command side, relay and projector over SQLite, counting nothing."""

    def work() -> None:
        with (
            TemporaryDirectory() as folder,
            closing(SqliteDatabase(Path(folder) / "data.db", synchronous="NORMAL")) as database,
        ):
            topics = {EVENTS: 4, **dict.fromkeys(CONTROL_TOPICS, 1)}
            log, store = SqliteLog(database, topics), SqliteEventStore(database)
            commands, mover = CommandSide(store), Relay(store, log)
            copy = Replica("scorer@1", VIEW, MemoryStorage(), incarnation="life")
            projector = Projector(copy, log, scrub_interval_seconds=None)
            for first in range(0, len(events), BATCH_EVENTS):
                now = START + first
                with commands.batch(now) as batch:
                    for one in events[first : first + BATCH_EVENTS]:
                        batch.submit(one)
                mover.step(now)
                projector.step(now)

    return microseconds(work, runs=3)


def main() -> None:
    events = [event(number) for number in range(EVENTS_MEASURED)]
    values = [encode_event(one) for one in events]
    parts = {"producer": producer(events), "relay": relay(values), "replica": replica(values)}
    whole = roles(events)
    print(f"{EVENTS_MEASURED:,} events of {len(values[0])} bytes, CPU time of one event")
    for name, cost in parts.items():
        print(f"  counting, {name:<10} {cost:6.2f} us")
    total = sum(parts.values())
    print(f"  together             {total:6.2f} us")
    print(
        f"  the roles without    {whole:6.2f} us, so counting adds {total / whole:.1%} (limit 5 %)"
    )


if __name__ == "__main__":
    main()
