"""Random samples of a stream whose length nobody knows, in bounded memory."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Generic, TypeVar

from xxhash import xxh3_64_intdigest

Item = TypeVar("Item")


class Reservoir(Generic[Item]):
    """A uniform sample of all that was offered.

    What is not taken costs next to nothing: how many are passed over is drawn at once (algorithm L;
    K.-H. Li, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", *ACM TOMS* 20,
    1994).

    Parameters
    ----------
    size: How many are kept. Higher: finer shares, more memory and time.
    rng: Where chance comes from.

    >>> sample = Reservoir(3, random.Random(1))
    >>> for number in range(100): sample.offer(1, lambda place: number)
    >>> len(sample.items), sample.offered
    (3, 100)
    """

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size = size
        self._rng = rng
        self._weight = 1.0
        self._next = 0
        self.items: list[Item] = []
        self.offered = 0

    def offer(self, count: int, make: Callable[[int], Item]) -> None:
        """Take some of the next `count`, or none; `make` makes the one at a place among them."""
        first = self.offered
        self.offered += count
        while self._next < self.offered:
            item = make(self._next - first)
            if len(self.items) < self._size:
                self.items.append(item)
            else:
                self.items[int(self._rng.random() * self._size)] = item
            self._advance()

    def _advance(self) -> None:
        self._next += 1
        if self._next < self._size:
            return
        # 1 - random() is never 0, of which there is no logarithm.
        self._weight *= math.exp(math.log(1.0 - self._rng.random()) / self._size)
        left = math.log1p(-self._weight) if self._weight < 1.0 else -math.inf
        self._next += int(math.log(1.0 - self._rng.random()) / left) if left else 1 << 62


class DistinctSample(Generic[Item]):
    """A uniform sample of the different keys that were offered, each with an item of its own.

    A key that is in the sample at the end was in it since it was first offered.

    Those with the least hashes are kept, so that it does not matter how often a key comes (E. Cohen
    and H. Kaplan, "Summarizing data using bottom-k sketches", *PODC* 2007).

    Parameters
    ----------
    size: How many keys are kept.
    seed: Chooses the hash.

    >>> sample = DistinctSample(2, 0)
    >>> for key in "aaabaca":
    ...     item = sample.offer(key, list)
    ...     if item is not None: item.append(key)
    >>> [len(set(item)) for item in sample.items]
    [1, 1]
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._greatest: list[tuple[int, str]] = []
        self._items: dict[str, Item] = {}

    @property
    def items(self) -> list[Item]:
        """The items of the kept keys."""
        return list(self._items.values())

    def offer(self, key: str, make: Callable[[], Item]) -> Item | None:
        """Return the key's item, made anew if it is taken now; None where it is not taken."""
        if key in self._items:
            return self._items[key]
        number = -xxh3_64_intdigest(key.encode(errors="replace"), self._seed)
        if len(self._items) < self._size:
            heapq.heappush(self._greatest, (number, key))
        elif number > self._greatest[0][0]:
            _, gone = heapq.heapreplace(self._greatest, (number, key))
            del self._items[gone]
        else:
            return None
        self._items[key] = make()
        return self._items[key]
