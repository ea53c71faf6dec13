"""What it costs to name the keys that differ, among very many: bytes and CPU of both sides.

    python -m benchmarks.location                     # 1,000,000 keys
    python -m benchmarks.location --keys 10000000     # facts, log and truth made up while read
    python -m benchmarks.location --upkeep            # only what a replica's digest costs

One replica with projector and validator, four partitions. A *spoilt* key is a value changed behind
the replica's back that its scrub has just met; a *missed* one an event that the replica did not
apply. Counted is from the report that shows it to the last judgement: all reports, requests and
answers, with keys; beside it what as many steps send while nothing is wrong. The scrub that meets
the spoilt values is not in it: it runs whether anything is wrong or not, and has a row of its own.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import cast

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks.many_keys import (
    AT,
    PARTITIONS,
    VIEW,
    HashIndex,
    MadeUpStorage,
    MadeUpTruth,
    ManyKeysLog,
    MemoryOfAll,
    SqliteTruth,
    key_of,
    number_of_key,
    partition_of,
)
from benchmarks.measuring import Row, Settings, amount, forget
from pipeline.projector import Projector
from synchroscope import applying
from synchroscope.applying import Applying
from synchroscope.digest import DEFAULT_BITS, Digest, Root, aggregate_hash
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import (
    EVENTS,
    FINDINGS,
    REPORTS,
    REQUESTS,
    AggregateRecord,
    Batch,
)
from synchroscope.replica import DEFAULT_MARKER_INTERVAL, Replica
from synchroscope.replica_state import PartitionState
from validator.validator import ExpectedReplica, Validator

LOCATION_KEYS = 1_000_000
BAD_KEYS = (1, 10, 100, 1_000, 10_000)
MISSED_KEYS = (10, 1_000)
MAXIMUM_KEYS_IN_MEMORY = 2_000_000
MAXIMUM_ROUNDS = 400
QUIET_STEPS = 200
ROUND_SECONDS = 1.0
UPKEEP_RECORDS = 1_000
UPKEEP_EVENTS = 20_000
UPKEEP_REPEATS = 7
UPKEEP_FACTS = (("overwritten", True), ("new", False))
INCARNATION = "benchmark"


class Cost(Struct, frozen=True):
    """What it took to name some keys.

    ``due_bytes`` are the sent bytes beyond ``quiet_bytes``, those of as many steps with nothing
    wrong.
    """

    kind: str
    bad: int
    share_named: float
    wrongly_named: int
    findings: dict[str, int]
    steps: int
    report_bytes: int
    request_bytes: int
    answer_bytes: int
    finding_bytes: int
    quiet_bytes: int
    due_bytes: int
    replica_seconds: float
    validator_seconds: float
    quiet_seconds: float


class LossyLog(ManyKeysLog):
    """The events of a log without those at some places, as the replica gets them."""

    def __init__(self, log: ManyKeysLog) -> None:
        self._log = log
        self.lost: set[tuple[int, int]] = set()

    def read(self, topic: str, partition: int, position: int, limit: int) -> Batch:
        """Return records without those that are lost."""
        batch = self._log.read(topic, partition, position, limit)
        kept = [r for r in batch.records if (partition, r.offset) not in self.lost]
        return Batch(kept, batch.position)


class Watched:
    """One replica of many keys with projector and validator; all is well at first."""

    def __init__(self, keys: int, *, in_memory: bool = True) -> None:
        self.keys = keys
        self.log = ManyKeysLog(keys)
        self.link = LossyLog(self.log)
        self.now = AT
        self.notes: dict[str, float] = {}
        self._store_position = keys
        self._sequences: dict[int, int] = {}
        index = None if in_memory else HashIndex(keys)
        self.truth = SqliteTruth(keys) if index is None else MadeUpTruth(index)
        self.validator = Validator(
            self.log,
            [VIEW],
            [ExpectedReplica("scorer@1", VIEW.model)],
            self.truth,
            partition_of,
        )
        self.storage = self._restored(index)
        self.replica = Replica("scorer@1", VIEW, self.storage, incarnation=INCARNATION)
        self.projector = Projector(
            self.replica, self.log, events=self.link, scrub_interval_seconds=None
        )
        self._first_check()

    def _restored(self, index: HashIndex | None) -> MemoryStorage:
        """Return a storage that holds everything, with the state that a snapshot would have."""
        reference = self.validator.reference
        started = time.process_time()
        for number in reference.partitions:
            while reference.advance(number, 1_000):
                pass
        self.notes["fold_seconds"] = time.process_time() - started
        states = {}
        for number in reference.partitions:
            fold = reference.current(number)
            total = fold.views[VIEW.model]
            state = PartitionState(
                fold.position,
                total.digest.table(),
                total.audit,
                total.applied,
                journal_from=fold.position,
            )
            states[number] = msgspec.msgpack.encode(state)
        life = Replica("scorer@1", VIEW, MemoryStorage(), incarnation=INCARNATION).incarnation
        return (
            MemoryOfAll(self.keys, states, life)
            if index is None
            else MadeUpStorage(index, states, life)
        )

    def _first_check(self) -> None:
        """Step until the validator has had everything scrubbed and has judged it."""
        sides = [0.0, 0.0]
        for _ in range(self.keys // 1_000 + MAXIMUM_ROUNDS):
            consumed = self._step(sides)
            if not consumed and self.validator.is_settled():
                break
            if not consumed:
                self.validator.scrub(self.now)
        else:
            raise RuntimeError("the validator did not settle")
        self.notes["first_check_replica_seconds"] = sides[0]
        self.notes["first_check_validator_seconds"] = sides[1]

    def _step(self, sides: list[float]) -> int:
        self.now += ROUND_SECONDS
        started = time.process_time()
        consumed = self.projector.step(self.now).consumed
        between = time.process_time()
        self.validator.step(self.now)
        sides[0] += between - started
        sides[1] += time.process_time() - between
        return consumed

    def scrub(self, numbers: Iterable[int]) -> None:
        """Have the replica's scrub come by the buckets of some keys."""
        places = {
            (n % PARTITIONS, aggregate_hash(*key_of(n)) >> (64 - DEFAULT_BITS)) for n in numbers
        }
        for partition in range(PARTITIONS):
            self.replica.scrub(partition, sorted(b for p, b in places if p == partition))

    def chosen(self, count: int, first: int) -> list[int]:
        """Return `count` keys' numbers, spread by a fixed rule; another `first` means others."""
        rng = np.random.default_rng(first)
        return sorted(rng.choice(self.keys, count, replace=False).tolist())

    def spoil(self, numbers: Iterable[int]) -> list[AggregateRecord]:
        """Change stored values behind the replica's back; return the true records."""
        true = []
        for key in map(key_of, numbers):
            held = self.storage.get(key)
            if held is None:
                raise RuntimeError(f"{key} is not stored")
            true.append(held)
            wrong = held.copy()
            wrong.fields["spend"] = (-1, held.sequence)
            self.storage.commit({key: wrong}, held.partition, None)
        return true

    def add(self, numbers: Iterable[int], *, lost: bool = False) -> None:
        """Add a new event of each of the keys; with `lost` the replica will not see it."""
        for number in numbers:
            self._store_position += 1
            sequence = self._sequences[number] = self._sequences.get(number, 1) + 1
            if lost:
                partition = number % PARTITIONS
                self.link.lost.add((partition, self.log.head(EVENTS, partition)))
            self.truth.add(number, sequence, self._store_position)
            self.log.add(number, sequence, self._store_position)

    def heal(self, records: Sequence[AggregateRecord]) -> None:
        """Put the true records back, and wait until the findings are resolved."""
        for record in records:
            key = (record.context_type, record.subject)
            self.storage.commit({key: record}, record.partition, None)
        self.scrub(number_of_key(record.subject) for record in records)
        self.settle(lambda: not self.validator.open_findings())

    def settle(self, is_done: Callable[[], bool] = lambda: True) -> int:
        """Step until everything is judged and `is_done`; return how many steps that took."""
        for steps in range(MAXIMUM_ROUNDS):
            if steps and self.is_settled() and is_done():
                return steps
            self._step([0.0, 0.0])
        raise RuntimeError("the validator did not come to an end")

    def is_settled(self) -> bool:
        """Say whether nothing is to be judged, asked or answered any more."""
        heads = [self.log.head(EVENTS, number) for number in range(PARTITIONS)]
        return all(
            part.settled == part.compared_position == heads[number]
            and part.investigation is None
            and not part.news
            for watch in self.validator._watches.values()
            for number, part in watch.partitions.items()
        )

    def locate(self, kind: str, bad: Sequence[int]) -> Cost:
        """Go from a report to the findings; return what that cost."""
        forget()
        gc.collect()
        sent, opened = dict(self.log.sent), dict(self.validator.findings_total)
        answers = self._answer_bytes()
        sides = [0.0, 0.0]
        steps = 0
        while steps < MAXIMUM_ROUNDS and (not steps or not self.is_settled()):
            self._step(sides)
            steps += 1
        grown = {topic: size - sent.get(topic, 0) for topic, size in self.log.sent.items()}
        answered = self._answer_bytes() - answers
        found = self.validator.findings_total
        named = {
            number_of_key(s) for f in self.validator.open_findings() for s in f.subjects
        }  # fmt: skip
        right = named & set(bad)
        both = grown.get(REPORTS, 0) + grown.get(REQUESTS, 0)
        return Cost(
            kind=kind,
            bad=len(bad),
            share_named=len(right) / len(bad),
            wrongly_named=len(named - right),
            findings={k: n - opened.get(k, 0) for k, n in found.items() if n > opened.get(k, 0)},
            steps=steps,
            report_bytes=grown.get(REPORTS, 0) - answered,
            request_bytes=grown.get(REQUESTS, 0),
            answer_bytes=answered,
            finding_bytes=grown.get(FINDINGS, 0),
            quiet_bytes=0,
            due_bytes=both,
            replica_seconds=sides[0],
            validator_seconds=sides[1],
            quiet_seconds=0.0,
        )

    def _answer_bytes(self) -> int:
        return sum(
            len(record.key) + len(record.value)
            for record in self.log.read(REPORTS, 0, 0, 2**40).records
            if not record.value.startswith(b'{"type":"report"')
        )

    def quiet(self, steps: int) -> tuple[int, float]:
        """Return the bytes and CPU seconds of so many steps with nothing wrong."""
        before = self.log.sent.get(REPORTS, 0) + self.log.sent.get(REQUESTS, 0)
        sides = [0.0, 0.0]
        for _ in range(steps):
            self._step(sides)
        after = self.log.sent.get(REPORTS, 0) + self.log.sent.get(REQUESTS, 0)
        return after - before, sum(sides)

    def spoilt(self, count: int, first: int) -> Cost:
        """Spoil so many values, have them located, and put them right again."""
        numbers = self.chosen(count, first)
        true = self.spoil(numbers)
        self.scrub(numbers)
        cost = self.locate("spoilt", numbers)
        self.heal(true)
        return self._beside_quiet(cost)

    def missed(self, count: int, first: int) -> Cost:
        """Lose so many events among as many others, and have them located; then go on."""
        numbers = self.chosen(2 * count, first)
        bad, good = numbers[::2], numbers[1::2]
        for one, other in zip(bad, good, strict=True):
            self.add([one], lost=True)
            self.add([other])
        cost = self.locate("missed", bad)
        self.add(bad)
        self.settle(lambda: not self.validator.open_findings())
        return self._beside_quiet(cost)

    def _beside_quiet(self, cost: Cost) -> Cost:
        quiet, seconds = self.quiet(cost.steps)
        due = cost.due_bytes - quiet
        return msgspec.structs.replace(
            cost, quiet_bytes=quiet, due_bytes=due, quiet_seconds=seconds
        )

    def recheck(self) -> tuple[float, float]:
        """Return the median CPU seconds of validator and replica for one report of no news."""
        ours, theirs = [], []
        for _ in range(QUIET_STEPS):
            sides = [0.0, 0.0]
            self._step(sides)
            theirs.append(sides[0])
            ours.append(sides[1])
        return statistics.median(ours), statistics.median(theirs)

    def state_bytes(self) -> tuple[int, int]:
        """Return what the replica's digests and sketches take, and all of the validator."""
        mine = [
            held
            for part in self.replica._partitions.values()
            for held in (part.digest, part.sketches, part.state, part.notes)
        ]
        outside = [self.log, self.truth]
        return deep_bytes(mine, []), deep_bytes([self.validator], outside)


