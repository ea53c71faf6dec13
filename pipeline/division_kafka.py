"""Partitions divided among processes by a Kafka consumer group.

The group carries no data: its partitions stay paused, what is read comes through the log. Kafka
sees to it that each partition has at most one owner that it believes to be alive. A process that
was stopped and goes on may believe for a moment that it still owns what another has by now;
whatever it writes must be fenced (`KafkaLog` with a writer's name).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pipeline.kafka_client import OnWait, open_client
from pipeline.kafka_settings import KafkaSettings

#: After a silence in which the group may have given this member up, so long it listens for that
#: before it claims anything, in parts of the session timeout: one heartbeat and its answer.
LISTEN_SHARE = 5


class KafkaDivision:
    """The `Division` port on a consumer group with cooperative rebalancing.

    Liveness is shown twice. The client's own heartbeats end with the process, or while it is
    stopped: after `session_timeout_seconds` its partitions go to others. And `owned` must be called
    every `hang_timeout_seconds`, so that a role that hangs loses them too. Rebalances are taken
    part in within `owned` alone: between two calls nothing is handed over in order, so a step is
    never cut in two; others wait for it.

    Parameters
    ----------
    settings: Where Kafka is, and the timeouts.
    group: What the partitions are divided for; the consumer group is ``NAME.GROUP``.
    topic: The topic, as the log calls it.
    """

    def __init__(
        self, settings: KafkaSettings, group: str, topic: str, *, on_wait: OnWait | None = None
    ) -> None:
        self._settings = settings
        self._owned: dict[int, int] = {}
        self._acquired: dict[int, int] = {}
        self._client = open_client(settings, on_wait)
        self._member = self._client.member(
            f"{settings.name}.{group}", settings.topic(topic), self._gain, self._lose
        )
        self._asked_at = time.monotonic()

    def _gain(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._acquired[partition] = self._acquired.get(partition, 0) + 1
            self._owned[partition] = self._acquired[partition]

    def _lose(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)

    def owned(self) -> Mapping[int, int]:
        """Take part in the group and return what is owned now."""
        silence_seconds = time.monotonic() - self._asked_at
        session_seconds = self._settings.session_timeout_seconds
        must_listen = bool(self._owned) and silence_seconds > session_seconds
        self._member.poll(session_seconds / LISTEN_SHARE if must_listen else 0)
        self._asked_at = time.monotonic()
        return dict(self._owned)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the positions of owned partitions as the group's, without waiting."""
        owned = {number: place for number, place in positions.items() if number in self._owned}
        if owned:
            self._member.commit(owned)

    def close(self) -> None:
        """Leave the group: the others get the partitions at once."""
        self._member.close()
        self._client.close()
