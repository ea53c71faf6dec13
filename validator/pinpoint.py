"""Finds out which aggregates of large buckets differ, by sketches, without having them shown whole.

For one question after the other this says what to ask next: sketches of buckets that differ, then
the aggregates that these name. A bucket of which sketches cannot tell is shown whole. What comes of
it is proven by whoever uses it: the aggregates shown must account for the whole difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from math import log

from msgspec import Struct

from synchroscope.digest import Digest
from synchroscope.report import Explanation, Sketched
from synchroscope.sketch import (
    BELOW_BUCKET_BITS,
    CELLS,
    MAXIMUM_SKETCH_BITS,
    SIZES,
    Numbers,
    Part,
    differing,
    from_bytes,
)
from validator.folds import Fold
from validator.reference import Reference
from validator.watch import Investigation

WHOLE_FACTS = 200
"""Buckets that differ and hold no more facts than that together are shown whole."""
FACTS_AT_ONCE = 20_000
"""Of how many facts, at most, buckets are shown whole at once where sketches cannot tell."""
NAMED_PER_SKETCH = 32
"""How many aggregates are hoped to be told by one sketch of the full size. More: fewer sketches, of
which more cannot tell and are asked for again (with 32 about 1 in 75, with 40 about 1 in 25)."""
MAXIMUM_BUCKETS = 64
MAXIMUM_TRIES = 3
MAXIMUM_ROUNDS = 12
BUILT_PER_STEP = 2_000
"""Of how many facts, at least, sketches are built in one step."""

PartsOf = Callable[[int], Sequence[Part]]


class Wish(Struct, frozen=True):
    """What is to be asked next."""

    sketches: list[Sketched]
    numbers: list[int]
    buckets: list[int]


class Pinpoint:
    """Decides what to ask, from what was answered.

    Parameters
    ----------
    reference: Has the other side of each sketch.
    bits: The digest's size.
    whole_facts: Up to how many facts buckets are shown whole at once.
    """

    def __init__(self, reference: Reference, bits: int, whole_facts: int = WHOLE_FACTS) -> None:
        self._reference = reference
        self._bits = bits
        self._whole_facts = whole_facts
        self._plain: set[str] = set()

    def is_plain(self, replica: str) -> bool:
        """Say whether a replica is known to answer by whole buckets only."""
        return replica in self._plain or self._bits > MAXIMUM_SKETCH_BITS

    def is_answered_plainly(self, investigation: Investigation, answer: Explanation) -> bool:
        """Say, and remember, whether a replica passes over all but whole buckets."""
        is_plain = bool(investigation.sketched) and not answer.sketches
        if is_plain or (investigation.numbers and not answer.named):
            self._plain.add(answer.replica)
            return True
        return False

    def is_wanted(self, investigation: Investigation, bad: Collection[int], table: Digest) -> bool:
        """Say whether sketches are the way to look into these buckets."""
        if investigation.tries or investigation.named or investigation.sketched:
            return True
        return sum(table.counts[bucket] for bucket in bad) > self._whole_facts

    def take(
        self,
        model: str,
        investigation: Investigation,
        answer: Explanation,
        point: Fold,
        parts_of: PartsOf,
    ) -> bool:
        """Take the sketches of an answer; False: call again, there is more to be worked out."""
        partition = answer.note.partition
        todo = [
            (wanted, data)
            for wanted, data in zip(investigation.sketched, answer.sketches, strict=False)
            if data is not None and not set(wanted.buckets) <= investigation.named.keys()
        ]
        if not todo:
            return True
        change = self._reference.since(partition, point)
        if change is None:
            for wanted, _ in todo:
                investigation.tries.update(dict.fromkeys(wanted.buckets, MAXIMUM_TRIES))
            return True
        built = 0
        for wanted, data in todo:
            for bucket in self._reference.unbuilt(partition, model, wanted.buckets):
                if built >= BUILT_PER_STEP:
                    return False
                parts = parts_of(bucket)
                self._reference.build(partition, model, bucket, parts, change)
                built += len(parts)
            cells = self._reference.cells(partition, model, wanted.buckets, wanted.cells, change)
            self._take(investigation, wanted, data, cells)
        return True

    @staticmethod
    def _take(
        investigation: Investigation, wanted: Sketched, data: bytes, cells: Numbers | None
    ) -> None:
        found = None
        try:
            theirs = from_bytes(data)
        except ValueError:
            theirs = None
        if cells is not None and theirs is not None and cells.shape == theirs.shape:
            found = differing(cells - theirs, wanted.buckets)
        if found is None:
            is_last = len(wanted.buckets) == 1 and wanted.cells == CELLS
            for bucket in wanted.buckets:
                tried = investigation.tries.get(bucket, 0) + 1
                investigation.tries[bucket] = MAXIMUM_TRIES if is_last else tried
            return
        investigation.named.update({bucket: [] for bucket in wanted.buckets})
        for number in found:
            investigation.named[number >> BELOW_BUCKET_BITS].append(number)

    def wish(self, investigation: Investigation, bad: Sequence[int], table: Digest) -> Wish:
        """Return what is to be known of the buckets that differ."""
        hopeless = [b for b in bad if investigation.tries.get(b, 0) >= MAXIMUM_TRIES]
        unknown = [b for b in bad if b not in investigation.named and b not in hopeless]
        sketches: list[Sketched] = []
        for tried in range(MAXIMUM_TRIES):
            buckets = [b for b in unknown if investigation.tries.get(b, 0) == tried]
            sketches += _groups(buckets, len(bad) / (1 << self._bits), tried)
        # They are shown together, at one position: only when all of them are known.
        found = [n for bucket in bad for n in investigation.named.get(bucket, ())]
        numbers = [] if sketches else found
        facts = max((table.counts[bucket] for bucket in hopeless), default=0)
        most = max(1, min(MAXIMUM_BUCKETS, FACTS_AT_ONCE // max(1, facts)))
        return Wish(sketches, numbers, hopeless[:most])


def _groups(buckets: Sequence[int], share: float, tried: int) -> Iterator[Sketched]:
    """Yield which buckets to put into one sketch; `share` of all buckets differ.

    Differing aggregates fall on buckets by chance, so the share tells how many there are.
    """
    each = -log(1.0 - share) / share if 0.0 < share < 0.99 else 6.0
    most = max(1, int(NAMED_PER_SKETCH / each) >> 2 * tried)
    for start in range(0, len(buckets), most):
        group = list(buckets[start : start + most])
        hoped = len(group) * each
        size = next((size for size in SIZES if hoped <= 0.3 * size), CELLS)
        yield Sketched(CELLS if tried else size, group)
