"""The two stores of a comparison, each with a thread of its own, and what is asked of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from synchroscope.errors import ConfigurationError
from validator.compare.key_meaning import KeyMeaning
from validator.compare.narrowing import Narrowing
from validator.compare.row_equality import SIDES, TEXT, TYPED, Kinds, Side
from validator.compare.spill import Pair
from validator.stores.digesting import BucketDigests, Digesting, Interruptible, Keyless
from validator.stores.port import ForeignStore, Key, MarkingBytes, Row
from validator.stores.text_values import Declaring, DeclaringKeys, Kind, Knowing

_Answer = TypeVar("_Answer")


class Seat:
    """One store and the thread in which everything of it is done."""

    def __init__(self, open_it: Callable[[], ForeignStore]) -> None:
        self.worker = ThreadPoolExecutor(1)
        self._opening = self.worker.submit(_opened, open_it)

    @property
    def store(self) -> ForeignStore:
        """The store, once it is open."""
        return self._opening.result()

    def do(self, act: Callable[[ForeignStore], _Answer]) -> _Answer:
        """Have something done in the thread."""
        return self.worker.submit(act, self.store).result()

    def interrupt(self) -> None:
        """Have a long answer end, where the store can; from any thread."""
        if not self._opening.done() or self._opening.exception() is not None:
            return
        if isinstance(store := self.store, Interruptible):
            store.interrupt()

    def close(self) -> None:
        """Release the store and the thread."""
        if self._opening.exception() is None:
            self.worker.submit(self.store.close)
        self.worker.shutdown()


def _opened(open_it: Callable[[], ForeignStore]) -> ForeignStore:
    store = open_it()
    if hasattr(store, "marks_bytes"):
        cast(MarkingBytes, store).marks_bytes = True
    return store


def meaning_of(seats: Sequence[Seat]) -> KeyMeaning:
    """Return when two keys are the same."""
    left, right = ((_key_kinds(seat), kinds_of(seat).knows) for seat in seats)
    return KeyMeaning((left[0], right[0]), (left[1], right[1]))


def _key_kinds(seat: Seat) -> Sequence[Kind] | None:
    if not hasattr(seat.store, "key_kinds"):
        return None
    return seat.do(lambda store: cast(DeclaringKeys, store).key_kinds())


def read_both(
    seats: Sequence[Seat], meaning: KeyMeaning, pairs: Sequence[Pair]
) -> tuple[dict[Key, Row], dict[Key, Row]]:
    """Return the rows of these keys by the forms of their keys, left and right."""

    def read(side: Side) -> dict[Key, Row]:
        if meaning.is_plain:
            return seats[side].store.fetch([pair.key for pair in pairs])
        keys = []
        for pair in pairs:
            is_shown = (pair.left, pair.right)[side] is not None
            unlike = pair.key if is_shown else meaning.asked(pair.key, side)
            keys.append(pair.written[side] or unlike)
        found = seats[side].store.fetch(keys)
        return {meaning.form(key, side): row for key, row in found.items()}

    asked = [seats[side].worker.submit(read, side) for side in SIDES]
    left, right = (one.result() for one in asked)
    return left, right


def common_columns(
    left: ForeignStore,
    right: ForeignStore,
    wanted: Sequence[str] | None,
    seats: Sequence[Seat],
) -> Sequence[str] | None:
    """Return the columns that count; None: whatever a row has. Raises where that is not clear."""
    if wanted is not None:
        return list(wanted)
    asked = [seat.worker.submit(seat.store.columns) for seat in seats]
    names = [one.result() for one in asked]
    if names[0] is None or names[1] is None:
        return names[0] if names[1] is None else names[1]
    if set(names[0]) != set(names[1]):
        only = [
            f"only {store.name} has {', '.join(sorted(rest))}"
            for store, rest in (
                (left, set(names[0]) - set(names[1])),
                (right, set(names[1]) - set(names[0])),
            )
            if rest
        ]
        raise ConfigurationError(
            f"the stores have other columns: {'; '.join(only)}; name those to compare (--columns)"
        )
    return names[0]


def kinds_of(seat: Seat) -> Kinds:
    """Return what a store can tell apart."""
    store = seat.store
    knows = (TYPED if store.is_typed else TEXT).knows
    if hasattr(store, "knows"):
        knows = cast(Knowing, store).knows
    marks_bytes = hasattr(store, "marks_bytes")
    if not hasattr(store, "kinds"):
        return Kinds(knows, marks_bytes=marks_bytes)
    return Kinds(knows, seat.do(lambda one: cast(Declaring, one).kinds()), marks_bytes)


def keyless_rows(seat: Seat) -> int:
    """Return how many rows of a store no key tells."""
    if not hasattr(seat.store, "keyless"):
        return 0
    return seat.do(lambda store: cast(Keyless, store).keyless())


def finds_what_it_shows(store: ForeignStore) -> bool:
    """Say whether `fetch` finds every row that `scan` shows, by its key."""
    return bool(getattr(store, "finds_what_it_shows", False))


def bounds_pages(store: ForeignStore) -> bool:
    """Say whether a store's pages are bounded already, so that they need not shrink."""
    return bool(getattr(store, "bounds_pages", False))


def narrowing_of(seats: Sequence[Seat]) -> Narrowing | None:
    """Return how to find the buckets that differ; None where the stores cannot tell."""
    if not all(hasattr(seat.store, "digests") for seat in seats):
        return None
    sides: list[BucketDigests] = []
    try:
        for seat in seats:
            sides.append(seat.do(lambda store: cast(Digesting, store).digests()))
        dialects = [
            seat.worker.submit(side.dialect).result()
            for seat, side in zip(seats, sides, strict=True)
        ]
    except BaseException:
        for side in sides:
            side.close()
        raise
    if dialects[0] == dialects[1]:
        return Narrowing(sides[0], sides[1], [seat.worker for seat in seats])
    for side in sides:
        side.close()
    return None
