"""Taking part in a consumer group with kafka-python, without fetching anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata
from kafka import TopicPartition as Place
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import BrokerResponseError, RetriableError

from pipeline.kafka_python_connection import CLIENT_ERRORS, Connection

HEARTBEATS_A_SESSION = 6
LEAVE_MILLISECONDS = 2_000


class PythonMember:
    """The `Member` port: a consumer that takes part in a group and fetches nothing."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topic: str,
        on_assigned: Callable[[Sequence[int]], None],
        on_lost: Callable[[Sequence[int]], None],
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._on_assigned = on_assigned
        self._on_lost = on_lost
        #: What the client's own thread reported, for the caller's thread: (gained, partitions).
        self._news: deque[tuple[bool, list[int]]] = deque()
        settings = connection.settings
        session_milliseconds = int(settings.session_timeout_seconds * 1000)
        hang_milliseconds = int(settings.hang_timeout_seconds * 1000)
        self._consumer = connection.open(
            KafkaConsumer,
            {
                "group_id": group,
                "partition_assignment_strategy": [CooperativeStickyAssignor],
                "session_timeout_ms": session_milliseconds,
                "heartbeat_interval_ms": session_milliseconds // HEARTBEATS_A_SESSION,
                "max_poll_interval_ms": max(hang_milliseconds, session_milliseconds),
                "enable_auto_commit": False,
                "auto_offset_reset": "latest",
                "allow_auto_create_topics": False,
                "metrics_enabled": False,
            },
        )
        self._consumer.subscribe([topic], listener=_Listener(self._gained, self._lost))

    def _gained(self, places: Iterable[Place]) -> None:
        self._consumer.pause(*places)
        self._news.append((True, [place.partition for place in places]))

    def _lost(self, places: Iterable[Place]) -> None:
        self._news.append((False, [place.partition for place in places]))

    def poll(self, timeout_seconds: float) -> None:
        """Take part in the group."""
        try:
            self._consumer.poll(timeout_ms=round(timeout_seconds * 1000))
        except RetriableError:
            pass
        except CLIENT_ERRORS as error:
            if isinstance(error, BrokerResponseError):
                doing = f"sharing {self._topic}"
                raise self._connection.translated(error, doing) from error
        while self._news:
            is_gain, partitions = self._news.popleft()
            (self._on_assigned if is_gain else self._on_lost)(partitions)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the group's positions, without waiting for an answer."""
        offsets = {
            Place(self._topic, number): OffsetAndMetadata(position, "", -1)
            for number, position in positions.items()
        }
        with suppress(*CLIENT_ERRORS):  # It is for lag tools alone; the next says it anew.
            self._consumer.commit_async(offsets)

    def close(self) -> None:
        """Leave the group at once."""
        with suppress(*CLIENT_ERRORS):
            self._consumer.close(autocommit=False, timeout_ms=LEAVE_MILLISECONDS)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands on what the client reports, from the client's thread."""

    def __init__(
        self,
        gained: Callable[[Iterable[Place]], None],
        lost: Callable[[Iterable[Place]], None],
    ) -> None:
        self._gained = gained
        self._lost = lost

    def on_partitions_assigned(self, assigned: Iterable[Place]) -> None:
        """Take what is new."""
        self._gained(list(assigned))

    def on_partitions_revoked(self, revoked: Iterable[Place]) -> None:
        """Give up what another member is to have, or what was lost."""
        self._lost(list(revoked))
