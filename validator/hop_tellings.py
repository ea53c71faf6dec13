"""What the hops have told of themselves, and how much of a window that covers.

A process that died without a last word leaves a stretch of which nobody knows: what lies in it is
UNKNOWN, never lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from synchroscope.digest import lanes_from_hex
from synchroscope.tally import NOTHING, PRODUCER, RELAY, REPLICA, Sum, ToldTally

MAXIMUM_LIVES = 8
"""How many lives of a producer, and stretches of a replica's partition, are remembered."""


class Told(Struct, frozen=True):
    """What a hop says of a window; or why that is not known, or has to be waited for."""

    total: Sum = NOTHING
    unknown: str = ""
    pending: str = ""


class Tellings(Struct):
    """All that was told. Replicas are named ``name/partition``."""

    relay: ToldTally | None = None
    producers: dict[str, list[ToldTally]] = {}
    replicas: dict[str, list[ToldTally]] = {}

    def take(self, told: ToldTally) -> None:
        """Take what a hop tells now."""
        if told.predecessor is not None:
            self.take(told.predecessor)
            told = replace(told, predecessor=None)
        if told.hop == RELAY:
            # Late words of a relay that was thought dead lead back; its successor has counted on.
            if self.relay is None or told.end >= self.relay.end:
                self.relay = told
        elif told.hop == PRODUCER:
            lives = self.producers.setdefault(told.name, [])
            _replace_or_append(lives, told, [one.life for one in lives], told.life)
        elif told.hop == REPLICA:
            key = f"{told.name}/{told.partition}"
            stretches = self.replicas.setdefault(key, [])
            names = [(one.life, one.start) for one in stretches]
            _replace_or_append(stretches, told, names, (told.life, told.start))

    def windows(self) -> set[int]:
        """Return every window that somebody speaks of."""
        told = [one for lives in self.producers.values() for one in lives]
        told += [] if self.relay is None else [self.relay]
        return {window for one in told for _, window, _, _ in one.windows}


def _replace_or_append(
    known: list[ToldTally], told: ToldTally, names: Sequence[object], name: object
) -> None:
    if name not in names:
        known.append(told)
        del known[:-MAXIMUM_LIVES]
        return
    place = names.index(name)
    if told.end >= known[place].end and told.at >= known[place].at:
        known[place] = told


def told_by_producers(
    tellings: Tellings, names: Iterable[str], window: int, start: float, end: float, late: float
) -> Told:
    """Return what all producers accepted in a window from `start` to `end`.

    `late`: the time up to which a batch that was begun in the window is waited for.
    """
    total = NOTHING
    for name in names:
        lives = sorted(tellings.producers.get(name, ()), key=lambda one: one.started_at)
        if not lives:
            return Told(unknown=f"producer {name} has told nothing")
        if start < lives[0].started_at < end or lives[0].started_at >= end:
            return Told(unknown=f"producer {name} began to count later")
        for place, life in enumerate(lives):
            if life.started_at >= end:
                break
            if window < life.floor:
                return Told(unknown=f"producer {name} does not know it any more")
            if window in life.doubtful:
                return Told(unknown=f"producer {name} does not know whether a batch was stored")
            if life.at < late and not life.final:
                if place + 1 == len(lives):
                    return Told(pending=f"producer {name} has not told yet")
                if lives[place + 1].started_at > start:
                    return Told(unknown=f"a process of producer {name} ended without a last word")
            total += _in_window(life, window)
    return Told(total)


def told_by_relay(tellings: Tellings, window: int, first: int, last: int) -> Told:
    """Return what the relay handed over of a window with these store positions; 0, 0: none."""
    relay = tellings.relay
    if relay is None:
        return Told(unknown="no relay has told anything")
    if window < relay.floor:
        return Told(unknown="the relay does not know it any more")
    if last and relay.end <= last:
        return Told(pending=f"the relay has come to {relay.end - 1} of {last}")
    if last and relay.start > first:
        return Told(unknown=f"the relay began to count at {relay.start}, within the window")
    return Told(_in_window(relay, window))


def told_by_replica(
    tellings: Tellings, replica: str, partition: int, window: int, first: int, last: int
) -> Told:
    """Return what a replica applied of a window with these offsets."""
    stretches = tellings.replicas.get(f"{replica}/{partition}", [])
    if not stretches:
        return Told(unknown=f"{replica} has told nothing of partition {partition}")
    newest = stretches[-1]
    if newest.start <= last and newest.end <= last:
        return Told(pending=f"{replica} has come to {partition}:{newest.end} of {last + 1}")
    # The newest run that begins before the end: one that goes on from an older copy of its storage
    # has taken back what an earlier one counted there.
    run = next((run for run in _runs(stretches) if run[0].start <= last), [])
    if not run or run[0].start > first or run[-1].end <= last:
        return Told(unknown=f"nobody counted all that {replica} applied in {first} to {last}")
    if any(window < one.floor for one in run):
        return Told(unknown=f"{replica} does not know it any more")
    total = NOTHING
    for one in run:
        total += _in_window(one, window)
    return Told(total)


def _runs(stretches: Sequence[ToldTally]) -> list[list[ToldTally]]:
    """Return the stretches that go on where the one before ended, the newest run first."""
    runs: list[list[ToldTally]] = []
    for one in stretches:
        if runs and runs[-1][-1].end == one.start:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs[::-1]


def _in_window(told: ToldTally, window: int) -> Sum:
    total = NOTHING
    for _, number, count, lanes in told.windows:
        if number == window:
            total += Sum(count, *lanes_from_hex(lanes))
    return total