def deep_bytes(roots: Sequence[object], without: Sequence[object]) -> int:
    """Return the size of all that is reached from some objects, but for code and `without`."""
    seen = {id(one) for one in without}
    waiting, total = list(roots), 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, ModuleType | type):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            total += one.nbytes + sys.getsizeof(one) * (one.base is not None)
            continue
        if type(one).__name__ in ("function", "builtin_function_or_method", "getset_descriptor"):
            continue
        total += sys.getsizeof(one)
        waiting.extend(gc.get_referents(one))
    return total


# -- the digest's upkeep -------------------------------------------------------------------------


def upkeep(events: int, *, overwrite: bool, repeats: int) -> dict[str, float]:
    """Return the CPU microseconds an event that the digest adds to a replica, in batches.

    Without it: the same replica that hashes nothing, neither facts, events nor aggregates, and has
    no digest, sketches, audit sum, and no order of its aggregates by hash. `overwrite`: all keys
    are stored before, so that each event takes a fact out and puts one in. Both replicas get each
    batch in turn; the difference is the median over all batches, since other load on the machine
    changes from one to the next. Also returned are the least and the greatest of the repeats.
    """
    rounds = [_in_turn(events, overwrite=overwrite) for _ in range(repeats)]
    every = np.concatenate(rounds)
    medians = [float(np.median(pairs[:, 0] - pairs[:, 1])) for pairs in rounds]
    return {
        "with": float(np.median(every[:, 0])),
        "without": float(np.median(every[:, 1])),
        "difference": float(np.median(every[:, 0] - every[:, 1])),
        "least": min(medians),
        "greatest": max(medians),
    }


