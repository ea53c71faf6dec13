"""Rows behind an HTTP interface that answers pages of JSON.

``http://host/users?items=$.data&cursor=after&next=$.next&limit=size&lookup=/users/{id}``: what is
listed below stands in the URI's query and is taken out of it; what else stands there is sent.

========== ==================================================================================
``items``  JSON path of the list of rows in a page (default ``$``: the page is the list)
``cursor`` name of the parameter that asks for the next page; its value is what ``next`` finds
``next``   JSON path of the next page's cursor, absent or null at the end
``page``   name of a parameter that counts pages instead; the first page without rows is the last
``first``  number of the first page (default 1)
``limit``  name of the parameter with the page's size; without it the server decides
``lookup`` path of one row, with the key columns in braces; 404 says that there is none
``row``    JSON path of the row in the answer to a lookup (default ``$``)
========== ==================================================================================

Pages that lead back to one of them, or nowhere, end a walk with an error (`HttpWalk`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit, urlunsplit

import httpx
import jsonpath
from jsonpath import JSONPathError

from synchroscope.errors import ConfigurationError, UnavailableError
from validator.stores.deadline import Deadline
from validator.stores.http_walk import HttpWalk
from validator.stores.json_text import decode_json
from validator.stores.port import Key, Page, Row, key_text

ANSWER_SECONDS, WHOLE_ANSWER_SECONDS = 10.0, 60.0
CONNECTIONS = 4
"""So many connections at most are cut where an answer takes too long."""
ANSWER_BYTES = 64 * 1024 * 1024
_OWN = frozenset({"items", "cursor", "next", "page", "first", "limit", "lookup", "row"})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpStore:
    """The `ForeignStore` port on pages of JSON.

    The list and the lookup are two answers of somebody else: a row that is listed may not be found.

    Parameters
    ----------
    uri: See the module; user and password in it are sent as basic authentication.
    key_columns: Which of a row's names are its key.
    columns: Only these; None: all.
    answer_seconds: Without a byte for so long the server counts as away.
    whole_answer_seconds: Nor may an answer take longer, however it comes.
    transport: Another way to the server, for tests.
    """

    bounds_pages = True
    """By bytes; and pages that are counted must keep their size."""

    def __init__(
        self,
        uri: str,
        key_columns: Sequence[str],
        columns: Sequence[str] | None = None,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        whole_answer_seconds: float = WHOLE_ANSWER_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not key_columns:
            raise ConfigurationError("name the key columns of the rows that the HTTP store has")
        parts = urlsplit(uri)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        self._options = {name: value for name, value in pairs if name in _OWN}
        rest = [(name, value) for name, value in pairs if name not in _OWN]
        self._sent = dict(rest)
        host = parts.hostname or ""
        host += f":{parts.port}" if parts.port else ""
        self._url = urlunsplit((parts.scheme, host, parts.path, "", ""))
        self.name = self._url + ("?…" if rest else "")  # What is sent may be a secret.
        self._walk = HttpWalk(self.name)
        self.key_columns: tuple[str, ...] = tuple(key_columns)
        self.is_typed = True
        self._wanted = None if columns is None else list(columns)
        self._items = _path(self._options.get("items", "$"))
        self._next = _path(self._options.get("next", "$.next"))
        self._row_path = _path(self._options.get("row", "$"))
        if "cursor" in self._options and "page" in self._options:
            raise ConfigurationError(f"{self.name}: give cursor or page, not both")
        if "lookup" not in self._options:
            raise ConfigurationError(
                f"{self.name}: say how one row is asked for: &lookup=/users/{{id}}"
            )
        missing = [name for name in key_columns if "{" + name + "}" not in self._options["lookup"]]
        if missing:
            raise ConfigurationError(
                f"{self.name}: lookup has no {{{missing[0]}}}: name each key column in braces"
            )
        if not self._options.get("first", "1").removeprefix("-").isdecimal():
            raise ConfigurationError(f"{self.name}: first must be the number of the first page")
        self._whole_answer_seconds = whole_answer_seconds
        self._streams: deque[Any] = deque(maxlen=CONNECTIONS)
        auth = None
        if parts.username:
            auth = (unquote(parts.username), unquote(parts.password or ""))
        self._client = httpx.Client(
            timeout=httpx.Timeout(answer_seconds), auth=auth, transport=transport
        )

    def columns(self) -> list[str] | None:
        """Return the columns that were asked for; None: each row has its own."""
        return self._wanted

    def scan(self, cursor: str | None, limit: int) -> Page:
        """Return the next page, in the server's order."""
        parameters: dict[str, str] = dict(self._sent)
        if "limit" in self._options:
            parameters[self._options["limit"]] = str(limit)
        address = cursor
        if "page" in self._options:
            address = str(int(cursor or self._options.get("first", "1")))
            parameters[self._options["page"]] = address
        elif cursor is not None:
            parameters[self._options.get("cursor", "cursor")] = cursor
        data = self._ask(self._url, parameters) or b""
        document = self._decoded(data)
        rows = self._rows(document)
        following = self._following(document, address, is_empty=not rows)
        if cursor is None:
            self._walk.begin()
        self._walk.add(address or "", following, data, is_empty=not rows)
        return Page(rows, following)

    def _rows(self, document: Any) -> list[tuple[Key, Row]]:
        match = self._items.match(document)
        items = None if match is None else match.obj
        if not isinstance(items, list):
            raise ConfigurationError(
                f"{self.name}: {self._options.get('items', '$')} is no list in the answer; say "
                "where the rows are: &items=$.data"
            )
        rows = [self._pair(item) for item in items]
        seen: set[Key] = set()
        for key, _ in rows:
            if key in seen:
                raise ConfigurationError(
                    f"{self.name} has two rows with the key {', '.join(key)} in one page: name "
                    "more key columns"
                )
            seen.add(key)
        return rows

    def _following(self, document: Any, address: str | None, *, is_empty: bool) -> str | None:
        """Return the cursor or number of the next page; None at the end."""
        if "page" in self._options:
            return None if is_empty else str(int(address or "0") + 1)
        found = self._next.match(document) if isinstance(document, dict) else None
        return None if found is None or found.obj in (None, "", False) else str(found.obj)

    def fetch(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return the rows of these keys, a request each."""
        rows: dict[Key, Row] = {}
        for key in keys:
            path = self._lookup_of(key)
            if path is None:
                continue
            data = self._ask(urljoin(self._url, path), self._sent, may_be_absent=True)
            match = None if data is None else self._row_path.match(self._decoded(data))
            if match is not None and isinstance(match.obj, dict):
                found, row = self._pair(match.obj)
                if found == key:  # Another row says nothing about this one.
                    rows[key] = row
        return rows

    def _lookup_of(self, key: Key) -> str | None:
        """Return the path that asks for a row; None where it would ask for something else."""
        path = self._options["lookup"]
        for column, value in zip(self.key_columns, key, strict=True):
            gap = "{" + column + "}"
            if not value and gap in path.partition("?")[0]:
                return None  # /users/ is not a user, but all of them.
            # A path of . or .. is the folder that it is in.
            escaped = value.replace(".", "%2E") if value in (".", "..") else quote(value, safe="")
            path = path.replace(gap, escaped)
        return path

    def _pair(self, item: Any) -> tuple[Key, Row]:
        if not isinstance(item, dict) or any(name not in item for name in self.key_columns):
            raise ConfigurationError(
                f"{self.name}: a row has no {', '.join(self.key_columns)}; correct items, row or "
                "the key columns"
            )
        key = tuple(key_text(item[name]) for name in self.key_columns)
        if self._wanted is not None:
            return key, {name: item[name] for name in self._wanted if name in item}
        return key, {name: value for name, value in item.items() if name not in self.key_columns}

    def _ask(
        self, url: str, parameters: dict[str, str], *, may_be_absent: bool = False
    ) -> bytes | None:
        """Return the answer; None where what is asked for is absent, and may be."""
        deadline = Deadline(self._whole_answer_seconds, self._descriptors)
        try:
            with (
                deadline,
                self._client.stream(
                    "GET", url, params=parameters, extensions={"trace": self._note}
                ) as answer,
            ):
                data = bytearray()
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > ANSWER_BYTES:
                        raise ConfigurationError(
                            f"{self.name}: a page has over {ANSWER_BYTES} bytes: name the "
                            "parameter of its size with &limit="
                        )
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"{self.name}: the URL cannot be read ({error})") from None
        except httpx.HTTPError as error:
            text = self._late() if deadline.is_over else str(error) or type(error).__name__
            raise UnavailableError(
                self.name, f"cannot be reached or does not answer ({text}): check that it runs"
            ) from error
        if deadline.is_over:  # What was cut may look whole.
            raise UnavailableError(self.name, f"is too slow ({self._late()})")
        status = answer.status_code
        if may_be_absent and status in (404, 410):
            return None
        if status in _PASSING:
            raise UnavailableError(self.name, f"cannot serve at the moment (HTTP {status})")
        if status != 200:
            raise ConfigurationError(
                f"{self.name} refuses with HTTP {status}: check the path, and user and password in "
                "the URI"
            )
        return bytes(data)

    def _late(self) -> str:
        return f"no whole answer within {self._whole_answer_seconds:g} s"

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        """Remember a connection that was made, to cut it where it is too slow."""
        stream = facts.get("return_value")
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(stream)

    def _descriptors(self) -> list[int]:
        return [stream.get_extra_info("socket").fileno() for stream in self._streams]

    def _decoded(self, data: bytes) -> Any:
        try:
            return decode_json(data)
        except ValueError as error:
            raise ConfigurationError(f"{self.name} answers no JSON ({error})") from None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _path(text: str) -> Any:
    try:
        return jsonpath.compile(text)
    except JSONPathError as error:
        raise ConfigurationError(f"{text!r} is no JSON path ({error})") from None
