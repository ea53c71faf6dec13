"""Can a URI be read? What every store's URI must fulfil, told without showing a password."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from synchroscope.errors import ConfigurationError

_LONE_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")
_QUOTED_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
_SERVERS = frozenset({"postgresql", "postgres", "redis", "rediss"})
_NEEDS_HOST = frozenset({"http", "https"})
_ESCAPES = "write % as %25, / as %2F, ? as %3F, # as %23 and @ as %40 in user and password"


def check_uri(uri: str) -> None:
    """Raise `ConfigurationError` for a URI that no store can read; the message has none of it.

    >>> check_uri("http://[::1/x")
    Traceback (most recent call last):
    ...
    synchroscope.errors.ConfigurationError: the http URI cannot be read: its host or port is wrong
    """
    scheme = uri.partition(":")[0].lower()
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # What the parser says may show a piece of the password.
        is_login = "@" in uri
        hint = f", or {_ESCAPES}" if is_login else ""
        raise _unreadable(scheme, f"its host or port is wrong{hint}") from None
    if parts.fragment:
        raise _unreadable(scheme, "it has a #: write # as %23")
    if _LONE_PERCENT.search(parts.netloc):
        raise _unreadable(scheme, f"a % stands alone: {_ESCAPES}")
    if scheme in _SERVERS and "@" in parts.path:
        raise _unreadable(scheme, f"an @ comes after a /: {_ESCAPES}")
    if scheme in _NEEDS_HOST and not host:
        raise _unreadable(scheme, f"it names no host: write {scheme}://host/path")
    if "\0" in unquote(uri):
        raise _unreadable(scheme, "it holds a NUL (%00)")


def _unreadable(scheme: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"the {scheme} URI cannot be read: {why}")


def name_parts(text: str) -> list[str] | None:
    """Return the parts of ``schema.table``, quoted as in SQL where they hold dots; or None.

    >>> name_parts("public.t"), name_parts('"we.ird"'), name_parts('s."a ""b"".c"')
    (['public', 't'], ['we.ird'], ['s', 'a "b".c'])
    >>> name_parts("a..b")
    """
    parts: list[str] = []
    place = 0
    while True:
        found = _QUOTED_PART.match(text, place)
        if found is None:
            return None
        parts.append(found[2] if found[1] is None else found[1].replace('""', '"'))
        place = found.end()
        if place == len(text):
            return parts
        if text[place] != ".":
            return None
        place += 1
