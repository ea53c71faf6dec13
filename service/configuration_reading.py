"""From a YAML file and the environment to plain data, with every problem and its line collected."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import Struct

from synchroscope.errors import ConfigurationError

ENVIRONMENT_PREFIX = "SYNCHROSCOPE__"
MAXIMUM_SECRET_BYTES = 65_536

_REFERENCE = re.compile(r"\$\{(?:file:(?P<file>[^}]+)|(?P<name>\w+)(?P<default>:-[^}]*)?)\}")
_SECRET_KEYS = frozenset({"password", "key", "key_password"})
_URL_KEYS = frozenset({"dsn", "url"})
_PLAIN = (str, int, float, bool, type(None))
_Path = tuple[str | int, ...]
_T = TypeVar("_T")


class Problems:
    """What is wrong with a file, each with its place."""

    def __init__(self, file: str, lines: Mapping[_Path, int]) -> None:
        self._file = file
        self._lines = lines
        self.found: list[str] = []

    def add(self, path: _Path, text: str) -> None:
        """Note a problem at a place of the file."""
        line = next(
            (self._lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._lines),
            None,
        )
        place = shown(path)
        where = f"line {line}: " if line is not None else ""
        self.found.append(f"{where}{place}: {text}" if place else f"{where}{text}")

    def raise_if_any(self) -> None:
        """Raise one `ConfigurationError` that names them all."""
        if not self.found:
            return
        lines = "\n  ".join(self.found)
        raise ConfigurationError(f"{self._file}:\n  {lines}")


def shown(path: _Path) -> str:
    """Return a place for people.

    >>> shown(("replicas", 0, "redis"))
    'replicas[0].redis'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


# -- reading -----------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML; what it makes of the nodes is done here, so that each has a line."""


