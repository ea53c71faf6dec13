"""Batches that are damaged on the broker's disk, or were never sound: nothing behind them is lost
in silence, and nobody reads them for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from pipeline.kafka_settings import KafkaSettings
from pipeline.log_kafka import KafkaLog
from service.lag import Lag, lag_of
from synchroscope.errors import DamagedPartitionError
from synchroscope.ports import EVENTS, STATE, NewRecord
from tests.kafka_batches import COMPLETE_AT, batch_bytes, produce_raw, with_sum
from tests.private_kafka import PrivateKafka, private_kafka
from tests.topics import new_topics

PATIENCE_SECONDS = 3.0
APPENDS, RECORDS = 6, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[PrivateKafka]:
    with private_kafka(folder) as started:
        yield started


@pytest.fixture
def settings(broker: PrivateKafka, client: str) -> Iterator[KafkaSettings]:
    with ExitStack() as to_close:
        yield new_topics(
            client,
            to_close,
            bootstrap_servers=broker.address,
            request_timeout_seconds=PATIENCE_SECONDS,
            compression="none",
        )


class Rot:
    """A bit on the broker's disk that is not what it was."""

    def __init__(self, folder: Path, topic: str, where: bytes) -> None:
        (self._segment,) = (folder / "data" / f"{topic}-0").glob("*.log")
        data = self._segment.read_bytes()
        self._at = data.index(where)
        self._sound = data[self._at]

    def spoil(self) -> None:
        self._write(self._sound ^ 1)

    def heal(self) -> None:
        self._write(self._sound)

    def _write(self, byte: int) -> None:
        with self._segment.open("r+b") as file:
            file.seek(self._at)
            file.write(bytes([byte]))


def filled(settings: KafkaSettings, partition: int) -> None:
    """Append some batches."""
    with closing(KafkaLog(settings)) as log:
        for number in range(APPENDS):
            values = [b"value-%d-%d" % (number, place) for place in range(RECORDS)]
            log.append([NewRecord(EVENTS, partition, b"k", value) for value in values], 1.0)


def read_until_it_fails(
    log: KafkaLog, partition: int, position: int, wanted: int
) -> tuple[list[int], str]:
    """Read so many records; return their offsets, and what was raised before, if anything."""
    offsets: list[int] = []
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    while len(offsets) < wanted:
        assert time.monotonic() < deadline, f"only {offsets} came, and no error"
        try:
            batch = log.read(EVENTS, partition, position, 7)
        except DamagedPartitionError as error:
            return offsets, str(error)
        offsets += [record.offset for record in batch.records]
        position = batch.position
        if not batch.records:
            log.wait(0.05)
    return offsets, ""


def test_a_batch_that_rotted_is_told_of_and_what_is_behind_it_is_not_lost(
    settings: KafkaSettings, folder: Path
) -> None:
    for partition in (0, 1):
        filled(settings, partition)
    rot = Rot(folder, settings.topic(EVENTS), b"value-2-5")
    rot.spoil()
    with closing(KafkaLog(settings)) as log:
        assert read_until_it_fails(log, 0, 0, 60)[0] == list(range(20))
        for _ in range(3):
            offsets, error = read_until_it_fails(log, 0, 20, 40)
            assert offsets == []
            assert "offset 20" in error
            assert "checksum" in error or "crc" in error
        assert read_until_it_fails(log, 1, 0, 60) == (list(range(60)), "")
        rot.heal()
        assert read_until_it_fails(log, 0, 20, 40) == (list(range(20, 60)), "")


def test_what_is_known_of_keys_is_not_told_past_a_batch_that_rotted(
    settings: KafkaSettings, folder: Path
) -> None:
    with closing(KafkaLog(settings)) as log:
        for number in range(3):
            log.append([NewRecord(STATE, 0, b"k%d" % number, b"state-%d" % number)], 1.0)
    rot = Rot(folder, settings.topic(STATE), b"state-1")
    rot.spoil()
    with closing(KafkaLog(settings)) as log:
        for _ in range(2):
            with pytest.raises(DamagedPartitionError, match="offset 1"):
                log.latest(STATE, b"k2")
        rot.heal()
        newest = log.latest(STATE, b"k2")
        assert newest is not None and newest.value == b"state-2"


@pytest.mark.parametrize("is_read_meanwhile", [False, True])
def test_a_batch_whose_offsets_leap_is_told_of_and_nobody_reads_for_ever(
    settings: KafkaSettings, broker: PrivateKafka, is_read_meanwhile: bool
) -> None:
    filled(settings, 0)
    message = (1_790_000_000_000, b"", b"", [])
    leaping = bytearray(batch_bytes([message, message]))
    # Length, attributes, time, offset: the second record's offset delta is 63 in place of 1.
    second = COMPLETE_AT + 4 + 7
    assert leaping[second + 3] == 2
    leaping[second + 3] = 126
    with closing(KafkaLog(settings)) as log:
        if is_read_meanwhile:
            assert read_until_it_fails(log, 0, 0, 60) == (list(range(60)), "")
        base = produce_raw(broker.address, settings.topic(EVENTS), 0, with_sum(leaping))
        assert base == 60
        if is_read_meanwhile:  # Whether the last one leaps cannot be told yet.
            assert read_until_it_fails(log, 0, 60, 2) == ([60, 123], "")
            filled(settings, 0)
            # It stands beyond the end: nothing comes, and how far it is behind is not known.
            for _ in range(20):
                with suppress(DamagedPartitionError):
                    assert not log.read(EVENTS, 0, 124, 7).records
                log.wait(0.05)
            assert lag_of(log, 0, 124, log.head(EVENTS, 0), 2.0) == Lag(None, None)
            return
    filled(settings, 0)
    with closing(KafkaLog(settings)) as log:
        for _ in range(2):
            offsets, error = read_until_it_fails(log, 0, 0, 200)
            assert offsets == list(range(61))
            assert "at offset 123, before others of lower offsets" in error
        assert log.head(EVENTS, 0) == 122
