"""Compatibility of schemas: a table of the rules, and the law that they stand for."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.schemas.compatibility import LEVELS, incompatibilities
from validator.schemas.inclusion import differences

TEXT, NUMBER, WHOLE, NULL = ({"type": name} for name in ("string", "number", "integer", "null"))
CLOSED = {"additionalProperties": False}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **CLOSED}


COMPATIBLE = [
    ("anything becomes the empty schema", TEXT, {}),
    ("a title changes", {"title": "a"}, {"title": "b", "description": "c", "default": 1}),
    ("an integer becomes a number", WHOLE, NUMBER),
    ("a type is added", TEXT, {"type": ["string", "null"]}),
    ("maxLength is raised", TEXT | {"maxLength": 3}, TEXT | {"maxLength": 4}),
    ("minLength is lowered", TEXT | {"minLength": 3}, TEXT | {"minLength": 2}),
    ("a pattern goes", TEXT | {"pattern": "^a"}, TEXT),
    ("maximum is raised", NUMBER | {"maximum": 3}, NUMBER | {"maximum": 4}),
    ("exclusive becomes inclusive", NUMBER | {"exclusiveMaximum": 3}, NUMBER | {"maximum": 3}),
    ("multipleOf is reduced", NUMBER | {"multipleOf": 10}, NUMBER | {"multipleOf": 2}),
    ("an enumeration grows", {"enum": ["a"]}, {"enum": ["a", "b"]}),
    ("a constant becomes one of several", {"const": "a"}, {"enum": ["a", "b"]}),
    ("an optional property comes to a closed model", closed(a=TEXT), closed(a=TEXT, b=NUMBER)),
    (
        "a required property with default comes to a closed model",
        closed(a=TEXT),
        closed(a=TEXT, b=NUMBER | {"default": 0}) | {"required": ["b"]},
    ),
    ("a property goes from an open model", {"properties": {"a": TEXT}}, {"properties": {}}),
    ("a property that may be anything comes to an open model", {}, {"properties": {"a": True}}),
    (
        "a property comes that additionalProperties covered",
        {"additionalProperties": TEXT},
        {"additionalProperties": TEXT, "properties": {"a": TEXT}},
    ),
    (
        "a property goes that additionalProperties covers",
        closed(a=TEXT),
        {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    ),
    (
        "a property goes that a pattern covers",
        closed(I_1=WHOLE),
        {"type": "object", "patternProperties": {"^I_": NUMBER}, **CLOSED},
    ),
    ("a closed model opens", closed(a=TEXT), {"type": "object", "properties": {"a": TEXT}}),
    ("a property is no longer required", {"required": ["a"]}, {}),
    ("uniqueItems goes", {"type": "array", "uniqueItems": True}, {"type": "array"}),
    ("items are widened", {"items": WHOLE}, {"items": NUMBER}),
    (
        "an item comes to a closed list",
        {"prefixItems": [TEXT], "items": False},
        {"prefixItems": [TEXT, NUMBER], "items": False},
    ),
    ("a type becomes one of a union", TEXT | {"maxLength": 3}, {"oneOf": [NUMBER, TEXT]}),
    ("a type list becomes a union", {"type": ["string", "null"]}, {"anyOf": [TEXT, NULL]}),
    ("a union becomes a type list", {"anyOf": [TEXT, NULL]}, {"type": ["string", "null"]}),
    ("a union grows", {"oneOf": [TEXT]}, {"oneOf": [TEXT, NUMBER]}),
    ("a conjunct goes", {"allOf": [TEXT, {"enum": ["a"]}]}, TEXT),
    ("conjuncts are put together", {"allOf": [TEXT, {"maxLength": 3}]}, TEXT | {"maxLength": 3}),
    ("less is forbidden", {"not": NUMBER}, {"not": WHOLE}),
    (
        "a definition is moved",
        {"$ref": "#/$defs/a", "$defs": {"a": TEXT}},
        {"$ref": "#/definitions/b", "definitions": {"b": TEXT}},
    ),
    (
        "a tagged union gets another tag",
        {"oneOf": [closed(k={"const": "a"}) | {"required": ["k"]}]},
        {"oneOf": [closed(k={"const": n}) | {"required": ["k"]} for n in ("a", "b")]},
    ),
    (
        "a schema that contains itself is widened",
        {"properties": {"next": {"$ref": "#"}, "n": WHOLE}},
        {"properties": {"next": {"$ref": "#"}, "n": NUMBER}},
    ),
    ("an unknown condition stays", {"if": TEXT, "then": {"maxLength": 1}},
     {"if": TEXT, "then": {"maxLength": 1}, "title": "x"}),
]  # fmt: skip

INCOMPATIBLE = [
    ("TYPE_CHANGED", TEXT, NUMBER),
    ("TYPE_CHANGED", {}, False),
    ("TYPE_NARROWED", {"allOf": [{"anyOf": [True]}]}, TEXT),
    ("TYPE_NARROWED", {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{}]}}}, TEXT),
    ("TYPE_NARROWED", NUMBER, WHOLE),
    ("TYPE_NARROWED", {"type": ["string", "null"]}, TEXT),
    ("MIN_LENGTH_INCREASED", TEXT | {"minLength": 3}, TEXT | {"minLength": 4}),
    ("MAX_LENGTH_DECREASED", TEXT | {"maxLength": 3}, TEXT | {"maxLength": 2}),
    ("MAX_LENGTH_ADDED", TEXT, TEXT | {"maxLength": 2}),
    ("PATTERN_ADDED", TEXT, TEXT | {"pattern": "a"}),
    ("PATTERN_CHANGED", TEXT | {"pattern": "b"}, TEXT | {"pattern": "a"}),
    ("MAXIMUM_DECREASED", NUMBER | {"maximum": 3}, NUMBER | {"maximum": 2}),
    ("MAXIMUM_DECREASED", NUMBER | {"maximum": 3}, NUMBER | {"exclusiveMaximum": 3}),
    ("MINIMUM_ADDED", NUMBER, NUMBER | {"minimum": 2}),
    ("MULTIPLE_OF_CHANGED", NUMBER | {"multipleOf": 10}, NUMBER | {"multipleOf": 11}),
    ("MULTIPLE_OF_ADDED", NUMBER, NUMBER | {"multipleOf": 1}),
    ("ENUM_ARRAY_NARROWED", {"enum": ["a", "b"]}, {"enum": ["a"]}),
    ("ENUM_ARRAY_NARROWED", {"enum": [1]}, {"enum": [True]}),
    ("ENUM_ARRAY_CHANGED", TEXT, {"enum": ["a"]}),
    ("PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", {}, {"properties": {"a": TEXT}}),
    ("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", closed(a=TEXT), closed()),
    (
        "PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
        {"additionalProperties": TEXT},
        {"additionalProperties": TEXT, "properties": {"a": NUMBER}},
    ),
    (
        "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
        closed(a=NUMBER),
        {"type": "object", "additionalProperties": TEXT},
    ),
    ("ADDITIONAL_PROPERTIES_REMOVED", {"type": "object"}, closed()),
    ("ADDITIONAL_PROPERTIES_NARROWED", {}, {"additionalProperties": TEXT}),
    ("ADDITIONAL_PROPERTIES_NARROWED",
     {"patternProperties": {"^x": TEXT}, "additionalProperties": NUMBER},
     {"additionalProperties": NUMBER}),
    ("REQUIRED_ATTRIBUTE_ADDED", {"properties": {"a": TEXT}},
     {"properties": {"a": TEXT}, "required": ["a"]}),
    ("REQUIRED_PROPERTY_ADDED", closed(a=TEXT), closed(a=TEXT, b=TEXT) | {"required": ["b"]}),
    ("MAX_PROPERTIES_DECREASED", {"maxProperties": 2}, {"maxProperties": 1}),
    ("MIN_PROPERTIES_INCREASED", {"minProperties": 1}, {"minProperties": 2}),
    ("UNIQUE_ITEMS_ADDED", {"type": "array"}, {"type": "array", "uniqueItems": True}),
    ("ADDITIONAL_ITEMS_NARROWED", {"type": "array"}, {"type": "array", "items": TEXT}),
    ("ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL", {"prefixItems": [TEXT], "items": False},
     {"items": False}),
    ("ITEM_ADDED_TO_OPEN_CONTENT_MODEL", {}, {"prefixItems": [TEXT]}),
    ("SUM_TYPE_NARROWED", {"anyOf": [TEXT, NUMBER]}, {"anyOf": [NUMBER, NULL]}),
    ("COMBINED_TYPE_SUBSCHEMAS_CHANGED", {"oneOf": [TEXT]}, {"oneOf": [TEXT, {"maxLength": 3}]}),
    ("NOT_TYPE_EXTENDED", {"not": WHOLE}, {"not": NUMBER}),
    ("KEYWORD_CHANGED", {}, {"propertyNames": {"maxLength": 3}}),
    ("KEYWORD_CHANGED", {"if": TEXT, "then": {"maxLength": 1}},
     {"if": TEXT, "then": {"maxLength": 2}}),
]  # fmt: skip


@pytest.mark.parametrize(("why", "old", "new"), COMPATIBLE, ids=[row[0] for row in COMPATIBLE])
def test_readers_of_the_new_schema_read_what_the_old_one_accepts(
    why: str, old: Any, new: Any
) -> None:
    assert differences(old, new) == []


@pytest.mark.parametrize(("rule", "old", "new"), INCOMPATIBLE)
def test_what_the_new_schema_may_refuse_is_named_by_its_rule(rule: str, old: Any, new: Any) -> None:
    found = differences(old, new)

    assert rule in {one.rule for one in found}
    assert differences(old, old) == differences(new, new) == []


OPEN, FIRST, SECOND, THIRD = {}, closed(a=TEXT), closed(a=TEXT, b=TEXT), closed(a=TEXT, b=NUMBER)


@pytest.mark.parametrize(
    ("level", "refused"),
    [
        ("BACKWARD", []),
        ("BACKWARD_TRANSITIVE", [(2, "new")]),
        ("FORWARD", [(1, "old")]),
        ("FORWARD_TRANSITIVE", [(2, "old"), (1, "old")]),
        ("FULL", [(1, "old")]),
        ("FULL_TRANSITIVE", [(2, "new"), (2, "old"), (1, "old")]),
        ("NONE", []),
    ],
)
def test_a_level_says_who_has_to_read_whom(level: Any, refused: list[tuple[int, str]]) -> None:
    # b came and went as text, and comes back as a number.
    found = incompatibilities(level, THIRD, [(2, SECOND), (1, FIRST)])

    assert [(one.version, one.reader) for one in found] == refused
    assert set(LEVELS) >= {level}


def test_a_schema_that_is_too_complex_to_compare_is_not_compatible() -> None:
    def tower(levels: int) -> Any:
        return {"properties": {"a": tower(levels - 1)}} if levels else TEXT

    assert differences(tower(60), tower(60)) == []
    assert "TOO_COMPLEX" in {one.rule for one in differences(tower(70), tower(70))}


# -- the law ---------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 6) | st.sampled_from([0.5, 2.5, "", "a", "abc"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=3)
    ),
    max_leaves=6,
)
_sizes = st.integers(0, 3)


def _schemas() -> st.SearchStrategy[Any]:
    simple = st.one_of(
        st.sampled_from([True, False, {}]),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(
                    ["string", "integer", "number", "object", "array", "null", ["string", "null"],
                     ["object", "array"], ["integer", "string"]]
                ),
                "minLength": _sizes, "maxLength": _sizes, "pattern": st.sampled_from(["a", "^b"]),
                "minimum": _sizes, "exclusiveMaximum": _sizes, "maximum": _sizes,
                "multipleOf": st.sampled_from([1, 2, 0.5]), "minItems": _sizes,
                "maxItems": _sizes, "uniqueItems": st.booleans(), "minProperties": _sizes,
                "maxProperties": _sizes, "required": st.lists(st.sampled_from("abx"), unique=True),
                "enum": st.lists(_values, min_size=1, max_size=3),
            },
        ),
    )  # fmt: skip

    def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, min_size=1, max_size=2)
        return st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
                "patternProperties": st.dictionaries(
                    st.sampled_from(["a", "^x"]), inner, max_size=1
                ),
                "additionalProperties": inner,
                "items": inner, "prefixItems": several, "anyOf": several, "oneOf": several,
                "allOf": several, "not": inner, "propertyNames": inner,
                "type": st.sampled_from(["object", "array"]),
            },
        )  # fmt: skip

    return st.recursive(simple, compound, max_leaves=5)


def accepts(schema: Any, value: Any) -> bool:
    return jsonschema_rs.Draft202012Validator(schema).is_valid(value)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two schemas, the second mostly the first with something changed."""
    old = draw(_schemas())
    new = draw(_schemas())
    if isinstance(old, dict) and isinstance(new, dict) and draw(st.booleans()):
        new = old | new
    return old, new


@settings(max_examples=150, deadline=None)
@given(_pairs(), st.lists(_values, min_size=1, max_size=8))
def test_what_is_called_compatible_never_refuses_what_was_accepted(
    pair: tuple[Any, Any], values: list[Any]
) -> None:
    old, new = pair
    if differences(old, new):
        return
    for value in values:
        if accepts(old, value):
            assert accepts(new, value), value
