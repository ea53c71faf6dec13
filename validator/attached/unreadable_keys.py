"""Which keys of a store no item can be made of: they are passed over, and have to be told."""

from __future__ import annotations

from msgspec import Struct

from validator.stores.port import ForeignStore


class UnreadableKeys(Struct, frozen=True):
    """How many keys a walk has met that are no UTF-8 or of another form, and one of them."""

    count: int = 0
    example: str = ""

    def sentence(self) -> str:
        """Return it for people.

        >>> UnreadableKeys(2, "ctx:?").sentence()
        "2 keys of the store cannot be read, such as 'ctx:?'"
        """
        example = f", such as {self.example!r}" if self.example else ""
        return f"{self.count:,} keys of the store cannot be read{example}"


def unreadable_keys(store: ForeignStore) -> UnreadableKeys:
    """Return what a store has counted in its walk so far, where it counts."""
    count = getattr(store, "unreadable_keys", 0)
    return UnreadableKeys(int(count), str(getattr(store, "unreadable_key", "")))
