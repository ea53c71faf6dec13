"""What one model is to see: context types, fields, and the events that name the model."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from xxhash import xxh3_64_hexdigest

from synchroscope.canonical import encode

EVERY_FIELD: frozenset[str] = frozenset()


class View(Struct, frozen=True):
    """One model's part of the context.

    Parameters
    ----------
    model: The name by which propagation rules address the model, e.g. ``"fraud-scorer"``.
    fields: Context type -> fields of it; an empty set stands for every field.
    public: Context type -> fields that are declared not personal. Evidence shows the values of
        these; of all others only hashes.
    """

    model: str
    fields: Mapping[str, frozenset[str]]
    public: Mapping[str, frozenset[str]] = {}

    def hash(self) -> str:
        """Return 16 hexadecimal digits that differ for views that see different facts."""
        parts = [[kind, sorted(names)] for kind, names in sorted(self.fields.items())]
        return xxh3_64_hexdigest(encode([self.model, parts]))

    def is_public(self, context_type: str, field: str) -> bool:
        """Say whether evidence may show this field's value."""
        return field in self.public.get(context_type, frozenset())
