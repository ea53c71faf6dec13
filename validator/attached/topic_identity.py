"""Is it still the topic that was folded? One of the same name that was made anew is another."""

from __future__ import annotations

from collections.abc import Mapping

from synchroscope.errors import ConfigurationError, StorageError
from validator.attached.port import Topic
from validator.attached.reference import FoldState, mark_of


class TopicIdentity:
    """Refuses another topic, at the start and while it is read.

    Parameters
    ----------
    topic: The log.
    folder: Where what was folded is kept, for the message.
    """

    def __init__(self, topic: Topic, folder: object) -> None:
        self._topic = topic
        self._folder = folder
        self._known = ""
        self._problem = ""

    def start(self, state: FoldState | None, heads: Mapping[int, int]) -> None:
        """Take the topic as it is, if what was folded in an earlier run is in it.

        Raises `ConfigurationError` for another one.
        """
        self._known = self._topic.identity()
        problem = "" if state is None else self._contradiction(state, heads)
        if problem:
            raise ConfigurationError(self._sentence(problem))

    def check(self) -> None:
        """Raise `StorageError` where the topic is not the one of the start any more."""
        identity = self._topic.identity()
        if identity and self._known and identity != self._known:
            raise StorageError(self._sentence("its ID is another one"))
        self._known = self._known or identity
        if self._problem:
            raise StorageError(self._sentence(self._problem))

    def note_ends(self, positions: Mapping[int, int], heads: Mapping[int, int]) -> None:
        """Take where partitions end: one that ends before what was folded of it is another."""
        self._problem = self._problem or _early_end(positions, heads)

    def _contradiction(self, state: FoldState, heads: Mapping[int, int]) -> str:
        if len(state.positions) > len(heads):
            return f"it has {len(heads)} partitions, not {len(state.positions)}"
        problem = _early_end(state.positions, heads)
        offsets = {p: mark.offset for p, mark in state.marks.items()}
        for partition, record in {} if problem else self._topic.records_at(offsets).items():
            if mark_of(record) != state.marks[partition]:
                problem = f"another record is at {record.offset} of partition {partition}"
        return problem

    def _sentence(self, problem: str) -> str:
        return (
            f"topic {self._topic.name} is not the one that was folded into "
            f"{self._folder}: {problem}. If it was made anew, name another --data-dir, "
            "or delete this one and the topic is folded from its beginning"
        )


def _early_end(positions: Mapping[int, int], heads: Mapping[int, int]) -> str:
    for partition, position in sorted(positions.items()):
        if position > heads.get(partition, position):
            return f"partition {partition} ends at {heads[partition]}, earlier than before"
    return ""
