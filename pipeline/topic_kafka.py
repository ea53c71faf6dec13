"""Reads a Kafka topic that is not ours: no topic of our own, no group, nothing written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from warnings import catch_warnings, simplefilter

from pipeline.kafka_client import OnWait, open_client
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_windows import Follower
from synchroscope.errors import ConfigurationError, SynchroscopeError, UnavailableError
from synchroscope.ports import Batch, Record

FOLLOW_WAIT_MILLISECONDS = 100
COUNT_SECONDS = 1.0
"""So often at most a topic is asked for its partitions: less than a recheck takes by default."""


class KafkaTopic:
    """The `Topic` port of attached mode on Kafka; used by one thread.

    Parameters
    ----------
    settings: Where Kafka is; of the settings only those of connections matter.
    name: The topic, as Kafka has it.
    on_wait: Called about once a second while something waits for the server.
    """

    def __init__(
        self, settings: KafkaSettings, name: str, *, on_wait: OnWait | None = None
    ) -> None:
        self.name = name
        self._settings = settings
        self._on_wait = on_wait
        self._admin: Any = None
        self._follower: Follower | None = None
        self._identity, self._identified_at = "", float("-inf")
        self._client = open_client(settings, on_wait)
        try:
            counts = self._client.partition_counts()
            if name not in counts:
                raise ConfigurationError(
                    f"{settings.server} has no topic {name!r}: correct log.topic, or allow this "
                    "user to describe it"
                )
            self._count, self._counted_at = counts[name], time.monotonic()
            self._follower = Follower(
                self._client.reader(wait_milliseconds=FOLLOW_WAIT_MILLISECONDS), settings, on_wait
            )
        except SynchroscopeError:
            self.close()
            raise

    def identity(self) -> str:
        """Return the topic's ID; that of a moment ago is good enough."""
        now = time.monotonic()
        if now - self._identified_at >= COUNT_SECONDS:
            found = self._client.topic_id(self.name)
            if found is None:
                raise UnavailableError(
                    self._settings.server, f"has no topic {self.name!r} any more"
                )
            self._identity, self._identified_at = found, now
        return self._identity

    @contextmanager
    def _telling_deletion(self) -> Iterator[None]:
        """Translate what is raised for a topic that is gone: it was there, so no setting is wrong.

        Anything else that is refused stays what it is.
        """
        try:
            yield
        except ConfigurationError as error:
            if self._client.topic_id(self.name) is not None:
                raise
            raise UnavailableError(
                self._settings.server, f"has no topic {self.name!r} any more"
            ) from error

    def partitions(self) -> int:
        """Return how many partitions the topic has by now: a topic may grow while it is read."""
        now = time.monotonic()
        if now - self._counted_at >= COUNT_SECONDS:
            counted = self._client.partition_counts().get(self.name, 0)
            self._count, self._counted_at = max(self._count, counted), now
        return self._count

    def range(self, partition: int) -> tuple[int, int]:
        """Return the first kept offset and the end of what is committed."""
        with self._telling_deletion():
            return self._client.range((self.name, partition))

    def read(self, partition: int, position: int, limit: int) -> Batch:
        """Return what has been fetched from a position on, without waiting for more."""
        assert self._follower is not None
        place = self.name, partition
        with self._telling_deletion():
            for _ in range(2):
                window = self._follower.windows.get(place)
                if window is None or not window.covers(position):
                    first, end = self.range(partition)
                    self._follower.start(place, position, first, max(end, position))
                batch = self._follower.read(place, position, limit, 0)
                if batch is not None:
                    return batch
        return Batch([], position)

    def wait(self, seconds: float) -> None:
        """Return when something new has come, or the time is over."""
        assert self._follower is not None
        with self._telling_deletion():
            self._follower.poll(seconds)

    def position_at(self, partition: int, timestamp: float) -> int:
        """Return the first position whose record is not older than a moment: a binary search."""
        low, high = self.range(partition)
        reader = self._client.reader(wait_milliseconds=FOLLOW_WAIT_MILLISECONDS)
        with closing(Follower(reader, self._settings, self._on_wait)) as follower:
            place = self.name, partition
            end = high
            while low < high:
                middle = (low + high) // 2
                follower.start(place, middle, low, end)
                batch = follower.read(place, middle, 1, end)
                if batch is None or not batch.records or batch.records[0].timestamp >= timestamp:
                    high = middle
                else:
                    low = batch.records[0].offset + 1
        return min(low, end)

    def is_compacted(self) -> bool | None:
        """Say whether older records of a key are removed; None: this user may not ask."""
        try:
            policy = self._client.topics([self.name])[self.name].settings.get("cleanup.policy")
        except (ConfigurationError, KeyError):
            return None
        return None if not policy else "compact" in policy

    def records_at(self, offsets: Mapping[int, int]) -> dict[int, Record]:
        """Return what stands at an offset of each partition; what is gone is left out."""
        found: dict[int, Record] = {}
        reader = self._client.reader(wait_milliseconds=FOLLOW_WAIT_MILLISECONDS)
        with closing(Follower(reader, self._settings, self._on_wait)) as follower:
            for partition, offset in offsets.items():
                first, end = self.range(partition)
                if not first <= offset < end:
                    continue
                place = self.name, partition
                follower.start(place, offset, first, end)
                batch = follower.read(place, offset, 1, end)
                follower.stop(place)
                if batch is not None and batch.records and batch.records[0].offset == offset:
                    found[partition] = batch.records[0]
        return found

    def group_positions(self, group: str) -> dict[int, int]:
        """Return what a consumer group has committed of this topic."""
        # kafka-python alone, which is always installed: the internal port has no groups.
        with catch_warnings():
            # It reads its message schemas in a way that Python 3.11 deprecates.
            simplefilter("ignore", DeprecationWarning)
            from kafka import KafkaAdminClient

            from pipeline.kafka_python_connection import Connection

        connection = Connection(self._settings, self._on_wait)
        if self._admin is None:
            self._admin = connection.open(KafkaAdminClient, {})
        answer = connection.call_bounded(
            lambda: self._admin.list_group_offsets({group: None}), f"asking for group {group}"
        )
        return {
            place.partition: known.offset
            for place, known in answer[group].items()
            if place.topic == self.name and known.offset >= 0
        }

    def close(self) -> None:
        """Release what is held."""
        if self._follower is not None:
            self._follower.close()
        if self._admin is not None:
            self._admin.close()
        self._client.close()
