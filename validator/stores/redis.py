"""Rows in a Redis: one key a row, a hash or a string that holds a JSON object.

``redis://host:port/0?match=ctx:*&key=ctx:{user_id}&value=hash``: ``match`` picks the keys, ``key``
says which parts of them are the key columns (default: what the pattern's ``*`` stands for),
``value`` is ``hash`` (the fields are the columns, every value is text) or ``json``. The other
parameters are the client's, such as ``ssl_ca_certs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis import exceptions as kinds
from redis.backoff import NoBackoff
from redis.retry import Retry

from synchroscope.errors import ConfigurationError, UnavailableError
from validator.stores.json_text import decode_json
from validator.stores.key_template import KeyTemplate
from validator.stores.port import Bytes, DamagedRow, Key, Page, Row

ANSWER_SECONDS = 5.0
_FORM = "write redis://host:port/0?match=ctx:*&key=ctx:{user_id}&value=hash"
_PASSING = ("LOADING", "BUSY ", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
_AWAY = (kinds.ConnectionError, kinds.TimeoutError, kinds.BusyLoadingError)
_REFUSED = (kinds.AuthenticationError, kinds.NoPermissionError)


class RedisStore:
    """The `ForeignStore` port on Redis.

    Parameters
    ----------
    uri: See the module.
    key_columns: In the order in which keys are to be given; none: the template's own.
    columns: Only these; None: all.
    answer_seconds: Without an answer for so long the server counts as away.
    """

    finds_what_it_shows = True
    marks_bytes = False

    def __init__(
        self,
        uri: str,
        key_columns: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        url, options = _split(uri)
        self._match = options.get("match", "*")
        self._is_hash = options.get("value", "hash") == "hash"
        if options.get("value", "hash") not in ("hash", "json"):
            raise ConfigurationError("the Redis URI's value must be hash or json")
        text = options.get("key") or _template_of(self._match, key_columns)
        self._template = KeyTemplate(text)
        self.key_columns: tuple[str, ...] = tuple(key_columns) or self._template.columns
        if set(self.key_columns) != set(self._template.columns):
            raise ConfigurationError(
                f"the key template {text!r} names {', '.join(self._template.columns)}, but the key "
                f"columns are {', '.join(self.key_columns)}"
            )
        self._wanted = None if columns is None else list(columns)
        self._keyless = 0
        self.is_typed = not self._is_hash
        try:
            # Without ? and password: what is shown.
            parts = urlsplit(url)
            host = parts.hostname or parts.path
            port = f":{parts.port}" if parts.port else ""
            self.name = f"{parts.scheme}://{host}{port}{parts.path if parts.hostname else ''}"
            self.name += f"?match={self._match}"
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=answer_seconds,
                socket_connect_timeout=answer_seconds,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
                client_name="synchroscope",
            )
            if re.fullmatch(r"/?\d*", parts.path) is None and parts.hostname:
                raise ValueError(parts.path)
            self._client.connection_pool.make_connection()  # Tells a parameter that is none.
        except (ValueError, TypeError, kinds.RedisError):
            # What the parser says may show a piece of the password.
            raise ConfigurationError(f"the Redis URI cannot be read: {_FORM}") from None

    def columns(self) -> list[str] | None:
        """Return the columns that were asked for; None: each row has its own."""
        return self._wanted

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page, in the server's order; a row may come twice."""
        try:
            following, names = self._client.scan(int(cursor or 0), match=self._match, count=limit)
        except kinds.RedisError as error:
            raise self._failure(error) from error
        keys = [key for key in map(self._key_of, names) if key is not None]
        self._keyless = (0 if cursor is None else self._keyless) + len(names) - len(keys)
        rows = list(self.fetch(keys).items())
        return Page(rows, str(following) if following else None)

    def _key_of(self, name: bytes) -> Key | None:
        try:
            values = self._template.parse(name.decode())
        except UnicodeDecodeError:
            return None
        return None if values is None else self._ordered(values)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys as of now."""
        keys = list(keys)
        if not keys:
            return {}
        names = [self._name_of(key) for key in keys]
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for name in names:
                    (pipeline.hgetall if self._is_hash else pipeline.get)(name)
                answers = pipeline.execute(raise_on_error=False)
        except kinds.RedisError as error:
            raise self._failure(error) from error
        rows: dict[Key, Row] = {}
        wrong = 0
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, kinds.ResponseError) and "WRONGTYPE" in str(answer):
                wrong += 1
                rows[key] = DamagedRow()
            elif isinstance(answer, Exception):
                raise self._failure(answer) from answer
            elif answer is not None and answer != {}:
                rows[key] = self._row(answer)
        if wrong and wrong == len(keys) > 1:
            kind, other = ("hashes", "json") if self._is_hash else ("strings", "hash")
            raise ConfigurationError(
                f"{self.name}: the keys are no {kind}: put &value={other} into the URI"
            )
        return rows

    def keyless(self) -> int:
        """Return how many keys of the last walk are no UTF-8 or do not fit the template."""
        return self._keyless

    def readings(self, key: Key) -> list[Key]:
        """Return all keys that are written as this one is."""
        found = self._template.readings(self._name_of(key))
        return [self._ordered(values) for values in found]

    def _ordered(self, values: Key) -> Key:
        named = dict(zip(self._template.columns, values, strict=True))
        return tuple(named[column] for column in self.key_columns)

    def _name_of(self, key: Key) -> str:
        named = dict(zip(self.key_columns, key, strict=True))
        return self._template.fill(tuple(named[column] for column in self._template.columns))

    def _row(self, answer: Any) -> Row:
        if self._is_hash:
            row = {_text(name): self._value(value) for name, value in answer.items()}
            if len(row) < len(answer):  # A name is the hexadecimal form of another one.
                return DamagedRow()
        else:
            try:
                row = decode_json(answer)
            except ValueError:
                return DamagedRow()
            if not isinstance(row, dict):
                return DamagedRow()
        if self._wanted is None:
            return row
        return {name: row[name] for name in self._wanted if name in row}

    def _value(self, data: bytes) -> str:
        text = _text(data)
        return Bytes(text) if self.marks_bytes and text.encode() != data else text

    def close(self) -> None:
        """Close all connections."""
        with suppress(kinds.RedisError, OSError):
            self._client.close()

    def _failure(self, error: Exception) -> Exception:
        text = str(error) or type(error).__name__
        if isinstance(error, _REFUSED) or "NOPERM" in text:
            return ConfigurationError(
                f"{self.name} refuses ({text}): check user and password in the URI, and allow the "
                "user SCAN, HGETALL and GET on these keys"
            )
        if isinstance(error, _AWAY) or any(sign in text for sign in _PASSING):
            return UnavailableError(
                self.name,
                f"cannot be reached or does not answer ({text}): check that it runs, the address, "
                "and whether it speaks TLS there (rediss://)",
            )
        return ConfigurationError(f"{self.name}: {text}: {_FORM}")


def _text(data: bytes) -> str:
    # What is no UTF-8 is shown in hexadecimal, as bytes are everywhere.
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.hex()


def _split(uri: str) -> tuple[str, dict[str, str]]:
    """Return the client's URL, and the parameters that are ours."""
    parts = urlsplit(uri)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: value for name, value in pairs if name in ("match", "key", "value")}
    rest = [(name, value) for name, value in pairs if name not in own]
    return urlunsplit(parts._replace(query=urlencode(rest))), own


def _template_of(match: str, key_columns: Sequence[str]) -> str:
    if match.count("*") != 1 or re.search(r"[\[?\\]", match) or len(key_columns) > 1:
        raise ConfigurationError(
            f"say what the keys' parts are: add &key=TEMPLATE to the Redis URI: {_FORM}"
        )
    return match.replace("*", "{" + (key_columns[0] if key_columns else "key") + "}")
