"""Events for the command side, and what is stored of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.commands import CommandSide, Outcome
from pipeline.event_store import EventStore
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.invariants import ContextTypeRules, FieldRule
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.event import ContextDelta, ContextEvent, PropagationRules, Source, Update

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEY = ("risk", "user:1")
RULES = {"risk": ContextTypeRules({"level": FieldRule(kind="number", maximum=100.0)}, open=True)}


def make(
    number: int,
    values: dict[str, Any] | None = None,
    *,
    at: float = 0.0,
    user: str = "1",
    context_type: str = "risk",
    ttl: int | None = None,
    targets: tuple[str, ...] | None = None,
    **more: Any,
) -> ContextEvent:
    return ContextEvent(
        event_id=uuid.UUID(int=number),
        timestamp=START + dt.timedelta(seconds=at),
        event_type="context.updated",
        source=Source("model", "one"),
        context_delta=ContextDelta(
            updates={name: Update(value) for name, value in (values or {"level": 1}).items()},
            user_id=user,
        ),
        propagation_rules=PropagationRules(ttl=ttl, target_models=targets),
        context_type=context_type,
        **more,
    )


def submit(side: CommandSide, *events: ContextEvent | bytes, **how: Any) -> list[Outcome]:
    with side.batch(0.0) as batch:
        return [batch.submit(event, **how) for event in events]


def stored(store: EventStore) -> list[ContextEvent]:
    return [entry.event for entry in store.read(0, 1_000_000)]


def seconds(event: ContextEvent) -> float:
    return (event.timestamp - START).total_seconds()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore()
        return
    database = SqliteDatabase(":memory:")
    yield SqliteEventStore(database)
    database.close()
