"""A model's process that keeps its own replica: run it beside a demo on the same data folder.

    synchroscope demo --data-dir data            # one terminal
    python examples/model_service.py data        # another one: ^C to stop

It opens no port and writes nothing. It follows the log, applies its view to a replica in memory,
reacts to cancellations, decides on facts that are microseconds away, and can say at any moment
which digest it has at which position (`Replica.report`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.log_sqlite import SqliteLog
from pipeline.sqlite_database import SqliteDatabase
from synchroscope import MemoryStorage, Replica, View
from synchroscope.ports import EVENTS
from synchroscope.replica import Change

VIEW = View("fraud-scorer", {"financial": frozenset({"spend", "cancellations"})})


def main(folder: Path) -> None:
    """Follow the log and score every customer that cancels."""
    log = SqliteLog(SqliteDatabase(folder / "synchroscope.db", exclusive=False), {})
    replica = Replica("fraud-scorer@mine", VIEW, MemoryStorage(), incarnation=str(time.time_ns()))

    def react(changes: Sequence[Change]) -> None:
        for change in changes:  # urgent ones first
            facts = replica.get(change.event.subject, "financial")
            if "cancellations" in change.fields and facts.get("cancellations"):
                score = facts.get("cancellations", 0) / (1 + abs(facts.get("spend", 0)))
                print(f"{change.event.subject}: risk {score:.4f} from {facts}")

    while True:
        moved = 0
        for partition in range(log.partitions(EVENTS)):
            batch = log.read(EVENTS, partition, replica.position(partition), 500)
            react(replica.apply(partition, batch.records, batch.position))
            moved += len(batch.records)
        if not moved:
            notes = replica.report(time.time(), range(log.partitions(EVENTS))).notes
            print(
                "idle at " + ", ".join(f"{n.partition}:{n.position} {n.state}" for n in notes[-4:])
            )
            time.sleep(1.0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: model_service.py DATA_DIR (the --data-dir of a running demo)")
    main(Path(sys.argv[1]))
