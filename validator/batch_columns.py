"""Reads a batch of records with the extension `_columns`, where it was built.

What it gives is what `BatchFold` would make of the same records, to the bit. What it is not sure of
it does not give at all: then the batch is read in Python, which is the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from synchroscope.native_hashing import loaded
from synchroscope.records import Records
from validator.batch_plan import NOWHERE, Plan

ALGORITHM = "xxh3-128"
"""The only hash that the extension computes."""

Lane = NDArray[np.uint64]
Whole = NDArray[np.intp]


_extension = loaded("validator._columns")
_read: Callable[..., Any] | None = _extension and _extension.read


def is_native() -> bool:
    """Say whether batches are read by the extension."""
    return _read is not None


class ReadColumns(Struct, frozen=True, gc=False):
    """What was read: a row for each record, and one for each update.

    By record are ``marks``, ``store_positions`` (empty where no record has headers), ``applied0``,
    ``applied1``, ``hashes`` and ``kind_groups``. By update are ``places`` (of the record), and with
    a column for what enters and one for what leaves ``lane0``, ``lane1`` and ``groups``.
    """

    marks: Lane
    store_positions: list[int]
    applied0: Lane
    applied1: Lane
    hashes: Lane
    kind_groups: Whole
    places: Whole
    lane0: Lane
    lane1: Lane
    groups: Whole


def read_columns(records: Records, published: int, plan: Plan) -> ReadColumns | None:
    """Return the columns of a batch; None where it must be read in Python.

    ``published`` is the highest store position that was folded before.
    """
    if _read is None:
        return None
    offsets, _, values, headers, _ = records.columns
    found = _read(offsets, values, headers, records.start, records.stop, published)
    if found is None:
        return None
    *columns, kinds, combinations = found
    marks, applied0, applied1, hashes, numbers, positions, *by_update = columns
    places, lane0, lane1, rows, nulls = by_update
    kind_groups = np.array([plan.kinds[name].group for name in kinds], np.intp)
    pairs = np.array([_groups(plan, *one) for one in combinations], np.intp).reshape(-1, 2)
    groups = pairs[_whole(rows)]
    # Null is no fact: what it would be goes nowhere.
    if 1 in nulls:
        groups[np.frombuffer(nulls, np.bool_).reshape(-1, 2)] = NOWHERE
    return ReadColumns(
        np.frombuffer(marks, np.uint64),
        np.frombuffer(positions, np.int64).tolist(),
        np.frombuffer(applied0, np.uint64),
        np.frombuffer(applied1, np.uint64),
        np.frombuffer(hashes, np.uint64),
        kind_groups[_whole(numbers)],
        _whole(places),
        np.frombuffer(lane0, np.uint64).reshape(-1, 2),
        np.frombuffer(lane1, np.uint64).reshape(-1, 2),
        groups,
    )


def _whole(data: bytes) -> Whole:
    """Return a column of numbers that are far below 2^63."""
    return np.frombuffer(data, np.int64).astype(np.intp, copy=False)


def _groups(
    plan: Plan,
    context_type: str,
    name: str,
    targets: tuple[str, ...] | None,
    previous_targets: tuple[str, ...] | None,
) -> tuple[int, int]:
    """Return the groups of views that what enters and what leaves are of."""
    field = plan.kinds[context_type][name]
    if field is None:
        return NOWHERE, NOWHERE
    return field[targets], field[previous_targets]
