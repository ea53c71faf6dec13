"""The whole pipeline under a seeded scheduler, a virtual clock, faulty links and crashes.

The roles are the production code. A seed decides everything: whether they live in one process
or are divided among several (`chaos.embedded`, `chaos.divided`), how many partitions, views and
replicas there are, what is produced, whose turn it is, what fails and when. A run has four phases:

1. chaos: roles step in random order; records are dropped, doubled, swapped and delayed, stored
   facts are altered, and any role may die before or after any write and come back;
2. calm: no more crashes or new damage to storage; everything is read, scrubbed and judged;
3. the verdicts and findings are held against the oracle;
4. rebuild: replicas that diverged start anew from the log over a good link, and all must agree.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from chaos.divided import DividedWorld
from chaos.drawing import draw_mode
from chaos.embedded import EmbeddedWorld
from chaos.properties import (
    Broken,
    check_counts,
    check_findings,
    check_log,
    check_no_alarm,
    check_places,
    check_resolutions,
    check_verdicts,
)
from chaos.world import World
from validator.watch import Verdict


class Outcome(Struct, frozen=True):
    """What a run did."""

    seed: int
    mode: str
    steps: int
    events: int
    crashes: int
    pauses: int
    faults: dict[str, int]
    found: int
    masked: int


def simulate(seed: int, mode: str = "") -> Outcome:
    """Run one seed; raise `Broken` (or whatever the code under test raises) on failure.

    `mode`: ``"embedded"`` or ``"divided"``; by default the seed decides that too.
    """
    worlds: dict[str, type[EmbeddedWorld | DividedWorld]] = {
        "embedded": EmbeddedWorld,
        "divided": DividedWorld,
    }
    world = worlds[mode or draw_mode(seed)](seed)
    cause_chaos(world)
    settle(world)
    found, masked = check_findings(world)
    check_log(world)
    check_verdicts(world)
    check_counts(world)
    check_resolutions(world)
    if isinstance(world, DividedWorld):
        check_places(world)
    rebuild(world)
    return Outcome(
        seed,
        world.mode,
        world.settings.steps,
        world.store.count(),
        world.crashes,
        world.pauses,
        dict(Counter(fault.kind for fault in world.journal.faults())),
        found,
        masked,
    )


def cause_chaos(world: World) -> None:
    """Let actors step in random order, be harmed, die and come back."""
    actors = world.actors()
    world.may_crash = True
    for _ in range(world.settings.steps):
        world.turn(world.rng.choice(actors))
        check_no_alarm(world)
        world.now += world.rng.choice([0.0, 0.01, 0.05, 0.3])
    world.may_crash = False


def settle(world: World) -> None:
    """Let everything be read, scrubbed and judged."""
    if not world.settle():
        raise Broken("not settled: a replica or the validator is stuck")


def rebuild(world: World) -> None:
    """After a replay over a good link everything converges and every finding is resolved."""
    world.good_links = True
    for name in world.views:
        if world.judge(name).verdict is Verdict.DIVERGED:
            world.empty(name)
    settle(world)
    for name in world.views:
        verdict = world.judge(name)
        if verdict.verdict is not Verdict.CONSISTENT:
            raise Broken(f"{name} does not converge: {verdict}")
    if world.open_findings():
        raise Broken(f"still open: {world.open_findings()[0]}")
    check_verdicts(world)
