"""Which texts of a configuration are secrets; they stand in the environment or in files alone."""

from __future__ import annotations

import re
from urllib.parse import unquote

from service.configuration_problems import Path

SECRET_KEYS = frozenset({"password", "key", "key_password"})
URL_KEYS = frozenset({"dsn", "url", "uri"})

REFERENCE = re.compile(r"\$\{(?:file:(?P<file>[^}]+)|(?P<name>\w+)(?P<default>:-[^}]*)?)\}")
"""``${NAME}``, ``${NAME:-default}`` and ``${file:PATH}``."""

_NAMED_BY_USERS = frozenset({"views", "record"})
"""Below it stand names that the user chose: a field may well be called key."""
_PARAMETER = re.compile(
    r"(?P<before>(?:^|[\s?&;'])\w*password\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s&;])+)",
    re.IGNORECASE | re.DOTALL,
)
_USERINFO = (
    # As PostgreSQL's library reads it, as everybody else does, and as people write it who did not
    # know that a / must be written %2F.
    re.compile(r"://[^:@/]*:(?P<secret>[^@/]+)@"),
    re.compile(r"://[^:/?#]*:(?P<secret>[^/?#]+)@"),
    re.compile(r"://[^:@/?#]*:(?P<secret>[^@?]+)@"),
)
_MASKED_USERINFO = re.compile(r"(?P<before>://[^:@]*:).+(?=@)", re.DOTALL)


def is_in_clear(path: Path, text: str) -> bool:
    """Say whether a text of the file holds a secret that is no reference.

    >>> is_in_clear(("event_store", "postgresql", "dsn"), "postgresql://me:secret@host/db")
    True
    >>> is_in_clear(("event_store", "postgresql", "dsn"), "postgresql://me:${PASSWORD}@host/db")
    False
    """
    if not path or path[0] in _NAMED_BY_USERS or "fields" in path[:-1]:
        return False
    literal = REFERENCE.sub(lambda found: (found["default"] or ":-")[2:], text)
    if path[-1] in SECRET_KEYS:
        return literal != ""
    if path[-1] in URL_KEYS:
        return any(
            found["secret"] not in ("", "''")
            for form in (literal, unquote(literal))
            for pattern in (_PARAMETER, *_USERINFO)
            for found in pattern.finditer(form)
        )
    return False


def masked(url: str) -> str:
    """Return a DSN or URL without its password; where that is doubtful, with less of the rest.

    >>> masked("redis://user:secret@host:1/0"), masked("host=a password=b user=c")
    ('redis://user:***@host:1/0', 'host=a password=*** user=c')
    """
    return _MASKED_USERINFO.sub(r"\g<before>***", _PARAMETER.sub(r"\g<before>***", url))
