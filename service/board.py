"""How everything stands, put together from what the processes publish on `sync.state`.

Anyone who can read the log can have a board: the command line, the HTTP API, a dashboard. What a
process does not renew gets old, and what is old or absent is UNKNOWN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from pipeline.scrubbing import ScrubStanding
from service.schema_room import findings_of
from synchroscope.foreign import PassedOver, decoded
from synchroscope.latency import Latencies, check_told
from synchroscope.ports import EVENTS, STATE, Log, NewRecord
from validator.hop_standing import HOP_STANDING_KEY, HopStanding, decode_hop_standing
from validator.schemas.checker import STANDING_KEY, SchemaStanding
from validator.schemas.checker import decode_standing as decode_schemas
from validator.standing import STANDING_PREFIX, Standing, decode_standing
from validator.status import ReplicaStatus
from validator.watch import Judged, Verdict

T = TypeVar("T")

PROCESS_PREFIX = "process/"
RETIRED_PREFIX = "retired/"
READ_RECORDS = 1_000
STANDING_LIMIT_SECONDS = 10.0
"""A partition whose standing is older has lost its validator."""
PROCESS_LIMIT_SECONDS = 10.0
"""A process that has been silent for longer is not running."""
DEAD_SECONDS = 86_400.0
"""The record of a process that has been silent for longer is taken off the log."""
_RANK = {Verdict.DIVERGED: 0, Verdict.UNKNOWN: 1, Verdict.CONSISTENT: 2}


class ReplicaWork(Struct, frozen=True, rename="camel"):
    """What one process does for one replica.

    ``latencies`` are the counts and the sum of `Latencies` since the process began. By partition:
    ``positions``, ``lag_events`` and ``lag_seconds``, the age of the first record that is not yet
    applied (0 where there is none). Of a lag that is not known both are absent, or the seconds.
    ``waiting`` is why nothing is done now: what the replica's storage answered; positions are then
    those that were known last. ``scrubs`` is how much was read again from storage by partition, and
    ``scrubbed`` and ``mended`` how many keys since the storage was opened.
    """

    latencies: tuple[list[int], float]
    positions: dict[int, int]
    lag_events: dict[int, int]
    lag_seconds: dict[int, float]
    waiting: str = ""
    scrubs: dict[int, ScrubStanding] = {}
    scrubbed: int = 0
    mended: int = 0

    def __post_init__(self) -> None:
        """Refuse what no process tells; decoding passes over such a record."""
        check_told(*self.latencies)
        _check_lags(self)


class ReaderWork(Struct, frozen=True, rename="camel"):
    """How far a role has come that reads `context.events` for itself: as in `ReplicaWork`."""

    positions: dict[int, int]
    lag_events: dict[int, int]
    lag_seconds: dict[int, float]

    def __post_init__(self) -> None:
        """Refuse what no process tells."""
        _check_lags(self)


def _check_lags(work: ReplicaWork | ReaderWork) -> None:
    lags = [*work.lag_events.values(), *work.lag_seconds.values()]
    if not all(0 <= lag < math.inf for lag in lags):
        raise ValueError("a lag is negative or infinite")


class RelayWork(Struct, frozen=True, rename="camel"):
    """Where the active relay stands in the store's order, and where the store's end is."""

    position: int
    accepted: int


class ProcessRecord(Struct, frozen=True, rename="camel"):
    """What a process tells of one of its roles about once a second."""

    process: str
    role: str
    client: str
    started_at: float
    at: float
    partitions: list[int] = []
    replicas: dict[str, ReplicaWork] = {}
    relay: RelayWork | None = None
    reader: ReaderWork | None = None


_decode_process = msgspec.json.Decoder(ProcessRecord).decode


def process_note(record: ProcessRecord) -> NewRecord:
    """Return the log record that publishes it."""
    return NewRecord(STATE, 0, process_key(record), msgspec.json.encode(record))


def process_key(record: ProcessRecord) -> bytes:
    """Return the key under which a process tells of one of its roles."""
    return f"{PROCESS_PREFIX}{record.process}/{record.role}".encode()


def farewell_notes(records: Iterable[ProcessRecord]) -> list[NewRecord]:
    """Return the log records that take off what processes told, once they have ended."""
    return [NewRecord(STATE, 0, process_key(record), b"") for record in records]


def retirement_note(replica: str, *, retired: bool) -> NewRecord:
    """Return the log record that takes a replica off the expected ones, or back."""
    return NewRecord(STATE, 0, f"{RETIRED_PREFIX}{replica}".encode(), b"1" if retired else b"0")


def is_retired(log: Log, replica: str) -> bool:
    """Say whether a replica was taken off the expected ones."""
    record = log.latest(STATE, f"{RETIRED_PREFIX}{replica}".encode())
    return record is not None and record.value == b"1"


class Board:
    """Follows `sync.state`.

    Parameters
    ----------
    log: Any log that reads.
    replicas: Name -> model, of every replica that is configured.
    """

    def __init__(self, log: Log, replicas: Mapping[str, str]) -> None:
        self._log = log
        self._replicas = dict(replicas)
        self._position = 0
        self._standings: dict[int, Standing] = {}
        self._partitions = range(log.partitions(EVENTS))
        self.processes: dict[str, ProcessRecord] = {}
        self._ended_latencies: dict[str, Latencies] = {}
        self._ended_relay: ProcessRecord | None = None
        self.retired: set[str] = set()
        self.hops: HopStanding | None = None
        """How the hops stood when their audit last said so."""
        self.passed_over = PassedOver(STATE)
        """Records that somebody wrote and that say nothing."""
        self.schemas: SchemaStanding | None = None
        """How the check of events against their schemas stood when it last said so."""

    def refresh(self) -> None:
        """Read what is new."""
        while True:
            batch = self._log.read(STATE, 0, self._position, READ_RECORDS)
            for record in batch.records:
                self._take(record.key.decode(errors="replace"), record.value)
            if batch.position == self._position:
                return
            self._position = batch.position

    def _take(self, key: str, value: bytes) -> None:
        if key.startswith(STANDING_PREFIX):
            standing = self._told(key, value, decode_standing(value))
            if standing is not None:
                self._standings.update(dict.fromkeys(standing.heads, standing))
        elif key == STANDING_KEY.decode():
            self.schemas = self._told(key, value, decode_schemas(value))
        elif key == HOP_STANDING_KEY.decode():
            self.hops = self._told(key, value, decode_hop_standing(value))
        elif key.startswith(PROCESS_PREFIX) and not value:
            self._take_farewell(self.processes.pop(key, None))
        elif key.startswith(PROCESS_PREFIX):
            record = self._told(key, value, decoded(_decode_process, value))
            if record is not None:
                self.processes[key] = record
        elif key.startswith(RETIRED_PREFIX):
            name = key.removeprefix(RETIRED_PREFIX)
            (self.retired.add if value == b"1" else self.retired.discard)(name)

    def _told(self, key: str, value: bytes, what: T | None) -> T | None:
        """Return what was decoded, and note it where something was told that is none."""
        if value and what is None:
            self.passed_over.note(key)
        return what

    def _take_farewell(self, record: ProcessRecord | None) -> None:
        """Keep what counts beyond a process's end, as long as this board lives."""
        if record is None:
            return
        for name, work in record.replicas.items():
            known = self._ended_latencies.setdefault(name, Latencies())
            known.merge(Latencies(*work.latencies))
        if record.relay is not None:
            self._ended_relay = record

    # -- replicas ----------------------------------------------------------------------------

    def expected(self) -> dict[str, str]:
        """Return name -> model of the replicas that must be consistent."""
        return {n: model for n, model in self._replicas.items() if n not in self.retired}

    def standings(self) -> list[Standing]:
        """Return the newest standing of every validator whose partitions nobody else took."""
        found = {id(standing): standing for standing in self._standings.values()}
        return list(found.values())

    def statuses(
        self, now: float, *, final_heads: Mapping[int, int] | None = None
    ) -> list[ReplicaStatus]:
        """Return every expected replica's status over all partitions.

        `final_heads`: where the log ends for good; what was not compared and scrubbed there is
        UNKNOWN.
        """
        return [
            self._merged(name, model, now, final_heads) for name, model in self.expected().items()
        ]

    def _merged(
        self, name: str, model: str, now: float, final_heads: Mapping[int, int] | None
    ) -> ReplicaStatus:
        judged: dict[int, Judged] = {}
        parts: dict[int, ReplicaStatus] = {}
        for partition in self._partitions:
            standing = self._standings.get(partition)
            judged[partition] = _judge(standing, partition, name, now, final_heads)
            if standing is not None:
                parts.update({id(standing): s for s in standing.replicas if s.name == name})
        worst = min(judged.values(), key=lambda one: _RANK[one.verdict])
        found = list(parts.values())

        def total(field: str) -> int:
            return sum(getattr(status, field) for status in found)

        reported = [status.reported_at for status in found if status.reported_at is not None]
        return ReplicaStatus(
            name=name,
            model=model,
            verdict=worst.verdict,
            reason=self._with_cause(worst, name, now),
            applied=total("applied"),
            position={p: o for status in found for p, o in status.position.items()},
            duplicates=total("duplicates"),
            gaps=total("gaps"),
            late=total("late"),
            anomalies=total("anomalies"),
            ordering_violations=total("ordering_violations"),
            markers_compared=total("markers_compared"),
            agreements=total("agreements"),
            open_findings=total("open_findings"),
            reported_at=max(reported, default=None),
            repaired=total("repaired"),
            compared_at=_oldest([status.compared_at for status in found]),
            reasons={
                partition: f"{one.verdict.value}, {one.reason}"
                for partition, one in judged.items()
                if one.verdict is not Verdict.CONSISTENT
            },
        )

    def _with_cause(self, judged: Judged, name: str, now: float) -> str:
        """Return the verdict's reason, and why the replica cannot be fed if that is known."""
        waiting = {} if judged.verdict is not Verdict.UNKNOWN else self.waiting(now)
        if name not in waiting:
            return judged.reason
        return f"{judged.reason}; its projector waits: {waiting[name]}"

    def waiting(self, now: float) -> dict[str, str]:
        """Return why replicas cannot be fed now: what their storage answered to who owns a part."""
        return {
            name: work.waiting
            for record in sorted(self.running(now), key=lambda record: record.at)
            if record.partitions
            for name, work in record.replicas.items()
            if work.waiting
        }

    def is_settled(self, heads: Mapping[int, int], now: float, asked: Collection[str]) -> bool:
        """Say whether every partition's validator has compared and scrubbed all at these heads.

        It must have done so for one of those who asked. What a validator said that is gone
        meanwhile settles nothing.
        """
        return all(
            (standing := self._standings.get(partition)) is not None
            and standing.settled
            and not set(asked).isdisjoint(standing.proven)
            and abs(now - standing.at) <= STANDING_LIMIT_SECONDS
            and standing.heads[partition] == head
            for partition, head in heads.items()
        )

    def settled_total(self) -> int:
        """Return a number that grows as long as validators get anywhere."""
        return sum(standing.settled_total for standing in self.standings())

    def validated_at(self) -> dict[int, float]:
        """Return when a validator last said how replicas stand, by partition."""
        return {partition: standing.at for partition, standing in self._standings.items()}

    def unvalidated(self, now: float) -> list[int]:
        """Return the partitions that nobody validates now."""
        return [
            partition
            for partition in self._partitions
            if (standing := self._standings.get(partition)) is None
            or now - standing.at > STANDING_LIMIT_SECONDS
        ]

    # -- sums over partitions ----------------------------------------------------------------

    def applied(self, model: str) -> int:
        """Return how many events a view has to apply, up to where validators have come."""
        return sum(standing.applied.get(model, 0) for standing in self.standings())

    def count(self, field: str) -> Counter[str]:
        """Return a counter of the standings (`checks`, `opened`, `resolved`, `open`), summed."""
        found: Counter[str] = Counter()
        for standing in self.standings():
            found.update(getattr(standing, field))
        if field in ("opened", "resolved", "open"):
            found += findings_of(self.schemas, field)
        return found

    @property
    def consistent_ratio(self) -> float | None:
        """Share of comparisons in which the facts agreed; None before the first."""
        checks = self.count("checks")
        total = checks["match"] + checks["mismatch"]
        return checks["match"] / total if total else None

    # -- processes ---------------------------------------------------------------------------

    def running(self, now: float, role: str | None = None) -> list[ProcessRecord]:
        """Return what the processes that are running said last, of one role if named."""
        return [
            record
            for record in self.processes.values()
            if abs(now - record.at) <= PROCESS_LIMIT_SECONDS and role in (None, record.role)
        ]

    def dead(self, now: float) -> list[ProcessRecord]:
        """Return what processes told that have been silent for `DEAD_SECONDS`."""
        return [r for r in self.processes.values() if now - r.at > DEAD_SECONDS]

    def relay(self) -> RelayWork | None:
        """Return where the relay stands; None where none has said so."""
        works = [record for record in self.processes.values() if record.relay is not None]
        if self._ended_relay is not None:
            works.append(self._ended_relay)
        return max(works, key=lambda record: record.at).relay if works else None

    def reached(self, replica: str) -> dict[int, int]:
        """Return how far processes told that they have applied for a replica, by partition."""
        found: dict[int, int] = {}
        for record in self.processes.values():
            work = record.replicas.get(replica)
            for partition, position in work.positions.items() if work else ():
                found[partition] = max(found.get(partition, 0), position)
        return found

    def latencies(self, replica: str) -> Latencies:
        """Return the latencies of a replica over all processes, those that ended included."""
        found = Latencies()
        found.merge(self._ended_latencies.get(replica, Latencies()))
        for record in self.processes.values():
            work = record.replicas.get(replica)
            if work is not None:
                found.merge(Latencies(*work.latencies))
        return found


def _oldest(times: Sequence[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return min(known) if len(known) == len(times) > 0 else None


def _judge(
    standing: Standing | None,
    partition: int,
    replica: str,
    now: float,
    final_heads: Mapping[int, int] | None,
) -> Judged:
    if standing is None:
        return Judged(Verdict.UNKNOWN, f"nobody has validated partition {partition} yet")
    age = now - standing.at
    if abs(age) > STANDING_LIMIT_SECONDS:
        return Judged(
            Verdict.UNKNOWN, f"nobody has validated partition {partition} for {age:.0f} s"
        )
    if final_heads is None:
        for status in standing.replicas:
            if status.name == replica:
                return Judged(status.verdict, status.reason)
    elif standing.heads[partition] < final_heads[partition]:
        return Judged(
            Verdict.UNKNOWN,
            f"not validated at the head: {partition}:{standing.heads[partition]} of "
            f"{final_heads[partition]}",
        )
    elif replica in standing.final:
        return standing.final[replica]
    return Judged(
        Verdict.UNKNOWN, f"the validator of partition {partition} does not expect this replica"
    )
