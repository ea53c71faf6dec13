from collections.abc import Callable
from typing import Any

from synchroscope.ports import Headers

def runs(
    messages: list[Any],
    methods: tuple[Callable[[Any], Any], ...],
    /,
) -> list[tuple[str, int, bytes, list[bytes], list[bytes], list[Headers], bytes, int]] | None: ...
