"""From a YAML file and the environment to plain data, with every problem and its place collected.

What the environment gives, by a variable of its own or by a reference in the file, is text: it
becomes a number, a list or whatever the setting needs when that is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from re import Match
from typing import Any

from service.configuration_problems import Path, Problems
from service.configuration_secrets import REFERENCE, is_in_clear
from service.configuration_yaml import parse
from synchroscope.errors import ConfigurationError

ENVIRONMENT_PREFIX = "SYNCHROSCOPE__"
MAXIMUM_FILE_BYTES = 262_144
MAXIMUM_SECRET_BYTES = 65_536


class EnvironmentText(str):
    """A text whose type is what its setting needs; taken as it is, references and all."""

    __slots__ = ()


def read_file(path: FilePath, environ: Mapping[str, str]) -> tuple[dict[str, Any], Problems]:
    """Return the file's data with the environment's values in their places, and its problems."""
    problems = Problems(str(path))
    data = parse(_text_of(path), problems)
    for place, text in _texts(data, ()):
        if is_in_clear(place, text):
            problems.add(
                place,
                "holds a secret in plain text; write ${NAME} to take it from the environment, or "
                "${file:PATH} from a file",
            )
    for name, text in sorted(environ.items()):
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            _put(data, name, text, problems)
    return _Interpolation(path.parent, environ, problems).of(data, ()), problems


def _text_of(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    if len(content) > MAXIMUM_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAXIMUM_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}: line {line}: not UTF-8") from None


def _texts(data: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _texts(value, (*path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _texts(value, (*path, number))
    elif isinstance(data, str):
        yield path, data


# -- the environment over the file ---------------------------------------------------------------


def _put(data: dict[str, Any], name: str, text: str, problems: Problems) -> None:
    """Put what a variable says in its place; sections and lists that are missing are made."""
    parts = name[len(ENVIRONMENT_PREFIX) :].split("__")
    if not all(parts):
        problems.add((), f"{name}: give the place as {ENVIRONMENT_PREFIX}SECTION__KEY")
        return
    path: Path = ()
    place: Any = data
    for number, part in enumerate(parts):
        key = _key_of(place, part)
        if key is None:
            what = f"a list of {len(place)}" if isinstance(place, list) else "no section"
            problems.add(path, f"is {what}, so there is no place for {name}")
            return
        path = (*path, key)
        if isinstance(place, list) and key == len(place):
            place.append(None)
        following: Any = EnvironmentText(text)
        if number + 1 < len(parts):
            following = place.get(key) if isinstance(place, dict) else place[key]
        if following is None:
            following = [] if parts[number + 1].isdecimal() else {}
            problems.stands(path, name)
        place[key] = following
        place = following
    problems.stands(path, name)


def _key_of(place: Any, part: str) -> str | int | None:
    """Return the key that a part of a variable's name means; None: there can be none.

    Variables have no small letters and no hyphens, by custom.
    """
    if isinstance(place, dict):
        spelled = part.lower().replace("-", "_")
        known = (key for key in place if str(key).lower().replace("-", "_") == spelled)
        return next(known, part.lower())
    if isinstance(place, list) and part.isdecimal() and int(part) <= len(place):
        return int(part)
    return None


# -- references ----------------------------------------------------------------------------------


class _Interpolation:
    """Puts the environment's and files' texts where the configuration refers to them."""

    def __init__(self, folder: FilePath, environ: Mapping[str, str], problems: Problems) -> None:
        self._folder = folder
        self._environ = environ
        self._problems = problems

    def of(self, data: Any, path: Path) -> Any:
        """Return the data with every reference replaced."""
        if isinstance(data, dict):
            return {key: self.of(value, (*path, key)) for key, value in data.items()}
        if isinstance(data, list):
            return [self.of(value, (*path, number)) for number, value in enumerate(data)]
        if not isinstance(data, str):
            return data
        found = data if isinstance(data, EnvironmentText) else self._text(data, path)
        if not _is_sound(found):
            self._problems.add(path, "the environment gives what is no UTF-8 text")
            return ""
        return found

    def _text(self, text: str, path: Path) -> str:
        if "${" in REFERENCE.sub("", text):
            self._problems.add(path, "write ${NAME}, ${NAME:-default} or ${file:PATH}")
        whole = REFERENCE.fullmatch(text) is not None
        replaced = REFERENCE.sub(lambda found: self._value(found, path), text)
        return EnvironmentText(replaced) if whole else replaced

    def _value(self, found: Match[str], path: Path) -> str:
        if found["file"] is not None:
            return self._content(found["file"], path)
        value = self._environ.get(found["name"])
        if found["default"] is not None:
            return value or found["default"][2:]
        if value is None:
            self._problems.add(path, f"the environment has no {found['name']}")
        return value or ""

    def _content(self, name: str, path: Path) -> str:
        try:
            with (self._folder / name).open("rb") as file:
                content = file.read(MAXIMUM_SECRET_BYTES + 1)
            text = content.decode().strip()
        except OSError as error:
            self._problems.add(path, f"the file {name} cannot be read: {error.strerror}")
            return ""
        except ValueError:
            self._problems.add(path, f"the file {name} is no UTF-8 text")
            return ""
        if not text or len(content) > MAXIMUM_SECRET_BYTES:
            self._problems.add(
                path, f"the file {name} is empty, or larger than {MAXIMUM_SECRET_BYTES} bytes"
            )
        return text


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
