"""How a key's text is put together from key columns, and taken apart again."""

from __future__ import annotations

import re
from collections.abc import Iterator

from synchroscope.errors import ConfigurationError
from validator.stores.port import Key

MAXIMUM_READINGS = 100


class KeyTemplate:
    """A key's text with named gaps: ``ctx:{user_id}``.

    >>> template = KeyTemplate("ctx:{user}:{kind}")
    >>> template.columns, template.parse("ctx:7:risk"), template.fill(("7", "risk"))
    (('user', 'kind'), ('7', 'risk'), 'ctx:7:risk')

    Where values have in them what stands between two gaps, a key has several readings, of which
    `parse` takes the one whose first columns are longest:

    >>> template.parse("ctx:user:7:risk"), len(template.readings("ctx:user:7:risk"))
    (('user:7', 'risk'), 2)
    """

    def __init__(self, text: str) -> None:
        parts = re.split(r"\{(\w+)\}", text)
        self._literals, self.columns = parts[::2], tuple(parts[1::2])
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise ConfigurationError(
                f"the key template {text!r} must name each key column once: ctx:{{user_id}}"
            )
        if any(not literal for literal in self._literals[1:-1]):
            raise ConfigurationError(
                f"the key template {text!r} has two columns with nothing between them"
            )
        pattern = re.escape(self._literals[0])
        for literal in self._literals[1:]:
            pattern += "(.+)" + re.escape(literal)
        self._pattern = re.compile(pattern, re.DOTALL)

    def parse(self, key: str) -> Key | None:
        """Return the columns' values; None for a key of another form."""
        found = self._pattern.fullmatch(key)
        return None if found is None else found.groups()

    def readings(self, key: str) -> list[Key]:
        """Return what the columns may be, that of `parse` first; at most `MAXIMUM_READINGS`."""
        first = self.parse(key)
        if first is None or len(self.columns) == 1:
            return [] if first is None else [first]
        found = {first: None}
        for values in self._split(key.removeprefix(self._literals[0]), 1):
            if len(found) >= MAXIMUM_READINGS:
                break
            found[values] = None
        return list(found)

    def _split(self, text: str, number: int) -> Iterator[Key]:
        literal = self._literals[number]
        if number == len(self.columns):
            if text.endswith(literal) and len(text) > len(literal):
                yield (text.removesuffix(literal),)
            return
        place = text.find(literal, 1)
        while place >= 0:
            for rest in self._split(text[place + len(literal) :], number + 1):
                yield (text[:place], *rest)
            place = text.find(literal, place + 1)

    def fill(self, values: Key) -> str:
        """Return the key with these values."""
        text = self._literals[0]
        for value, literal in zip(values, self._literals[1:], strict=True):
            text += value + literal
        return text
