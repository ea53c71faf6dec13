"""What the newest record of each key is, in a topic that is small because it is compacted."""

from __future__ import annotations

import time

from pipeline.kafka_client import Client, OnWait
from pipeline.kafka_errors import damaged, unavailable
from pipeline.kafka_settings import KafkaSettings
from synchroscope.ports import Record, TopicPartition

SLICE_SECONDS = 1.0
#: The broker answers at the end of the topic at once: a lookup waits for that answer.
END_WAIT_MILLISECONDS = 5


class KeyTable:
    """Holds the newest record of every key that has a value; grows with the number of such keys.

    A lookup sees everything that was committed before it began, whoever wrote it. So it waits for
    transactions of other writers that are open at that moment: at most as long as Kafka lets
    them be.
    """

    def __init__(
        self, client: Client, settings: KafkaSettings, place: TopicPartition, on_wait: OnWait | None
    ) -> None:
        self._client = client
        self._settings = settings
        self._place = place
        self._on_wait = on_wait
        self._reader = client.reader(wait_milliseconds=END_WAIT_MILLISECONDS)
        self._position = -1
        self._newest: dict[bytes, Record] = {}

    def get(self, key: bytes) -> Record | None:
        """Return the newest record of a key; None where that took the key off."""
        self._advance()
        return self._newest.get(key)

    def _advance(self) -> None:
        end = self._client.end(self._place, committed=False)
        if self._position >= end:
            return
        if self._position < 0:
            self._restart()
        else:
            self._reader.start(self._place, self._position)
        deadline = time.monotonic() + self._patience_seconds()
        while self._position < end:
            before = self._position
            self._take(min(SLICE_SECONDS, max(deadline - time.monotonic(), 0)))
            if self._position > before:
                deadline = time.monotonic() + self._patience_seconds()
            elif time.monotonic() >= deadline:
                raise unavailable(
                    self._settings,
                    f"reading {self._place[0]} up to offset {end}",
                    f"nothing came after offset {self._position}",
                )
            elif self._on_wait is not None:
                self._on_wait()
        if self._position > end:
            # Others wrote meanwhile, or a malformed batch says that its records lie further on.
            self._position = min(self._position, self._client.end(self._place, committed=False))
        self._reader.stop(self._place)

    def _patience_seconds(self) -> float:
        # A writer that died within a transaction holds readers up until the broker aborts it.
        settings = self._settings
        return settings.request_timeout_seconds + settings.transaction_timeout_seconds

    def _restart(self) -> None:
        first, _ = self._client.range(self._place)
        self._reader.start(self._place, first)
        self._position = first
        self._newest.clear()

    def _take(self, timeout_seconds: float) -> None:
        for chunk in self._reader.poll(timeout_seconds):
            if chunk.error is not None:
                raise chunk.error
            if chunk.damaged_at >= 0:
                self._reader.stop(self._place)
                raise damaged(self._settings, self._place, chunk.damaged_at)
            if chunk.is_out_of_range:
                self._restart()
                return
            for record in chunk.records:
                if record.value:
                    self._newest[record.key] = record
                else:
                    self._newest.pop(record.key, None)
            self._position = max(self._position, chunk.position)

    def close(self) -> None:
        """Release what is held."""
        self._reader.close()
