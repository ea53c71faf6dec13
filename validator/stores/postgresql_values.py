"""How PostgreSQL's values are read, and what kinds of value its types are."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg.abc import Buffer, Loader
from psycopg.types import datetime as moments
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader

from validator.stores.text_values import LONGEST_EXPONENT, Kind, plain_number

_SETTINGS = (
    ("timezone", "UTC"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
)
"""As the digests have them, so that a key is written alike wherever it is read."""
_AS_TEXT = (
    "interval",
    *("int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange"),
    *("int4multirange", "int8multirange", "nummultirange", "datemultirange"),
    *("tsmultirange", "tstzmultirange"),
)
"""Types whose values Python has not, or not all of them: 1 month is not 30 days."""
_KINDS: dict[str, Kind] = {
    "smallint": "number",
    "integer": "number",
    "bigint": "number",
    "numeric": "number",
    "real": "number",
    "double precision": "number",
    "boolean": "boolean",
    "timestamp with time zone": "moment",
    "timestamp without time zone": "moment",
    "time with time zone": "time",
    "time without time zone": "time",
    "bytea": "bytes",
    "json": "json",
    "jsonb": "json",
}
KNOWS = frozenset({*_KINDS.values(), "interval"})


def _or_text(loader: type[Loader]) -> type[Loader]:
    """Return a loader that leaves as text what Python has not: infinity, years BC or over 9999."""

    class OrText(loader):  # type: ignore[misc, valid-type]
        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            except (psycopg.DataError, ValueError, OverflowError):
                return bytes(data).decode()

    return OrText


_LOADERS: dict[str, type[Loader]] = {
    "timestamptz": _or_text(moments.TimestamptzLoader),
    "timestamp": _or_text(moments.TimestampLoader),
    "date": _or_text(moments.DateLoader),
    "timetz": _or_text(moments.TimetzLoader),
    "time": _or_text(moments.TimeLoader),
    **dict.fromkeys(_AS_TEXT, TextLoader),
}


def kind_of(declared: str) -> Kind:
    """Return the kind of a type as `format_type` writes it.

    >>> [kind_of(name) for name in ("numeric(9,2)[]", "timestamp(3) with time zone", "point")]
    ['number[]', 'moment', 'text']
    """
    if declared.endswith("[]"):
        return kind_of(declared.removesuffix("[]")) + "[]"
    before, _, rest = declared.partition("(")
    base = f"{before} {rest.partition(')')[2].strip()}".strip()
    return "interval" if base.startswith("interval") else _KINDS.get(base, "text")


def is_padded(declared: str) -> bool:
    """Say whether a type fills its values up with spaces.

    >>> is_padded("character(5)"), is_padded("character varying(5)"), is_padded("bpchar")
    (True, False, True)
    """
    return declared.partition("(")[0] in ("character", "bpchar")


def prepare(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Have values written and read alike on every server."""
    for name, value in _SETTINGS:
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    set_json_loads(_document, connection)
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)


def _document(data: str | bytes) -> Any:
    return json.loads(data, parse_float=_float)


def _float(text: str) -> Any:
    """Return a JSON number as float; one beyond all floats as integer, or as it is written.

    >>> _float("1.50"), _float("1e400") == 10**400, _float("1e999999")
    (1.5, True, '1e999999')
    """
    number = float(text)
    if number not in (float("inf"), float("-inf")):
        return number
    exact = Decimal(text)
    return text if exact.adjusted() > LONGEST_EXPONENT else int(exact)


def plain(value: Any) -> Any:
    """Return a column's value as the port has it.

    >>> plain(Decimal("1.50")), plain(Decimal("0.1")), plain(b"\\xff")
    (1.5, 0.1, 'ff')
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return plain_number(value)
    if isinstance(value, dt.datetime):
        return (value.astimezone(dt.UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value)
