"""The way to one Redis: time-outs, no silent second tries, and what its errors mean.

A write that was sent twice would look like another process's. So nothing is tried again in here:
whoever used a connection that broke gets `UnavailableError`, and the next use opens a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions as kinds
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from pipeline.redis_scripts import Script
from synchroscope.errors import (
    ConfigurationError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)

ANSWER_SECONDS = 3.0
CONNECT_SECONDS = 3.0
HEALTH_CHECK_SECONDS = 15
"""A connection that was idle for so long is tried with a PING before it is used."""
DEFAULT_PORT = 6379

_FORM = "write redis://host:port/0, or with TLS rediss://user:${NAME}@host:port/0"
_LOGIN = "check user and password in the URL: redis://user:${NAME}@host:port/0"
_RIGHTS = "allow this user the replica's keys and the commands: ACL SETUSER NAME ~{PREFIX:* +@all"
#: The codes that the client takes off a server's message.
_CODES: Mapping[type[redis.RedisError], str] = {
    kinds.NoPermissionError: "NOPERM",
    kinds.ReadOnlyError: "READONLY",
    kinds.OutOfMemoryError: "OOM",
    kinds.BusyLoadingError: "LOADING",
    kinds.TryAgainError: "TRYAGAIN",
    kinds.MovedError: "MOVED",
    kinds.AskError: "ASK",
    kinds.MasterDownError: "MASTERDOWN",
    kinds.ClusterDownError: "CLUSTERDOWN",
}
# They are looked for anywhere in the text, for older servers wrap what a script met.
_PASSING = ("LOADING", "BUSY ", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "UNBLOCKED")
_WRONG_SETTINGS = {
    "NOPERM": _RIGHTS,
    "can't run this command": _RIGHTS,
    "can't access at least one": _RIGHTS,
    "DB index is out of range": "name a database that the server has, such as /0",
    "MOVED": "this is a node of a cluster: name the node that it points to",
    "ASK ": "this is a node of a cluster: name the node that it points to",
}
_REMEDIES = {
    "READONLY": "this server is a read-only copy: name the primary, or REPLICAOF NO ONE",
    "OOM": "the server's memory is used up: raise maxmemory; nothing was half written",
    "MISCONF": "the server cannot write to its disk: free some space; nothing was half written",
    "WRONGTYPE": "a key is of another kind: delete it, or choose another prefix",
}


class RedisConnection:
    """Connections to one server, opened when needed; may be used by several threads.

    Parameters
    ----------
    url: ``redis://``, ``rediss://`` (TLS) or ``unix://``.
    answer_seconds: Without an answer for so long, a connection counts as lost.
    """

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        settings = _settings(url)
        self.server = _server(settings)
        settings |= {
            "socket_timeout": answer_seconds,
            "socket_connect_timeout": min(CONNECT_SECONDS, answer_seconds),
            "health_check_interval": HEALTH_CHECK_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,
            "client_name": "synchroscope",
        }
        if "path" not in settings:
            settings["socket_keepalive"] = True
        try:
            self._pool = redis.ConnectionPool(**settings)
            # Its methods that take any command have no types.
            self._client: Any = redis.Redis(connection_pool=self._pool)
            self.command("PING")
            self._check_policy()
        except TypeError as error:
            raise ConfigurationError(
                f"{self.server}: the URL has a setting that is not known ({error}): {_FORM}"
            ) from None
        except SynchroscopeError:
            self.close()
            raise

    def command(self, *arguments: str | bytes | int) -> Any:
        """Send one command and return the answer."""
        try:
            return self._client.execute_command(*arguments)
        except redis.RedisError as error:
            raise self._failure(error) from error

    def run(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]
    ) -> Any:
        """Run a script and return its answer; a server that does not know it yet is sent it."""
        try:
            return self._client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except kinds.NoScriptError:
            return self.command("EVAL", script.text, len(keys), *keys, *arguments)
        except redis.RedisError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close all connections; closing twice is harmless."""
        with suppress(redis.RedisError, OSError):
            self._pool.disconnect()

    def _check_policy(self) -> None:
        try:
            memory: Any = self._client.info("memory")
        except kinds.ResponseError:
            return  # Some managed servers do not say.
        except redis.RedisError as error:
            raise self._failure(error) from error
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if memory.get("maxmemory", 0) and policy.startswith("allkeys"):
            raise ConfigurationError(
                f"{self.server}: with maxmemory-policy {policy} the server drops facts when its "
                "memory is used up: CONFIG SET maxmemory-policy noeviction"
            )

    def _failure(self, error: redis.RedisError) -> SynchroscopeError:
        words = (_CODES.get(type(error), ""), *str(error).split())
        text = " ".join(word for word in words if word) or type(error).__name__
        if isinstance(error, kinds.AuthenticationError):
            return ConfigurationError(f"{self.server} refuses the login ({text}): {_LOGIN}")
        for sign, remedy in _WRONG_SETTINGS.items():
            if sign in text:
                return ConfigurationError(f"{self.server}: {remedy} ({text})")
        if "SSL" in text or "certificate" in text:
            return ConfigurationError(
                f"{self.server}: no TLS connection ({text}): check the certificate and "
                "ssl_ca_certs=FILE in the URL; without TLS write redis://"
            )
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            return UnavailableError(
                self.server,
                f"cannot be reached or does not answer ({text}): check that it runs, the address, "
                "and whether it speaks TLS there (rediss://); what was sent may be stored",
            )
        if any(sign in text for sign in _PASSING):
            return UnavailableError(self.server, f"cannot serve at the moment ({text})")
        for sign, remedy in _REMEDIES.items():
            if sign in text:
                return StorageError(f"{self.server}: {remedy} ({text})")
        return StorageError(f"{self.server}: see the cause for what went wrong ({text})")


def server_of(url: str) -> str:
    """Return what messages call the server; raise `ConfigurationError` if the URL is none."""
    return _server(_settings(url))


def _settings(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        number = parts.path.strip("/")
        # An @ further on: the password has a / ? or #, and what comes before it is no host.
        has_late_at = "@" in parts.path + parts.query + parts.fragment
        if not url.startswith("unix:") and (has_late_at or (number and not number.isdecimal())):
            raise ValueError
        return dict(parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError:
        # What the parser says may show a piece of the password.
        raise ConfigurationError(f"the Redis URL cannot be read: {_FORM}") from None


def _server(settings: dict[str, Any]) -> str:
    place = settings.get("path")
    if place is None:
        place = f"{settings.get('host', 'localhost')}:{settings.get('port', DEFAULT_PORT)}"
    return f"redis {place}/{settings.get('db', 0)}"