class _NoDigest(Digest):
    """Stands where a partition has its digest, and costs nothing."""

    def copy(self) -> Digest:
        """Return itself."""
        return self

    def table(self) -> bytes:
        """Return nothing."""
        return b""

    def root(self) -> Root:
        """Return zeros."""
        return Root(0, 0, 0)


#: Lines of synchroscope/applying.py, and what they are without a digest.
_WITHOUT_DIGEST = {
    "work.steps.append((record.offset, event.event_id, sequence, prior))": (
        "work.entries.append((record.offset, 0, sequence, prior))"
    ),
    "work.exchanges.append((key, name, stored, current))": "",
}


def _applying_without_digest() -> type[Applying]:
    source = inspect.getsource(applying)
    for line, other in _WITHOUT_DIGEST.items():
        if source.count(line) != 1:
            raise RuntimeError(f"this line of synchroscope/applying.py is not there: {line}")
        source = source.replace(line, other)
    # msgspec and Protocol classes need a module of that name; the original one serves.
    names = {"__name__": applying.__name__}
    exec(compile(source, "applying without digest", "exec"), names)
    return cast(type[Applying], names["Applying"])


def _replica(*, has_digest: bool) -> Replica:
    if has_digest:
        replica = Replica("scorer@1", VIEW, MemoryStorage(), incarnation=INCARNATION)
        replica.scrub(0, range(1 << DEFAULT_BITS))  # Empty: from now on all sketches are kept.
        return replica
    replica = Replica("scorer@1", VIEW, MemoryStorage(), incarnation=INCARNATION)
    replica._applying = _applying_without_digest()(
        VIEW, replica._storage, replica._hasher, replica._sums, DEFAULT_MARKER_INTERVAL
    )
    partition = replica._partition(0)
    partition.digest, partition.sketches = _NoDigest(), None
    return replica


