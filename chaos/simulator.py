"""The whole pipeline under a seeded scheduler, a virtual clock, faulty links and crashes.

The roles are the production code. A seed decides everything: whether they live in one process
or are divided among several (`chaos.embedded`, `chaos.divided`), how many partitions, views and
replicas there are, what is produced, whose turn it is, what fails and when. A run has four phases:

1. chaos: roles step in random order; records are dropped, doubled, swapped and delayed, stored
   facts are altered, and any role may die before or after any write and come back;
2. calm: no more crashes or new damage to storage; everything is read, scrubbed and judged;
3. the verdicts and findings are held against the oracle;
4. rebuild: replicas that diverged start anew from the log over a good link, and all must agree.

In some worlds an operator has findings repaired at any moment of the first phase; when all is calm
the chaos begins once more, and everything that is open is repaired in it; and what is open after
the third phase is repaired instead of rebuilt.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from chaos.divided import DividedWorld
from chaos.drawing import draw_mode, draw_repair
from chaos.embedded import EmbeddedWorld
from chaos.operator import ROUNDS, Observer, Operator
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

EAGER_STEPS = 150


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
    orders: int = 0
    repaired: int = 0


def simulate(seed: int, mode: str = "", *, repair: bool | None = None) -> Outcome:
    """Run one seed; raise `Broken` (or whatever the code under test raises) on failure.

    `mode`: ``"embedded"`` or ``"divided"``; `repair`: whether there is an operator who has findings
    repaired. By default the seed decides these too.
    """
    worlds: dict[str, type[EmbeddedWorld | DividedWorld]] = {
        "embedded": EmbeddedWorld,
        "divided": DividedWorld,
    }
    world = worlds[mode or draw_mode(seed)](seed)
    has_operator = draw_repair(seed) if repair is None else repair
    operator = Operator(world) if has_operator else None
    cause_chaos(world, world.settings.steps, operator)
    settle(world)
    if operator is not None:
        operator.is_eager = True
        cause_chaos(world, EAGER_STEPS, operator)
        settle(world)
    found, masked = check_findings(world)
    check_log(world)
    check_verdicts(world)
    check_counts(world)
    check_resolutions(world)
    if isinstance(world, DividedWorld):
        check_places(world)
    if operator is not None:
        repair_all(world, operator)
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
        0 if operator is None else operator.orders,
        repaired(world),
    )


def cause_chaos(world: World, steps: int, operator: Operator | None = None) -> None:
    """Let actors step in random order, be harmed, die and come back."""
    actors = world.actors()
    observer = Observer(world)
    world.may_crash = True
    for _ in range(steps):
        world.turn(world.rng.choice(actors))
        check_no_alarm(world)
        if operator is not None:
            if flaw := observer.look():
                raise Broken(flaw)
            operator.turn()
        world.now += world.rng.choice([0.0, 0.01, 0.05, 0.3])
    world.may_crash = False


def settle(world: World) -> None:
    """Let everything be read, scrubbed and judged."""
    if not world.settle():
        raise Broken("not settled: a replica or the validator is stuck")


def repair_all(world: World, operator: Operator) -> None:
    """Have everything repaired that is open: all findings are resolved, all replicas CONSISTENT."""
    for _ in range(ROUNDS):
        for finding in operator.unresolved():
            operator.order(finding)
        settle(world)
        if not operator.unresolved():
            break
        world.now += 1.0
    else:
        raise Broken(f"not repaired: {operator.unresolved()[0]}")
    check_verdicts(world)
    check_resolutions(world)
    if world.open_findings():
        raise Broken(f"still open: {world.open_findings()[0]}")


def repaired(world: World) -> int:
    """Return how many aggregates the replicas say were repaired."""
    return sum(status.repaired for status in world.statuses())


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
