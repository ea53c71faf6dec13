"""The command side: what turns submitted events into accepted ones, or says why not.

It validates, checks invariants and sequences, fills in what only it can know (``sequence``,
``previous``, ``previousTargets``, ``correlationId``), expires values by the stream's own clock, and
writes all of a batch in one transaction of the event store.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence, Set
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from pipeline.admission import admit, bytes_of, clean, fill_in
from pipeline.event_store import AggregateState, Append, DeadLetter, EventStore, fold
from pipeline.expiry import DEFAULT_WINDOW_AGGREGATES, LAST_MOMENT, ExpirySchedule, expiry_event
from pipeline.invariants import Rules, check
from synchroscope.errors import (
    ConfigurationError,
    ConflictError,
    InvalidEventError,
    StorageError,
)
from synchroscope.event import MAXIMUM_EVENT_BYTES, ContextEvent, encode_event
from synchroscope.ports import AggregateKey

DEFAULT_CACHE_AGGREGATES = 50_000
REPEATED_EVENTS = "events_repeated"

_NO_RULES: Rules = MappingProxyType({})
_T = TypeVar("_T")


class Accepted(Struct, frozen=True, tag=True):
    """The event as it is stored once the batch commits."""

    event: ContextEvent


class Repeated(Struct, frozen=True, tag=True):
    """The event ID was accepted before, so nothing was done; the repetition is counted."""

    event_id: str


class Refused(Struct, frozen=True, tag=True):
    """The input is kept as a dead letter."""

    reason: str
    detail: str


class Conflicted(Struct, frozen=True, tag=True):
    """The aggregate is not at the expected sequence; it is for the caller to decide anew."""

    error: ConflictError


Outcome = Accepted | Repeated | Refused | Conflicted


class AcceptedTally(Protocol):
    """Counts what is accepted, for the audit of the hops."""

    def accept(self, at: float, values: Sequence[bytes]) -> None:
        """Count the events of a batch that is stored, recorded at that time."""
        ...

    def doubt(self, at: float) -> None:
        """Note that a batch of that time may have been stored or not."""
        ...


class CommandSide:
    """Decides on events, one batch at a time.

    One thread uses it at a time. Several may share a store: the slower writer of an aggregate gets
    a `ConflictError`. Values that another one wrote are expired by that one, and by this one after
    `forget`.

    Parameters
    ----------
    store: Where accepted events and dead letters go.
    rules: Context type -> what its aggregates may hold.
    closed: Refuse context types that `rules` does not name.
    cache_size: How many aggregates are kept in memory; more saves reads of the store.
    expiry_window: How many aggregates with a due value are kept in memory.
    tally: Counts what is accepted.
    """

    def __init__(
        self,
        store: EventStore,
        rules: Rules = _NO_RULES,
        *,
        closed: bool = False,
        cache_size: int = DEFAULT_CACHE_AGGREGATES,
        expiry_window: int = DEFAULT_WINDOW_AGGREGATES,
        tally: AcceptedTally | None = None,
    ) -> None:
        if cache_size < 1:
            raise ConfigurationError(f"cache_size is {cache_size}; it must be at least 1")
        self.store = store
        self.rules = rules
        self.closed = closed
        self.schedule = ExpirySchedule(store, expiry_window)
        self._cache_size = cache_size
        self._tally = tally
        self._cache: OrderedDict[AggregateKey, AggregateState] = OrderedDict()
        self._clock: float | None = None
        self._open: CommandBatch | None = None

    def batch(self, now: float) -> CommandBatch:
        """Return a batch to use in a ``with`` statement; `now` is wall time since 1970."""
        return CommandBatch(self, now)

    def forget(self, keys: Set[AggregateKey] | None = None) -> None:
        """Drop what is cached of these aggregates (None: of all), and when values are due."""
        if keys is None:
            self._cache.clear()
        else:
            for key in keys:
                self._cache.pop(key, None)
        self.schedule.forget()
        self._clock = None

    @property
    def clock(self) -> float:
        """Where the stream's clock stands: the newest timestamp accepted; it never goes back."""
        if self._clock is None:
            newest = self.store.newest_timestamp()
            self._clock = -LAST_MOMENT if newest is None else newest.timestamp()
        return self._clock

    def _advance(self, time: float) -> None:
        self._clock = max(self.clock, time)

    def _state(self, key: AggregateKey, *, fresh: bool = False) -> AggregateState:
        state = None if fresh else self._cache.get(key)
        if state is None:
            state = self.store.state(key)
            self._remember(key, state)
        else:
            self._cache.move_to_end(key)
        return state

    def _remember(self, key: AggregateKey, state: AggregateState) -> None:
        self._cache[key] = state
        self._cache.move_to_end(key)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _append(self, write: Append, now: float) -> None:
        tally = self._tally
        if tally is None:
            self.store.append(write, now)
            return
        # Before the store has it: what the store does to the events is not to be counted.
        values = [encode_event(event) for event in write.events]
        try:
            self.store.append(write, now)
        except (ConflictError, StorageError):
            raise
        except BaseException:
            tally.doubt(now)
            raise
        if values:
            tally.accept(now, values)

    def _begin(self, batch: CommandBatch) -> None:
        if self._open is not None:
            raise RuntimeError("a batch is open already: leave its `with` before the next one")
        self._open = batch


