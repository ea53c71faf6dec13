"""Physical lines of the retail CSV files as rows, each with its place and its bytes.

Every line is read on its own, so that a broken quote spoils that line only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from synchroscope.errors import ConfigurationError

COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
MAXIMUM_LINE_BYTES = 65_536
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Row(Struct, frozen=True):
    """One physical line: its file, its number (the header is 1), its bytes without line end.

    ``width`` is how many columns the file has, ``places`` where in it each of `COLUMNS` is. Of a
    line that is too long, only the first `MAXIMUM_LINE_BYTES` are kept and `is_cut` says so.
    """

    file: str
    line: int
    data: bytes
    width: int
    places: Sequence[int]
    is_cut: bool = False

    @property
    def position(self) -> str:
        """``file:line``, where a reader stands after this row."""
        return f"{self.file}:{self.line}"


def retail_files(folder: Path) -> list[Path]:
    """Return the folder's CSV files in order of their names, or raise `ConfigurationError`."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder: name one that holds invoice CSV files")
    found = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.is_file()),
        key=lambda path: path.name,
    )
    if not found:
        raise ConfigurationError(f"{folder} has no CSV files: put the invoice CSV files there")
    for path in found:
        if not path.name.isprintable():  # it becomes part of positions and correlation
            raise ConfigurationError(f"{str(path)!r}: rename the file to printable characters")
        _read_header(path)
    return found


def total_rows(paths: Iterable[Path]) -> int:
    """Return how many rows the files hold, blank lines and headers left out."""
    count = 0
    for path in paths:
        with _open(path) as file:
            lines = _lines(file)
            next(lines, None)
            count += sum(1 for data, _ in lines if data.strip())
    return count


def read_rows(files: Sequence[Path], position: str | None = None) -> Iterator[Row]:
    """Yield the rows after a position (``file:line``; None: from the start), file by file.

    Raises `ConfigurationError` when the position's file is gone or has become shorter.
    """
    first, skipped = 0, 1
    if position is not None:
        name, _, number = position.rpartition(":")
        names = [path.name for path in files]
        if name not in names or not number.isdecimal():
            raise ConfigurationError(
                f"the data was read up to {position}, but that file is not among "
                f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}: put it back, "
                "or start with a new data folder"
            )
        first, skipped = names.index(name), int(number)
    for path in files[first:]:
        yield from _read_file(path, skipped)
        skipped = 1


def _read_file(path: Path, skipped: int) -> Iterator[Row]:
    width, places = _read_header(path)
    number = 0
    with _open(path) as file:
        for number, (data, is_cut) in enumerate(_lines(file), 1):
            if number > skipped and data.strip():
                yield Row(path.name, number, data, width, places, is_cut)
    if number < skipped:
        raise ConfigurationError(
            f"{path} was read up to line {skipped}, but has only {number} lines now: put the file "
            "back as it was, or start with a new data folder"
        )


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Yield (line without its end, whether it was cut)."""
    while line := file.readline(MAXIMUM_LINE_BYTES + 2):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(MAXIMUM_LINE_BYTES)):
            pass
        data = line.removesuffix(b"\n").removesuffix(b"\r")
        yield data[:MAXIMUM_LINE_BYTES], len(data) > MAXIMUM_LINE_BYTES


def _read_header(path: Path) -> tuple[int, tuple[int, ...]]:
    with _open(path) as file:
        data, _ = next(_lines(file), (b"", False))
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode()
        names = [name.strip() for name in next(csv.reader([text], strict=True), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path}: its first line is no CSV header ({error})") from None
    missing = [name for name in COLUMNS if names.count(name) != 1]
    if missing:
        raise ConfigurationError(
            f"{path}: its header must name each of these columns once: {', '.join(missing)}"
        )
    return len(names), tuple(names.index(name) for name in COLUMNS)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from error
