"""A Kafka whose disk is full: what is said of it, and that nothing acknowledged is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import ensure_topics
from pipeline.log_kafka import KafkaLog
from synchroscope.errors import UnavailableError
from synchroscope.ports import EVENTS, NewRecord
from tests.private_kafka import PrivateKafka, private_kafka
from tests.topics import KAFKA_CLIENTS, kafka_settings
from tests.waiting import until

PATIENCE_SECONDS = 2.0
DISK_MEBIBYTES, FILLER_BYTES = 64, 44_000_000
RECORD_BYTES = 200_000
MOST_RECORDS = 2 * DISK_MEBIBYTES * 2**20 // RECORD_BYTES

# kafka-python leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("refused_sockets_are_collected"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def broker(tmp_path: Path, disk: Path) -> Iterator[PrivateKafka]:
    more = {
        "log.dirs": str(disk / "data"),
        # For so long a broker that was not stopped in order is not let in again: usually 9 s.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }
    with private_kafka(tmp_path, properties=more) as started:
        yield started


class Filler:
    """Appends 0, 1, 2, … beside much else until the server is unavailable."""

    def __init__(self, broker: PrivateKafka, client: str, writer: str) -> None:
        self._settings: KafkaSettings = kafka_settings(
            client,
            bootstrap_servers=broker.address,
            request_timeout_seconds=PATIENCE_SECONDS,
            partitions=1,
        )
        self._writer = writer
        self._accepted = 0
        ensure_topics(self._settings)
        self._log = KafkaLog(self._settings, writer=writer)
        self._append(self._log)

    def fill(self) -> None:
        with closing(self._log) as log:
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="one whose disk is full stops"):
                for _ in range(MOST_RECORDS):
                    began = time.monotonic()
                    self._append(log)
            assert time.monotonic() - began < 4 * PATIENCE_SECONDS

    def _append(self, log: KafkaLog) -> None:
        value = b"%d " % self._accepted + os.urandom(RECORD_BYTES)
        log.append([NewRecord(EVENTS, 0, b"k", value)], 1.0)
        self._accepted += 1

    def goes_on(self) -> None:
        """All that was accepted is there once, and at most one that was not; more is accepted."""
        with closing(KafkaLog(self._settings, writer=self._writer)) as log:
            before = self._numbers(log)
            assert before == list(range(len(before)))
            assert len(before) in (self._accepted, self._accepted + 1)
            self._accepted = len(before)
            self._append(log)
            assert self._numbers(log) == [*before, len(before)]

    @staticmethod
    def _numbers(log: KafkaLog) -> list[int]:
        head, position, found = log.head(EVENTS, 0), 0, list[int]()
        while position < head:
            batch = log.read(EVENTS, 0, position, 1_000)
            found += [int(record.value.split(b" ", 1)[0]) for record in batch.records]
            position = batch.position
        return found


def test_a_full_disk_is_named_nothing_is_lost_and_space_and_a_start_are_all_it_needs(
    broker: PrivateKafka, disk: Path
) -> None:
    filler = disk / "filler"
    filler.write_bytes(bytes(FILLER_BYTES))
    fillers = [Filler(broker, client, writer) for client in KAFKA_CLIENTS for writer in ("", "w")]
    with ThreadPoolExecutor(len(fillers)) as pool:
        list(pool.map(Filler.fill, fillers))
        until(broker.has_ended, "the broker to stop")
        filler.unlink()
        broker.start()
        list(pool.map(Filler.goes_on, fillers))