def _catch_up(replica: Replica) -> None:
    """Do what the digest's upkeep leaves for later: order new aggregates, add to the sketches."""
    sketches = replica._partition(0).sketches
    if sketches is not None:
        next(iter(replica._storage.scan(0, 0, DEFAULT_BITS)), None)
        sketches.cells([0])


def _in_turn(events: int, *, overwrite: bool) -> NDArray[np.float64]:
    """Return of each batch the microseconds an event with a digest and without."""
    log = ManyKeysLog(events * PARTITIONS)
    sides = [_replica(has_digest=True), _replica(has_digest=False)]
    batches = [log.read(EVENTS, 0, p, UPKEEP_RECORDS) for p in range(0, events, UPKEEP_RECORDS)]
    if overwrite:
        for batch in batches:
            for replica in sides:
                replica.apply(0, batch.records, batch.position)
        for number in range(0, events * PARTITIONS, PARTITIONS):
            log.add(number, 2, events * PARTITIONS + number + 1)
        batches = [
            log.read(EVENTS, 0, p, UPKEEP_RECORDS)
            for p in range(events, 2 * events, UPKEEP_RECORDS)
        ]
    _catch_up(sides[0])
    forget()
    gc.collect()
    gc.freeze()  # The log that was made up is not the replica's to look through.
    seen = np.zeros((len(batches), 2))
    for turn, batch in enumerate(batches):
        for side in (0, 1) if turn % 2 else (1, 0):
            started = time.process_time()
            sides[side].apply(0, batch.records, batch.position)
            seen[turn, side] = (time.process_time() - started) / len(batch.records) * 1e6
    started = time.process_time()
    _catch_up(sides[0])
    seen[:, 0] += (time.process_time() - started) / events * 1e6
    gc.unfreeze()
    return seen


# -- rows ----------------------------------------------------------------------------------------


