"""The whole pipeline under a seeded scheduler, a virtual clock, faulty links and crashes.

The roles are the production code. A seed decides everything: how many partitions, views and
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

from chaos.properties import (
    Broken,
    check_counts,
    check_findings,
    check_log,
    check_verdicts,
)
from chaos.world import World
from synchroscope.memory_storage import MemoryStorage
from validator.watch import Verdict


class Outcome(Struct, frozen=True):
    """What a run did."""

    seed: int
    steps: int
    events: int
    crashes: int
    faults: dict[str, int]
    found: int
    masked: int


def simulate(seed: int) -> Outcome:
    """Run one seed; raise `Broken` (or whatever the code under test raises) on failure."""
    world = World(seed)
    cause_chaos(world)
    settle(world)
    found, masked = check_findings(world)
    check_log(world)
    check_verdicts(world)
    check_counts(world)
    rebuild(world)
    return Outcome(
        seed,
        world.settings.steps,
        world.store.count(),
        world.crashes,
        dict(Counter(fault.kind for fault in world.journal.faults())),
        found,
        masked,
    )


def cause_chaos(world: World) -> None:
    """Let roles step in random order, be harmed, die and come back."""
    actors = ["producer", "relay", "validator", *world.storages]
    world.may_crash = True
    for _ in range(world.settings.steps):
        world.turn(world.rng.choice(actors))
        world.now += world.rng.choice([0.0, 0.01, 0.05, 0.3])
    world.may_crash = False


def settle(world: World) -> None:
    """Let everything be read, scrubbed and judged."""
    if not world.settle():
        raise Broken("not settled: a replica or the validator is stuck")


def rebuild(world: World) -> None:
    """After a replay over a good link everything converges and every finding is resolved."""
    world.good_links = True
    for name in world.storages:
        if world.running_validator().judge(name, world.now).verdict is Verdict.DIVERGED:
            world.storages[name] = MemoryStorage()
            world.projectors[name] = None
    settle(world)
    for name in world.storages:
        verdict = world.running_validator().judge(name, world.now)
        if verdict.verdict is not Verdict.CONSISTENT:
            raise Broken(f"{name} does not converge: {verdict}")
    if world.running_validator().open_findings():
        raise Broken(f"still open: {world.running_validator().open_findings()[0]}")
    check_verdicts(world)
