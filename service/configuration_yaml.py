"""From a YAML text to plain data, with the line of every part.

Nothing of the text but its keys gets into a message: any value may be a secret in the wrong place.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from service.configuration_problems import Path, Problems

MAXIMUM_PARTS = 20_000
"""Aliases multiply: a short text may stand for a very long one."""
MAXIMUM_DEPTH = 20

_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = (str, int, float, bool, type(None))


def parse(text: str, problems: Problems) -> dict[str, Any]:
    """Return what the text says; what cannot be read is noted and left out."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = {} if node is None else _Reader(problems).plain(node, (), 0)
    except _TooLargeError:
        problems.add((), f"no more than {MAXIMUM_DEPTH} levels and {MAXIMUM_PARTS} parts, please")
        return {}
    except RecursionError:
        problems.add((), f"no more than {MAXIMUM_DEPTH} levels, please")
        return {}
    except yaml.YAMLError as error:
        problems.add((), _reason(error))
        return {}
    if not isinstance(data, dict):
        problems.add((), "a mapping of settings is needed, like `name: retail`")
        return {}
    return data


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark is not None else ""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    # A name in it may be a secret that was not put in quotes.
    return f"{place}no YAML: " + re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "that", str(reason))


class _TooLargeError(Exception):
    pass


class _Reader:
    """Makes plain data of nodes."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._constructor = yaml.SafeLoader("")
        self._parts = 0

    def plain(self, node: yaml.Node, path: Path, depth: int) -> Any:
        """Return what a node says."""
        self._parts += 1
        if depth > MAXIMUM_DEPTH or self._parts > MAXIMUM_PARTS:
            raise _TooLargeError
        self._problems.stands(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.plain(item, (*path, number), depth + 1) for number, item in items]
        try:
            value = self._constructor.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, OverflowError):
            self._problems.add(path, "cannot be read; a text of that form needs quotes")
            return None
        # A date or a binary is what YAML makes of some plain texts; here they are texts.
        return value if isinstance(value, _PLAIN) else str(node.value)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        given: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE:
                # What is merged first wins over what is merged later.
                found = {**self._merged(value, path, depth + 1), **found}
        self._problems.stands(path, node.start_mark.line + 1)
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problems.add(path, f"has a key in line {line} that is no text")
                continue
            name = str(key.value)
            found[name] = self.plain(value, (*path, name), depth + 1)
            self._problems.stands((*path, name), line)
            if name in given:
                self._problems.add((*path, name), "is given twice")
            given.add(name)
        return found

    def _merged(self, node: yaml.Node, path: Path, depth: int) -> dict[str, Any]:
        if isinstance(node, yaml.MappingNode):
            merged = self.plain(node, path, depth)
            return merged if isinstance(merged, dict) else {}
        if isinstance(node, yaml.SequenceNode):
            self._parts += 1
            found: dict[str, Any] = {}
            for item in node.value:
                if depth > MAXIMUM_DEPTH:
                    raise _TooLargeError
                found = {**self._merged(item, path, depth + 1), **found}
            return found
        self._problems.add(path, "<< takes a mapping, or a list of them")
        return {}
