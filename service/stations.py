"""One replica in a projector's process: it waits for its own storage, and the others go on.

What fails in a replica's storage throws away this replica's connection and what it holds in memory,
nothing else; what fails in the log, which all replicas of the process share, is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, Protocol

from pipeline.projector import Projector
from service.board import ReplicaWork
from service.lag import Lag
from service.retrying import Retry
from service.supervision import Health, State
from synchroscope.errors import (
    ConfigurationError,
    FencedError,
    LostLifeError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.latency import Latencies
from synchroscope.ports import AggregateRecord, ReplicaStorage

logger = logging.getLogger("synchroscope.stations")

REASON_CHARACTERS = 500
"""How much of a reason is published about once a second."""
LagOf = Callable[[int, int, float], Lag]
"""(partition, position, now) -> how far behind that is."""


class Steps(Protocol):
    """What is stepped beside a projector."""

    def step(self, now: float) -> object:
        """Do some work."""
        ...


class WatchedStorage:
    """A replica's storage that remembers what went wrong in it last."""

    def __init__(self, storage: ReplicaStorage) -> None:
        self._storage = storage
        self.failure: SynchroscopeError | None = None
        self.incarnation = self._watched(storage.incarnation)
        self.begin = self._watched(storage.begin)
        self.partition_state = self._watched(storage.partition_state)
        self.get = self._watched(storage.get)
        self.prefetch = self._watched(storage.prefetch)
        self.sweep = self._watched(storage.sweep)
        self.journal = self._watched(storage.journal)
        self.commit = self._watched(storage.commit)
        self.close = storage.close

    def scan(self, partition: int, bucket: int, bits: int) -> Iterator[AggregateRecord]:
        """Yield the partition's aggregates of a bucket."""
        try:
            yield from self._storage.scan(partition, bucket, bits)
        except SynchroscopeError as error:
            self.failure = error
            raise

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return method(*arguments, **named)
            except SynchroscopeError as error:
                self.failure = error
                raise

        return call


