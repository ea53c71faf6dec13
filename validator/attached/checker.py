"""Looks at one store: changed keys after each horizon, suspects again, and everything in walks.

A look is a read with what was known right before it (the fold's position a settle window ago, what
the store had passed) and right after it (the log's end). It is judged when the fold has come to
that end, so that the store cannot be ahead of what it is compared with. Reading, judging and
suspecting stand in one file, since every look goes through all three.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from synchroscope.errors import InvalidEventError, SynchroscopeError, UnavailableError
from validator.attached.asking import Asking, AtOnce
from validator.attached.book import Book
from validator.attached.comparison import NOTHING_SEEN, Look, Passed, look
from validator.attached.confirmed import Arrival, Confirmed
from validator.attached.doubt import doubted
from validator.attached.history import Item, value_hash
from validator.attached.log_view import Clock, LogView, Positions
from validator.attached.pending import Asked, Pending
from validator.attached.reference import KeyedReference, Seen
from validator.attached.reporting import Reporter
from validator.attached.row_mapping import RowReader, SeenRow
from validator.attached.row_source import Answer, RowSource
from validator.attached.schedule import Schedule
from validator.attached.store_settings import StoreSettings
from validator.attached.suspects import Suspect, Suspects
from validator.attached.unchecked import COMPACTED, NOT_READ, UNREADABLE, Unchecked
from validator.attached.walk import Walk
from validator.stores.port import ForeignStore

PAGE_ROWS = 500
MAXIMUM_PENDING = 8
AWAY_SECONDS = 2.0
SOON_SECONDS = 0.02
"""What comes so soon is waited for."""
GROUP_SECONDS = 1.0
SAMPLE_KEYS = 300
SAMPLE_SECONDS = 5.0
"""A sample is taken no more often than this."""


class StoreChecker:
    """One store under watch; `step` does a bounded part of the work.

    Parameters
    ----------
    number: The store's place in the file; its memory on disk goes by it.
    asking: How the store is asked; only there may something take long.
    """

    def __init__(
        self,
        settings: StoreSettings,
        number: int,
        store: ForeignStore,
        reader: RowReader,
        reference: KeyedReference,
        book: Book,
        horizons: Sequence[float],
        asking: Asking | None = None,
    ) -> None:
        self.settings = settings
        self.schedule = Schedule(horizons)
        self.suspects = Suspects()
        self.unchecked = Unchecked()
        self.walk = Walk()
        self.counts: Counter[str] = Counter()
        self.frontier: dict[int, tuple[int, float]] = {}
        self.unavailable = ""
        self.keyless = 0
        """Rows of the store that no key tells, when the last walk ended."""
        self.answered_at: float | None = None
        """When the store answered last."""
        self._number = number
        self._asking = asking or AtOnce()
        self._asked: Asked | None = None
        self._reach = PAGE_ROWS
        """So many rows it can give in a step, as far as is known."""
        self._source = RowSource(store, number, reader, reference)
        self._reader = reader
        self._reference = reference
        self._book = book
        self._reporter = Reporter(settings, reader, book)
        self._pending: deque[Pending] = deque()
        self._tokens = 0.0
        self._stepped_at: float | None = None
        self._away_until = 0.0
        self._committed: deque[tuple[float, Positions]] = deque(maxlen=1_000)
        self._is_recalled = False
        self._is_read = False
        self._sampled_at = float("-inf")
        self._recent: deque[bytes] = deque(maxlen=SAMPLE_KEYS)

    # -- one step --------------------------------------------------------------------------------

    def changed(self, items: Mapping[bytes, Item], now: float) -> None:
        """Note what the fold has changed."""
        for key, item in items.items():
            if self._reader.key_of(item.context_type, item.subject) is not None:
                self.schedule.changed(key, item.touched, now)

    def step(self, log: LogView, clock: Clock) -> int:
        """Judge what can be judged, ask for what is due within the budget; return how many rows."""
        now = clock()
        done = self._judge_pending(log, now)
        self._reporter.release(now, is_walking=self.walk.phase != "resting", walk=self.walk)
        try:
            if self._asked is None:
                self._ask(log, now)
            if self._asked is not None and self._asked.answer.done():
                done += self._take(self._asked, log, clock)
        except SynchroscopeError as error:
            # A wrong setting shows at the first look; what comes later is damage, and may pass.
            if not (self._is_read or isinstance(error, UnavailableError)):
                raise
            self._failed(str(error), clock())
        return done

    def _failed(self, reason: str, now: float) -> None:
        """Take it that the store could not be looked at."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self.schedule.drop(asked.due)
            self._look_again(asked.suspects, now)
        self.unavailable = reason
        self._away_until = now + AWAY_SECONDS
        self.walk.is_whole = False
        self.counts["unavailable"] += 1

    def _look_again(self, keys: Sequence[bytes], now: float) -> None:
        for key in keys:
            suspect = self.suspects.get(key)
            if suspect is not None:
                self.suspects.again(suspect, now)

    def _allowance(self, now: float) -> int:
        rate = self.settings.budget_keys_per_second
        elapsed = 0.0 if self._stepped_at is None else max(now - self._stepped_at, 0.0)
        self._stepped_at = now
        self._tokens = min(self._tokens + elapsed * rate, max(rate / 2, 1.0))
        return min(int(self._tokens), self._reach)

    def _ask_group(self, log: LogView, now: float) -> None:
        if not self.settings.group:
            return
        if not self._committed or now >= self._committed[-1][0] + GROUP_SECONDS:
            self._committed.append((now, log.ask_group(self.settings.group)))

    def _ask(self, log: LogView, now: float) -> None:
        """Ask the store for what is due; what waits no longer than a moment is there at once."""
        lower = log.at(now - self.settings.settle_seconds)
        limit = self._allowance(now)
        if lower is None or now < self._away_until or limit < 1:
            return
        if len(self._pending) >= MAXIMUM_PENDING:
            return
        self._ask_group(log, now)
        self._recall(now)
        self._sample(now)
        suspects = self.suspects.take(now, limit)
        due = self.schedule.take(now, max((limit - len(suspects)) * 3 // 4, 1))
        keys = list(dict.fromkeys([*suspects, *(one.key for one in due)]))
        walk = self.walk if self._is_walking(log, now) else None
        question = self._source.question(keys, walk, max(limit - len(keys), 1))
        is_at_end = walk is not None and walk.phase == "items" and not question.met
        if walk is not None and is_at_end:
            walk.phase = "settling"
        if question.is_empty and not question.met:
            return
        committed = self._committed_at(now - self.settings.settle_seconds)
        answer = self._asking.ask(lambda: self._source.answer(question))
        self._asked = Asked(
            now,
            answer,
            question,
            log.positions,
            lower,
            dict(self.frontier),
            committed,
            suspects,
            due,
        )
        wait([answer], SOON_SECONDS)

    def _take(self, asked: Asked, log: LogView, clock: Clock) -> int:
        """Take the answer; return how many rows there are in it."""
        question, answer = asked.question, _result(asked.answer, self.settings.name)
        rows = self._source.fetched(question, answer)
        walked = self._source.walked(question, answer, rows, self.walk)
        heads, now = log.ask_heads(), clock()
        self._asked, self._is_read, self.unavailable, self.answered_at = None, True, "", now
        is_cut = answer.asked < len(set(question.places.values()))
        self._reach = max(len(rows), 1) if is_cut else min(2 * self._reach, PAGE_ROWS)
        if is_cut:
            self._look_again([key for key in asked.suspects if key not in rows], now)
            self.schedule.drop([due for due in asked.due if due.key not in rows])
        self._tokens -= len(rows) + len(walked)
        if answer.keyless is not None:
            self._end_walk(answer.keyless, now)
        if not rows and not walked:
            return 0
        self._pending.append(Pending(asked, now, walked | rows, heads, self.walk.number))
        return len(walked | rows)

    def _recall(self, now: float) -> None:
        """After a start: items with open findings are looked at again."""
        if self._is_recalled:
            return
        self._is_recalled = True
        for key in self._book.open_keys(self.settings.name):
            self.suspects.add(key, 0, now, 0.0)

    def _sample(self, now: float) -> None:
        """Look at once at what changed lately: a store that went back shows it there."""
        if self._reporter.wants_sample and now >= self._sampled_at + SAMPLE_SECONDS:
            self._sampled_at = now
            for key in self._recent:
                if self.suspects.get(key) is None:
                    self.suspects.add(key, 0, now, 0.0)
        self._reporter.wants_sample = False

    def _committed_at(self, moment: float) -> Positions:
        for noted, positions in reversed(self._committed):
            if noted <= moment:
                return positions
        return {}

    def _is_walking(self, log: LogView, now: float) -> bool:
        """Say whether the walk goes on now; one that is due begins."""
        walk = self.walk
        if walk.phase == "resting":
            if now < walk.started_at + self.settings.walk_seconds:
                return False
            walk.begin(now, self._reference.next_walk(self._number), log.positions)
        # What is judged first need not be read twice, and belongs to the walk.
        is_first_judged = walk.phase == "settling" or (walk.phase == "items" and not walk.after)
        return not (self._pending and is_first_judged)

    def _end_walk(self, keyless: int, now: float) -> None:
        self.keyless = keyless
        self.walk.end()
        if self.walk.is_whole:
            self.unchecked.walked(self.walk.number)
        self._reporter.walked(self.walk, now)

    # -- judging ---------------------------------------------------------------------------------

    def _judge_pending(self, log: LogView, now: float) -> int:
        judged = 0
        while self._pending and log.covers(self._pending[0].heads):
            judged += self._judge(self._pending.popleft(), log, now)
        return judged

    def _judge(self, pending: Pending, log: LogView, now: float) -> int:
        keys = list(pending.rows)
        items = self._reference.items(keys)
        memory = self._reference.seen(self._number, keys)
        key_doubts = self._source.key_doubts(pending.rows, items)
        remembered: dict[bytes, Seen] = {}
        looks: dict[bytes, Look] = {}
        agreed: list[bytes] = []
        for key, row in pending.rows.items():
            item = items.get(key)
            partition = -1 if item is None else item.partition
            before = memory.get(key, NOTHING_SEEN)
            passed = self._passed(pending, partition)
            found = look(
                item,
                row,
                before,
                self._reader,
                lower=pending.asked.lower.get(partition, 0),
                passed=passed,
                is_complete=log.is_complete,
                known_from=log.known_from.get(partition, 0),
                unknown_because=_unknown_because(log),
                is_compacted=log.is_compacted,
                is_all_passed=pending.is_all_committed,
                lost_delete=log.lost_deletes.get(partition, -1),
                key_doubt=key_doubts.get(key, ""),
            )
            if self.settings.expires and not row.is_there:
                found = Look([], False)  # It may have gone by itself.
            looks[key] = found = doubted(found, item, before, log, passed)
            is_accepted = log.accepts_unreadable and found.unchecked == UNREADABLE
            if not self.unchecked.note(key, "" if is_accepted else found.unchecked, pending.walk):
                self.walk.is_whole = False
            self.counts[found.result] += 1
            remembered[key] = self._remember(item, found, before, pending)
            if found.result == "unknown":
                self.suspects.clear(key)
                if found.unchecked:
                    self._reporter.withdraw(key, found.unchecked, now)
            elif found.result == "agrees":
                agreed.append(key)
                self.suspects.clear(key)
            else:
                self._suspect(key, item, row, found, before, pending, now)
        self._reference.store_seen(self._number, remembered)
        if agreed and (self._book.open or self._reporter.is_holding):
            self._reporter.agree(agreed, now)
        for due in pending.asked.due:
            if due.key in looks and self._is_unseen(looks[due.key]):
                self.schedule.drop([due])
            elif due.key in looks:
                is_there = looks[due.key].has_applied(due.offset)
                if is_there:
                    self._recent.append(due.key)
                self.schedule.judged(due, is_consistent=is_there)
        return len(pending.rows)

    def _is_unseen(self, found: Look) -> bool:
        """Say whether a look does not tell if a write was there."""
        return bool(found.unchecked) or (self.settings.expires and not found.is_there)

    def _passed(self, pending: Pending, partition: int) -> Passed:
        reached, recorded_at = pending.asked.frontier.get(partition, (-1, 0.0))
        committed = pending.asked.committed.get(partition, 0)
        order_seconds = self.settings.order_seconds

        def passed(offset: int, timestamp: float) -> bool:
            is_beyond = reached > offset and recorded_at >= timestamp + order_seconds
            return is_beyond or committed > offset

        return passed

    def _remember(self, item: Item | None, found: Look, before: Seen, pending: Pending) -> Seen:
        fields = dict(before.fields)
        for field in found.fields:
            if field.proven is None or item is None:
                continue
            if field.proven > fields.get(field.name, -1):
                fields[field.name] = field.proven
            self._advance(item, field.name, field.proven)
        is_agreed = found.result == "agrees" and item is not None
        known = pending.asked.before
        agreed = known.get(item.partition, 0) if item and is_agreed else before.agreed
        return Seen(fields, agreed, pending.walk)

    def _advance(self, item: Item, name: str, offset: int) -> None:
        """Note that the store has applied an event, unless a newer one is known."""
        if offset <= self.frontier.get(item.partition, (-1, 0.0))[0]:
            return
        recent = item.fields[name].recent
        timestamp = next((v.timestamp for v in recent if v.offset == offset), None)
        if timestamp is not None:
            self.frontier[item.partition] = (offset, timestamp)

    def _suspect(
        self,
        key: bytes,
        item: Item | None,
        row: SeenRow,
        found: Look,
        before: Seen,
        pending: Pending,
        now: float,
    ) -> None:
        partition = -1 if item is None else item.partition
        suspect = self.suspects.add(key, partition, now, self.settings.recheck_seconds)
        if suspect is None:
            self.walk.is_whole = False
            return
        suspect.partition = partition
        mark = _mark(row)
        suspect.is_lagging = found.result == "lagging"
        suspect.waits_for = found.waits_for
        suspect.recorded_at = _recorded_at(item, found.waits_for)
        if found.result != "wrong":
            suspect.wrong_since = None
            self.suspects.again(suspect, now)
            return
        if suspect.wrong_since is None or suspect.mark != mark:
            suspect.wrong_since, suspect.mark = pending.read_at, mark
            suspect.by_offset = pending.heads.get(partition, max(pending.heads.values(), default=0))
            suspect.arrival = self._arrival(item, before, pending)
        if pending.asked.at - suspect.wrong_since < self.settings.recheck_seconds:
            pause = self.settings.recheck_seconds
            self.suspects.again(suspect, now, pause_seconds=pause)
            return
        name = (
            (item.context_type, item.subject) if item is not None else self._reference.name_of(key)
        )
        confirmed = Confirmed(
            key, name, item, row, found, before.agreed, suspect.by_offset, now, suspect.arrival
        )
        self._reporter.confirmed(confirmed, now)
        # Looked at on and on, so that its end is seen.
        self.suspects.again(suspect, now)

    def _arrival(self, item: Item | None, before: Seen, pending: Pending) -> Arrival | None:
        """Return between what a row came that is no item's, if a whole walk did not meet it."""
        walk = self.walk
        if item is not None or walk.finished_at is None or before.walk >= walk.whole_number:
            return None
        return Arrival(walk.whole_positions, walk.finished_at, pending.heads)

    # -- how it stands ---------------------------------------------------------------------------

    def lagging(self) -> list[Suspect]:
        """Return the items that lack events which the store may yet apply."""
        return [suspect for suspect in self.suspects if suspect.is_lagging]

    def undecided(self, now: float) -> int:
        """Return how many suspects are neither wrong nor right for longer than is usual."""
        usual = self.settings.settle_seconds + 3 * self.settings.recheck_seconds
        return sum(
            suspect.wrong_since is None and now - suspect.first_at > usual
            for suspect in self.suspects
        )

    def differing(self) -> int:
        """Return how many suspects differed at the last look and are no findings yet."""
        name = self.settings.name
        return sum(
            suspect.wrong_since is not None and not self._book.of_item(name, suspect.key)
            for suspect in self.suspects
        )

    def overdue(self, now: float) -> tuple[float, str]:
        """Return for how long what was to be known is not, and why: seconds, and a sentence."""
        waits = []
        if self._asked is not None:
            waits.append((now - self._asked.at, "the store has not answered"))
        if self._pending:
            waits.append((now - self._pending[0].read_at, "what was read could not be judged"))
        return max(waits, default=(0.0, ""))

    @property
    def is_busy(self) -> bool:
        """Whether something was read that is not judged yet, or confirmed and not reported."""
        return bool(self._pending) or self._asked is not None or self._reporter.is_holding

    def unconfirmed(self, before: float) -> int:
        """Return how many suspects from before a moment are not yet findings."""
        name = self.settings.name
        return sum(
            not self._book.of_item(name, s.key) and not self._reporter.is_member(s.key)
            for s in self.suspects
            if s.first_at <= before
        )

    @property
    def rows_read(self) -> int:
        """How many rows were read."""
        return self._source.rows_read

    @property
    def grade(self) -> str:
        """How well a look proves: by the row's own offset, or by what it had time to apply."""
        return "exact" if self._reader.is_exact else "bracketed"

    def close(self) -> Future[None]:
        """Have the store closed."""
        return self._asking.close(self._source.close)


def _result(answer: Future[Answer], store: str) -> Answer:
    """Return what the store said; an error of a driver is one that may pass."""
    try:
        return answer.result()
    except SynchroscopeError:
        raise
    except Exception as error:
        raise UnavailableError(store, f"unexpected {type(error).__name__}: {error}") from error


def _unknown_because(log: LogView) -> str:
    if log.known_from:
        return NOT_READ
    return COMPACTED if log.is_compacted else ""


def _mark(row: SeenRow) -> int:
    fields: dict[str, Any] = {name: _printable(value) for name, value in row.fields.items()}
    return value_hash([row.is_there, fields])


def _printable(value: Any) -> Any:
    try:
        value_hash(value)
    except InvalidEventError:
        with suppress(RecursionError):
            return ascii(value)
        return type(value).__name__
    return value


def _recorded_at(item: Item | None, offset: int | None) -> float:
    if item is None or offset is None:
        return 0.0
    known = [v for history in item.fields.values() for v in history.recent if v.offset == offset]
    return known[0].timestamp if known else item.touched_at
