"""Which keys cannot be checked though they were looked at, and why: the verdict names them."""

from __future__ import annotations

from collections import Counter

MAXIMUM_UNCHECKED = 20_000

NOT_READ = "may have changed in records that were deleted from the topic before they were read"
COMPACTED = "may have a version that was compacted away from the topic"
SPREAD = "have records in several partitions, which have no order among them"
UNREADABLE = "have a value in a record that could not be read"
LOST_DELETE = "may have been deleted by a record that names no subject"
NO_SUBJECT = "may have been written by a record that could not be read and names no subject"
NO_FIELD = "have values that cannot be compared, since no record gave any field"
UNREAD_TEXT = "have a text in the log of which it is not known what the column makes of it"
SHARED_KEY = "have a subject that is one with another one in the key column"
KEY_FORM = "have a key of which it is not known how the key column writes it"
DOUBTS = frozenset({NO_SUBJECT, NO_FIELD})
"""Reasons that came up later than what was found before: they take nothing of it back."""


class Unchecked:
    """A bounded set of keys, each with a reason that follows its number in a sentence."""

    def __init__(self, capacity: int = MAXIMUM_UNCHECKED) -> None:
        self._capacity = capacity
        self._reasons: dict[bytes, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def note(self, key: bytes, reason: str, walk: int = 0) -> bool:
        """Take what a look in a walk came to, no reason being fine; False: there was no place."""
        if not reason:
            self._reasons.pop(key, None)
        elif key in self._reasons or len(self._reasons) < self._capacity:
            self._reasons[key] = (reason, walk)
        else:
            return False
        return True

    def walked(self, walk: int) -> None:
        """Take the end of a whole walk: keys that it did not meet are neither there nor due."""
        met = {key: known for key, known in self._reasons.items() if known[1] >= walk}
        self._reasons = met

    def by_reason(self) -> dict[str, int]:
        """Return how many keys there are of each reason, most first."""
        return dict(Counter(reason for reason, _ in self._reasons.values()).most_common())

    def sentence(self) -> str:
        """Return all of it for people.

        >>> unchecked = Unchecked()
        >>> unchecked.note(b"a", "have no order")
        True
        >>> unchecked.sentence()
        '1 keys cannot be checked: 1 have no order'
        """
        parts = "; ".join(f"{count:,} {reason}" for reason, count in self.by_reason().items())
        return f"{len(self):,} keys cannot be checked: {parts}"
