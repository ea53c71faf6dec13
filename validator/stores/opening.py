"""Opens a store by its URI: the scheme names the adapter, one file each.

========================================================== =================================
``postgresql://user@host:port/db?table=[schema.]T``        a table or view; the rest is libpq's
``sqlite:///PATH?table=T``                                 a table or view of a file
``redis://host:port/0?match=ctx:*&key=ctx:{id}&value=hash`` hashes, or strings of JSON (``json``)
``lmdb:///PATH``                                           an LMDB environment
``http(s)://host/path``                                    pages of JSON
``csv:PATH``                                               a CSV file with a header line
========================================================== =================================

Every adapter is called with the URI, the key's columns and the columns to compare. What it keeps of
the URI for messages (`ForeignStore.name`) holds no password.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

from synchroscope.errors import ConfigurationError
from validator.stores.port import ForeignStore
from validator.stores.uri import check_uri

Opener = Callable[[str, Sequence[str], Sequence[str] | None], ForeignStore]

ADAPTERS = {
    "postgresql": ("postgresql", "PostgresqlStore"),
    "postgres": ("postgresql", "PostgresqlStore"),
    "sqlite": ("sqlite", "SqliteStore"),
    "redis": ("redis", "RedisStore"),
    "rediss": ("redis", "RedisStore"),
    "lmdb": ("lmdb", "LmdbStore"),
    "csv": ("csv", "CsvStore"),
    "http": ("http", "HttpStore"),
    "https": ("http", "HttpStore"),
}
"""Scheme -> file in this folder and class in it; imported when it is asked for, driver and all."""


def open_store(
    uri: str, key_columns: Sequence[str], columns: Sequence[str] | None = None
) -> ForeignStore:
    """Return the adapter on what a URI names.

    Parameters
    ----------
    uri: See the module.
    key_columns: What identifies a row, in the order in which keys are to be given.
    columns: Which columns beside the key count; None: all.

    >>> open_store("mysql://host/db", ["id"])
    Traceback (most recent call last):
    ...
    synchroscope.errors.ConfigurationError: no store can be opened by 'mysql:': the URI must begin \
with csv, http, https, lmdb, postgres, postgresql, redis, rediss or sqlite and a colon
    """
    scheme, colon, _ = uri.partition(":")
    found = ADAPTERS.get(scheme.lower())
    if not colon or found is None:
        *some, last = sorted(ADAPTERS)
        told = f"by {scheme + ':'!r}" if colon and scheme.isalnum() else "by that: it has no scheme"
        raise ConfigurationError(
            f"no store can be opened {told}: the URI must begin with {', '.join(some)} or {last} "
            "and a colon"
        )
    check_uri(uri)
    module, name = found
    opener = cast(Opener, getattr(import_module(f"validator.stores.{module}"), name))
    return opener(uri, key_columns, columns)
