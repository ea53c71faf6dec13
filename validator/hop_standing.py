"""How the hops stand, as the audit publishes it on `sync.state`."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from synchroscope.foreign import decoded
from synchroscope.ports import STATE, NewRecord

HOP_STANDING_KEY = b"hops/standing"


class HopWork(Struct, frozen=True, rename="camel"):
    """One hop: windows by verdict and events by what befell them, since the process began.

    ``judged_until`` is the end of the newest window that was compared; None: none was.
    """

    windows: dict[str, int]
    events: dict[str, int]
    judged_until: float | None


class HopStanding(Struct, frozen=True, rename="camel"):
    """All hops, and the IDs of the findings that are open."""

    at: float
    window_seconds: float
    hops: dict[str, HopWork]
    open: list[str]


def hop_standing_note(standing: HopStanding) -> NewRecord:
    """Return the log record that publishes it."""
    return NewRecord(STATE, 0, HOP_STANDING_KEY, msgspec.json.encode(standing))


_decode = msgspec.json.Decoder(HopStanding).decode


def decode_hop_standing(data: bytes) -> HopStanding | None:
    """Return the standing; None for bytes that are none of this release."""
    return decoded(_decode, data)
