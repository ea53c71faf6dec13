"""Opens the stores of attached mode by their URIs' schemes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from validator.stores.port import ForeignStore
from validator.stores.redis import RedisStore


def open_foreign_store(
    uri: str, key_columns: Sequence[str], columns: Sequence[str] | None
) -> ForeignStore:
    """Return the adapter that the URI's scheme names."""
    if uri.partition(":")[0] in ("redis", "rediss"):
        return RedisStore(uri, key_columns, columns)
    opening = import_module("validator.stores.opening")
    store: ForeignStore = opening.open_store(uri, key_columns, columns)
    return store
