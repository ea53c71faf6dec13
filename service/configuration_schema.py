"""The JSON schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

import msgspec

from service.configuration import Configuration

_REFERENCE = {"type": "string", "pattern": r"\$\{[^}]+\}"}
"""Stands wherever a setting does: `${NAME}`, `${NAME:-default}`, `${file:PATH}`."""


def configuration_schema() -> dict[str, Any]:
    """Return the JSON schema of the file; references are allowed in every place."""
    schema: dict[str, Any] = _with_references(msgspec.json.schema(Configuration))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_references(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_references(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("integer", "number", "boolean") or "enum" in schema:
        default = {key: schema[key] for key in ("default",) if key in schema}
        kind = {key: value for key, value in schema.items() if key != "default"}
        return {"anyOf": [kind, _REFERENCE], **default}
    return {key: _with_references(part) for key, part in schema.items()}
