"""Inclusion of simple values: types, enumerations, numbers, texts, sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from msgspec import Struct

Conjunct = Mapping[str, Any]
Conjuncts = Sequence[Conjunct]

#: JSON's types; a number is an integer or a fraction.
TYPES = frozenset({"null", "boolean", "object", "array", "string", "integer", "fraction"})
_NUMBERS = frozenset({"integer", "fraction"})


class Difference(Struct, frozen=True):
    """Why two schemas are not compatible: which rule, where in the schema, and what it means."""

    rule: str
    path: str
    detail: str


def type_set(schema: Conjunct) -> frozenset[str]:
    """Return the types that a schema's ``type`` allows."""
    stated = schema.get("type")
    if stated is None:
        return TYPES
    names = {stated} if isinstance(stated, str) else set(stated)
    if "number" in names:
        names = (names - {"number"}) | _NUMBERS
    return frozenset(names)


def types_of(conjuncts: Conjuncts) -> frozenset[str]:
    """Return the types that a value may have which satisfies all of them."""
    found = TYPES
    for schema in conjuncts:
        found &= type_set(schema)
        values = _values(schema)
        if values is not None:
            found &= {_type_of(value) for value in values}
    return found


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    kinds: Mapping[type, str] = {str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _values(schema: Conjunct) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def same_json(one: Any, two: Any) -> bool:
    """Say whether two JSON values are equal; other than in Python, true is not 1.

    >>> same_json(1, 1.0), same_json(True, 1), same_json([0], [False])
    (True, False, False)
    """
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same_json, one, two))
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(same_json(one[key], two[key]) for key in one)
    return bool(one == two)


def disjoint_values(ours: Conjuncts, theirs: Conjuncts) -> bool:
    """Say whether both name their values, and have none in common."""
    for one in map(_values, ours):
        for two in map(_values, theirs):
            if one is not None and two is not None:
                return not any(same_json(a, b) for a in one for b in two)
    return False


def value_differences(
    originals: Conjuncts, types: frozenset[str], update: Conjunct, path: str
) -> list[Difference]:
    """Return what of `update` is narrower, apart from the parts of objects and arrays."""
    allowed = type_set(update)
    if not types <= allowed:
        rule = "TYPE_NARROWED" if types & allowed else "TYPE_CHANGED"
        gone = ", ".join(sorted(types - allowed))
        return [Difference(rule, path, f"{gone} was accepted and is not any more")]
    found = _enumerations(originals, types, update, path)
    if types & _NUMBERS:
        found += _numbers(originals, types, update, path)
    if "string" in types:
        found += sizes(originals, update, path, "minLength", "maxLength")
        pattern = update.get("pattern")
        if pattern is not None and all(one.get("pattern") != pattern for one in originals):
            known = any("pattern" in one for one in originals)
            rule = "PATTERN_CHANGED" if known else "PATTERN_ADDED"
            found.append(Difference(rule, f"{path}/pattern", f"now {pattern!r}"))
    return found


def _enumerations(
    originals: Conjuncts, types: frozenset[str], update: Conjunct, path: str
) -> list[Difference]:
    wanted = _values(update)
    if wanted is None:
        return []
    known = [values for values in map(_values, originals) if values is not None]
    if types <= {"null", "boolean"}:
        known.append([None] * ("null" in types) + [True, False] * ("boolean" in types))
    if not known:
        return [Difference("ENUM_ARRAY_CHANGED", f"{path}/enum", "only some values are accepted")]
    for values in known:
        if all(any(same_json(value, other) for other in wanted) for value in values):
            return []
    return [Difference("ENUM_ARRAY_NARROWED", f"{path}/enum", "a value is not accepted any more")]


def _numbers(
    originals: Conjuncts, types: frozenset[str], update: Conjunct, path: str
) -> list[Difference]:
    found = []
    for keyword, exclusive, sign in (
        ("maximum", "exclusiveMaximum", 1),
        ("minimum", "exclusiveMinimum", -1),
    ):
        wanted = _bound(update, keyword, exclusive, sign)
        if wanted is None:
            continue
        known = [_bound(one, keyword, exclusive, sign) for one in originals]
        bounds = [bound for bound in known if bound is not None]
        if not any(bound <= wanted for bound in bounds):
            change = "DECREASED" if sign > 0 else "INCREASED"
            rule = f"{keyword.upper()}_{change if bounds else 'ADDED'}"
            found.append(Difference(rule, f"{path}/{keyword}", _text(update, keyword, exclusive)))
    step = update.get("multipleOf")
    if step is not None:
        steps = [Decimal(str(one["multipleOf"])) for one in originals if "multipleOf" in one]
        if "fraction" not in types:
            steps.append(Decimal(1))
        if all(known_step % Decimal(str(step)) for known_step in steps):
            rule = "MULTIPLE_OF_CHANGED" if steps else "MULTIPLE_OF_ADDED"
            found.append(Difference(rule, f"{path}/multipleOf", f"now {step}"))
    return found


def _bound(schema: Conjunct, keyword: str, exclusive: str, sign: int) -> tuple[Decimal, int] | None:
    """Return a bound that compares as it restricts: lower is tighter, exclusive before equal."""
    found = []
    if keyword in schema:
        found.append((sign * Decimal(str(schema[keyword])), 1))
    if exclusive in schema:
        found.append((sign * Decimal(str(schema[exclusive])), 0))
    return min(found) if found else None


def _text(schema: Conjunct, *keywords: str) -> str:
    return "now " + ", ".join(f"{name} {schema[name]}" for name in keywords if name in schema)


def sizes(
    originals: Conjuncts,
    update: Conjunct,
    path: str,
    least: str,
    most: str,
    floor: Callable[[Conjunct], int] = lambda schema: 0,
) -> list[Difference]:
    """Return which of two size limits became tighter; `floor` is a least size for other reasons."""
    found = []
    wanted = update.get(least, 0)
    known = max((max(one.get(least, 0), floor(one)) for one in originals), default=0)
    if wanted > known:
        change = "INCREASED" if any(least in one for one in originals) else "ADDED"
        found.append(Difference(f"{snake(least)}_{change}", f"{path}/{least}", f"now {wanted}"))
    if most in update:
        limits = [one[most] for one in originals if most in one]
        if not limits or min(limits) > update[most]:
            change = "DECREASED" if limits else "ADDED"
            rule = f"{snake(most)}_{change}"
            found.append(Difference(rule, f"{path}/{most}", f"now {update[most]}"))
    return found


def snake(name: str) -> str:
    """Return a keyword as it stands in a rule's name.

    >>> snake("maxLength")
    'MAX_LENGTH'
    """
    return re.sub(r"(?=[A-Z])", "_", name).upper()
