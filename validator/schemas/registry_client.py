"""A registry behind Confluent's REST interface: theirs, another's of that shape, or our own.

What never changes (a version, the schema of an ID) is kept, up to a bound. What may change (which
version is the latest, that there is none) is asked again after a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from synchroscope.errors import ConfigurationError, UnavailableError
from validator.schemas.compatibility import Level
from validator.schemas.model import (
    INVALID_SCHEMA,
    SUBJECT_NOT_FOUND,
    SURE_SECONDS,
    VERSION_NOT_FOUND,
    RegistryError,
    SchemaVersion,
)

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
TIMEOUT_SECONDS = 5.0
KEPT_VERSIONS = 10_000
KEPT_SECONDS = 30.0
_ABSENT = (SUBJECT_NOT_FOUND, VERSION_NOT_FOUND)

_Asked = tuple[str, int | None]
_Told = SchemaVersion | RegistryError | None

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """The values used last, up to a bound.

    Parameters
    ----------
    limit: How many.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """Return what is kept under the key."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Keep a value, and drop the one that was not used for longest if there are too many."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)
        return value


class RegistryClient:
    """The `SchemaRegistry` behind an address; used by one thread.

    Parameters
    ----------
    url: ``http(s)://[user:password@]host:port[/path]``.
    timeout_seconds: Longest wait for an answer.
    kept_seconds: How long the latest version, and that there is none, is believed. Higher: fewer
        questions, a new version is noticed later.
    transport: How requests travel; the default is the network.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                "the schema registry's url must begin with http:// or https://"
            )
        self._server = f"schema registry {parts.hostname}:{parts.port or parts.scheme}"
        self._kept_seconds = kept_seconds
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            timeout=timeout_seconds,
            headers={"Accept": f"{CONTENT_TYPE}, application/json"},
            transport=transport,
        )
        self._versions: Kept[tuple[str, int], SchemaVersion] = Kept(KEPT_VERSIONS)
        self._passing: Kept[_Asked, tuple[float, _Told]] = Kept(KEPT_VERSIONS)
        self._texts: Kept[int, str] = Kept(KEPT_VERSIONS)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # -- the check of events -----------------------------------------------------------------

    def refresh(self, now: float) -> int:
        """Return a number that changes as often as what passes is asked again."""
        return int(now / self._kept_seconds)

    def find(
        self, subject: str, version: int | None, now: float, *, sure: bool = False
    ) -> SchemaVersion | None:
        """Return a version, None standing for the latest, as it was told lately."""
        if version is not None and (found := self._versions.get((subject, version))) is not None:
            return found
        known = self._passing.get((subject, version))
        # That there is no such version is soon not true any more: producers register, and write.
        is_fleeting = sure or (known is not None and known[1] is None)
        limit = SURE_SECONDS if is_fleeting else self._kept_seconds
        if known is None or not 0 <= now - known[0] < limit:
            told = self._told(subject, version, now)
            if version is None or not isinstance(told, SchemaVersion):
                self._passing.put((subject, version), (now, told))
        else:
            told = known[1]
        if isinstance(told, RegistryError):
            raise RegistryError(told.code, str(told))
        return told

    def _told(self, subject: str, version: int | None, now: float) -> _Told:
        try:
            return self.version(subject, version, now)
        except RegistryError as error:
            return None if error.code in _ABSENT else error

    def is_known(self, subject: str, now: float) -> bool:
        """Say whether the subject has any version."""
        return self.find(subject, None, now) is not None

    # -- the registry ------------------------------------------------------------------------

    def subjects(self, now: float) -> list[str]:
        """Return the names of all subjects, in order."""
        return sorted(_list_of(self._ask("GET", "subjects"), str))

    def versions(self, subject: str, now: float) -> list[int]:
        """Return the numbers of a subject's versions."""
        return _list_of(self._ask("GET", f"subjects/{_quoted(subject)}/versions"), int)

    def version(self, subject: str, version: int | None, now: float) -> SchemaVersion:
        """Return a version, the latest for None."""
        number = "latest" if version is None else version
        form = self._ask("GET", f"subjects/{_quoted(subject)}/versions/{number}")
        return self._keep(self._version_of(form))

    def _version_of(self, form: Any) -> SchemaVersion:
        kind = _field(form, "schemaType", str, "AVRO")
        if kind != "JSON":
            raise RegistryError(
                INVALID_SCHEMA, f"{_field(form, 'subject', str)} holds {kind}, not JSON schemas"
            )
        return SchemaVersion(
            _field(form, "subject", str),
            _field(form, "version", int),
            _field(form, "id", int),
            _field(form, "schema", str),
        )

    def _keep(self, found: SchemaVersion) -> SchemaVersion:
        self._texts.put(found.id, found.text)
        return self._versions.put((found.subject, found.version), found)

    def text_of(self, id: int, now: float) -> str:
        """Return the schema of that ID."""
        kept = self._texts.get(id)
        if kept is not None:
            return kept
        return self._texts.put(id, _field(self._ask("GET", f"schemas/ids/{id}"), "schema", str))

    def lookup(self, subject: str, text: str, now: float) -> SchemaVersion:
        """Return the subject's version that has this schema."""
        form = self._ask("POST", f"subjects/{_quoted(subject)}", _schema_form(text))
        return self._keep(self._version_of({"schema": text, "schemaType": "JSON", **form}))

    def register(self, subject: str, text: str, now: float, *, by: str = "") -> int:
        """Return the schema's ID; a new version is made if the subject does not have it yet."""
        path = f"subjects/{_quoted(subject)}/versions"
        form = self._ask("POST", path, _schema_form(text), headers={"User-Agent": by} if by else {})
        self._passing = Kept(KEPT_VERSIONS)  # A new latest version is known at once.
        id: int = _field(form, "id", int)
        return id

    def incompatibilities(
        self, subject: str, text: str, version: int | None, now: float
    ) -> list[str]:
        """Return why a schema would be refused after one version, the latest for None."""
        number = "latest" if version is None else version
        return self._reasons(f"{_quoted(subject)}/versions/{number}", text)

    def refusal(self, subject: str, text: str, now: float) -> list[str]:
        """Return why a schema would be refused as the next version; none for a new subject."""
        try:
            return self._reasons(f"{_quoted(subject)}/versions", text)
        except RegistryError as error:
            if error.code != SUBJECT_NOT_FOUND:
                raise
            return []

    def _reasons(self, place: str, text: str) -> list[str]:
        path = f"compatibility/subjects/{place}?verbose=true"
        form = self._ask("POST", path, _schema_form(text))
        if _field(form, "is_compatible", bool):
            return []
        return _list_of(form.get("messages") or [], str) or ["the registry gives no reason"]

    def level(self, subject: str | None, now: float, *, or_global: bool = False) -> Level:
        """Return a subject's own level, or the global one."""
        path = "config" if subject is None else f"config/{_quoted(subject)}"
        form = self._ask("GET", path + ("?defaultToGlobal=true" if or_global and subject else ""))
        level: Level = _field(form, "compatibilityLevel", str)
        return level

    def set_level(
        self, subject: str | None, level: Level | None, now: float, *, by: str = ""
    ) -> None:
        """Set a subject's level, or the global one; with None a subject has none of its own."""
        path = "config" if subject is None else f"config/{_quoted(subject)}"
        headers = {"User-Agent": by} if by else {}
        if level is None:
            self._ask("DELETE", path, headers=headers)
        else:
            self._ask("PUT", path, {"compatibility": level}, headers=headers)

    # -- asking ------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        more = dict(headers or {})
        if form is not None:
            more["Content-Type"] = CONTENT_TYPE
        try:
            answer = self._client.request(
                method, path, json=None if form is None else dict(form), headers=more
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(
                self._server, f"{reason}; check schemas.url and the server"
            ) from None
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> Any:
        status = answer.status_code
        try:
            form = answer.json()
        except ValueError:
            form = None
        if status in (401, 403):
            raise ConfigurationError(
                f"{self._server} does not let us in ({status}): "
                "give user and password in schemas.url"
            )
        if status < 300 and form is not None:
            return form
        code = form.get("error_code") if isinstance(form, dict) else None
        if isinstance(form, dict) and isinstance(code, int) and status < 500:
            raise RegistryError(code, str(form.get("message", "")))
        if status < 500 and status != 429:
            raise ConfigurationError(
                f"{self._server} answers {status} without an error code: schemas.url does not name "
                "a registry with Confluent's interface"
            )
        raise UnavailableError(self._server, f"answers {status}; look into its log")


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


def _schema_form(text: str) -> dict[str, str]:
    return {"schema": text, "schemaType": "JSON"}


def _field(form: Any, name: str, kind: type, default: Any = None) -> Any:
    value = form.get(name, default) if isinstance(form, dict) else None
    if not isinstance(value, kind):
        raise RegistryError(INVALID_SCHEMA, f"the registry's answer has no proper {name}")
    return value


def _list_of(form: Any, kind: type) -> list[Any]:
    if not isinstance(form, list) or not all(isinstance(item, kind) for item in form):
        raise RegistryError(INVALID_SCHEMA, "the registry's answer is no proper list")
    return form
