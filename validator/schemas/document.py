"""A schema's text: what is accepted as one, and what checks values with it.

References lead within the document only, so that no check ever depends on another server, and
patterns have to be matched in linear time, so that no value can make a check last long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
from msgspec import Struct

from validator.schemas.inclusion import Schema, resolve
from validator.schemas.model import INVALID_SCHEMA, RegistryError

MAXIMUM_SCHEMA_BYTES = 262_144
MAXIMUM_SCHEMA_DEPTH = 64
DIALECTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)
#: Keywords that may declare properties beside those of the document's own `properties`.
_APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies")
_OUTSIDE = ("$dynamicRef", "$recursiveRef")


class CompiledSchema(Struct, frozen=True):
    """A schema that checks values.

    ``names`` are the properties that it names anywhere; ``document`` is the schema as it checks.
    """

    validator: jsonschema_rs.Validator
    names: frozenset[str]
    document: Schema


def parse_schema(text: str) -> Schema:
    """Return the schema that a text states, or raise `RegistryError` (42201) with the reason."""
    if len(text.encode(errors="replace")) > MAXIMUM_SCHEMA_BYTES:
        raise _invalid(f"it has more than {MAXIMUM_SCHEMA_BYTES} bytes")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is no JSON ({error})") from None
    if not isinstance(document, dict | bool):
        raise _invalid("it has to be an object, or true or false")
    _check(document)
    _compile(document)
    return document


def canonical_text(document: Schema) -> str:
    """Return a text that is equal for equal schemas, whatever the order of their keys.

    >>> canonical_text({"b": 1, "a": [2]})
    '{"a":[2],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def compile_schema(text: str) -> CompiledSchema:
    """Return what checks values with a schema, which may be of another registry.

    A schema that is silent about undeclared properties is taken to refuse them, on its top level:
    a field that nobody declared is an evolution of the schema that nobody registered. It says
    ``"additionalProperties": true`` where any field is welcome.
    """
    document = parse_schema(text)
    names = frozenset(
        name
        for node in _nodes(document, 0)
        if isinstance(node.get("properties"), dict)
        for name in node["properties"]
    )
    closed = _closed(document)
    return CompiledSchema(_compile(closed), names, closed)


def _closed(document: Schema) -> Schema:
    if not isinstance(document, Mapping):
        return document
    if "additionalProperties" in document or "unevaluatedProperties" in document:
        return document
    if not any(keyword in document for keyword in _APPLICATORS):
        return {**document, "additionalProperties": False}
    if "draft-0" in str(document.get("$schema", "")):
        return document  # Before 2019-09 nothing can say it.
    return {**document, "unevaluatedProperties": False}


def _compile(document: Schema) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(
            dict(document) if isinstance(document, Mapping) else document,
            pattern_options=jsonschema_rs.RegexOptions(),
            retriever=_refuse_reference,
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        where = "/".join(map(str, getattr(error, "instance_path", ())))
        reason = getattr(error, "message", str(error))
        raise _invalid(f"at #/{where}: {reason}") from None


def _check(document: Schema) -> None:
    """Raise for what compiling does not refuse."""
    if isinstance(document, Mapping):
        dialect = document.get("$schema", DIALECTS[0])
        if not isinstance(dialect, str) or dialect.rstrip("#") not in DIALECTS:
            raise _invalid(f"$schema is {dialect!r}; known are {', '.join(DIALECTS)}")
    for place, node in enumerate(_nodes(document, 0)):
        if place and isinstance(node.get("$id"), str):
            raise _invalid("$id may stand on its top level only")
        if any(isinstance(node.get(keyword), str) for keyword in _OUTSIDE):
            raise _invalid(f"{' and '.join(_OUTSIDE)} are not supported; write a $ref")
        reference = node.get("$ref")
        if isinstance(reference, str):
            _check_reference(document, reference)
        patterns = node.get("patternProperties")
        for pattern in patterns if isinstance(patterns, dict) else ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise _invalid(f"pattern {pattern!r}: {error}") from None


def _check_reference(document: Schema, reference: str) -> None:
    if reference != "#" and not reference.startswith("#/"):
        raise _invalid(
            f"$ref {reference!r} leads out of it: put the schema under $defs and refer to "
            "#/$defs/NAME"
        )
    try:
        resolve(document, reference)
    except (KeyError, IndexError, ValueError, TypeError):
        raise _invalid(f"$ref {reference!r} leads nowhere") from None


def _nodes(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    if depth > MAXIMUM_SCHEMA_DEPTH:
        raise _invalid(f"it has more than {MAXIMUM_SCHEMA_DEPTH} levels")
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nodes(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner, depth + 1)


def _refuse_reference(address: str) -> Any:
    raise ValueError(f"{address} is outside of the schema")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _invalid(reason: str) -> RegistryError:
    return RegistryError(INVALID_SCHEMA, f"Invalid schema: {reason}")
