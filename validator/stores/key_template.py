"""How a key's text is put together from key columns, and taken apart again."""

from __future__ import annotations

import re

from synchroscope.errors import ConfigurationError
from validator.stores.port import Key


class KeyTemplate:
    """A key's text with named gaps: ``ctx:{user_id}``.

    >>> template = KeyTemplate("ctx:{user}:{kind}")
    >>> template.columns, template.parse("ctx:7:risk"), template.fill(("7", "risk"))
    (('user', 'kind'), ('7', 'risk'), 'ctx:7:risk')
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
        for number, literal in enumerate(self._literals[1:]):
            is_last = number == len(self.columns) - 1
            pattern += ("(.+)" if is_last else "(.+?)") + re.escape(literal)
        self._pattern = re.compile(pattern, re.DOTALL)

    def parse(self, key: str) -> Key | None:
        """Return the columns' values; None for a key of another form."""
        found = self._pattern.fullmatch(key)
        return None if found is None else found.groups()

    def fill(self, values: Key) -> str:
        """Return the key with these values."""
        text = self._literals[0]
        for value, literal in zip(values, self._literals[1:], strict=True):
            text += value + literal
        return text
