"""From plain data to typed values: every key, type and range is checked."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct

from service.configuration_problems import Path, Problems
from service.configuration_reading import EnvironmentText
from synchroscope.errors import ConfigurationError

_T = TypeVar("_T")
_S = TypeVar("_S", bound=Struct)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "a mapping",
}


def build(data: Any, kind: type[_T], path: Path, problems: Problems) -> _T | None:
    """Return the typed value, or None after noting every problem that its parts have."""
    before = len(problems.found)
    plain = _plain(data, kind, path, problems)
    if len(problems.found) > before:
        return None
    try:
        return msgspec.convert(plain, kind)
    except ConfigurationError as error:
        problems.add_if_alone(path, str(error))
        return None


def build_fields(data: Mapping[str, Any], kind: type[Struct], problems: Problems) -> dict[str, Any]:
    """Return the typed values of those fields that are sound, and note what is wrong with others.

    So what is wrong between two sound fields can be told at the same time.
    """
    _check_keys(data, kind, (), problems)
    hints = hints_of(kind)
    built = {
        key: build(value, hints[key], (key,), problems)
        for key, value in data.items()
        if key in hints
    }
    return {key: value for key, value in built.items() if value is not None}


def sound(data: Any, kind: type[_T]) -> _T | None:
    """Return the typed value, or None; nothing is noted."""
    return build(data, kind, (), Problems(""))


def overlaid(base: _S, data: Any) -> _S:
    """Return a copy of a section with those settings of the data that are sound, at any depth."""
    merged = copy(base)
    if not isinstance(data, dict):
        return merged
    for name, kind in hints_of(type(base)).items():
        if name in data:
            own = getattr(base, name)
            value = overlaid(own, data[name]) if _is_section(kind) else sound(data[name], kind)
            if value is not None:
                msgspec.structs.force_setattr(merged, name, value)
    return merged


def hints_of(kind: type[Struct]) -> dict[str, Any]:
    """Return the type of each field, with its range."""
    return typing.get_type_hints(kind, include_extras=True)


def range_of(kind: Any) -> str:
    """Return a number's range for people, empty where it has none.

    >>> range_of(Annotated[int, Meta(ge=1, le=20)])
    '1 to 20'
    >>> range_of(Annotated[float, Meta(gt=0.0, le=1e3)] | None)
    'over 0, up to 1,000'
    """
    if typing.get_origin(kind) is not Annotated:
        return next(filter(None, map(range_of, typing.get_args(kind))), "")
    meta = next((one for one in kind.__metadata__ if isinstance(one, Meta)), Meta())
    if meta.gt is not None:
        return f"over {_number(meta.gt)}, up to {_number(meta.le)}"
    if meta.ge is not None:
        return f"{_number(meta.ge)} to {_number(meta.le)}"
    return ""


def _number(value: float | None) -> str:
    if value is None:
        return "any"
    return f"{int(value):,}" if value == int(value) else f"{value}"


# -- going down ----------------------------------------------------------------------------------


def _plain(data: Any, kind: Any, path: Path, problems: Problems) -> Any:
    """Return data that `msgspec.convert` takes, as far as it is sound; note what is not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        section = next((one for one in arguments if _is_section(one)), None)
        if section is not None:
            return _plain(data, section, path, problems)
    if _is_section(kind):
        # An empty section is YAML's nothing.
        data = {} if data is None else data
        if isinstance(data, dict):
            return _section(data, kind, path, problems)
    elif origin is list and isinstance(data, list):
        return [
            _plain(item, arguments[0], (*path, number), problems)
            for number, item in enumerate(data)
        ]
    elif origin is dict and isinstance(data, dict):
        return {
            key: _plain(item, arguments[1], (*path, key), problems) for key, item in data.items()
        }
    return _leaf(data, kind, path, problems)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _section(
    data: dict[str, Any], kind: type[Struct], path: Path, problems: Problems
) -> dict[str, Any]:
    _check_keys(data, kind, path, problems)
    hints = hints_of(kind)
    return {
        key: _plain(value, hints[key], (*path, key), problems)
        for key, value in data.items()
        if key in hints
    }


def _check_keys(
    data: Mapping[str, Any], kind: type[Struct], path: Path, problems: Problems
) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            known = f"known are {', '.join(sorted(fields))}" if fields else "nothing belongs here"
            hint = f"did you mean {near[0]}?" if near else known
            problems.add((*path, key), f"unknown key; {hint}")
    for name, field in fields.items():
        if field.required and name not in data:
            problems.add(path, f"{name} is missing")


def _leaf(data: Any, kind: Any, path: Path, problems: Problems) -> Any:
    candidates = _meanings(data) if isinstance(data, EnvironmentText) else [data]
    problem = ""
    for candidate in candidates:
        try:
            msgspec.convert(candidate, kind)
        except msgspec.ValidationError as error:
            problem = problem or _sentence(kind, str(error))
        else:
            return candidate
    problems.add(path, problem)
    return None


def _meanings(text: EnvironmentText) -> list[Any]:
    """Return what a text of the environment may mean, what is likelier first."""
    plain = str(text)
    meanings: list[Any] = [plain]
    try:
        meant = yaml.safe_load(plain)
        if not isinstance(meant, str):
            meanings.append(meant)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
        pass
    if isinstance(meanings[-1], (list, dict)):
        meanings.reverse()
    return meanings


def _sentence(kind: Any, text: str) -> str:
    """Return what is wrong, without the value: it may be a secret in the wrong place."""
    choices = [one for one in typing.get_args(kind) if isinstance(one, str)]
    if typing.get_origin(kind) is typing.Literal and choices:
        return "choose one of " + ", ".join(one or '""' for one in choices)
    allowed = range_of(kind)
    if allowed and "got" not in text:
        return f"{allowed} is allowed"
    text = re.sub(r" - at `[^`]*`$", "", text)
    text = re.sub(r"`([^`]*)`", lambda found: " or ".join(map(_word, found[1].split(" | "))), text)
    return text[:1].lower() + text[1:]


def _word(name: str) -> str:
    return _WORDS.get(name, name)
