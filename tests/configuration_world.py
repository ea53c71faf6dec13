"""A configuration file that is good, and what comes of changing it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from msgspec import Struct
from rich.pretty import pretty_repr

from service.configuration import Configuration, load_configuration
from service.configuration_problems import WrongConfigurationError
from service.configuration_typing import hints_of
from synchroscope.errors import ConfigurationError

GOOD = """\
log:
  kafka:
    bootstrap_servers: 127.0.0.1:29092
event_store:
  postgresql: {dsn: postgresql://sync@127.0.0.1/postgres}
views:
  scorer:
    fields: {financial: [limit, risk]}
replicas:
  - name: scorer@1
    redis: {url: redis://127.0.0.1/0}
"""
DSN: tuple[str, ...] = ("event_store", "postgresql", "dsn")
URL: tuple[str | int, ...] = ("replicas", 0, "redis", "url")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "synchroscope.yaml"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For many examples of one test."""
    return tmp_path_factory.mktemp("configuration") / "synchroscope.yaml"


def load(file: Path, text: str = GOOD, **environ: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return load_configuration(file, environ)


def problems(file: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(WrongConfigurationError) as caught:
        load(file, text, **environ)
    assert str(caught.value) == "\n  ".join([f"{file}:", *caught.value.problems])
    return caught.value.problems


def with_setting(path: tuple[str | int, ...], value: Any) -> str:
    """The good file with one setting changed or added."""
    data: Any = yaml.safe_load(GOOD)
    place: Any = data
    for key in path[:-1]:
        place = place[key] if isinstance(key, int) else place.setdefault(key, {})
    place[path[-1]] = value
    return yaml.safe_dump(data)


def numbers(kind: Any = Configuration, path: tuple[str | int, ...] = ()) -> Iterator[Any]:
    """Every number that can be set: its place, its range and its type."""
    for name, hint in hints_of(kind).items():
        place = (*path, name, 0) if name == "replicas" else (*path, name)
        for part in parts_of(hint):
            if isinstance(part, type) and issubclass(part, Struct):
                if name not in ("views", "redis", "postgresql", "lmdb", "memory"):
                    yield from numbers(part, place)
            elif typing.get_origin(part) is Annotated:
                yield place, part.__metadata__[0], part.__origin__
            else:
                assert part not in (int, float), f"{place} has no range"


def parts_of(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union, list, dict):
        return [part for one in typing.get_args(hint) for part in parts_of(one)]
    return [hint]


def loaded_or_refused(file: Path, text: str, environ: Mapping[str, str]) -> str:
    """Everything that anybody could see of it."""
    try:
        configuration = load(file, text, **environ)
    except ConfigurationError as error:
        assert error.__cause__ is None
        return f"{error}{error!r}"
    return f"{configuration}{configuration!r}{pretty_repr(configuration)}"
