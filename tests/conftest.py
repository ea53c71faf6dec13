"""Settings for all tests: how long an example takes depends on the machine, and is no verdict.

With several workers (`make test`) those tests that share servers run in one of them, in turn.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

APART = tuple(Path(__file__).parent / room for room in ("unit", "simulation"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all tests in one worker but those that have nothing but their own process."""
    for item in items:
        if not any(item.path.is_relative_to(room) for room in APART):
            item.add_marker(pytest.mark.xdist_group("servers"))