class CommandBatch:
    """Submissions that are stored together, or not at all.

    Leaving the ``with`` normally commits; an exception inside writes nothing. An outcome holds only
    once the batch has committed. When `ConflictError` comes out of the ``with``, another writer was
    faster: nothing is written, the aggregates are forgotten, and the batch can be decided anew
    (`retry_on_conflict`). Memory grows with what is submitted and with the values that expire.
    """

    def __init__(self, side: CommandSide, now: float) -> None:
        self._side = side
        self._now = now
        self._states: dict[AggregateKey, AggregateState] = {}
        self._expected: dict[AggregateKey, int] = {}
        self._events: list[ContextEvent] = []
        self._ids: set[str] = set()
        self._looked_up: dict[str, bool] = {}
        """Whether the store had these IDs when it was asked for many."""
        self._letters: list[DeadLetter] = []
        self._tracking: dict[str, str] = {}
        self._counters: Counter[str] = Counter()

    def __enter__(self) -> CommandBatch:
        self._side._begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._side._open = None
        is_stored = False
        try:
            if kind is None:
                self._commit()
                is_stored = True
        finally:
            if not is_stored:
                self._side.forget(self._expected.keys())

    def _commit(self) -> None:
        if self._events or self._letters or self._tracking or self._counters:
            write = Append(
                events=self._events,
                states=self._states,
                expected=self._expected,
                dead_letters=self._letters,
                tracking=self._tracking,
                counters=self._counters,
            )
            self._side._append(write, self._now)
        for key, state in self._states.items():
            self._side._remember(key, state)

    # -- reading ------------------------------------------------------------------------------

    def state(self, key: AggregateKey) -> AggregateState:
        """Return an aggregate's state, this batch's own events included. Must not be changed."""
        state = self._states.get(key)
        return self._side._state(key) if state is None else state

    def values(self, context_type: str, subject: str) -> dict[str, Any]:
        """Return field -> present value, this batch's own events included. Must not be changed.

        A value that is past its time stays until an event or `expire` moves the stream's clock.
        """
        return self.state((context_type, subject)).values()

    # -- writing ------------------------------------------------------------------------------

    def submit(
        self,
        event: ContextEvent | bytes,
        *,
        expected_sequence: int | None = None,
        source: str = "",
    ) -> Outcome:
        """Decide on one event.

        Parameters
        ----------
        event: A typed event, or its JSON. What it says of ``previous`` is overwritten by the truth.
            If it has a ``sequence``, its aggregate is expected to stand one before that.
        expected_sequence: Where the aggregate must stand; None: anywhere.
        source: Where the input came from, for the dead letter; default: the event's own source.
        """
        self._check_open()
        return self._decide(_admitted(event), event, expected_sequence, source)

    def submit_all(
        self, events: Sequence[ContextEvent | bytes], *, source: str = ""
    ) -> list[Outcome]:
        """Decide on events in order, as `submit` does on each.

        The store is asked once whether it has any of them, and not about each: where it is a server
        that is several times faster.
        """
        self._check_open()
        admitted = [_admitted(event) for event in events]
        ids = {str(one.event_id) for one in admitted if isinstance(one, ContextEvent)}
        known = self._side.store.contains(list(ids))
        self._looked_up.update({event_id: event_id in known for event_id in ids})
        return [
            self._decide(one, event, None, source)
            for one, event in zip(admitted, events, strict=True)
        ]

    def _decide(
        self,
        admitted: ContextEvent | InvalidEventError,
        event: ContextEvent | bytes,
        expected_sequence: int | None,
        source: str,
    ) -> Outcome:
        if isinstance(admitted, InvalidEventError):
            return self._refuse_event(admitted, event, source)
        event_id = str(admitted.event_id)
        if self._is_known(event_id):
            self.count(REPEATED_EVENTS)
            return Repeated(event_id)
        self._expire(max(self._side.clock, admitted.timestamp.timestamp()))
        key = (admitted.context_type, admitted.subject)
        for expected in (
            expected_sequence,
            None if admitted.sequence is None else admitted.sequence - 1,
        ):
            conflict = None if expected is None else self._conflict(key, expected)
            if conflict is not None:
                return Conflicted(conflict)
        state = self.state(key)
        self._expected.setdefault(key, state.sequence)
        updates = admitted.context_delta.updates
        try:
            rules, closed = self._side.rules, self._side.closed
            check(rules, admitted.context_type, state.values(), updates, closed=closed)
        except InvalidEventError as error:
            return self._refuse_event(error, event, source)
        filled = fill_in(admitted, state)
        self._record(key, state, filled)
        return Accepted(filled)

    def expire(self, until: float) -> int:
        """Expire what is due up to that time and return how many events that took.

        For streams that may fall idle, and for callers that read values before they submit. The
        time is the stream's, in seconds since 1970.
        """
        self._check_open()
        return self._expire(max(self._side.clock, until))

    def refuse(self, reason: str, detail: str, source: str, data: bytes) -> Refused:
        """Keep input that is no event as a dead letter; its first megabyte, if it is larger."""
        self._check_open()
        if len(data) > MAXIMUM_EVENT_BYTES:
            detail = f"{detail} (cut from {len(data)} bytes)"
            data = data[:MAXIMUM_EVENT_BYTES]
        letter = DeadLetter(clean(reason), clean(detail), clean(source), data)
        self._letters.append(letter)
        return Refused(letter.reason, letter.detail)

    def track(self, source: str, position: str) -> None:
        """Note how far a source has been read, in the same transaction."""
        self._check_open()
        self._tracking[source] = position

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter, in the same transaction."""
        self._check_open()
        self._counters[name] += number

    def _check_open(self) -> None:
        if self._side._open is not self:
            raise RuntimeError("a batch is used inside its `with` only")

    def _is_known(self, event_id: str) -> bool:
        if event_id in self._ids:
            return True
        known = self._looked_up.get(event_id)
        return bool(self._side.store.contains([event_id])) if known is None else known

    def _conflict(self, key: AggregateKey, expected: int) -> ConflictError | None:
        state = self.state(key)
        if state.sequence != expected and key not in self._states:
            # The cache may be behind another writer: look before saying no.
            state = self._side._state(key, fresh=True)
        if state.sequence == expected:
            return None
        return ConflictError(*key, expected=expected, actual=state.sequence, state=state.values())

    def _refuse_event(
        self, error: InvalidEventError, event: ContextEvent | bytes, source: str
    ) -> Refused:
        if isinstance(event, bytes):
            return self.refuse(error.reason, error.detail, source, event)
        own = f"{event.source.model_id}/{event.source.instance_id}"
        return self.refuse(error.reason, error.detail, source or own, bytes_of(event))

    def _expire(self, until: float) -> int:
        until = min(until, LAST_MOMENT)
        schedule = self._side.schedule
        count = 0
        while True:
            entry = schedule.first(self._states)
            if entry is None or entry[0] > until:
                return count
            due, key = entry
            state = self.state(key)
            if any(field.due == due for field in state.fields.values()):
                event = expiry_event(key, state, due, self._is_known)
                schedule.pop()
                self._expected.setdefault(key, state.sequence)
                self._record(key, state, event)
                count += 1
            else:  # overwritten or removed meanwhile
                schedule.pop()
                schedule.note(key, state)

    def _record(self, key: AggregateKey, before: AggregateState, event: ContextEvent) -> None:
        after = fold(before, event)
        self._states[key] = after
        self._events.append(event)
        self._ids.add(str(event.event_id))
        self._side._advance(event.timestamp.timestamp())
        self._side.schedule.note(key, after)


def _admitted(event: ContextEvent | bytes) -> ContextEvent | InvalidEventError:
    try:
        return admit(event)
    except InvalidEventError as error:
        return error


def retry_on_conflict(attempts: int, decide: Callable[[], _T]) -> _T:
    """Run `decide` until it meets no conflict, on fresh state each time, and return its result.

    Parameters
    ----------
    attempts: How often at most; the last `ConflictError` is raised when all fail.
    decide: Opens a batch, reads, decides and submits. It is run anew as a whole, so it must do
        nothing else that may not be done twice.

    Examples
    --------
    ::

        def spend_ten() -> Outcome:
            with side.batch(now) as batch:
                state = batch.state(("financial", "user:17850"))
                spend = state.values().get("spend", 0) + 10
                outcome = batch.submit(event_of(spend), expected_sequence=state.sequence)
                if isinstance(outcome, Conflicted):
                    raise outcome.error
            return outcome

        retry_on_conflict(3, spend_ten)
    """
    if attempts < 1:
        raise ConfigurationError(f"attempts is {attempts}; it must be at least 1")
    for _ in range(attempts - 1):
        try:
            return decide()
        except ConflictError:
            continue
    return decide()
