"""What all hosts of the distributed mode's roles have: who they are, and things to close.

Kafka divides the work: a consumer group of each role owns partitions, and whoever owns one holds
the role for it. A role that is paused, killed or cut off loses its partitions to another process;
what it still tries to write is refused, or passed over by every reader (see each host).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from pipeline.kafka_settings import KafkaSettings, chosen_client
from service.board import ProcessRecord, ReaderWork, RelayWork, ReplicaWork, process_note
from service.supervision import Health
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import Log

TELL_SECONDS = 1.0


class Identity:
    """Who this process is, and what it told of itself last.

    Parameters
    ----------
    process: Unique among all processes that ever ran.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self.started_at = time.time()


class Teller:
    """Publishes a role's `ProcessRecord` about once a second."""

    def __init__(self, identity: Identity, role: str, settings: KafkaSettings) -> None:
        self._identity = identity
        self._role = role
        self._client = chosen_client(settings)
        self._told_at = 0.0
        self.record: ProcessRecord | None = None

    def is_due(self, now: float) -> bool:
        """Say whether it is time to tell again."""
        return not 0 <= now - self._told_at < TELL_SECONDS

    def tell(
        self,
        log: Log,
        now: float,
        partitions: Sequence[int] = (),
        replicas: Mapping[str, ReplicaWork] | None = None,
        relay: RelayWork | None = None,
        reader: ReaderWork | None = None,
    ) -> None:
        """Publish what the role does now."""
        self._told_at = now
        self.record = ProcessRecord(
            process=self._identity.process,
            role=self._role,
            client=self._client,
            started_at=self._identity.started_at,
            at=now,
            partitions=list(partitions),
            replicas=dict(replicas or {}),
            relay=relay,
            reader=reader,
        )
        log.append([process_note(self.record)], now)


class Held:
    """What every host has: things to close."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def close(self) -> None:
        """Close everything, the newest first."""
        with suppress(SynchroscopeError):
            self._stack.close()

    @property
    def record(self) -> ProcessRecord | None:
        """What was told last; here None."""
        return None

    @property
    def is_proven(self) -> bool:
        """Whether it did its work on a partition, and told so, since it was built."""
        return self.record is not None and bool(self.record.partitions)

    def healths(self) -> Sequence[Health]:
        """Return how parts that fail by themselves do."""
        return ()

    @contextmanager
    def _opening(self) -> Iterator[ExitStack]:
        """Open connections; when one cannot be opened, those before it are closed again."""
        try:
            yield self._stack
        except BaseException:
            self.close()
            raise


class SplitLog:
    """Reads from one log and appends to another view of it, the one that is fenced.

    Parameters
    ----------
    reader: Shared by all validators of a process, so that records are fetched once.
    writer: This partition's own.
    """

    def __init__(self, reader: Log, writer: Log) -> None:
        self._reader = reader
        self.append = writer.append
        self.partitions = reader.partitions
        self.read = reader.read
        self.head = reader.head
        self.positions = reader.positions
        self.latest = reader.latest
