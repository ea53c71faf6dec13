"""Settings for all tests: how long an example takes depends on the machine, and is no verdict.

With several workers (`make test`) those tests that share servers run in one of them, in turn.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.topics import KAFKA_CLIENTS

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

APART = tuple(Path(__file__).parent / room for room in ("unit", "simulation"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all tests in one worker but those that have nothing but their own process."""
    for item in items:
        if not any(item.path.is_relative_to(room) for room in APART):
            item.add_marker(pytest.mark.xdist_group("servers"))


@pytest.fixture(params=KAFKA_CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Each of the Kafka clients."""
    return str(request.param)


@pytest.fixture
def to_close() -> Iterator[ExitStack]:
    """What is closed when a test is over."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def refused_sockets_are_collected() -> Iterator[None]:
    """Collect the sockets that kafka-python leaves to the garbage collector, within the test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
