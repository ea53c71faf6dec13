"""Faults between the log and a replica, or in its storage: what, where, how often, what was done.

Whether a fault strikes is decided by a hash of seed, kind, replica and record, not by a running
generator: the same run has the same faults whatever the batches and restarts in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_64_intdigest

from synchroscope.errors import ConfigurationError

LINK_KINDS = ("drop", "duplicate", "reorder", "delay")
STORAGE_KINDS = ("corrupt", "stale")
KINDS = LINK_KINDS + STORAGE_KINDS


class FaultSpec(Struct, frozen=True):
    """A kind of fault for one replica; ``share`` is the chance per event of that replica's view."""

    kind: str
    replica: str
    share: float


class Injected(Struct, frozen=True):
    """A fault that really happened.

    ``position`` holds partition and offset, ``at`` is wall time, ``life`` counts the processes that
    have used the journal: what a process held in memory alone ended with it.
    """

    kind: str
    replica: str
    subject: str | None
    context_type: str | None
    field: str | None
    position: dict[str, int]
    at: str
    life: int = 1


def parse_fault(text: str, replicas: Iterable[str]) -> FaultSpec:
    """Return what ``KIND:REPLICA:SHARE`` says, or raise `ConfigurationError`.

    >>> parse_fault("drop:fraud-scorer@2:0.001", ["fraud-scorer@2"]).share
    0.001
    """
    names = sorted(replicas)
    parts = text.split(":")
    if len(parts) != 3:
        raise ConfigurationError(f"--fault {text!r}: write KIND:REPLICA:SHARE")
    kind, replica, share_text = parts
    if kind not in KINDS:
        raise ConfigurationError(f"--fault {text!r}: KIND is one of {', '.join(KINDS)}")
    if replica not in names:
        raise ConfigurationError(f"--fault {text!r}: REPLICA is one of {', '.join(names)}")
    try:
        share = float(share_text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ConfigurationError(f"--fault {text!r}: SHARE is a number from 0 to 1")
    return FaultSpec(kind, replica, share)


class Dice:
    """Decides by hash whether a fault strikes, and picks among choices."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def strikes(self, spec: FaultSpec, partition: int, offset: int) -> bool:
        """Say whether this fault strikes at this record."""
        return self.number(spec.kind, spec.replica, partition, offset) < spec.share * 2.0**64

    def number(self, *parts: object) -> int:
        """Return a 64-bit number that depends on nothing but the seed and the parts."""
        return xxh3_64_intdigest("\x1f".join(map(str, (self._seed, *parts))).encode())


class FaultJournal:
    """What was injected, once each, kept in a file that only the report reads.

    The validator has no way to this file: it must find the faults by itself.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._seen: dict[tuple[object, ...], Injected] = {}
        if path is not None and path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    self._remember(msgspec.json.decode(line, type=Injected))
                except msgspec.DecodeError:
                    continue  # the line that a killed process did not finish
        self.life = 1 + max((fault.life for fault in self._seen.values()), default=0)

    @staticmethod
    def _key(fault: Injected) -> tuple[object, ...]:
        place = tuple(sorted(fault.position.items()))
        return (fault.kind, fault.replica, place, fault.context_type, fault.subject, fault.field)

    def _remember(self, fault: Injected) -> bool:
        key = self._key(fault)
        if key in self._seen:
            return False
        self._seen[key] = fault
        return True

    def add(self, fault: Injected) -> None:
        """Write a fault down, before it takes effect; one that is known already is not repeated."""
        fault = replace(fault, life=self.life)
        if self._remember(fault) and self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(fault) + b"\n")

    def faults(self) -> list[Injected]:
        """Return all faults in order of injection."""
        return list(self._seen.values())


def changed_value(value: Any) -> Any:
    """Return another value, and never an earlier one when called again on its result.

    >>> changed_value(5), changed_value("a"), changed_value({"a": 1})
    (6, 'a~', {'a': 1, '~': 1})
    """
    if isinstance(value, bool):
        return int(value) + 2
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "~"
    if isinstance(value, Mapping):
        return {**value, "~": 1}
    if isinstance(value, Sequence):
        return [*value, "~"]
    return "~"
