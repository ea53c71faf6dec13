"""What a store that is not ours has to answer, so that its content can be checked.

One adapter a file, named by the URI's scheme; `tests/contract/test_foreign_store_keyed.py` is run
on all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

Key = tuple[str, ...]
"""The key's columns as `key_text` writes them, so that the keys of all stores compare."""
Row = Mapping[str, Any]
"""Column -> value: None, bool, int, float, str, or lists and objects of these. What a store has
and JSON has not is written as text: decimals that no float is written like as digits, moments as
ISO 8601 in UTC, bytes in hexadecimal, UUIDs in lower case."""


class Bytes(str):
    """Bytes in hexadecimal, told from a text of the same digits by who asked for that."""

    __slots__ = ()


class DamagedRow(dict[str, Any]):
    """A row that is there and cannot be read, such as a text that is no JSON; it has no columns."""


class Page(Struct, frozen=True):
    """A part of a walk: (key, row) pairs, and where to go on; None at the end."""

    rows: Sequence[tuple[Key, Row]]
    cursor: str | None


class ForeignStore(Protocol):
    """A store that is not ours.

    Errors are translated in the adapter: `UnavailableError` where the server does not answer and
    asking again may help, `ConfigurationError` for what somebody has to change.
    """

    name: str
    """The URI without secrets."""
    key_columns: tuple[str, ...]
    is_typed: bool
    """False where every value is text, so that 5 and "5" cannot be told apart."""

    def columns(self) -> list[str] | None:
        """Return the columns beside the key in order; None where each row has its own."""
        ...

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return up to about `limit` rows from the cursor on; None begins.

        A walk from None to None shows every row that was there all the time at least once. Each row
        is read in one step; rows of a page may be of different moments. A page may be empty though
        its cursor is not None.
        """
        ...

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys as of now; those that are absent are left out.

        One that is there and cannot be read is a `DamagedRow`, here and in `scan`.
        """
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class Finding(Protocol):
    """A store that is asked for a row where its walk shows it, so absence there is a proof."""

    finds_what_it_shows: bool
    """Whether `fetch` finds every row that `scan` shows, if it is still there."""


class MarkingBytes(Protocol):
    """A store whose columns hold texts and bytes."""

    marks_bytes: bool
    """Whether rows have their bytes as `Bytes`, as comparing two such stores needs."""


class Bounding(Protocol):
    """A store that bounds the bytes of a page itself."""

    bounds_pages: bool
    """Whether it does, so that `scan` may be asked for as many rows as a page may ever have."""


class Once(Protocol):
    """A store whose walk shows no row twice."""

    shows_rows_once: bool
    """A key that comes again in a walk is another row."""


class SeveralReadings(Protocol):
    """A store that puts a key together from its columns, so that two keys may be written alike."""

    def readings(self, key: Key) -> list[Key]:
        """Return all keys that are written as this one is, at most some; itself among them."""
        ...


def key_text(value: Any) -> str:
    """Return a key column's value as text: the same for the same key in every store.

    >>> key_text(5), key_text("5"), key_text(True)
    ('5', '5', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
