"""From a JSON path to a function that finds it; plain paths are walked without an interpreter."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jsonpath
import msgspec
from jsonpath import JSONPathError

from synchroscope.errors import ConfigurationError
from synchroscope.foreign import UNDECODABLE
from synchroscope.ports import Record

Find = Callable[[Any], Any]
_STEP = re.compile(
    r"\.(?P<name>[A-Za-z_][\w-]*)|\[(?P<quote>['\"])(?P<quoted>[^'\"\\]+)(?P=quote)\]"
    r"|\[(?P<number>\d+)\]"
)


class _Missing:
    """Stands for what a document has not; JSON's null is something else."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


def compile_path(path: str) -> Find:
    """Return the function that finds the first match of a path, or `MISSING`.

    >>> compile_path("$.updates.risk['current']")({"updates": {"risk": {"current": 3}}})
    3
    >>> compile_path("$.a[?@.n > 1].n")({"a": [{"n": 1}, {"n": 2}]})
    2
    >>> compile_path("$.a")({})
    MISSING
    """
    steps = plain_steps(path)
    if steps is not None:
        return _walker(steps)
    query = _compiled(path)

    def find(document: Any) -> Any:
        match = query.match(document)
        return MISSING if match is None else match.obj

    return find


def compile_wildcard(path: str) -> Callable[[Any], list[tuple[str, Any]]]:
    """Return the function that finds every (name, value) of a path that ends in ``.*``.

    >>> compile_wildcard("$.updates.*")({"updates": {"a": 1, "b": 2}})
    [('a', 1), ('b', 2)]
    """
    steps = plain_steps(path[:-2]) if path.endswith(".*") else None
    if steps is not None:
        find_parent = _walker(steps)

        def children(document: Any) -> list[tuple[str, Any]]:
            parent = find_parent(document)
            return list(parent.items()) if isinstance(parent, dict) else []

        return children
    query = _compiled(path)

    def matches(document: Any) -> list[tuple[str, Any]]:
        found = query.finditer(document)
        return [(str(match.parts[-1]), match.obj) for match in found if match.parts]

    return matches


def plain_steps(path: str) -> list[str | int] | None:
    """Return the names and numbers of a path that has nothing else; None for any other."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    place = 1
    while place < len(path):
        found = _STEP.match(path, place)
        if found is None:
            return None
        name = found["name"] or found["quoted"]
        steps.append(name if name is not None else int(found["number"]))
        place = found.end()
    return steps


def _walker(steps: list[str | int]) -> Find:
    def find(document: Any) -> Any:
        try:
            for step in steps:
                document = document[step]
        except (KeyError, IndexError, TypeError):
            return MISSING
        return document

    return find


def _compiled(path: str) -> Any:
    try:
        return jsonpath.compile(path)
    except JSONPathError as error:
        raise ConfigurationError(f"{path!r} is no JSON path ({error})") from None


class Opened:
    """A record whose value is decoded once, whatever the number of paths into it."""

    __slots__ = ("record", "value")

    def __init__(self, record: Record, value: Any) -> None:
        self.record = record
        self.value = value


def compile_source(source: str) -> Callable[[Opened], Any]:
    """Return the function that finds what a source names in a record.

    ``$…`` is a path in the value, ``key`` the key as text, ``key.$…`` a path in a key that is JSON,
    ``header.NAME`` a header as text, ``timestamp`` and ``offset`` the record's own; anything else
    stands for itself.
    """
    if source.startswith("$"):
        find = compile_path(source)
        return lambda opened: find(opened.value)
    if source == "key":
        return lambda opened: _text(opened.record.key)
    if source.startswith("key.$"):
        find_in_key = compile_path(source.removeprefix("key."))
        return lambda opened: find_in_key(_json(opened.record.key))
    if source.startswith("header."):
        name = source.removeprefix("header.")
        return lambda opened: _header(opened.record, name)
    if source == "timestamp":
        return lambda opened: opened.record.timestamp
    if source == "offset":
        return lambda opened: opened.record.offset
    return lambda opened: source


def _header(record: Record, name: str) -> Any:
    data = record.header(name)
    return MISSING if data is None else _text(data)


def _text(data: bytes) -> Any:
    try:
        return data.decode() if data else MISSING
    except UnicodeDecodeError:
        return MISSING


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except UNDECODABLE:
        return MISSING
