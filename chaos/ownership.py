"""Which process owns which partitions of a role, and which one still believes that it does."""

from __future__ import annotations


class Ownership:
    """A consumer group as its members see it.

    Parameters
    ----------
    partitions, processes: How many there are; at first they are dealt out in turn.
    """

    def __init__(self, partitions: int, processes: int) -> None:
        self.partitions = partitions
        self.partitions = partitions
        self._owner = {number: number % processes for number in range(partitions)}
        self._terms = {(owner, number): 1 for number, owner in self._owner.items()}
        self._believed: dict[int, dict[int, int]] = {}
        self._deaf: dict[int, int] = {}

    def owned(self, process: int) -> dict[int, int]:
        """Return what a process believes to own, at the beginning of a step."""
        deaf = self._deaf.get(process, 0)
        if deaf and process in self._believed:
            self._deaf[process] = deaf - 1
        else:
            self._believed[process] = self.of(process)
        return self._believed[process]

    def of(self, process: int) -> dict[int, int]:
        """Return what a process really owns: partition -> how often it acquired it."""
        return {
            number: self._terms[process, number]
            for number, owner in self._owner.items()
            if owner == process
        }

    def owner(self, partition: int) -> int:
        """Return who owns a partition."""
        return self._owner[partition]

    def move(self, partition: int, process: int) -> None:
        """Give a partition to a process; to its own owner: it was lost and acquired again."""
        self._owner[partition] = process
        place = process, partition
        self._terms[place] = self._terms.get(place, 0) + 1

    def deafen(self, process: int, steps: int) -> None:
        """Have a process not notice anything for so many of its steps."""
        self._deaf[process] = steps

    def wake(self) -> None:
        """Have every process notice everything at its next step."""
        self._deaf.clear()
