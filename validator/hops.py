"""The audit of the hops: producer, store, relay, log, replica must have passed the same events.

It works in rounds, so that it never compares what is still on its way:

1. Take what the hops have told, then note where log and store end. Everything that was told is in
   the log, and everything in the log is in the store, up to there.
2. Over as many steps as it takes read exactly up to there.
3. Compare every window that is over since the settle time. A difference counts when the next round
   finds the same one again. What comes late is compared again as long as the window is kept.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from synchroscope.errors import ConfigurationError
from synchroscope.foreign import decoded
from synchroscope.ports import EVENTS, STATE, Log, Progress
from synchroscope.tally import (
    DEFAULT_WINDOW_SECONDS,
    NOTHING,
    TALLY_PREFIX,
    Sum,
    decode_tally,
    window_of,
)
from synchroscope.view import View
from validator.finding import Finding
from validator.hop_books import Book, BookKeeper, Books, LogPlace
from validator.hop_finding import finding_of
from validator.hop_namer import EventRows, HopNamer
from validator.hop_naming import Suspect
from validator.hop_standing import HopStanding, HopWork, hop_standing_note
from validator.hop_tellings import Tellings
from validator.hop_verdicts import (
    HOPS,
    LOG_REPLICA,
    PRODUCER_STORE,
    Comparison,
    Expected,
    HopVerdict,
    Place,
    compare_window,
    verdict_of,
)
from validator.ledger import Ledger
from validator.pages import paged, stored
from validator.watch import Verdict

CHECKPOINT_KEY = b"hops/checkpoint"
DEFAULT_SETTLE_SECONDS = 5.0
DEFAULT_READ_RECORDS = 1_000
DEFAULT_CHECKPOINT_SECONDS = 5.0
DEFAULT_ROUND_SECONDS = 1.0
BATCHES_OF_TALLIES = 10
KEPT_WINDOWS = 30
"""How long windows are compared again, in windows; hops remember a little more."""
MAXIMUM_VERDICTS = 1_000
"""Verdicts that `HopAuditor.verdicts` keeps."""
FORMAT = 2
MAXIMUM_CHECKPOINT_BYTES = 500_000
"""Of more, the oldest windows are left out: after a restart they are not compared again."""


class Checkpoint(Struct, array_like=True):
    """What the audit needs to go on; what was told it reads again from `sync.state`."""

    format: int
    made_of: str
    books: Books
    open: list[Finding]


_decode_checkpoint = msgspec.msgpack.Decoder(Checkpoint).decode


class _Round(Struct, frozen=True):
    """Up to where to read before comparing."""

    store_end: int
    heads: dict[int, int]


class HopAuditor:
    """Says between which two hops something was lost, doubled or altered.

    Parameters
    ----------
    log, store: The log and the event store, both read by the audit itself.
    views, replicas: What replicas have to apply; replica -> model.
    producers: Names of all producers of this store. None: they count nothing, so the hop from
        producer to store is not audited.
    window_seconds: As all hops have it.
    settle_seconds: How long after its end a window is first compared. Longer than a batch takes
        from its beginning to its commit.
    read_records: Most records read of the store and of each partition in one step.
    round_seconds: Least time between two comparisons.
    blame_replicas: Open findings for the last hop as well. The validator does so already, and says
        which event it was and what it changed.
    """

    def __init__(
        self,
        log: Log,
        store: EventRows,
        views: Sequence[View],
        replicas: Mapping[str, str],
        now: float,
        *,
        producers: Sequence[str] = (),
        window_seconds: float = DEFAULT_WINDOW_SECONDS,
        settle_seconds: float = DEFAULT_SETTLE_SECONDS,
        read_records: int = DEFAULT_READ_RECORDS,
        round_seconds: float = DEFAULT_ROUND_SECONDS,
        checkpoint_seconds: float = DEFAULT_CHECKPOINT_SECONDS,
        blame_replicas: bool = False,
    ) -> None:
        if not (window_seconds > 0 and settle_seconds >= 0 and read_records > 0):
            raise ConfigurationError("windows and reads must be over 0, the settle time 0 or more")
        self._log = log
        self._store = store
        self._views = list(views)
        self._expected = Expected(producers, dict(replicas), window_seconds, settle_seconds)
        self._namer = HopNamer(log, store, window_seconds)
        self._read_records = read_records
        self._round_seconds = round_seconds
        self._compared_at: float | None = None
        self._checkpoint_seconds = checkpoint_seconds
        self._blame_replicas = blame_replicas
        self._state_position = 0
        self._tellings = Tellings()
        self._ledger = Ledger()
        self._round: _Round | None = None
        self._results: dict[tuple[int, Place], tuple[str, Sum]] = {}
        self._suspected: dict[tuple[int, Place], Sum] = {}
        self._published_at: float | None = None
        self.verdicts: deque[HopVerdict] = deque(maxlen=MAXIMUM_VERDICTS)
        """The newest verdicts; one that changes is there again."""
        self.totals: Counter[tuple[str, str]] = Counter()
        """How many verdicts there were, by hop and verdict."""
        self.events: Counter[tuple[str, str]] = Counter()
        """How many events were found lost, doubled or altered, by hop and kind."""
        self.judged_until: dict[str, float] = {}
        """End of the newest window that was compared, by hop."""
        self._keeper = self._restore() or BookKeeper(self._begin(now), views, window_seconds)

    def _made_of(self) -> str:
        hashes = ",".join(sorted(f"{view.model}:{view.hash()}" for view in self._views))
        return f"{self._expected.window_seconds}/{hashes}"

    def _begin(self, now: float) -> Books:
        """Begin at the ends; what belongs to a window that has begun already is not judged."""
        heads = self._heads()
        # The store last: what comes meanwhile is in it, and belongs to a window that has begun.
        end = self._store.count()
        floor = window_of(now, self._expected.window_seconds) + 1
        places = {number: LogPlace(head, head) for number, head in heads.items()}
        return Books(end, end, places, floor)

    def _heads(self) -> dict[int, int]:
        return {n: self._log.head(EVENTS, n) for n in range(self._log.partitions(EVENTS))}

    # -- the step ----------------------------------------------------------------------------

    def step(self, now: float) -> Progress:
        """Do one bounded piece of a round."""
        consumed = 0
        if self._round is None:
            at = self._compared_at
            if at is not None and 0 <= now - at < self._round_seconds:
                return Progress(0)
            consumed += self._read_tallies()
            heads = self._heads()
            self._round = _Round(self._store.count(), heads)
        consumed += self._read_store(self._round.store_end)
        for number, head in self._round.heads.items():
            consumed += self._read_log(number, head)
        if self._is_read(self._round):
            self._compare(now)
            self._round, self._compared_at = None, now
            self._publish(now)
        return Progress(consumed)

    def _read_tallies(self) -> int:
        """Take what was told: once a round, for what is compared is of one moment."""
        consumed = 0
        for _ in range(BATCHES_OF_TALLIES):
            batch = self._log.read(STATE, 0, self._state_position, self._read_records)
            self._state_position = batch.position
            consumed += len(batch.records)
            for record in batch.records:
                if record.key.startswith(TALLY_PREFIX.encode()):
                    told = decode_tally(record.value)
                    if told is not None and told.window_seconds == self._expected.window_seconds:
                        self._tellings.take(told)
            if not batch.records:
                break
        return consumed

    def _read_store(self, end: int) -> int:
        position = self._keeper.books.store_position
        if position >= end:
            return 0
        rows = self._store.rows(position, min(self._read_records, end - position))
        if rows:
            self._keeper.enter_rows([row for row in rows if row.position <= end])
        if not rows or rows[-1].position > end:
            self._keeper.books.store_position = end  # The rest of it is not there any more.
        return len(rows)

    def _read_log(self, number: int, head: int) -> int:
        position = self._keeper.books.places[number].position
        if position >= head:
            return 0
        batch = self._log.read(EVENTS, number, position, self._read_records)
        records = [record for record in batch.records if record.offset < head]
        reached = batch.position if len(records) == len(batch.records) else head
        self._keeper.enter_records(number, records, min(reached, head))
        return len(records)

    def _is_read(self, target: _Round) -> bool:
        books = self._keeper.books
        return books.store_position >= target.store_end and all(
            books.places[number].position >= head for number, head in target.heads.items()
        )

    # -- comparing ---------------------------------------------------------------------------

    def _compare(self, now: float) -> None:
        expected, books = self._expected, self._keeper.books
        windows = {w for w in self._tellings.windows() if w >= books.floor} | books.windows.keys()
        due = now - expected.settle_seconds
        for window in sorted(windows):
            if (window + 1) * expected.window_seconds <= due:
                book = books.windows.get(window, Book())
                for one in compare_window(window, book, self._tellings, expected):
                    self._judge(window, book, one, now)
        oldest = window_of(due, expected.window_seconds) - KEPT_WINDOWS
        for window, book in self._keeper.forget(oldest).items():
            self._forget(window, book, now)

    def _judge(self, window: int, book: Book, one: Comparison, now: float) -> None:
        place = window, one.place
        if one.pending:
            return
        if one.unknown and place in self._results:
            return  # What was judged on evidence stays judged when the evidence is gone.
        if not one.unknown and one.difference != NOTHING:
            if self._suspected.get(place) != one.difference:
                self._suspected[place] = one.difference
                return
        else:
            self._suspected.pop(place, None)
        self._settle(verdict_of(window, self._expected.window_seconds, one), book, one, now)

    def _settle(self, verdict: HopVerdict, book: Book, one: Comparison, now: float) -> None:
        place = verdict.window, verdict.place
        result = verdict.verdict.value, one.difference
        if self._results.get(place) == result:
            return
        self._results[place] = result
        suspects: list[Suspect] | None = None
        hop = verdict.place.hop
        if verdict.verdict is Verdict.DIVERGED and verdict.kind is not None:
            suspects = self._namer.name(verdict.window, book, one)
            if suspects is not None:
                verdict = _named(verdict, suspects)
            self.events[hop, verdict.kind or ""] += verdict.events
            if not verdict.is_harmless and (hop != LOG_REPLICA or self._blame_replicas):
                part = book.partitions.get(verdict.place.partition or 0)
                self._ledger.open(finding_of(verdict, part, suspects or [], now), self._log)
        elif verdict.verdict is Verdict.CONSISTENT:
            self._resolve(verdict, book, now)
        self.verdicts.append(verdict)
        self.totals[hop, verdict.verdict.value] += 1
        self.judged_until[hop] = max(self.judged_until.get(hop, 0.0), verdict.window_end)

    def _resolve(self, verdict: HopVerdict, book: Book, now: float) -> None:
        """Close what was open there: what was missing came late."""
        for finding in self._ledger.open_findings():
            if finding.evidence.get("place") == [str(verdict.place), verdict.window]:
                identity = finding.id
                self._ledger.resolve(
                    finding.replica,
                    finding.partition,
                    book.last,
                    now,
                    lambda other, identity=identity: bool(other.id == identity),  # type: ignore[misc]
                )

    def _forget(self, window: int, book: Book, now: float) -> None:
        """Say of what could not be compared until it was too old that it is UNKNOWN."""
        for one in compare_window(window, book, self._tellings, self._expected):
            if one.pending and (window, one.place) not in self._results:
                gone = Comparison(one.place, unknown=f"too old: {one.pending}")
                verdict = verdict_of(window, self._expected.window_seconds, gone)
                self._settle(verdict, book, gone, now)
        for kept in (self._results, self._suspected):
            for place in [place for place in kept if place[0] <= window]:
                del kept[place]

    # -- publishing --------------------------------------------------------------------------

    def standing(self, now: float) -> HopStanding:
        """Return how the hops stand."""
        return HopStanding(
            at=now,
            window_seconds=self._expected.window_seconds,
            hops={
                hop: HopWork(
                    windows={v.value: self.totals[hop, v.value] for v in Verdict},
                    events={kind: n for (other, kind), n in self.events.items() if other == hop},
                    judged_until=self.judged_until.get(hop),
                )
                for hop in HOPS
                if hop != PRODUCER_STORE or self._expected.producers
            },
            open=[finding.id for finding in self._ledger.open_findings()],
        )

    def open_findings(self) -> list[Finding]:
        """Return the open findings."""
        return self._ledger.open_findings()

    def _publish(self, now: float) -> None:
        outputs = self._ledger.drain()
        at = self._published_at
        if not outputs and at is not None and 0 <= now - at < self._checkpoint_seconds:
            return
        outputs += paged(CHECKPOINT_KEY, self._checkpoint())
        outputs.append(hop_standing_note(self.standing(now)))
        self._log.append(outputs, now)
        self._published_at = now

    def _checkpoint(self) -> bytes:
        books, found = self._keeper.stored(), self._ledger.open_findings()
        while True:
            stored = Checkpoint(FORMAT, self._made_of(), books, found)
            data = msgspec.msgpack.encode(stored)
            if len(data) <= MAXIMUM_CHECKPOINT_BYTES or not books.windows:
                return data
            books = books.newest(len(books.windows) // 2)

    def _restore(self) -> BookKeeper | None:
        data = stored(self._log, CHECKPOINT_KEY)
        if data is None:
            return None
        before = decoded(_decode_checkpoint, data)
        if before is None or before.format != FORMAT or before.made_of != self._made_of():
            return None
        self._ledger.restore(before.open, {}, {})
        return BookKeeper(before.books, self._views, self._expected.window_seconds)


def _named(verdict: HopVerdict, suspects: Sequence[Suspect]) -> HopVerdict:
    kinds = {one.kind for one in suspects}
    identities = tuple(one.event_id for one in suspects)
    kind = kinds.pop() if len(kinds) == 1 else verdict.kind
    reason = f"{len(suspects)} {kind} {verdict.place}"
    if verdict.is_harmless:
        reason += "; published again, readers pass over it"
    return msgspec.structs.replace(
        verdict, kind=kind, events=len(suspects), event_ids=identities, reason=reason
    )
