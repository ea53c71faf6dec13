"""What a soak breaks: processes killed and paused, servers restarted, stored values changed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import redis
from msgspec import Struct

from benchmarks.local_servers import Servers
from benchmarks.soak_load import QUIET_USERS
from benchmarks.soak_recovery import LOOK_SECONDS, Eyes, Violation
from service.configuration import Configuration
from service.distributed import DistributedPipeline
from service.gathering import Gatherer
from service.stores import replica_plans

PAUSE_SECONDS = (1.0, 9.0)
FINDING_LIMIT_SECONDS = 120.0


class Damage(Struct, frozen=True):
    """What was changed behind a replica's back."""

    replica: str
    context_type: str
    subject: str


def matches(finding: Any, damage: Damage) -> bool:
    """Say whether a finding is about that damage."""
    return (
        finding.replica == damage.replica
        and finding.context_type == damage.context_type
        and finding.subjects == [damage.subject]
        and finding.kind in ("corrupted", "stale")
    )


class Faults:
    """Breaks one thing at a time; a fault returns the time from which recovery counts.

    Parameters
    ----------
    configuration: Says where each replica's storage is.
    pipeline, servers: What is broken.
    eyes: Tells who is active, and what was found.
    rng: Decides about each victim.
    """

    def __init__(
        self,
        configuration: Configuration,
        pipeline: DistributedPipeline,
        servers: Servers,
        eyes: Eyes,
        rng: random.Random,
    ) -> None:
        self._configuration = configuration
        self._pipeline = pipeline
        self._servers = servers
        self._eyes = eyes
        self._rng = rng
        self._waker: threading.Timer | None = None
        self.damages: list[Damage] = []
        self.found_after: list[float] = []
        self.downtimes: list[float] = []

    def kinds(self) -> dict[str, Callable[[], float]]:
        """Return everything that can be broken, by name."""
        kinds: dict[str, Callable[[], float]] = {}
        for role in ("relay", "projector", "validator"):
            kinds[f"kill {role}"] = partial(self._kill, role)
            kinds[f"pause {role}"] = partial(self._pause, role)
        for server in ("kafka", "postgres", "redis"):
            kinds[f"restart {server}"] = partial(self._restart, server)
            kinds[f"kill {server}"] = partial(self._restart, server, "--kill")
        kinds["change redis"] = partial(self._damage, "redis")
        kinds["change postgres"] = partial(self._damage, "postgresql")
        return kinds

    def wait_for_paused(self) -> bool:
        """Wait until a paused process goes on; say whether there was one."""
        if self._waker is None:
            return False
        self._waker.join()
        self._waker = None
        return True

    def _victim(self, role: str) -> subprocess.Popen[bytes]:
        """Choose a process, where one is active the active one, mostly."""
        children = [c for name, c in self._pipeline.children.items() if name.startswith(role)]
        active = self._eyes.ask(
            lambda g: [r.process for r in g.board.running(time.time(), role) if r.partitions], []
        )
        chosen = [c for c in children if any(f"-{c.process.pid}-" in name for name in active)]
        return self._rng.choice(chosen or children).process

    def _kill(self, role: str) -> float:
        self._victim(role).send_signal(signal.SIGKILL)
        return time.monotonic()

    def _pause(self, role: str) -> float:
        victim = self._victim(role)
        since = time.monotonic()
        victim.send_signal(signal.SIGSTOP)
        self._waker = threading.Timer(
            self._rng.uniform(*PAUSE_SECONDS), victim.send_signal, (signal.SIGCONT,)
        )
        self._waker.start()
        return since

    def _restart(self, server: str, *how: str) -> float:
        """Recovery is counted from when the server answers again: until then all must wait."""
        since = time.monotonic()
        self._servers.run("restart", server, *how)
        self.downtimes.append(time.monotonic() - since)
        return time.monotonic()

    def _damage(self, kind: str) -> float:
        """Change a fact that nobody writes, wait for the finding that names it, put it back."""
        plans = [p for p in replica_plans(self._configuration) if getattr(p.section, kind)]
        plan = self._rng.choice(plans)
        context_type = self._rng.choice(sorted(set(plan.view.fields) - {"geographic"}))
        subject = f"user:quiet-{self._rng.randrange(QUIET_USERS)}"
        damage = Damage(plan.name, context_type, subject)
        self.damages.append(damage)
        since = time.monotonic()
        undo = self._change_redis(damage) if kind == "redis" else self._change_postgres(damage)
        while not self._is_found(damage):
            if time.monotonic() - since > FINDING_LIMIT_SECONDS:
                raise Violation(f"not found after {FINDING_LIMIT_SECONDS:.0f} s: {damage}")
            time.sleep(LOOK_SECONDS)
        self.found_after.append(time.monotonic() - since)
        undo()
        since = time.monotonic()
        while self._is_found(damage):
            if time.monotonic() - since > FINDING_LIMIT_SECONDS:
                raise Violation(f"not resolved after it was put back: {damage}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic()

    def _change_redis(self, damage: Damage) -> Callable[[], None]:
        client = redis.Redis.from_url(self._servers.addresses["SYNCHROSCOPE_REDIS"])
        key = f"{{synchroscope:{damage.replica}}}:a:{damage.context_type}:{damage.subject}"
        before: Any = client.hget(key, "f:limit")
        if before is None:
            raise Violation(f"{key} has no limit")
        client.hset(key, "f:limit", b"-1")

        def undo() -> None:
            client.hset(key, "f:limit", before)
            client.close()

        return undo

    def _change_postgres(self, damage: Damage) -> Callable[[], None]:
        connection = psycopg.connect(
            self._servers.addresses["SYNCHROSCOPE_POSTGRESQL"], autocommit=True
        )
        place = (damage.replica, damage.context_type, damage.subject)
        where = "WHERE replica = %s AND context_type = %s AND subject = %s"
        table = "synchroscope.replica_aggregates"
        row = connection.execute(f"SELECT fields::text FROM {table} {where}", place).fetchone()
        if row is None:
            raise Violation(f"no row of {place}")
        fields = json.loads(row[0])
        fields["limit"][0] = -1
        change = f"UPDATE {table} SET fields = %s::json {where}"
        connection.execute(change, (json.dumps(fields), *place))

        def undo() -> None:
            connection.execute(change, (row[0], *place))
            connection.close()

        return undo

    def _is_found(self, damage: Damage) -> bool:
        def named(gatherer: Gatherer) -> bool:
            return any(
                finding.state != "resolved" and matches(finding, damage)
                for finding in gatherer.account(time.time()).findings
            )

        return bool(self._eyes.ask(named, False))
