"""Which partitions of a log cannot be read on, so that the others can be gone on with."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from synchroscope.errors import DamagedPartitionError

logger = logging.getLogger("synchroscope.blocked")

RETRY_SECONDS = 2.0
"""A partition is tried again no sooner than this after it failed."""


class Blocked:
    """The partitions that failed, and why.

    >>> blocked = Blocked()
    >>> with blocked.noting(2):
    ...     raise DamagedPartitionError("kafka", "partition 2 has a damaged batch")
    >>> blocked.is_due(2), blocked.is_due(3), blocked.reasons
    (False, True, {2: 'kafka: partition 2 has a damaged batch'})
    """

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}
        self._again: dict[int, float] = {}

    def is_due(self, partition: int) -> bool:
        """Say whether to try the partition, for the first time or again."""
        return not self._again or time.monotonic() >= self._again.get(partition, 0.0)

    @contextmanager
    def noting(self, partition: int) -> Iterator[None]:
        """Note whether what is done here finds the partition damaged; other errors go on."""
        try:
            yield
        except DamagedPartitionError as error:
            if self.reasons.get(partition) != str(error):
                logger.warning("partition %d cannot be read on: %s", partition, error)
            self.reasons[partition] = str(error)
            self._again[partition] = time.monotonic() + RETRY_SECONDS
        else:
            if self._again.pop(partition, None) is not None:
                self.reasons.pop(partition, None)
                logger.warning("partition %d is read on", partition)

    def keep(self, partitions: set[int]) -> None:
        """Forget the others."""
        for partition in self._again.keys() - partitions:
            del self._again[partition], self.reasons[partition]
