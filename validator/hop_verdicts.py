"""Where an event was lost, doubled or altered: between which two hops, in which window.

Two hops next to each other must have counted the same in a window. Everything here is pure: books
and tellings in, values out. What cannot be told is UNKNOWN; what is still on its way is no
comparison at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from synchroscope.digest import lanes_from_hex
from synchroscope.tally import NOTHING, Sum
from validator.hop_books import Book, PartitionBook
from validator.hop_tellings import (
    Tellings,
    Told,
    told_by_producers,
    told_by_relay,
    told_by_replica,
)
from validator.watch import Verdict

PRODUCER_STORE, STORE_RELAY = "producer>store", "store>relay"
RELAY_LOG, LOG_REPLICA = "relay>log", "log>replica"
HOPS = (PRODUCER_STORE, STORE_RELAY, RELAY_LOG, LOG_REPLICA)
LOST, DOUBLED, ALTERED = "lost", "doubled", "altered"
KINDS = (LOST, DOUBLED, ALTERED)


class Place(Struct, frozen=True):
    """Two hops next to each other: of which replica and partition, where there are several."""

    hop: str
    replica: str | None = None
    partition: int | None = None

    def __str__(self) -> str:
        before, after = self.hop.split(">")
        where = "" if self.partition is None else f", partition {self.partition}"
        return f"between {before} and {self.replica or after}{where}"


class Comparison(Struct, frozen=True):
    """What was counted before and after; or why they cannot be compared, or not yet.

    ``is_harmless``: what differs is a record that was published again, which readers pass over.
    """

    place: Place
    before: Sum = NOTHING
    after: Sum = NOTHING
    unknown: str = ""
    pending: str = ""
    is_harmless: bool = False

    @property
    def difference(self) -> Sum:
        """What is missing after; its count is negative for what is there too often."""
        return self.before - self.after


class HopVerdict(Struct, frozen=True):
    """What can be said of one place in one window.

    ``events`` is how many were lost or doubled, at least; ``event_ids`` which, None where they
    cannot be named.
    """

    place: Place
    window: int
    window_start: float
    window_end: float
    verdict: Verdict
    reason: str
    kind: str | None = None
    events: int = 0
    event_ids: tuple[str, ...] | None = None
    expected: Sum = NOTHING
    seen: Sum = NOTHING
    is_harmless: bool = False


class Expected(Struct, frozen=True):
    """Who takes part: producers by name (none: that hop is not audited), replicas with models."""

    producers: Sequence[str]
    replicas: Mapping[str, str]
    window_seconds: float
    settle_seconds: float


def compare_window(
    window: int, book: Book, tellings: Tellings, expected: Expected
) -> Iterator[Comparison]:
    """Yield every comparison of a window."""
    length = expected.window_seconds
    start, end = window * length, (window + 1) * length
    if expected.producers:
        late = end + expected.settle_seconds
        told = told_by_producers(tellings, expected.producers, window, start, end, late)
        yield _compared(Place(PRODUCER_STORE), told, book.store)
    told = told_by_relay(tellings, window, book.first, book.last)
    yield _compared(Place(STORE_RELAY), Told(book.store, told.unknown, told.pending), told.total)
    yield from _relay_and_log(window, book, tellings, told)
    for number, part in book.partitions.items():
        for replica, model in expected.replicas.items():
            must = part.views.get(model, NOTHING)
            did = told_by_replica(tellings, replica, number, window, part.first, part.last)
            place = Place(LOG_REPLICA, replica, number)
            yield _compared(place, Told(must, did.unknown, did.pending), did.total)


def _compared(place: Place, before: Told, after: Sum) -> Comparison:
    return Comparison(place, before.total, after, before.unknown, before.pending)


def _relay_and_log(window: int, book: Book, tellings: Tellings, told: Told) -> Iterator[Comparison]:
    handed = {
        number: Sum(count, *lanes_from_hex(lanes))
        for number, other, count, lanes in (tellings.relay.windows if tellings.relay else ())
        if other == window
    }
    for number in sorted(handed.keys() | book.partitions.keys()):
        part = book.partitions.get(number, PartitionBook())
        before = handed.get(number, NOTHING)
        is_harmless = before == part.published != part.total
        after = part.total if is_harmless or before == part.total else part.published
        yield Comparison(
            Place(RELAY_LOG, None, number), before, after, told.unknown, told.pending, is_harmless
        )


def kind_of(difference: Sum) -> str:
    """Return what happened, by the count: one lost and one doubled look like one altered."""
    if difference.count > 0:
        return LOST
    return DOUBLED if difference.count < 0 else ALTERED


def verdict_of(window: int, window_seconds: float, one: Comparison) -> HopVerdict:
    """Return the verdict on what could be compared."""
    start, end = window * window_seconds, (window + 1) * window_seconds
    difference = one.difference
    if one.unknown:
        return HopVerdict(one.place, window, start, end, Verdict.UNKNOWN, one.unknown)
    if difference == NOTHING:
        reason = f"{one.before.count} events, equal sums"
        return HopVerdict(
            one.place, window, start, end, Verdict.CONSISTENT, reason,
            expected=one.before, seen=one.after,
        )  # fmt: skip
    kind = kind_of(difference)
    count = abs(difference.count) or 1
    again = "; published again, readers pass over it" if one.is_harmless else ""
    reason = f"{count} {'or more ' if kind == ALTERED else ''}{kind} {one.place}{again}"
    return HopVerdict(
        one.place, window, start, end, Verdict.DIVERGED, reason, kind, count,
        None, one.before, one.after, one.is_harmless,
    )  # fmt: skip