def read_file(path: Path, environ: Mapping[str, str]) -> tuple[dict[str, Any], Problems]:
    """Return the file's data with the environment's values in their places, and its problems."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    lines: dict[_Path, int] = {}
    problems = Problems(str(path), lines)
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = _plain(node, (), lines, problems) if node is not None else {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: no YAML: {reason}") from None
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path}: a mapping of settings is needed, like `name: retail`")
    _refuse_literal_secrets(data, (), problems)
    _override(data, environ, problems)
    return _interpolate(data, (), environ, problems), problems


def _plain(
    node: yaml.Node, path: _Path, lines: dict[_Path, int], problems: Problems, depth: int = 0
) -> Any:
    lines[path] = node.start_mark.line + 1
    if depth > 20:
        raise ValueError("nested too deeply")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            place = (*path, key)
            value = _plain(value_node, place, lines, problems, depth + 1)
            lines[place] = key_node.start_mark.line + 1
            if key in found:
                problems.add(place, "is given twice")
            found[key] = value
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(item, (*path, number), lines, problems, depth + 1)
            for number, item in enumerate(node.value)
        ]
    loader = _Loader("")
    value = loader.construct_object(node, deep=True)
    # A date or a binary is what YAML makes of some plain texts; here they are texts.
    return value if isinstance(value, _PLAIN) else str(node.value)


def _walk(data: Any, path: _Path) -> Iterator[tuple[_Path, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _walk(value, (*path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _walk(value, (*path, number))
    elif isinstance(data, str):
        yield path, data


def _refuse_literal_secrets(data: Any, path: _Path, problems: Problems) -> None:
    for place, text in _walk(data, path):
        key = place[-1]
        literal = _REFERENCE.sub("", text)
        is_secret = key in _SECRET_KEYS and literal != ""
        if key in _URL_KEYS:
            bare = _REFERENCE.sub("", text)
            is_secret = _password_of(bare) is not None
        if is_secret:
            problems.add(
                place,
                "holds a secret in plain text; write ${NAME} to take it from the environment, or "
                "${file:/path} from a file",
            )


def _password_of(url: str) -> str | None:
    try:
        password = urlsplit(url).password
    except ValueError:
        password = None
    found = re.search(r"(?:^|[\s?&])password=([^\s&]+)", url)
    return password or (found[1] if found else None)


def _override(data: dict[str, Any], environ: Mapping[str, str], problems: Problems) -> None:
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        parts = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if not _put(data, parts, _scalar(text)):
            problems.add((), f"the environment's {name} names no place of the file")


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text
    return value if isinstance(value, (int, float, bool)) else text


def _put(data: Any, parts: list[str], value: Any) -> bool:
    place = data
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                return False
            if last:
                place[int(part)] = value
            else:
                place = place[int(part)]
        elif isinstance(place, MutableMapping):
            key = next((known for known in place if str(known).lower() == part), part)
            if last:
                place[key] = value
            else:
                place = place.setdefault(key, {})
        else:
            return False
    return bool(parts)


def _interpolate(data: Any, path: _Path, environ: Mapping[str, str], problems: Problems) -> Any:
    if isinstance(data, dict):
        return {k: _interpolate(v, (*path, k), environ, problems) for k, v in data.items()}
    if isinstance(data, list):
        return [_interpolate(v, (*path, n), environ, problems) for n, v in enumerate(data)]
    if not isinstance(data, str):
        return data

    def value_of(found: re.Match[str]) -> str:
        if found["file"] is not None:
            try:
                with Path(found["file"]).open(encoding="utf-8") as file:
                    return file.read(MAXIMUM_SECRET_BYTES).strip()
            except (OSError, UnicodeDecodeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                problems.add(path, f"the file {found['file']} cannot be read: {reason}")
                return ""
        value = environ.get(found["name"])
        if value is not None:
            return value
        if found["default"] is None:
            problems.add(path, f"the environment has no {found['name']}")
            return ""
        return found["default"][2:]

    return _REFERENCE.sub(value_of, data)


# -- building ----------------------------------------------------------------------------------


def build(data: Any, kind: type[_T], path: _Path, problems: Problems) -> _T | None:
    """Return the typed value, or None after noting every problem that its parts have."""
    before = len(problems.found)
    _check(data, kind, path, problems)
    if len(problems.found) > before:
        return None
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        _note(error, path, problems)
    except ConfigurationError as error:
        problems.add(path, str(error))
    return None


def _note(error: msgspec.ValidationError, path: _Path, problems: Problems) -> None:
    text, _, place = str(error).partition(" - at `")
    parts = re.findall(r"\.([^.\[`]+)|\[(\d+)\]", place)
    inner = tuple(name or int(number) for name, number in parts)
    problems.add((*path, *inner), text[0].lower() + text[1:])


def _check(data: Any, kind: Any, path: _Path, problems: Problems) -> None:
    """Check keys and parts, going down as far as the types do; leaves are checked one by one."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        structs = [one for one in arguments if _is_struct(one)]
        if structs and isinstance(data, dict):
            _check(data, structs[0], path, problems)
            return
    elif _is_struct(kind):
        if isinstance(data, dict):
            _check_struct(data, kind, path, problems)
            return
    elif origin is list and isinstance(data, list):
        for number, item in enumerate(data):
            _check(item, arguments[0], (*path, number), problems)
        return
    elif origin is dict and isinstance(data, dict):
        for key, item in data.items():
            _check(item, arguments[1], (*path, key), problems)
        return
    try:
        msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        _note(error, path, problems)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _check_struct(
    data: dict[str, Any], kind: type[Struct], path: _Path, problems: Problems
) -> None:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in data.items():
        if key in fields:
            _check(value, hints[key], (*path, key), problems)
            continue
        near = difflib.get_close_matches(key, fields, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(fields))}"
        problems.add((*path, key), f"unknown key{hint}")
    for name, field in fields.items():
        if field.required and name not in data:
            problems.add(path, f"{name} is missing")
