"""Gathers what there is to tell of a distributed pipeline, from its log and its event store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

import msgspec

from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.log_kafka import KafkaLog
from service.account import Account
from service.board import Board
from service.configuration import Configuration
from service.stores import open_database, replica_plans
from synchroscope.ports import EVENTS
from validator.ledger import FindingsReader
from validator.status import ReplicaStatus
from validator.watch import Verdict


def unpublished(board: Board, accepted: int, now: float, *, final: bool) -> str:
    """Return why the log may not have all accepted events; nothing where it has.

    Those that a running relay is just about to publish count only in the end.
    """
    relay = board.relay()
    missing = accepted - (0 if relay is None else relay.position)
    if missing < 0:
        return f"the event store lacks {-missing:,} published events: is it an older copy?"
    is_running = bool(board.running(now, "relay"))
    if missing <= 0 or (is_running and not final):
        return ""
    reason = f"{missing:,} accepted events are not known to be in the log"
    return reason if is_running else f"{reason}, and no relay works"


def undecided(status: ReplicaStatus, reason: str) -> ReplicaStatus:
    """Return a status that is no better than UNKNOWN."""
    if status.verdict is not Verdict.CONSISTENT:
        return status
    return msgspec.structs.replace(status, verdict=Verdict.UNKNOWN, reason=reason)


class Gatherer:
    """A reader of everything; it writes nothing.

    Parameters
    ----------
    configuration: Where the servers are.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._stack = ExitStack()
        try:
            self.log = self._stack.enter_context(closing(KafkaLog(configuration.log.kafka)))
            database = self._stack.enter_context(closing(open_database(configuration)))
            self.store = PostgresqlEventStore(database)
        except BaseException:
            self._stack.close()
            raise
        plans = replica_plans(configuration)
        self.board = Board(self.log, {plan.name: plan.view.model for plan in plans})
        self._findings = FindingsReader(self.log)

    def heads(self) -> dict[int, int]:
        """Return the event log's heads by partition."""
        return {p: self.log.head(EVENTS, p) for p in range(self.log.partitions(EVENTS))}

    def account(
        self,
        now: float,
        *,
        final: bool = False,
        runs: int = 0,
        producing_seconds: float = 0.0,
        faults: Sequence[dict[str, Any]] = (),
    ) -> Account:
        """Return what there is to tell.

        `final`: what was not compared and scrubbed at the log's head is UNKNOWN. The other
        arguments are what only a producer of these events knows.
        """
        board = self.board
        accepted = self.store.count()
        board.refresh()
        heads = self.heads()
        relay = board.relay()
        expected = board.expected()
        missing = unpublished(board, accepted, now, final=final)
        statuses = board.statuses(now, final_heads=heads if final else None)
        return Account(
            at=now,
            runs=runs,
            producing_seconds=producing_seconds,
            rows_read=self.store.counter("rows_read"),
            events_produced=accepted,
            dead_letters=self.store.dead_letter_counts(),
            heads=heads,
            relay_position=None if relay is None else relay.position,
            statuses=[undecided(status, missing) if missing else status for status in statuses],
            unpublished=missing,
            latencies={name: board.latencies(name) for name in expected},
            applied={model: board.applied(model) for model in dict.fromkeys(expected.values())},
            consistent_ratio=board.consistent_ratio,
            checks=board.count("checks"),
            opened=board.count("opened"),
            resolved=board.count("resolved"),
            open=board.count("open"),
            reference_positions={
                number: position
                for standing in board.standings()
                for number, position in standing.positions.items()
            },
            requests=sum(standing.requests for standing in board.standings()),
            repeated=sum(standing.repeated for standing in board.standings()),
            undecodable=sum(standing.undecodable for standing in board.standings()),
            faults=faults,
            findings=self._findings.read(),
            schemas=board.schemas,
            hops=board.hops,
        )

    def close(self) -> None:
        """Release the connections."""
        self._stack.close()
