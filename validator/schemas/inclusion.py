"""Whether every document that one JSON Schema accepts is accepted by another too.

This is what the compatibility of two versions comes to. It is decided on the schemas alone, and
only where it can be proven; a keyword that the rules do not know may stay or go, but not change.
The rules' names are those of Confluent's registry, so that its clients and people recognise them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from validator.schemas.inclusion_parts import array_differences, object_differences
from validator.schemas.inclusion_values import (
    TYPES,
    Conjunct,
    Conjuncts,
    Difference,
    disjoint_values,
    same_json,
    types_of,
    value_differences,
)

Schema = Mapping[str, Any] | bool

MAXIMUM_COMPARISONS = 20_000
"""Pairs of subschemas looked at; beyond, two schemas are not comparable."""
MAXIMUM_DEPTH = 64
_OLD_DIALECTS = ("draft-03", "draft-04", "draft-06", "draft-07")
_SPLITS = ("anyOf", "oneOf")
#: Keywords that may be there as before, or go, but not come or change.
_FIXED = {
    "if": ("if", "then", "else"),
    "contains": ("contains", "minContains", "maxContains"),
    "propertyNames": ("propertyNames",),
    "dependentRequired": ("dependentRequired",),
    "dependentSchemas": ("dependentSchemas",),
    "dependencies": ("dependencies",),
}
_WHOLE = ("unevaluatedProperties", "unevaluatedItems")
_ONE_TYPE: Mapping[str, Conjunct] = {
    name: {"type": "number" if name == "fraction" else name} for name in TYPES
}


def differences(original: Schema, update: Schema) -> list[Difference]:
    """Return why `update` may refuse a document that `original` accepts; empty: it never does.

    A property that is newly required, but has a default, is no difference: readers fill it in.

    >>> [found.rule for found in differences({"type": "string"}, {"type": "integer"})]
    ['TYPE_CHANGED']
    >>> differences({"type": "integer"}, {"type": ["number", "null"]})
    []
    """
    return Comparison(original, update).includes([original], update, "#", 0)


class _Key(Struct, frozen=True):
    original: frozenset[int]
    update: int


class Comparison:
    """One comparison of two whole documents; `includes` compares their parts.

    Parameters
    ----------
    original, update: The documents, in which ``$ref`` is looked up.
    """

    def __init__(self, original: Schema, update: Schema) -> None:
        self._roots = (original, update)
        self._ignores_siblings = [_is_old(root) for root in self._roots]
        self._under_way: set[_Key] = set()
        self._without: dict[tuple[int, str], Conjunct] = {}
        self._count = 0

    def includes(
        self, originals: Sequence[Schema], update: Schema, path: str, depth: int
    ) -> list[Difference]:
        """Return why what satisfies all `originals` may not satisfy `update`."""
        self._count += 1
        if depth > MAXIMUM_DEPTH or self._count > MAXIMUM_COMPARISONS:
            return [Difference("TOO_COMPLEX", path, "the schemas are too complex to be compared")]
        conjuncts = self._conjuncts(originals, 0)
        if conjuncts is None:
            return []  # No document satisfies `false`.
        wanted = self._conjuncts([update], 1)
        if wanted is None:
            return [Difference("TYPE_CHANGED", path, "nothing is accepted here any more")]
        found: list[Difference] = []
        for one in wanted:
            key = _Key(frozenset(map(id, conjuncts)), id(one))
            if key in self._under_way:
                continue  # A schema that contains itself: proven if all the rest is.
            self._under_way.add(key)
            found += self._conjunct(conjuncts, one, path, depth)
            self._under_way.discard(key)
        return found

    def _conjunct(
        self, originals: Conjuncts, update: Conjunct, path: str, depth: int
    ) -> list[Difference]:
        found = self._directly(originals, update, path, depth)
        if not found:
            return []
        cases = self._cases(originals, update)
        for case in cases:
            found = self.includes(case, update, path, depth + 1)
            if found:
                return found
        return found if not cases else []

    def _directly(
        self, originals: Conjuncts, update: Conjunct, path: str, depth: int
    ) -> list[Difference]:
        types = types_of(originals)
        if not types or any(update is one for one in originals):
            return []
        found = value_differences(originals, types, update, path)
        if "object" in types:
            found += object_differences(self, originals, update, path, depth)
        if "array" in types:
            found += array_differences(self, originals, update, path, depth)
        found += self._combinators(originals, update, path, depth)
        return found + self._fixed(originals, update, path)

    def _cases(self, originals: Conjuncts, update: Conjunct) -> list[list[Schema]]:
        """Return the original as alternatives, each to be included by itself; empty: it has none.

        Without the keyword they come from, so that this ends.
        """
        for place, one in enumerate(originals):
            for keyword in _SPLITS:
                if keyword in one:
                    rest = [*originals[:place], self._strip(one, keyword), *originals[place + 1 :]]
                    return [[*rest, branch] for branch in one[keyword]]
        types = types_of(originals)
        if len(types) > 1 and any(keyword in update for keyword in _SPLITS):
            return [[*originals, _ONE_TYPE[name]] for name in sorted(types)]
        return []

    def _strip(self, schema: Conjunct, keyword: str) -> Conjunct:
        if keyword not in schema:
            return schema
        key = id(schema), keyword
        if key not in self._without:
            self._without[key] = {k: v for k, v in schema.items() if k != keyword}
        return self._without[key]

    def _combinators(
        self, originals: Conjuncts, update: Conjunct, path: str, depth: int
    ) -> list[Difference]:
        found = []
        if "anyOf" in update and not any(
            not self.includes(originals, branch, f"{path}/anyOf", depth + 1)
            for branch in update["anyOf"]
        ):
            found.append(Difference("SUM_TYPE_NARROWED", f"{path}/anyOf", "no branch takes it all"))
        if "oneOf" in update:
            found += self._one_of(originals, update["oneOf"], f"{path}/oneOf", depth)
        if "not" in update:
            place = f"{path}/not"
            wider = any(
                not Comparison(self._roots[1], self._roots[0]).includes(
                    [update["not"]], one["not"], place, depth + 1
                )
                for one in originals
                if "not" in one
            )
            if not wider and not self._are_disjoint(originals, update["not"]):
                found.append(Difference("NOT_TYPE_EXTENDED", place, "more is forbidden"))
        return found

    def _one_of(
        self, originals: Conjuncts, branches: Sequence[Schema], path: str, depth: int
    ) -> list[Difference]:
        taking = [
            place
            for place, branch in enumerate(branches)
            if not self.includes(originals, branch, path, depth + 1)
        ]
        if not taking:
            return [Difference("SUM_TYPE_NARROWED", path, "no branch takes it all")]
        others = [branch for place, branch in enumerate(branches) if place != taking[0]]
        if all(self._are_disjoint(originals, branch) for branch in others):
            return []
        return [
            Difference("COMBINED_TYPE_SUBSCHEMAS_CHANGED", path, "more than one branch may take it")
        ]

    def _are_disjoint(self, originals: Conjuncts, other: Schema) -> bool:
        """Say whether it is certain that nothing satisfies both."""
        conjuncts = self._conjuncts([other], 1)
        if conjuncts is None:
            return True
        types = types_of(originals) & types_of(conjuncts)
        if not types or disjoint_values(originals, conjuncts):
            return True
        if types != {"object"}:
            return False
        # Objects that both need a property, on whose value they never agree: tagged unions.
        return any(
            self._never_agree(one["properties"][name], two["properties"][name])
            for one in originals
            for two in conjuncts
            for name in set(one.get("required", ())) & set(two.get("required", ()))
            if name in one.get("properties", {}) and name in two.get("properties", {})
        )

    def _never_agree(self, original: Schema, update: Schema) -> bool:
        ours, theirs = self._conjuncts([original], 0), self._conjuncts([update], 1)
        if ours is None or theirs is None:
            return True
        return not types_of(ours) & types_of(theirs) or disjoint_values(ours, theirs)

    def _fixed(self, originals: Conjuncts, update: Conjunct, path: str) -> list[Difference]:
        found = []
        for keyword, group in _FIXED.items():
            if keyword not in update:
                continue
            wanted = {name: update[name] for name in group if name in update}
            if not any(
                self._same(wanted, {name: one[name] for name in group if name in one})
                for one in originals
            ):
                found.append(_changed(keyword, path))
        for keyword in _WHOLE:
            if keyword in update and not any(self._same(update, one) for one in originals):
                found.append(_changed(keyword, path))
        return found

    def _same(self, update: Any, original: Any) -> bool:
        """Say whether two parts mean the same: the same JSON, and the same definitions behind."""
        if not same_json(update, original):
            return False
        return "$ref" not in repr(update) or all(
            same_json(_definitions(self._roots[0], name), _definitions(self._roots[1], name))
            for name in ("$defs", "definitions")
        )

    # -- what a schema says in one place -----------------------------------------------------

    def _conjuncts(self, schemas: Sequence[Schema], side: int) -> list[Conjunct] | None:
        """Return what must all hold: ``$ref`` followed, ``allOf`` spread; None: nothing can."""
        found: list[Conjunct] = []
        waiting: list[Schema] = list(schemas)
        followed: set[str] = set()
        while waiting:
            schema = waiting.pop(0)
            if schema is False:
                return None
            if schema is True or not isinstance(schema, Mapping):
                continue
            reference = schema.get("$ref")
            if reference is not None:
                if reference not in followed:
                    followed.add(reference)
                    waiting.append(resolve(self._roots[side], reference))
                if self._ignores_siblings[side]:
                    continue
            waiting += schema.get("allOf", ())
            # What was followed and spread is not to come again when a part of it was taken out.
            rest = self._strip(self._strip(schema, "$ref"), "allOf")
            if all(one is not rest for one in found):
                found.append(rest)
        return found


def resolve(root: Schema, reference: str) -> Schema:
    """Return what a ``$ref`` within the document points at; `KeyError` where there is nothing."""
    here: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        here = here[int(name)] if isinstance(here, list) else here[name]
    if not isinstance(here, bool | Mapping):
        raise KeyError(reference)
    return here


def _definitions(root: Schema, name: str) -> Any:
    return root.get(name) if isinstance(root, Mapping) else None


def _is_old(root: Schema) -> bool:
    dialect = root.get("$schema", "") if isinstance(root, Mapping) else ""
    return any(name in str(dialect) for name in _OLD_DIALECTS)


def _changed(keyword: str, path: str) -> Difference:
    return Difference("KEYWORD_CHANGED", f"{path}/{keyword}", "is new or not as it was")
