"""Taking part in a consumer group with kafka-python, without fetching anything.

kafka-python answers a rebalance only while it is being polled, and forgets an answer that comes
between two polls. So it is polled in a thread of its own, with long time-outs; the caller takes
what that thread was told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata
from kafka import TopicPartition as Place
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import BrokerResponseError, RetriableError
from kafka.structs import MemberState

from pipeline.kafka_errors import UNKNOWN_TOPIC, translated
from pipeline.kafka_python_connection import CLIENT_ERRORS, Connection
from synchroscope.errors import SynchroscopeError

logger = logging.getLogger("synchroscope.kafka")

HEARTBEATS_A_SESSION = 6
#: How often one looks whether the caller still asks, in the time after which it counts as hanging.
LOOKS_A_HANG = 4
#: Nothing is fetched; but it has to be less than the request timeout.
FETCH_WAIT_MILLISECONDS = 100
LEAVE_MILLISECONDS = 2_000
RETRY_SECONDS = 0.1


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
        self._group = group
        self._topic = topic
        self._on_assigned = on_assigned
        self._on_lost = on_lost
        self._hang_seconds = connection.settings.hang_timeout_seconds
        self._session_seconds = connection.settings.session_timeout_seconds
        self._asked_at = time.monotonic()
        self._stable_at = time.monotonic()
        self._membership = self._join()

    def _join(self) -> _Membership:
        settings = self._connection.settings
        session_milliseconds = int(self._session_seconds * 1000)
        consumer = self._connection.open(
            KafkaConsumer,
            {
                "group_id": self._group,
                "partition_assignment_strategy": [CooperativeStickyAssignor],
                "session_timeout_ms": session_milliseconds,
                "heartbeat_interval_ms": session_milliseconds // HEARTBEATS_A_SESSION,
                "max_poll_interval_ms": int(
                    max(settings.hang_timeout_seconds, settings.session_timeout_seconds) * 1000
                ),
                "enable_auto_commit": False,
                "auto_offset_reset": "latest",
                "allow_auto_create_topics": False,
                "fetch_max_wait_ms": FETCH_WAIT_MILLISECONDS,
                "metrics_enabled": False,
            },
        )
        # A leader that does not know the topic's partitions yet divides nothing, and all join anew.
        doing = f"asking for the partitions of {self._topic}"
        ask = partial(consumer.partitions_for_topic, self._topic)
        try:
            if not self._connection.call_bounded(ask, doing):
                text = f"there is no topic {self._topic}"
                raise translated(self._connection.settings, doing, UNKNOWN_TOPIC, text)
        except SynchroscopeError:
            consumer.close(autocommit=False, timeout_ms=0)
            raise
        membership = _Membership(consumer, self._topic, self._is_hanging, self._hang_seconds)
        self._stable_at = time.monotonic()
        return membership

    def _is_hanging(self) -> bool:
        return time.monotonic() - self._asked_at > self._hang_seconds

    def poll(self) -> None:
        """Take what the thread was told; join again where it had to leave."""
        self._asked_at = time.monotonic()
        membership = self._membership
        if membership.is_stable():
            self._stable_at = time.monotonic()
        elif time.monotonic() - self._stable_at > self._session_seconds + self._hang_seconds:
            # Joining takes as long as the slowest member; but this one is stuck.
            membership.leave()
        for is_gain, partitions in membership.news():
            (self._on_assigned if is_gain else self._on_lost)(partitions)
        if membership.failure is not None:
            doing = f"sharing {self._topic}"
            raise self._connection.translated(membership.failure, doing) from membership.failure
        if membership.has_left:
            self._membership = self._join()

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the group's positions, without waiting for an answer."""
        self._membership.commit(positions)

    def close(self) -> None:
        """Leave the group at once."""
        self._membership.leave()


class _Membership:
    """One stay in the group, from joining to leaving, and the thread that polls meanwhile."""

    def __init__(
        self, consumer: Any, topic: str, is_hanging: Callable[[], bool], hang_seconds: float
    ) -> None:
        self.has_left = False
        self.failure: Exception | None = None
        self._consumer = consumer
        self._topic = topic
        self._is_hanging = is_hanging
        self._poll_milliseconds = hang_seconds * 1000 / LOOKS_A_HANG
        #: What the client reported, in order: (gained, partitions).
        self._news: deque[tuple[bool, list[int]]] = deque()
        self._leaving = threading.Lock()
        consumer.subscribe([topic], listener=_Listener(self._gained, self._lost))
        self._thread = threading.Thread(target=self._run, name=f"kafka group: {topic}", daemon=True)
        self._thread.start()

    def _gained(self, places: Iterable[Place]) -> None:
        self._consumer.pause(*places)
        self._tell(True, places)

    def _lost(self, places: Iterable[Place]) -> None:
        self._tell(False, places)

    def _tell(self, is_gain: bool, places: Iterable[Place]) -> None:
        self._news.append((is_gain, [place.partition for place in places]))

    def _run(self) -> None:
        try:
            while not self.has_left:
                self._poll()
                if self._is_hanging():
                    self.leave()
        except (
            Exception
        ):  # Whatever it is: the caller joins anew, and nothing else would tell of it.
            if not self.has_left:  # What a consumer raises while it is being closed says nothing.
                logger.exception("leaving the consumer group of %s, to join it anew", self._topic)
        finally:
            self.leave()  # A member whose thread has ended would hold its partitions for nobody.

    def _poll(self) -> None:
        try:
            self._consumer.poll(timeout_ms=self._poll_milliseconds)
        except (*CLIENT_ERRORS, KeyError) as error:
            # KeyError: the partition went while kafka-python (3.0) asked for its position.
            if isinstance(error, BrokerResponseError) and not isinstance(error, RetriableError):
                self.failure = error
            time.sleep(RETRY_SECONDS)  # A poll that fails at once would take a whole core.

    def news(self) -> list[tuple[bool, list[int]]]:
        """Return what was reported since the last call."""
        found = []
        while self._news:
            found.append(self._news.popleft())
        return found

    def is_stable(self) -> bool:
        """Say whether the group knows this member and is not being divided anew."""
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the group's positions, without waiting for an answer."""
        offsets = {
            Place(self._topic, number): OffsetAndMetadata(position, "", -1)
            for number, position in positions.items()
        }
        with suppress(*CLIENT_ERRORS):  # It is for lag tools alone; the next says it anew.
            self._consumer.commit_async(offsets)

    def leave(self) -> None:
        """Leave the group; what was owned is reported as lost."""
        with self._leaving:
            if self.has_left:
                return
            self.has_left = True
            held = list(self._consumer.assignment())
            with suppress(*CLIENT_ERRORS):
                self._consumer.close(autocommit=False, timeout_ms=LEAVE_MILLISECONDS)
            self._lost(held)


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
