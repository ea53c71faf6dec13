"""What one consumer may expect of its reads, whichever replica answers, and whether it got it.

A `Session` remembers of each aggregate the highest sequence that its consumer read and wrote. A
replica's record says at which sequence it is. So three guarantees can be checked on every read:

* **monotonic reads**: no read shows an older version than an earlier read did;
* **read your writes**: no read shows an older version than the one that the consumer wrote;
* **ordering**: a version shows every event of the aggregate up to it and none beyond it, and the
  same version is the same state wherever the same view is read.

What is forgotten cannot be checked: a session that remembers less finds less, never anything false.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from synchroscope.context_cache import copied_facts
from synchroscope.digest import aggregate_hash
from synchroscope.errors import ConfigurationError
from synchroscope.event import MAXIMUM_SEQUENCE, ContextEvent
from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import AggregateKey, AggregateRecord
from synchroscope.view import View

DEFAULT_CAPACITY_AGGREGATES = 1_000
MAXIMUM_EVIDENCE = 100
"""Violations that a monitor keeps: the newest ones."""
MAXIMUM_TOKEN_BYTES = 65_536
MAXIMUM_TOKEN_AGGREGATES = 500
SHORTEST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.05
_GROWTH = 1.5


class Guarantee(StrEnum):
    """What a consumer may expect."""

    MONOTONIC_READS = "monotonic-reads"
    READ_YOUR_WRITES = "read-your-writes"
    ORDERING = "ordering"


class Violation(Struct, frozen=True, rename="camel"):
    """A read that broke a guarantee: the sequence that had to be there at least, and what was.

    ``expected_from`` is the replica that had shown the expected one; empty where the consumer wrote
    it. Where it is the same replica, that went back; where not, one is behind the other.
    """

    guarantee: Guarantee
    session: str
    replica: str
    context_type: str
    subject: str
    expected_sequence: int
    seen_sequence: int
    at: float
    reason: str
    expected_from: str = ""


class Read(Struct, frozen=True):
    """What a read gave.

    ``sequence`` is the aggregate's version, 0 where the replica has none. ``is_checked``: the
    aggregate is one of those that are sampled and the replica sees its context type.
    """

    facts: dict[str, Any]
    sequence: int
    is_checked: bool
    violations: tuple[Violation, ...] = ()
    waited_seconds: float = 0.0


class ReplicaClient:
    """A replica as a consumer reads it.

    Parameters
    ----------
    name, view: Of the replica. Aggregates that are not in the view are read, and nothing is
        expected of them.
    get: `ReplicaStorage.get` of any storage that this thread may read.
    """

    def __init__(
        self, name: str, view: View, get: Callable[[AggregateKey], AggregateRecord | None]
    ) -> None:
        self.name = name
        self.get = get
        self.kinds = frozenset(view.fields)
        self.view_hash = view.hash()


class _Known(Struct, array_like=True):
    """What a consumer knows of an aggregate.

    ``seen`` was shown by replica ``source``; ``state`` is a hash of what it was then in ``view``.
    """

    seen: int = 0
    wrote: int = 0
    state: int = 0
    view: str = ""
    source: str = ""


class _Token(Struct, array_like=True):
    session: str
    known: list[tuple[str, str, _Known]]


class SessionMonitor:
    """Counts the sessions of a process together, and keeps the newest evidence.

    Parameters
    ----------
    process: Name of the process, in what is published.
    sampled_share: Share of the aggregates that are checked, 0 to 1: always the same ones, so that
        every read of them is compared with the one before. Lower takes less memory and time.
    capacity_aggregates: Of how many aggregates a session remembers what it knows, each about 300
        bytes; the one used longest ago is forgotten first.
    clock, pause: For waiting: seconds that only grow, and how to let some of them pass.
    """

    def __init__(
        self,
        process: str,
        *,
        sampled_share: float = 1.0,
        capacity_aggregates: int = DEFAULT_CAPACITY_AGGREGATES,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0.0 <= sampled_share <= 1.0 or capacity_aggregates < 1:
            raise ConfigurationError(
                "a monitor samples a share of 0 to 1, and its sessions remember 1 aggregate or more"
            )
        self.process = process
        self.capacity_aggregates = capacity_aggregates
        self.clock = clock
        self.pause = pause
        self._limit = int(sampled_share * (1 << 64))
        self.reads: Counter[str] = Counter()
        """How many reads were checked, by replica."""
        self.violations: Counter[tuple[str, Guarantee]] = Counter()
        """How many violations there were, by replica and guarantee."""
        self.waits: Counter[bool] = Counter()
        """How many reads waited, by whether what they waited for came."""
        self.evidence: deque[Violation] = deque(maxlen=MAXIMUM_EVIDENCE)

    def session(self, name: str) -> Session:
        """Return a new session of a consumer."""
        return Session(self, name)

    def resume(self, token: str) -> Session:
        """Return the session that a token of this or another process stands for.

        Raises `ConfigurationError` for what is no token; a consumer then begins a new session.
        """
        try:
            if len(token) > MAXIMUM_TOKEN_BYTES:
                raise ValueError("too long")
            data = base64.urlsafe_b64decode(token.encode("ascii"))
            stored = msgspec.msgpack.decode(data, type=_Token)
        except (ValueError, binascii.Error, *UNDECODABLE) as error:
            raise ConfigurationError(
                f"this is no session token ({error}): begin a new session"
            ) from None
        session = Session(self, stored.session)
        session._restore(stored.known)
        return session

    def is_sampled(self, key: AggregateKey) -> bool:
        """Say whether reads of an aggregate are checked."""
        return aggregate_hash(*key) < self._limit

    def take(self, replica: str, violations: Iterable[Violation]) -> None:
        """Count a checked read and what it broke."""
        self.reads[replica] += 1
        for violation in violations:
            self.violations[replica, violation.guarantee] += 1
            self.evidence.append(violation)


class Session:
    """One consumer's reads and writes; one thread uses it at a time. Made by a `SessionMonitor`."""

    def __init__(self, monitor: SessionMonitor, name: str) -> None:
        self.name = name
        self._monitor = monitor
        self._known: OrderedDict[AggregateKey, _Known] = OrderedDict()

    # -- writing and reading -----------------------------------------------------------------

    def wrote(self, event: ContextEvent) -> None:
        """Note an event that was accepted for this consumer: later reads have to show it."""
        if event.sequence is None:
            raise ConfigurationError(
                "an event without a sequence was not accepted yet: pass the one of the outcome"
            )
        known = self._open((event.context_type, event.subject))
        known.wrote = max(known.wrote, event.sequence)

    def read(
        self,
        client: ReplicaClient,
        subject: str,
        context_type: str,
        now: float,
        *,
        wait_seconds: float = 0.0,
    ) -> Read:
        """Read an aggregate, and say whether the guarantees hold.

        `wait_seconds`: how long to wait at most for a version that is new enough. What comes in
        time is no violation. `now` is wall time, for the evidence.
        """
        key = (context_type, subject)
        record = client.get(key)
        is_seen = context_type in client.kinds
        waited = 0.0
        if is_seen and wait_seconds > 0 and _sequence(record) < self.expected(key):
            record, waited = self._wait(client, key, wait_seconds)
        facts = {} if record is None else record.fields
        shown = copied_facts({n: value for n, (value, _) in facts.items() if value is not None})
        if not is_seen or not self._monitor.is_sampled(key):
            return Read(shown, _sequence(record), False, (), waited)
        violations = tuple(self._check(client, key, record, now))
        self._monitor.take(client.name, violations)
        return Read(shown, _sequence(record), True, violations, waited)

    def expected(self, key: AggregateKey) -> int:
        """Return the sequence that a read has to show at least; 0 where nothing is known."""
        known = self._known.get(key)
        return 0 if known is None else max(known.seen, known.wrote)

    def _wait(
        self, client: ReplicaClient, key: AggregateKey, wait_seconds: float
    ) -> tuple[AggregateRecord | None, float]:
        clock, expected = self._monitor.clock, self.expected(key)
        begun, pause = clock(), SHORTEST_PAUSE_SECONDS
        while True:
            rest = begun + wait_seconds - clock()
            if rest > 0:
                self._monitor.pause(min(pause, rest))
            pause = min(pause * _GROWTH, LONGEST_PAUSE_SECONDS)
            record = client.get(key)
            is_there = _sequence(record) >= expected
            if is_there or rest <= 0:
                self._monitor.waits[is_there] += 1
                return record, clock() - begun

    # -- checking ----------------------------------------------------------------------------

    def _check(
        self, client: ReplicaClient, key: AggregateKey, record: AggregateRecord | None, now: float
    ) -> list[Violation]:
        known, sequence = self._open(key), _sequence(record)
        found: list[Violation] = []

        def violated(guarantee: Guarantee, expected: int, reason: str, source: str = "") -> None:
            place = (self.name, client.name, *key)
            found.append(Violation(guarantee, *place, expected, sequence, now, reason, source))

        if sequence < known.seen:
            reason = f"read sequence {sequence} after {known.seen}"
            violated(Guarantee.MONOTONIC_READS, known.seen, reason, known.source)
        if sequence < known.wrote:
            reason = f"read sequence {sequence} after writing {known.wrote}"
            violated(Guarantee.READ_YOUR_WRITES, known.wrote, reason)
        disorder = "" if record is None else _disorder(record)
        state = 0 if record is None or disorder else _state_hash(record)
        is_same_view = sequence == known.seen and known.view == client.view_hash
        if is_same_view and state and known.state not in (0, state):
            disorder = f"sequence {sequence} is another state than {known.source} showed"
        if disorder:
            violated(Guarantee.ORDERING, sequence, disorder, known.source)
        if sequence > known.seen or (sequence == known.seen and not known.state):
            known.seen, known.state = sequence, state
            known.view, known.source = client.view_hash, client.name
        return found

    def _open(self, key: AggregateKey) -> _Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            while len(self._known) > self._monitor.capacity_aggregates:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known

    # -- going on elsewhere ------------------------------------------------------------------

    def token(self) -> str:
        """Return what another process needs to go on with this session, as URL-safe text.

        It holds what is known of the aggregates used last: subjects and sequences, no values.
        """
        newest = list(reversed(self._known.items()))[:MAXIMUM_TOKEN_AGGREGATES]
        while True:
            rows = [(kind, subject, known) for (kind, subject), known in reversed(newest)]
            data = msgspec.msgpack.encode(_Token(self.name, rows))
            token = base64.urlsafe_b64encode(data).decode()
            if len(token) <= MAXIMUM_TOKEN_BYTES or not newest:
                return token
            del newest[len(newest) // 2 :]

    def _restore(self, known: Iterable[tuple[str, str, _Known]]) -> None:
        for kind, subject, one in known:
            mine = self._open((kind, subject))
            mine.seen = min(max(one.seen, 0), MAXIMUM_SEQUENCE)
            mine.wrote = min(max(one.wrote, 0), MAXIMUM_SEQUENCE)
            mine.state, mine.view, mine.source = one.state, one.view, one.source


def _sequence(record: AggregateRecord | None) -> int:
    return 0 if record is None else record.sequence


def _disorder(record: AggregateRecord) -> str:
    """Return how a record contradicts its own version; empty where it does not."""
    if record.missing:
        return f"sequence {record.sequence} is shown, {min(record.missing)} before it is missing"
    newest = max((sequence for _, sequence in record.fields.values()), default=0)
    if newest > record.sequence:
        return f"a field of sequence {newest} is shown at sequence {record.sequence}"
    return ""


def _state_hash(record: AggregateRecord) -> int:
    """Return a hash of which event wrote which field; not 0."""
    rows = sorted((name, sequence) for name, (_, sequence) in record.fields.items())
    return xxh3_64_intdigest(msgspec.msgpack.encode(rows)) or 1
