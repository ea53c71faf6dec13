"""What the log and the division of work ask of a Kafka client library: the internal port.

There are two adapters, `kafka_confluent` and `kafka_python`; topics are called here what Kafka
calls them (with the prefix). Every method raises the errors of `synchroscope.errors` alone:
`UnavailableError` where the server does not answer within the settings' request timeout,
`ConfigurationError` where it refuses for good, `FencedError` where another process took over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol
from warnings import catch_warnings, simplefilter

from msgspec import Struct

from pipeline.kafka_settings import KafkaSettings, chosen_client
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import NewRecord, TopicPartition
from synchroscope.records import Records

#: Called about once a second while something waits for the server.
OnWait = Callable[[], None]

FIRST_LOOK_SECONDS = 0.5


def looks_seconds(timeout_seconds: float) -> tuple[float, ...]:
    """Return how long to try to connect, and to try again: twice shortly, then the whole time-out.

    A client goes on trying whatever the broker answers. After each part one looks whether that is
    a refusal, as of a wrong password: it is told soon, and a slow broker has all of its time.
    """
    short = (FIRST_LOOK_SECONDS, 2 * FIRST_LOOK_SECONDS)
    return (*(look for look in short if 4 * look <= timeout_seconds), timeout_seconds)


class Chunk(Struct):
    """News of one partition: records in order, the position after them, or what went wrong.

    ``bytes`` are those of the records' keys and values. ``position`` is past control records and
    aborted ones as far as the client knows.
    ``is_out_of_range``: the position asked for is not in the partition any more, or not yet.
    ``damaged_at`` is where a batch begins that is not as it was written; -1: there is none.
    """

    place: TopicPartition
    records: Records
    position: int
    is_out_of_range: bool = False
    error: SynchroscopeError | None = None
    bytes: int = 0
    damaged_at: int = -1


class TopicState(Struct, frozen=True):
    """A topic as the cluster has it."""

    partitions: int
    replication_factor: int
    settings: Mapping[str, str]


class NewTopic(Struct, frozen=True):
    """A topic to create."""

    name: str
    partitions: int
    replication_factor: int
    settings: Mapping[str, str]


class Reader(Protocol):
    """A consumer of partitions that it was told to follow; it is a member of no group."""

    def start(self, place: TopicPartition, position: int) -> None:
        """Follow a partition from a position that lies within it."""
        ...

    def stop(self, place: TopicPartition) -> None:
        """Follow the partition no more; what was fetched ahead of it is dropped."""
        ...

    def poll(self, timeout_seconds: float) -> list[Chunk]:
        """Return what has come, waiting for something up to the timeout (0: not at all).

        What it returns is not returned again. A server that is away is no error here: nothing
        comes. Nothing of a partition that was stopped or started anew since may come.
        """
        ...

    def close(self) -> None:
        """Release what is held, without waiting."""
        ...


class Writer(Protocol):
    """An idempotent producer that has all replicas in sync acknowledge."""

    def send(
        self, records: Sequence[NewRecord], timestamp_milliseconds: int, *, wait: bool = True
    ) -> None:
        """Store the records and return when all are acknowledged.

        `wait` False: return when all sent before are, and leave it to the next call to say what
        became of these. In a transaction one always waits.

        With a transactional ID all are stored or none. Without one, after an error some may be
        stored, of each partition the first ones without a gap. The writer is of no use after any
        error, and sends nothing more; what was under way by then may still arrive.
        """
        ...

    def close(self) -> None:
        """Release what is held, without waiting and without sending anything more."""
        ...


class Member(Protocol):
    """Membership in a consumer group that divides the partitions of one topic."""

    def poll(self) -> None:
        """Take part in the group, without waiting; the callbacks are called before it returns."""
        ...

    def commit(self, positions: Mapping[int, int]) -> None:
        """Store the group's positions, without waiting for an answer."""
        ...

    def close(self) -> None:
        """Leave the group at once."""
        ...


class Client(Protocol):
    """One of the two libraries, bound to the settings."""

    def topics(self, names: Sequence[str]) -> dict[str, TopicState]:
        """Return the state, settings included, of those topics that exist."""
        ...

    def partition_counts(self) -> dict[str, int]:
        """Return how many partitions each topic has."""
        ...

    def topic_id(self, name: str) -> str | None:
        """Return what tells a topic from others of its name; empty: not told; None: no topic."""
        ...

    def create_topics(self, topics: Sequence[NewTopic]) -> None:
        """Create the topics; one that exists by now is no error."""
        ...

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete the topics; one that does not exist is no error."""
        ...

    def end(self, place: TopicPartition, *, committed: bool) -> int:
        """Ask for the end of the partition, or of what is committed of it."""
        ...

    def range(self, place: TopicPartition) -> tuple[int, int]:
        """Ask for the first kept offset and the end of what is committed."""
        ...

    def reader(self, *, wait_milliseconds: int) -> Reader:
        """Open a reader of committed records that has the broker wait so long for new ones."""
        ...

    def writer(self, transactional_id: str = "") -> Writer:
        """Open a writer; with a transactional ID, fence its earlier holder."""
        ...

    def member(
        self,
        group: str,
        topic: str,
        on_assigned: Callable[[Sequence[int]], None],
        on_lost: Callable[[Sequence[int]], None],
    ) -> Member:
        """Join a group; the callbacks say which partitions came and went. No data is fetched."""
        ...

    def close(self) -> None:
        """Release what is held; readers, writers and members are closed by their owners."""
        ...


def open_client(settings: KafkaSettings, on_wait: OnWait | None = None) -> Client:
    """Return the adapter that the settings choose."""
    # Imported here, so that a library that is not installed costs nothing and need not be there.
    if chosen_client(settings) == "confluent":
        module, kind = import_module("pipeline.kafka_confluent"), "ConfluentClient"
    else:
        with catch_warnings():
            # kafka-python reads its message schemas in a way that Python 3.11 deprecates.
            simplefilter("ignore", DeprecationWarning)
            module, kind = import_module("pipeline.kafka_python"), "PythonClient"
    client: Client = getattr(module, kind)(settings, on_wait)
    return client
