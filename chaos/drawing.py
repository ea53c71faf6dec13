"""What a seed decides: the world as a whole, and every event that is produced in it."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from chaos.faults import KINDS, FaultSpec
from pipeline.partitioner import PARTITIONERS
from synchroscope.event import ContextDelta, ContextEvent, PropagationRules, Source, Update
from synchroscope.view import View
from validator.pinpoint import WHOLE_FACTS

FIELDS = {"behavioural": ("page", "basket"), "financial": ("spend", "limit"), "geographic": ("at",)}
MODELS = ("alpha", "beta", "gamma")


class Settings(Struct, frozen=True):
    """What a seed decides about the world as a whole."""

    partitions: int
    partitioner: str
    views: tuple[View, ...]
    replicas: tuple[tuple[str, View, bool], ...]
    """(name, view, whether its storage survives a crash)."""
    faults: tuple[FaultSpec, ...]
    crash_chance: float
    batch_records: int
    marker_interval: int
    bits: int
    steps: int
    subjects: int
    scrub_interval_seconds: float | None


def draw_settings(rng: random.Random) -> Settings:
    """Draw the world."""
    views = []
    for model in MODELS[: rng.randint(1, 3)]:
        kinds = rng.sample(sorted(FIELDS), rng.randint(1, 3))
        fields = {
            kind: frozenset(rng.choice([(), FIELDS[kind][:1], FIELDS[kind]])) for kind in kinds
        }
        views.append(View(model, fields))
    replicas = []
    for number in range(rng.randint(len(views), 4)):
        view = views[number % len(views)]
        replicas.append((f"{view.model}@{number}", view, rng.random() < 0.6))
    faults = []
    for name, _, _ in replicas:
        for kind in KINDS:
            if rng.random() < 0.3:
                faults.append(FaultSpec(kind, name, rng.choice([0.005, 0.02, 0.08])))
    return Settings(
        partitions=rng.randint(1, 3),
        partitioner=rng.choice(sorted(PARTITIONERS)),
        views=tuple(views),
        replicas=tuple(replicas),
        faults=tuple(faults) if rng.random() < 0.9 else (),
        crash_chance=rng.choice([0.0, 0.001, 0.005, 0.02]),
        batch_records=rng.choice([1, 3, 10, 50]),
        marker_interval=rng.choice([4, 16, 64]),
        bits=rng.choice([1, 4, 8]),
        steps=rng.randint(100, 400),
        subjects=rng.choice([2, 5, 20]),
        scrub_interval_seconds=rng.choice([None, 0.05]),
    )


class Hazards(Struct, frozen=True):
    """What a seed decides about a world whose roles are divided among processes."""

    processes: int
    pause_chance: float
    """Per call of a port: the process stands still there while the others go on."""
    move_share: float
    """Of the turns of fate: partitions change hands; likewise for the next two."""
    copy_share: float
    restart_share: float
    atomic_relay: bool
    """Whether the relay appends in one step."""
    leaps: bool
    """Whether the log's positions pass over what follows a record at once."""
    clocks: tuple[float, ...]
    """By how many seconds each process's clock is wrong. Not where storages fall back: what tells
    that from late words of another process is the time, so clocks have to be nearer to each other
    than one process's words are to those of the next."""
    repeat_window: int
    """How many event IDs the reference remembers."""


def draw_mode(seed: int) -> str:
    """Draw a seed's mode, from a stream of its own."""
    return random.Random(f"mode of {seed}").choice(["embedded", "divided"])


def draw_repair(seed: int) -> bool:
    """Draw whether a seed's world has an operator, from a stream of its own."""
    return random.Random(f"repair of {seed}").random() < 0.5


def draw_whole_facts(seed: int) -> int:
    """Draw up to how many facts buckets are shown whole, from a stream of its own.

    With 0 every difference is looked into by sketches, though the worlds are small.
    """
    return random.Random(f"whole facts of {seed}").choice([0, 0, 20, WHOLE_FACTS])


def draw_hazards(rng: random.Random) -> Hazards:
    """Draw what a divided world is threatened with."""
    processes = rng.randint(2, 3)
    restart_share = rng.choice([0.0, 0.0, 0.05, 0.15])
    wrong = [0.0, 0.0, -0.05, 0.02] if restart_share == 0.0 else [0.0]
    return Hazards(
        processes=processes,
        pause_chance=rng.choice([0.0, 0.002, 0.006, 0.02]),
        move_share=rng.choice([0.1, 0.5]),
        copy_share=rng.choice([0.1, 0.3]),
        restart_share=restart_share,
        atomic_relay=rng.random() < 0.25,
        leaps=rng.random() < 0.5,
        clocks=tuple(rng.choice(wrong) for _ in range(processes)),
        repeat_window=rng.choice([2, 2, 1_024]),
    )


def draw_event(rng: random.Random, settings: Settings, now: float) -> ContextEvent:
    """Draw an event, with values and targets that collide often."""
    kind = rng.choice(sorted(FIELDS))
    names = rng.sample(FIELDS[kind], rng.randint(1, len(FIELDS[kind])))
    models = rng.sample(MODELS, rng.randint(0, 3))
    return ContextEvent(
        event_id=uuid.UUID(int=rng.getrandbits(128)),
        timestamp=dt.datetime.fromtimestamp(now, dt.UTC),
        event_type="context.updated",
        source=Source("simulation", "one"),
        context_delta=ContextDelta(
            updates={name: Update(current=draw_value(rng)) for name in names},
            user_id=str(rng.randrange(settings.subjects)),
        ),
        propagation_rules=PropagationRules(
            target_models=None if rng.random() < 0.6 else tuple(models),
            priority=rng.choice(["high", "normal"]),
            ttl=rng.choice([None, None, None, 1, 5]),
        ),
        context_type=kind,
    )


def draw_value(rng: random.Random) -> Any:
    """Draw a JSON value, or None."""
    choices: list[Callable[[], Any]] = [
        lambda: rng.randrange(1_000),
        lambda: rng.random() * 100,
        lambda: f"v{rng.randrange(1_000)}",
        lambda: {"n": rng.randrange(1_000)},
        lambda: [rng.randrange(9) for _ in range(rng.randrange(4))],
        lambda: rng.random() < 0.5,
        lambda: None,
    ]
    return rng.choice(choices)()
