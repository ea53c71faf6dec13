"""Inclusion of objects and arrays: what each schema says of every part that may be there.

A content model is *open* where undeclared properties may have any value, *closed* where they are
refused, and *partially open* where they have to satisfy a schema. A property may be added with a
schema of its own only where documents cannot have had it with another value before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from validator.schemas.inclusion_values import Conjunct, Conjuncts, Difference, sizes

Schema = Mapping[str, Any] | bool


class Comparing(Protocol):
    """What compares parts of the same two documents."""

    def includes(
        self, originals: Sequence[Schema], update: Schema, path: str, depth: int
    ) -> list[Difference]:
        """Return why what satisfies all `originals` may not satisfy `update`."""
        ...


def object_differences(
    comparing: Comparing, originals: Conjuncts, update: Conjunct, path: str, depth: int
) -> list[Difference]:
    """Return where `update` refuses an object that all `originals` accept."""
    found = sizes(
        originals,
        update,
        path,
        "minProperties",
        "maxProperties",
        lambda schema: len(set(schema.get("required", ()))),
    )
    found += _required(originals, update, path)
    declared = update.get("properties", {})
    names = dict.fromkeys([*declared, *(n for one in originals for n in one.get("properties", {}))])
    for name in names:
        place = f"{path}/properties/{name}"
        known = [schema for one in originals for schema in _said_of(one, name)]
        for wanted in _said_of(update, name):
            inner = comparing.includes(known, wanted, place, depth + 1)
            if inner:
                found += _property(originals, update, name, wanted, known, inner, place)
    return found + _undeclared(comparing, originals, update, path, depth)


def _required(originals: Conjuncts, update: Conjunct, path: str) -> list[Difference]:
    known = {name for one in originals for name in one.get("required", ())}
    found = []
    for name in update.get("required", ()):
        schema = update.get("properties", {}).get(name)
        if name in known or (isinstance(schema, Mapping) and "default" in schema):
            continue
        was = any(name in one.get("properties", {}) for one in originals)
        rule = "REQUIRED_ATTRIBUTE_ADDED" if was else "REQUIRED_PROPERTY_ADDED"
        detail = f"{name} is required now and has no default"
        found.append(Difference(rule, f"{path}/required/{name}", detail))
    return found


def _said_of(schema: Conjunct, name: str) -> list[Schema]:
    """Return all that a schema says of one property's value."""
    declared = schema.get("properties", {})
    found = [declared[name]] if name in declared else []
    for pattern, inner in schema.get("patternProperties", {}).items():
        if re.search(pattern, name):
            found.append(inner)
    return found or [schema.get("additionalProperties", True)]


def _property(
    originals: Conjuncts,
    update: Conjunct,
    name: str,
    wanted: Schema,
    known: Sequence[Schema],
    inner: list[Difference],
    path: str,
) -> list[Difference]:
    """Return the differences of a property, named by how it came or went."""
    was = any(name in one.get("properties", {}) for one in originals)
    if was and name in update.get("properties", {}):
        return inner
    if was:
        if wanted is False:
            rule = "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"
            return [Difference(rule, path, "documents may have it, and it is refused now")]
        rule = "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"
    elif all(schema is True or schema == {} for schema in known):
        rule = "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL"
        return [Difference(rule, path, "documents may have had it with any value")]
    else:
        rule = "PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"
    return [Difference(rule, path, inner[0].detail), *inner]


def _undeclared(
    comparing: Comparing, originals: Conjuncts, update: Conjunct, path: str, depth: int
) -> list[Difference]:
    """Compare what is said of properties that neither declares by name."""
    found = []
    patterns = update.get("patternProperties", {})
    for pattern, wanted in patterns.items():
        known: list[Schema] = []
        for one in originals:
            ours = one.get("patternProperties", {})
            if pattern in ours:
                known.append(ours[pattern])
            elif not ours:
                known.append(one.get("additionalProperties", True))
        place = f"{path}/patternProperties/{pattern}"
        found += comparing.includes(known, wanted, place, depth + 1)
    wanted = update.get("additionalProperties", True)
    known = [
        one.get("additionalProperties", True)
        for one in originals
        # A name that no pattern of the update takes is then taken by none of the original's.
        if one.get("patternProperties", {}).keys() <= patterns.keys()
    ]
    place = f"{path}/additionalProperties"
    inner = comparing.includes(known, wanted, place, depth + 1)
    return found + _rest(inner, wanted, known, place, "ADDITIONAL_PROPERTIES")


def _rest(
    inner: list[Difference], wanted: Schema, known: Sequence[Schema], path: str, what: str
) -> list[Difference]:
    if not inner:
        return []
    if wanted is False:
        return [Difference(f"{what}_REMOVED", path, "what is not declared is refused now")]
    if all(schema is True or schema == {} for schema in known):
        return [Difference(f"{what}_NARROWED", path, "what is not declared could be anything")]
    return inner


def array_differences(
    comparing: Comparing, originals: Conjuncts, update: Conjunct, path: str, depth: int
) -> list[Difference]:
    """Return where `update` refuses an array that all `originals` accept."""
    found = sizes(originals, update, path, "minItems", "maxItems")
    if update.get("uniqueItems") and not any(one.get("uniqueItems") for one in originals):
        found.append(Difference("UNIQUE_ITEMS_ADDED", f"{path}/uniqueItems", "now unique"))
    parts = [_items(one) for one in originals]
    wanted_first, wanted_rest = _items(update)
    most = min((one["maxItems"] for one in originals if "maxItems" in one), default=None)
    length = max([len(wanted_first), *(len(first) for first, _ in parts)])
    for index in range(length if most is None else min(length, most)):
        wanted = wanted_first[index] if index < len(wanted_first) else wanted_rest
        known = [first[index] if index < len(first) else rest for first, rest in parts]
        place = f"{path}/items/{index}"
        inner = comparing.includes(known, wanted, place, depth + 1)
        if inner and wanted is False:
            rule = "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL"
            found.append(Difference(rule, place, "arrays may be that long, and are refused now"))
        elif inner and all(schema is True or schema == {} for schema in known):
            rule = "ITEM_ADDED_TO_OPEN_CONTENT_MODEL"
            found.append(Difference(rule, place, "arrays may have had any value there"))
        else:
            found += inner
    if most is None or most > length:
        place = f"{path}/items"
        inner = comparing.includes([rest for _, rest in parts], wanted_rest, place, depth + 1)
        found += _rest(inner, wanted_rest, [rest for _, rest in parts], place, "ADDITIONAL_ITEMS")
    return found


def _items(schema: Conjunct) -> tuple[Sequence[Schema], Schema]:
    """Return (schemas of the first items, schema of the rest), of draft 7 or 2020-12."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items
