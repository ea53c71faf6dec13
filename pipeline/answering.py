"""Answers what validators ask of one replica: a bounded part of it in each step.

To sum a whole partition again from storage takes long where storage is slow, and reports must not
get old meanwhile. So it is done in parts, with reports in between. An answer is nevertheless of one
position and whole: as long as a partition is being summed, nothing is applied to it (see
`is_summing`), and what changes it all the same begins its sums anew. Before that everything stored
is looked at wherever it stands, so that the sums miss nothing that was put there from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from synchroscope.ports import Swept
from synchroscope.replica import Replica
from synchroscope.report import Explanation, Request

DEFAULT_ANSWER_BUCKETS = 128
ANSWER_SECONDS = 0.1
"""After so long, what is being answered goes on in the next step."""
SLICE_BUCKETS = 8
"""How many buckets are summed between two looks at the clock."""
SLICE_KEYS = 500
"""How many keys are looked at between two looks at the clock; they count as a bucket."""
MAXIMUM_WAITING = 100
MAXIMUM_SKETCHES = 256
"""So many sketches a question may ask for."""
_Key = tuple[int, str]


class Answering:
    """The questions that wait for an answer, in the order in which they came.

    Parameters
    ----------
    replica: Who is asked.
    is_current: Says of a partition whether storage still holds what the replica knows of it; asked
        when an answer was put together. One of which that is not so is not given.
    scrub, sweep: Stand in for the replica's.
    clock: Bounds the time of a step to `ANSWER_SECONDS`; None: only the number of buckets does.
    buckets: Most buckets read in one step. Higher: answered sooner, and reports wait longer.
    """

    def __init__(
        self,
        replica: Replica,
        is_current: Callable[[int], bool],
        *,
        scrub: Callable[[int, Sequence[int]], int] | None = None,
        sweep: Callable[[int, bytes, int], Swept] | None = None,
        clock: Callable[[], float] | None = None,
        buckets: int = DEFAULT_ANSWER_BUCKETS,
    ) -> None:
        self._replica = replica
        self._is_current = is_current
        self._scrub = scrub or replica.scrub
        self._sweep = sweep or replica.sweep
        self._sweep_place: bytes | None = None
        self._sweeping: set[_Key] = set()
        self._swept: set[_Key] = set()
        self._clock = clock
        self._buckets = buckets
        self._waiting: dict[_Key, Request] = {}
        self._given: set[_Key] = set()
        self._summed = 0
        self._left = 0
        self._until: float | None = None

    @property
    def room(self) -> int:
        """How many more questions can wait."""
        return MAXIMUM_WAITING - len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no question waits."""
        return not self._waiting

    def is_summing(self, partition: int) -> bool:
        """Say whether a partition must not move: some of it is summed for an answer, not all."""
        first = next(iter(self._waiting), None)
        return first is not None and first[0] == partition and self._summed > 0

    def take(self, requests: Collection[Request]) -> None:
        """Take what was asked since the last call.

        A question keeps its ID when it is put again. One that waits is answered once however often
        it was put, and what was put again before the last answers could be seen is answered.
        """
        for request in requests:
            key = request.partition, request.request_id
            if key not in self._given and self._is_bounded(request):
                self._waiting[key] = request
        self._given.clear()

    def _is_bounded(self, request: Request) -> bool:
        """Say whether a question asks for no bucket twice, as validators never do."""
        total = 1 << self._replica.bits
        sketched = sum(len(one.buckets) for one in request.sketches)
        return (
            len(set(request.buckets)) == len(request.buckets) <= total
            and len(request.sketches) <= MAXIMUM_SKETCHES
            and sketched <= MAXIMUM_SKETCHES * total
        )

    def changed(self, partition: int) -> None:
        """Note that a partition was changed otherwise: its sums begin anew."""
        if self.is_summing(partition):
            self._summed = 0

    def lost(self, partition: int) -> None:
        """Note that a partition went to another process, or came back: its questions are void."""
        for key in [key for key in self._waiting if key[0] == partition]:
            self._remove(key)

    def step(self, partitions: Collection[int]) -> list[Explanation]:
        """Go on, for these partitions only; questions about others are dropped."""
        for key in [key for key in self._waiting if key[0] not in partitions]:
            self._remove(key)
        self._left = self._buckets
        self._until = None if self._clock is None else self._clock() + ANSWER_SECONDS
        answers: list[Explanation] = []
        while self._waiting and self._may_go_on():
            key, request = next(iter(self._waiting.items()))
            if request.scrub and not (self._sweep_for(key) and self._sum(request.partition)):
                break
            answer = self._replica.explain(request, is_summed=request.scrub)
            self._left -= 1 + len(answer.buckets) + len(answer.sketches)
            self._remove(key)
            # What was read one after the other belongs together only if nobody wrote meanwhile.
            if self._is_current(request.partition):
                answers.append(answer)
                self._given.add(key)
        return answers

    def _remove(self, key: _Key) -> None:
        if self.is_summing(key[0]) and key == next(iter(self._waiting)):
            self._summed = 0
        del self._waiting[key]
        self._swept.discard(key)

    def _may_go_on(self) -> bool:
        if self._left <= 0:
            return False
        return self._clock is None or self._until is None or self._clock() < self._until

    def _sweep_for(self, key: _Key) -> bool:
        """Look at everything stored, as of after the question came; say whether that is done."""
        while key not in self._swept:
            if not self._may_go_on():
                return False
            if self._sweep_place is None:
                self._sweep_place, self._sweeping = b"", set(self._waiting)
            self._sweep_place = self._sweep(key[0], self._sweep_place, SLICE_KEYS).place
            self._left -= 1
            if not self._sweep_place:
                self._sweep_place = None
                self._swept |= self._sweeping & self._waiting.keys()
        return True

    def _sum(self, partition: int) -> bool:
        """Sum the next buckets again from storage; say whether all are summed."""
        total = 1 << self._replica.bits
        while self._summed < total:
            if not self._may_go_on() and self._summed:
                return False
            end = min(self._summed + min(SLICE_BUCKETS, max(self._left, 1)), total)
            self._scrub(partition, range(self._summed, end))
            self._left -= end - self._summed
            self._summed = end
        return True