class Station:
    """Runs the projector of one replica while its storage is there.

    Parameters
    ----------
    name: The replica's.
    role: The name under which its health is told.
    open_storage: Opens its storage.
    build: Builds the projector on a storage, and what is to be stepped beside it.
    """

    def __init__(
        self,
        name: str,
        role: str,
        open_storage: Callable[[], ReplicaStorage],
        build: Callable[[ReplicaStorage], tuple[Projector, Steps | None]],
    ) -> None:
        self.name = name
        self._role = role
        self._open_storage = open_storage
        self._build = build
        self._stack = ExitStack()
        self._storage: WatchedStorage | None = None
        self._beside: Steps | None = None
        self.projector: Projector | None = None
        self.waiting = ""
        """Why it waits; empty while it does not."""
        self._retry = Retry()
        self._state: State = "starting"
        self._restarts = 0
        self._stepped_at: float | None = None
        self._began: dict[int, int] | None = None
        self._positions: dict[int, int] = {}
        self._latencies = Latencies()

    def step(self, owned: Mapping[int, int], now: float) -> int:
        """Step the replica on these partitions, if its storage is there; return what was consumed.

        Raises what the log raises, and `ConfigurationError` where trying again cannot help.
        """
        if not self._retry.is_due(now):
            return 0
        consumed = 0
        with self._guarded(now):
            projector = self.projector or self._open()
            projector.own(owned)
            if owned:
                consumed = projector.step(now).consumed
            self._prove(projector, owned)
            if self._beside is not None:
                self._beside.step(now)
            self._stepped_at = now
        return consumed

    def _open(self) -> Projector:
        storage = WatchedStorage(self._opened())
        self._stack.enter_context(closing(storage))
        self._storage = storage
        self.projector, self._beside = self._build(storage)
        self.projector.latencies = self._latencies
        self._began = None
        return self.projector

    def _opened(self) -> ReplicaStorage:
        try:
            return self._open_storage()
        except ConfigurationError:
            raise
        except SynchroscopeError as error:
            raise _OpeningError from error

    def _prove(self, projector: Projector, owned: Mapping[int, int]) -> None:
        """End the row of failures once something was stored, or there was nothing to store.

        To read what is there proves nothing: a storage that is full can be read.
        """
        if self._retry.failures == 0:
            self._runs()
        if self._state == "running" or not owned:
            return
        positions = {number: projector.replica.position(number) for number in owned}
        if self._began is None or self._began.keys() != positions.keys():
            self._began = positions
        if positions != self._began or projector.is_at_head():
            self._retry.succeeded()
            self._runs()

    def _runs(self) -> None:
        if self._state != "running":
            logger.info("%s runs", self._role)
        self._state, self.waiting = "running", ""

    @contextmanager
    def _guarded(self, now: float) -> Iterator[None]:
        try:
            yield
        except ConfigurationError:
            raise
        except SynchroscopeError as error:
            cause = error.__cause__ if isinstance(error, _OpeningError) else error
            if not isinstance(cause, SynchroscopeError):
                raise
            failure = None if self._storage is None else self._storage.failure
            is_own = isinstance(error, _OpeningError | LostLifeError) or error is failure
            if not is_own:
                raise
            self._failed(cause, now)

    def _failed(self, error: SynchroscopeError, now: float) -> None:
        self._discard()
        self._restarts += 1
        if isinstance(error, FencedError):
            # Another process was faster, or the storage is another one: begin anew from it.
            logger.info("%s starts anew: %s", self._role, error)
            return
        self._retry.failed(now)
        self._state = "waiting"
        if self.waiting != str(error):
            level = logging.WARNING if isinstance(error, UnavailableError) else logging.ERROR
            logger.log(level, "%s waits: %s", self._role, error)
        self.waiting = str(error)

    def _discard(self) -> None:
        self.projector = self._beside = self._storage = None
        with suppress(Exception):
            self._stack.close()

    def close(self) -> None:
        """Release the storage."""
        self._discard()

    # -- what it tells -----------------------------------------------------------------------

    def work(self, heads: Mapping[int, int], lag_of: LagOf, now: float) -> ReplicaWork:
        """Return what is done for the replica; while it waits, where it was last known to stand.

        `heads` are the owned partitions' ends.
        """
        self._positions = {n: at for n, at in self._positions.items() if n in heads}
        with self._guarded(now):
            if self.projector is not None:
                replica = self.projector.replica
                self._positions = {number: replica.position(number) for number in heads}
        lags = {
            # Nothing is read from the log for who cannot go on.
            n: Lag(heads[n] - at if at <= heads[n] else None, None)
            if self.waiting
            else lag_of(n, at, now)
            for n, at in self._positions.items()
        }
        return ReplicaWork(
            latencies=(self._latencies.counts, self._latencies.total_seconds),
            positions=dict(self._positions),
            lag_events={n: lag.events for n, lag in lags.items() if lag.events is not None},
            lag_seconds={n: lag.seconds for n, lag in lags.items() if lag.seconds is not None},
            waiting=self.waiting[:REASON_CHARACTERS],
            scrubs={} if self.projector is None else self.projector.scrubbing.standings(now),
            scrubbed=0 if self.projector is None else self.projector.scrubbing.keys,
            mended=0 if self.projector is None else self.projector.scrubbing.mended,
        )

    @property
    def positions(self) -> Mapping[int, int]:
        """Where the replica stood when `work` was last asked for; absent: not known."""
        return self._positions

    def health(self) -> Health:
        """Return how the replica does here."""
        return Health(
            self._role,
            self._state,
            self.waiting,
            self._stepped_at,
            self._restarts,
            self._retry.circuit,
        )


class _OpeningError(SynchroscopeError):
    """A storage could not be opened; the cause says why."""
