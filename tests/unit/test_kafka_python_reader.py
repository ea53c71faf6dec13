"""What the reader of kafka-python asks its consumer for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest

with catch_warnings():
    simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas the old way.
    from pipeline import kafka_python_reader
    from pipeline.kafka_python_reader import POLL_RECORDS, POLL_STRETCHES, PythonReader


class Consumer:
    """A consumer to which nothing comes."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def assign(self, places: list[Any]) -> None: ...

    def seek(self, place: Any, position: int) -> None: ...

    def position(self, place: Any, timeout_ms: float) -> None: ...

    def poll(self, timeout_ms: float, most: int) -> dict[Any, Any]:
        self.asked.append(most)
        return {}


@pytest.mark.parametrize("is_native", [False, True])
def test_a_poll_may_bring_something_of_every_partition(
    is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer()
    connection: Any = SimpleNamespace(open=lambda kind, settings: consumer)
    monkeypatch.setattr(kafka_python_reader, "mend_and_unpack", lambda consumer: is_native)
    reader = PythonReader(connection, wait_milliseconds=5)
    for partition in range(64):
        reader.start(("events", partition), 0)
        if partition == 0:
            reader.poll(0.001)
    reader.poll(0.001)
    wanted = [POLL_STRETCHES, 64] if is_native else [POLL_RECORDS] * 2
    assert [consumer.asked[0], consumer.asked[-1]] == wanted
