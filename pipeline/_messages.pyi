from collections.abc import Callable
from typing import Any

from synchroscope.ports import Record

def runs(
    messages: list[Any],
    methods: tuple[Callable[[Any], Any], ...],
    make_record: type[Record],
    /,
) -> list[tuple[str, int, list[Record]]] | None: ...
