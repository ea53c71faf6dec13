"""Partitions divided among processes by a Kafka consumer group.

The group carries no data: its partitions stay paused, what is read comes through the log. Kafka
sees to it that each partition has at most one owner that it believes to be alive. That is not
enough to write safely: a process may be stopped between asking what it owns and writing, so
whatever it writes must be fenced (`KafkaLog` with a writer's name).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from pipeline.kafka_client import OnWait, open_client
from pipeline.kafka_settings import KafkaSettings
from synchroscope.errors import SynchroscopeError

#: In parts of the session timeout: how often the pulse beats; how long it may stand still before
#: what is owned is in doubt; and how long the doubt lasts where the group says nothing.
BEATS_A_SESSION = 8
DOUBT_SHARE = 2


class KafkaDivision:
    """The `Division` port on a consumer group with cooperative rebalancing.

    Liveness is shown twice. The client's own heartbeats end with the process, or while it is
    stopped: after `session_timeout_seconds` its partitions go to others. And `owned` must be called
    every `hang_timeout_seconds`, so that a role that hangs loses them too, while one that is only
    slow keeps them. After a stop, what was owned is in doubt and not claimed, until the group has
    given it anew or has not taken it away for half a session timeout; either counts as acquired
    again.

    Parameters
    ----------
    settings: Where Kafka is, and the timeouts.
    group: What the partitions are divided for; the consumer group is ``NAME.GROUP``.
    topic: The topic, as the log calls it.
    """

    def __init__(
        self, settings: KafkaSettings, group: str, topic: str, *, on_wait: OnWait | None = None
    ) -> None:
        self._doubt_seconds = settings.session_timeout_seconds / DOUBT_SHARE
        self._owned: dict[int, int] = {}
        self._acquired: dict[int, int] = {}
        self._doubted: set[int] = set()
        self._doubted_at = 0.0
        self._client = open_client(settings, on_wait)
        try:
            self._member = self._client.member(
                f"{settings.name}.{group}", settings.topic(topic), self._gain, self._lose
            )
        except SynchroscopeError:
            self._client.close()
            raise
        self._pulse = _Pulse(settings.session_timeout_seconds / BEATS_A_SESSION)

    def _gain(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._doubted.discard(partition)
            self._acquired[partition] = self._acquired.get(partition, 0) + 1
            self._owned[partition] = self._acquired[partition]

    def _lose(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._doubted.discard(partition)
            self._owned.pop(partition, None)

    def owned(self) -> Mapping[int, int]:
        """Take part in the group and return what is owned now."""
        if self._pulse.take_stop_seconds() > self._doubt_seconds:
            self._doubted |= self._owned.keys()
            self._owned.clear()
            self._doubted_at = time.monotonic()
        self._member.poll()
        if self._doubted and time.monotonic() - self._doubted_at > self._doubt_seconds:
            self._gain(list(self._doubted))
        return dict(self._owned)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the positions of owned partitions as the group's, without waiting."""
        owned = {number: place for number, place in positions.items() if number in self._owned}
        if owned:
            self._member.commit(owned)

    def close(self) -> None:
        """Leave the group: the others get the partitions at once."""
        self._pulse.stop()
        self._member.close()
        self._client.close()


class _Pulse:
    """Notices that the process stood still: a thread that does nothing but tell the time."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._beat_at = time.monotonic()
        self._longest_seconds = 0.0
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._longest_seconds = max(self._longest_seconds, now - self._beat_at)
            self._beat_at = now

    def take_stop_seconds(self) -> float:
        """Return the longest time since the last call for which nothing ran."""
        self._beat()
        with self._lock:
            longest, self._longest_seconds = self._longest_seconds, 0.0
        return longest

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
