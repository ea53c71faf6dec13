"""How a store of attached mode is looked at."""

from __future__ import annotations

from msgspec import Struct


class StoreSettings(Struct, frozen=True, kw_only=True):
    """How a store is looked at.

    Parameters
    ----------
    name: What findings call it.
    budget_keys_per_second: Most rows read in a second, walks included.
    settle_seconds: How long an event may be under way before its absence is remarkable.
    recheck_seconds: A difference must still be there after so long.
    order_seconds: Events recorded within so long may be applied in another order.
    walk_seconds: A walk begins so long after the last one began, or when that has ended.
    walk_limit_seconds: CONSISTENT needs a whole walk that began no longer ago than this.
    answer_seconds: An answer that takes longer, or cannot be judged for longer, leaves it UNKNOWN.
    expires: Rows go by themselves, as in a cache: the absence of one is nothing to tell.
    group: The consumer group that fills the store; its commits tell lag from loss at once.
    public: Fields whose values may be shown; of the others, findings carry hashes.
    """

    name: str
    budget_keys_per_second: float = 2_000.0
    settle_seconds: float = 5.0
    recheck_seconds: float = 2.0
    order_seconds: float = 1.0
    walk_seconds: float = 60.0
    walk_limit_seconds: float = 3_600.0
    answer_seconds: float = 10.0
    expires: bool = False
    group: str = ""
    public: frozenset[str] = frozenset()
