"""The producer of the retail example: invoice lines in, context events out, each line once.

A step reads some rows, decides on them and stores events, dead letters, the position and the count
of rows in one transaction. So a producer that was killed goes on after the last stored row, and
the same files make the same events in the same order, whatever the batches were.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from examples.retail.rows import Row, read_rows, retail_files, total_rows
from examples.retail.sale import Rejected, Sale, read_sale
from examples.retail.sale_events import events_of
from pipeline.commands import CommandBatch, CommandSide, retry_on_conflict
from pipeline.event_store import EventStore
from synchroscope.errors import ConfigurationError
from synchroscope.ports import Progress

__all__ = ["RetailProducer", "retail_files", "total_rows"]

SOURCE = "retail"
FILES = "retail/files"
ROWS_READ = "rows_read"
CONFLICT_ATTEMPTS = 5


class _Read(Struct, frozen=True):
    row: Row
    result: Sale | Rejected


class Pace:
    """When a row may be read, where the stream is replayed at a multiple of its own speed.

    Parameters
    ----------
    speed: How many times faster than the stream's own time.
    maximum_pause_seconds: The longest wait between two rows, in wall time: nights are cut to it.
    """

    def __init__(self, speed: float, maximum_pause_seconds: float) -> None:
        if not 0 < speed < float("inf"):
            raise ConfigurationError(f"speed is {speed}; it must be over 0, or None for no pacing")
        if not maximum_pause_seconds >= 0:
            raise ConfigurationError(
                f"maximum_pause_seconds is {maximum_pause_seconds}; it must be 0 or more"
            )
        self._speed = speed
        self._maximum_pause_seconds = maximum_pause_seconds
        self._stream_time: dt.datetime | None = None
        self._due: float | None = None

    def due(self, time: dt.datetime | None, now: float) -> float:
        """Return when the next row may be read; `time` None: with the one before it.

        Ask once for each row, in order. The first row is due at once, a row that is stamped before
        the newest one with that one.
        """
        due = now if self._due is None else self._due
        if time is not None:
            if self._stream_time is not None:
                wait = (time - self._stream_time).total_seconds() / self._speed
                due += min(max(wait, 0.0), self._maximum_pause_seconds)
            self._stream_time = max(time, self._stream_time or time)
        self._due = due
        return due


class RetailProducer:
    """The role that reads the retail CSV files in order of their names.

    Parameters
    ----------
    folder: Where the CSV files are.
    commands, store: The command side, and the store it writes to.
    speed: How many times faster than the stream's own time; None: as fast as possible.
    batch_rows: Most rows of one step, and so of one transaction.
    maximum_pause_seconds: Idle gaps of the stream are cut to this wall time.
    """

    def __init__(
        self,
        folder: Path,
        commands: CommandSide,
        store: EventStore,
        *,
        speed: float | None = None,
        batch_rows: int = 200,
        maximum_pause_seconds: float = 1.0,
    ) -> None:
        if batch_rows < 1:
            raise ConfigurationError(f"batch_rows is {batch_rows}; it must be at least 1")
        self.files = retail_files(folder)
        self._commands = commands
        self._batch_rows = batch_rows
        self._pace = None if speed is None else Pace(speed, maximum_pause_seconds)
        position = store.tracking(SOURCE)
        _refuse_late_files(self.files, position, store.tracking(FILES))
        self._rows: Iterator[Row] = read_rows(self.files, position)
        self._rows_read = store.counter(ROWS_READ)
        self._waiting: deque[_Read] = deque()
        """Rows that may be handled; they leave when they are stored."""
        self._next: tuple[float, _Read] | None = None
        """The row after those, and when it is due."""
        self._is_exhausted = False

    @property
    def done(self) -> bool:
        """Whether every row of every file is stored."""
        return self._is_exhausted and not self._waiting and self._next is None

    @property
    def rows_read(self) -> int:
        """How many rows are stored, those of earlier runs included."""
        return self._rows_read

    def step(self, now: float) -> Progress:
        """Handle the rows that are due, `batch_rows` at most; `now` is in seconds since 1970."""
        self._fill(now)
        rows = list(self._waiting)
        if not rows:
            return Progress(0)
        retry_on_conflict(CONFLICT_ATTEMPTS, lambda: self._store(rows, now))
        self._waiting.clear()
        self._rows_read += len(rows)
        return Progress(len(rows))

    def _fill(self, now: float) -> None:
        while len(self._waiting) < self._batch_rows:
            if self._next is None:
                row = next(self._rows, None)
                if row is None:
                    self._is_exhausted = True
                    return
                result = read_sale(row)
                time = result.time if isinstance(result, Sale) else None
                due = now if self._pace is None else self._pace.due(time, now)
                self._next = due, _Read(row, result)
            if self._next[0] > now:
                return
            self._waiting.append(self._next[1])
            self._next = None

    def _store(self, rows: list[_Read], now: float) -> None:
        with self._commands.batch(now) as batch:
            for read in rows:
                _handle(read, batch)
            batch.track(SOURCE, rows[-1].row.position)
            batch.track(FILES, "\n".join(path.name for path in self.files))
            batch.count(ROWS_READ, len(rows))


def _refuse_late_files(files: Sequence[Path], position: str | None, known: str | None) -> None:
    """Raise `ConfigurationError` for a file that would never be read: all before it are done."""
    if position is None or known is None:
        return
    reached, names = position.rpartition(":")[0], set(known.split("\n"))
    late = [path.name for path in files if path.name < reached and path.name not in names]
    if late:
        raise ConfigurationError(
            f"{', '.join(late)} came after {reached} had been read, and files are read in order of "
            "their names: name them after it, or start with another --data-dir"
        )


def _handle(read: _Read, batch: CommandBatch) -> None:
    row, result = read.row, read.result
    if isinstance(result, Rejected):
        batch.refuse(result.reason, result.detail, row.position, row.data)
        return
    batch.expire(result.time.timestamp())
    batch.submit_all(events_of(result, row.file, row.line, batch.values), source=row.position)
