"""Which topics a log has and what may be appended to them: what both log adapters agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synchroscope.errors import ConfigurationError
from synchroscope.ports import (
    CONTROL_TOPICS,
    FINDINGS,
    REPORTS,
    REQUESTS,
    STATE,
    NewRecord,
    TopicPartition,
)

COMPACTED = frozenset({STATE, FINDINGS})
#: Compacted topics of which only the newest record of a key is kept.
NEWEST_ONLY = frozenset({STATE})
DEFAULT_RETENTION_RECORDS: Mapping[str, int] = {REPORTS: 50_000, REQUESTS: 50_000}
#: A topic is trimmed when it is over its limit by this share, so that trimming is rare and cheap.
TRIM_SHARE = 8


class Topics:
    """The topics of one log with their partition counts, and the checks made of them.

    Parameters
    ----------
    partitions: Topic -> number of partitions. The control topics are always there and have one.
    retention_records: Topic -> how many of the newest records of a partition are kept at least.
    """

    def __init__(self, partitions: Mapping[str, int], retention_records: Mapping[str, int]) -> None:
        self.counts = {**dict.fromkeys(CONTROL_TOPICS, 1), **partitions}
        for topic, count in self.counts.items():
            if count < 1:
                raise ConfigurationError(f"topic {topic} needs 1 partition or more, not {count}")
            if topic in CONTROL_TOPICS and count != 1:
                raise ConfigurationError(f"control topic {topic} has 1 partition, not {count}")
        self.retention_records = dict(retention_records)
        for topic, kept in self.retention_records.items():
            if topic not in self.counts:
                raise ConfigurationError(f"retention names {topic}, {self._known()}")
            if kept < 1 or topic in COMPACTED:
                raise ConfigurationError(f"topic {topic} cannot be cut to {kept} records")

    def count(self, topic: str) -> int:
        """Return the topic's number of partitions; raise `ConfigurationError` if there is none."""
        try:
            return self.counts[topic]
        except KeyError:
            raise ConfigurationError(f"there is no topic {topic}, {self._known()}") from None

    def _known(self) -> str:
        return f"the log has {', '.join(sorted(self.counts))}"

    def check(self, topic: str, partition: int) -> None:
        """Raise `ConfigurationError` unless the topic has that partition."""
        count = self.count(topic)
        if not 0 <= partition < count:
            raise ConfigurationError(f"topic {topic} has {count} partitions, none is {partition}")

    def check_compacted(self, topic: str) -> None:
        """Raise `ConfigurationError` unless `latest` may be asked of the topic."""
        self.count(topic)
        if topic not in COMPACTED:
            raise ConfigurationError(
                f"topic {topic} is not compacted; only {', '.join(sorted(COMPACTED))} have a latest"
            )

    def check_append(
        self,
        records: Sequence[NewRecord],
        consumer: str,
        positions: Mapping[TopicPartition, int],
    ) -> None:
        """Raise `ConfigurationError` if any part of an append is impossible."""
        for topic, partition in {(record.topic, record.partition) for record in records}:
            self.check(topic, partition)
        if positions and not consumer:
            raise ConfigurationError("positions need the name of the consumer they belong to")
        for place, position in positions.items():
            if position < 0:
                raise ConfigurationError(f"{consumer} cannot stand at {position} of {place}")

    def first_to_keep(self, topic: str, first: int, head: int) -> int:
        """Return the first offset to keep, `first` while trimming is not yet worth it."""
        limit = self.retention_records.get(topic)
        if limit is None or head - first <= limit + limit // TRIM_SHARE:
            return first
        return head - limit
