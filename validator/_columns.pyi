"""What the extension of `_columns.c` offers."""

from synchroscope.ports import Record

def read(
    records: list[Record], published: int, /
) -> (
    tuple[
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        bytes,
        list[str],
        list[tuple[str, str, tuple[str, ...] | None, tuple[str, ...] | None]],
    ]
    | None
): ...
