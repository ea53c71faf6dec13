"""A keyed state update for each event with Quix Streams: the peer of the validator's fold.

Run as a script by an interpreter that has `quixstreams`; it may be another one than ours, so this
imports nothing of the project. Prints what it took from the first event's update to the last one's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib import import_module
from typing import Any
from uuid import uuid4


def main() -> None:
    """Update a state for so many events and print seconds of CPU and wall time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("topic")
    parser.add_argument("count", type=int)
    parser.add_argument("core", type=int)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder:
        taken = measure(options.server, options.topic, options.count, folder)
    print(json.dumps(taken))


def measure(server: str, topic: str, count: int, folder: str) -> dict[str, Any]:
    """Return what the updates took."""
    quixstreams: Any = import_module("quixstreams")
    seen = 0
    times: list[tuple[float, float]] = []
    application: Any = quixstreams.Application(
        broker_address=server,
        consumer_group=f"quix-{uuid4().hex}",
        auto_offset_reset="earliest",
        state_dir=folder,
        use_changelog_topics=False,
        loglevel="ERROR",
    )

    def update(event: dict[str, Any], state: Any) -> dict[str, Any]:
        nonlocal seen
        if not seen:
            times.append((time.process_time(), time.perf_counter()))
        for name, change in event["contextDelta"]["updates"].items():
            state.set(name, change["current"])
        seen += 1
        if seen == count:
            times.append((time.process_time(), time.perf_counter()))
            application.stop()
        return event

    source = application.topic(topic, key_deserializer="str", value_deserializer="json")
    application.dataframe(source).apply(update, stateful=True)
    application.run()
    (cpu, wall), (cpu_end, wall_end) = times
    return {
        "cpu": cpu_end - cpu,
        "wall": wall_end - wall,
        "version": quixstreams.__version__,
    }


if __name__ == "__main__":
    main()
