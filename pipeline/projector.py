"""From the log to one replica: polls, applies, reports, answers.

The one place where a replica meets transport. A model's process runs one of these beside the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.answering import DEFAULT_ANSWER_BUCKETS, Answering
from pipeline.scrubbing import (
    DEFAULT_SCRUB_INTERVAL_SECONDS,
    DEFAULT_SCRUB_KEYS_PER_SECOND,
    Scrubbing,
)
from synchroscope.blocked import Blocked
from synchroscope.hop_tallies import ReplicaTally
from synchroscope.latency import Latencies
from synchroscope.ports import (
    EVENTS,
    REPORTS,
    REQUESTS,
    Batch,
    Log,
    NewRecord,
    Progress,
    Record,
)
from synchroscope.recorded import recorded_at
from synchroscope.replica import Change, Replica
from synchroscope.report import (
    Explanation,
    Message,
    Repair,
    Request,
    decode_message,
    encode_message,
)

DEFAULT_BATCH_RECORDS = 500
DEFAULT_REPORT_INTERVAL_SECONDS = 0.2
DEFAULT_HEARTBEAT_SECONDS = 1.0
MAXIMUM_REQUESTS_PER_STEP = 100


class Projector:
    """Keeps one replica up to date with a log.

    Parameters
    ----------
    replica: The replica to feed.
    log: The log; `sync.reports` and `sync.requests` are used as well as the events.
    events: Where events are read, when not from `log` itself (a link that may be faulty).
    batch_records: Most records applied in one transaction; more is faster, and later to be seen.
    report_interval_seconds: Time between reports while events come in.
    heartbeat_seconds: Time between reports while none do.
    scrub_interval_seconds: Time between two buckets of the rolling scrub, which sums stored facts
        again and so finds what changed behind the replica's back; None switches it off. A pass over
        everything takes this times buckets times partitions (51 s by default) or more.
    scrub_keys_per_second: Budget of the rolling scrub (see `pipeline.scrubbing`).
    clock: Tells the time after a commit, for the propagation latency; None measures nothing.
    on_changes: Called with what was applied after it is stored, urgent changes first.
    shared: Other processes may use the replica's storage, and it may fall back to an older copy:
        report how a partition was found before going on with it, and look before each report and
        after each answer was put together whether storage still holds what this one knows, so that
        a process which was thought dead says nothing stale.
    tally: Counts what is applied, for the audit of the hops, and is published beside reports.
    publish: Hands reports, answers and tallies to the log and need not wait until it has them, so
        that no event waits for that either: what is lost with this process, the next one says anew.
        None: `log.append`. How a partition was found is appended in any case.
    answer_buckets: Most buckets read for answers in one step (see `pipeline.answering`).
    """

    def __init__(
        self,
        replica: Replica,
        log: Log,
        *,
        events: Log | None = None,
        batch_records: int = DEFAULT_BATCH_RECORDS,
        report_interval_seconds: float = DEFAULT_REPORT_INTERVAL_SECONDS,
        heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS,
        scrub_interval_seconds: float | None = DEFAULT_SCRUB_INTERVAL_SECONDS,
        scrub_keys_per_second: float = DEFAULT_SCRUB_KEYS_PER_SECOND,
        clock: Callable[[], float] | None = None,
        on_changes: Callable[[Sequence[Change]], None] | None = None,
        shared: bool = False,
        tally: ReplicaTally | None = None,
        publish: Callable[[Sequence[NewRecord], float], None] | None = None,
        answer_buckets: int = DEFAULT_ANSWER_BUCKETS,
    ) -> None:
        self.replica = replica
        self._log = log
        self._events = log if events is None else events
        self._batch_records = batch_records
        self._report_interval_seconds = report_interval_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._on_changes = on_changes
        self._shared = shared
        self._tally = tally
        self._publish = log.append if publish is None else publish
        self.scrubbing = Scrubbing(replica, scrub_interval_seconds, scrub_keys_per_second)
        self._answering = Answering(
            replica,
            lambda number: not shared or replica.refresh(number),
            scrub=self.scrubbing.scrub,
            sweep=self.scrubbing.sweep,
            clock=clock,
            buckets=answer_buckets,
        )
        self._unreported = False
        self._owned: dict[int, int] = {}
        self._found: set[int] = set()
        self._fresh_from: dict[int, int] = {}
        #: What of the log cannot be read on; the other partitions are gone on with.
        self.blocked = Blocked()
        self.own(dict.fromkeys(range(log.partitions(EVENTS)), 0))
        self._request_position = log.head(REQUESTS, 0)
        self._reported_at: float | None = None
        self.latencies = Latencies()

    def own(self, partitions: Mapping[int, int]) -> None:
        """Take over exactly these partitions: number -> how often it was acquired.

        What is known of a partition that was lost and came back is read anew.
        """
        if partitions == self._owned:
            return
        for number in self._owned.keys() | partitions.keys():
            if self._owned.get(number) != partitions.get(number):
                self.replica.forget(number)
                if self._tally is not None:
                    self._tally.forget(number)
                self._found.discard(number)
                self._answering.lost(number)
                self.scrubbing.lost(number)
                self._fresh_from.pop(number, None)
        self._owned = dict(partitions)
        self.blocked.keep(set(self._owned))
        self.scrubbing.own(self._owned)
        self._unreported = True
        for number in self._owned:
            if number not in self._fresh_from:
                # Older ones waited for a process, or are read again by a rebuild that another one
                # may have begun: neither is how long events take.
                self._fresh_from[number] = self._log.head(EVENTS, number)

    def step(self, now: float) -> Progress:
        """Apply one batch a partition, answer requests, report when it is time."""
        if self._shared:
            self._introduce(now)
        applied = sum(
            self._apply(partition)
            for partition in self._introduced()
            if not self._answering.is_summing(partition)
        )
        found = self.scrubbing.step(now)
        self._unreported = self._unreported or applied > 0 or found
        answers = self._answer()
        messages: list[Message] = list(answers)
        if self._is_report_due(now):
            messages += self._report(now)
            self._reported_at = now
            self._unreported = False
        records = [self._record_of(message) for message in messages]
        if self._tally is not None:
            records += self._tally.notes(now)
        if records:
            self._publish(records, now)
        return Progress(applied + len(answers) + (not self._answering.is_idle))

    def is_at_head(self) -> bool:
        """Say whether every partition was found, reported and read to the log's end."""
        numbers = self._introduced()
        return len(numbers) == len(self._owned) and all(
            self.replica.position(number) >= self._log.head(EVENTS, number) for number in numbers
        )

    def _introduce(self, now: float) -> None:
        """Report how a partition was found in storage, before anything is applied to it.

        If the storage fell back to an older copy, this is what tells the validator: later reports
        may be beyond the position that it knows. What is reported was read before `now` and is
        still there, so it was true at the report's own time; that tells it from late words.
        """
        ready = [n for n in self._owned if n in self._found and self.replica.refresh(n)]
        if ready:
            self._log.append([self._record_of(self.replica.report(now, ready))], now)
        self._found = {n for n in self._owned if not self.replica.is_reported(n)}

    def _introduced(self) -> list[int]:
        """Return the owned partitions that may be gone on with and spoken of."""
        if not self._shared:
            return list(self._owned)
        return [number for number in self._owned if self.replica.is_reported(number)]

    def _report(self, now: float) -> list[Message]:
        partitions = self._introduced()
        if self._shared:
            partitions = [number for number in partitions if self.replica.refresh(number)]
        return [self.replica.report(now, partitions)] if partitions else []

    def _record_of(self, message: Message) -> NewRecord:
        return NewRecord(REPORTS, 0, self.replica.name.encode(), encode_message(message))

    def _apply(self, partition: int) -> int:
        position = self.replica.position(partition)
        batch: Batch | None = None
        if self.blocked.is_due(partition):
            with self.blocked.noting(partition):
                batch = self._events.read(EVENTS, partition, position, self._batch_records)
        if batch is None:
            return 0
        records = list(batch.records)  # Made once: they are gone over several times.
        if batch.position == position and not records:
            return 0
        if self._tally is not None:
            self._tally.begin(partition, position)
        changes = self.replica.apply(partition, records, batch.position)
        if self._tally is not None:
            self._tally.applied(partition, records, self.replica.position(partition))
        if self._clock is not None:
            self._observe(partition, records, self._clock())
        if changes and self._on_changes is not None:
            self._on_changes(changes)
        return max(len(records), 1)

    def _observe(self, partition: int, records: Sequence[Record], now: float) -> None:
        times: dict[float, int] = {}
        for record in records:
            if record.offset >= self._fresh_from[partition]:
                at = _recorded(record)
                times[at] = times.get(at, 0) + 1
        for at, count in times.items():
            self.latencies.add(now - at, count)

    def _answer(self) -> list[Explanation]:
        limit = min(MAXIMUM_REQUESTS_PER_STEP, self._answering.room)
        partitions = self._introduced()
        if limit > 0:
            self._take_requests(limit, partitions)
        return self._answering.step(partitions)

    def _take_requests(self, limit: int, partitions: Sequence[int]) -> None:
        batch = self._log.read(REQUESTS, 0, self._request_position, limit)
        self._request_position = batch.position
        requests: list[Request] = []
        for record in batch.records:
            if record.key != self.replica.name.encode():
                continue
            message = decode_message(record.value)
            if not isinstance(message, Repair | Request) or message.partition not in partitions:
                continue
            if isinstance(message, Request):
                requests.append(message)
            elif self.replica.repair(message) > 0:
                # Told at once: whoever asked looks at the digest for the proof.
                self._unreported = True
                self._answering.changed(message.partition)
        self._answering.take(requests)

    def _is_report_due(self, now: float) -> bool:
        if self._reported_at is None:
            return True
        age = now - self._reported_at
        interval = self._report_interval_seconds if self._unreported else self._heartbeat_seconds
        return not 0 <= age < interval  # Negative: a clock was set back since.


def _recorded(record: Record) -> float:
    """Return when the command side accepted the event; the append's time where it does not say."""
    recorded = recorded_at(record)
    return record.timestamp if recorded is None else recorded
