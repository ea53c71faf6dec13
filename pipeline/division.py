"""Which partitions this process works on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Division(Protocol):
    """How the partitions of a topic are divided among the processes of a role."""

    def owned(self) -> Mapping[int, int]:
        """Return the partitions that this process owns now, and how often it acquired each.

        Called at each step, and returns at once. A count that grew says that the partition was
        someone else's in between: what is held of it must be built anew. A role that does not call
        this for long enough loses all its partitions.
        """
        ...

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell the outside how far the partitions are; for lag tools, and of no effect here."""
        ...

    def close(self) -> None:
        """Give everything up at once."""
        ...


class WholeDivision:
    """One process owns all partitions: embedded mode.

    >>> WholeDivision(2).owned()
    {0: 1, 1: 1}
    """

    def __init__(self, partitions: int) -> None:
        self._owned = dict.fromkeys(range(partitions), 1)

    def owned(self) -> Mapping[int, int]:
        """Return all partitions; they are acquired once."""
        return self._owned

    def commit(self, positions: Mapping[int, int]) -> None:
        """Do nothing: nobody looks."""

    def close(self) -> None:
        """Do nothing: there is nobody else."""
