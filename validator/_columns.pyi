"""What the extension of `_columns.c` offers."""

from array import array

from synchroscope.ports import Headers

def read(
    offsets: array[int],
    values: list[bytes],
    headers: list[Headers],
    start: int,
    stop: int,
    published: int,
    /,
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