def whole_bytes(watched: Watched) -> int:
    """Return the bytes of all facts, as they would have to be sent without digests."""
    sample = [(key_of(n), n / 4) for n in range(0, watched.keys, max(1, watched.keys // 10_000))]
    return len(msgspec.msgpack.encode(sample)) * watched.keys // len(sample)


def measure(
    keys: int, bad_keys: Sequence[int], missed_keys: Sequence[int], tell: Callable[[str], None]
) -> tuple[Watched, list[Cost], dict[str, float]]:
    """Measure all of it; `tell` hears of each figure as it comes."""
    wall, cpu = time.perf_counter(), time.process_time()
    watched = Watched(keys, in_memory=keys <= MAXIMUM_KEYS_IN_MEMORY)
    notes = watched.notes
    notes["build_wall_seconds"] = time.perf_counter() - wall
    notes["build_cpu_seconds"] = time.process_time() - cpu
    ours, theirs = watched.recheck()
    notes["recheck_validator_seconds"], notes["recheck_replica_seconds"] = ours, theirs
    mine, all_of_it = watched.state_bytes()
    notes["replica_state_bytes"], notes["validator_bytes"] = mine, all_of_it
    tell(json.dumps({name: float(f"{value:.4g}") for name, value in notes.items()}))
    costs = []
    for first, (kind, bad) in enumerate(
        [("spoilt", n) for n in bad_keys] + [("missed", n) for n in missed_keys]
    ):
        locate = watched.spoilt if kind == "spoilt" else watched.missed
        costs.append(locate(bad, first))
        tell(line(costs[-1]))
    return watched, costs, notes


def line(cost: Cost) -> str:
    """Return a row of the curve."""
    return (
        f"{cost.kind:6} {cost.bad:>6,}  named {cost.share_named:4.0%} "
        f"wrongly {cost.wrongly_named}  {cost.due_bytes / 1e3:>8.1f} kB "
        f"(requests {cost.request_bytes / 1e3:.1f}, answers "
        f"{cost.answer_bytes / 1e3:.1f}, reports {cost.report_bytes / 1e3:.1f}; quiet "
        f"{cost.quiet_bytes / 1e3:.1f}) in {cost.steps} steps  CPU replica "
        f"{cost.replica_seconds * 1e3:.1f} ms, validator {cost.validator_seconds * 1e3:.1f} ms "
        f"(quiet, both {cost.quiet_seconds * 1e3:.1f} ms)  {cost.findings}"
    )


def location_rows(settings: Settings) -> list[Row]:
    """What naming bad keys among many costs, a re-check of no news, and the digest's upkeep."""
    keys = settings.size(LOCATION_KEYS)
    bad_keys = [bad for bad in BAD_KEYS if bad <= keys // 100]
    rows = []
    # Before there is anything else: a validator of a million keys is in no replica's process.
    for name, overwrite in UPKEEP_FACTS:
        seen = upkeep(keys // 50, overwrite=overwrite, repeats=settings.repeats)
        title = f"digest upkeep an event, {name} fact"
        rows.append(amount(title, "s", seen["difference"] / 1e6, "none", None, seen))
    watched, costs, notes = measure(keys, bad_keys, MISSED_KEYS, lambda text: None)
    whole = whole_bytes(watched)
    for cost in costs:
        title = f"location, {cost.bad:,} {cost.kind} of {keys:,} keys"
        known = {
            name: float(value)
            for name, value in msgspec.structs.asdict(cost).items()
            if isinstance(value, int | float)
        }
        rows.append(amount(f"{title}, traffic", "bytes", cost.due_bytes, "all facts", whole, known))
        seconds = cost.replica_seconds + cost.validator_seconds
        rows.append(amount(f"{title}, CPU", "s", seconds, "none", None))
    recheck = notes["recheck_validator_seconds"]
    rows.append(amount("re-check, nothing changed", "s", recheck, "none", None, notes))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=LOCATION_KEYS)
    parser.add_argument("--bad", type=int, nargs="*", default=list(BAD_KEYS))
    parser.add_argument("--missed", type=int, nargs="*", default=list(MISSED_KEYS))
    parser.add_argument("--upkeep", action="store_true")
    options = parser.parse_args()
    if options.upkeep:
        for name, overwrite in UPKEEP_FACTS:
            seen = upkeep(UPKEEP_EVENTS, overwrite=overwrite, repeats=UPKEEP_REPEATS)
            print(name, {key: round(value, 2) for key, value in seen.items()}, flush=True)
        return 0
    measure(options.keys, options.bad, options.missed, lambda text: print(text, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
