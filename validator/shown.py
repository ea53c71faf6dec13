"""What an answer shows of aggregates: whole buckets, and single ones."""

from __future__ import annotations

from collections.abc import Collection

from synchroscope.digest import aggregate_hash
from synchroscope.ports import AggregateKey
from synchroscope.report import Explanation
from synchroscope.sketch import number_of
from validator.judgement import Actual


class Shown:
    """The stored aggregates of an answer, and which it would have shown if they were there.

    Parameters
    ----------
    explanation: The answer.
    bits: The digest's size.
    numbers: Of which aggregates it was asked, beside those of whole buckets.
    """

    def __init__(self, explanation: Explanation, bits: int, numbers: Collection[int]) -> None:
        self._bits = bits
        self._buckets = set(explanation.buckets)
        self._numbers = numbers
        self.aggregates = {(a.context_type, a.subject): a for a in explanation.aggregates}

    def is_shown(self, key: AggregateKey) -> bool:
        """Say whether the answer shows how an aggregate is stored, or that it is not."""
        hashed = aggregate_hash(*key)
        bucket = hashed >> (64 - self._bits)
        return bucket in self._buckets or number_of(hashed, self._bits) in self._numbers

    def is_otherwise(self, key: AggregateKey, actual: Actual) -> bool:
        """Say whether the answer shows an aggregate otherwise than that."""
        stored = self.aggregates.get(key)
        if stored is None:
            return bool(actual.fields or actual.sequence) and self.is_shown(key)
        fields = {fact.field: (fact.hash, fact.sequence) for fact in stored.facts}
        return Actual(stored.sequence, fields) != actual
