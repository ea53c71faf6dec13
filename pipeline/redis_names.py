"""How what a replica holds is named in Redis."""

from __future__ import annotations

from synchroscope.digest import aggregate_hash
from synchroscope.ports import AggregateKey

_HASH_DIGITS = 16
_ESCAPES = (("%", "%25"), (":", "%3A"), ("{", "%7B"), ("}", "%7D"))
_TABLE = str.maketrans(dict(_ESCAPES))


def escaped(text: str) -> str:
    """Return the text without what separates the parts of a key."""
    return text.translate(_TABLE)


def name_of(key: AggregateKey) -> str:
    """Return how an aggregate's key ends; the first colon ends the type."""
    return f"{escaped(key[0])}:{key[1]}"


def key_of(name: str) -> AggregateKey:
    """Return the aggregate whose key ends so."""
    kind, _, subject = name.partition(":")
    for plain, escape in reversed(_ESCAPES):
        kind = kind.replace(escape, plain)
    return kind, subject


def member_of(key: AggregateKey, name: str) -> str:
    """Return the aggregate's member of the index, which is in order of the hashes."""
    return f"{aggregate_hash(*key):016x}{name}"


def key_of_member(member: bytes) -> AggregateKey:
    """Return the aggregate of a member."""
    return key_of(member[_HASH_DIGITS:].decode())
