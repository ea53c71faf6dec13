"""Which changes an aggregate allows: declared rules, and the pure function that applies them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from msgspec import Struct

from synchroscope.errors import ConfigurationError, InvariantViolationError
from synchroscope.event import Update

Kind = Literal["number", "integer", "text", "boolean", "object", "list", "any"]
_SHOWN_CHARACTERS = 80


class FieldRule(Struct, frozen=True, kw_only=True):
    """What one field may hold.

    Parameters
    ----------
    kind: ``"integer"`` also takes 3.0, which is the same fact as 3; true and false are no numbers.
    minimum, maximum: Inclusive bounds of a number; None: no bound.
    allowed: The only values that are taken; None: any of the kind.
    transitions: Present value -> the values that may follow it. Staying as it is is always allowed,
        and so is any first value; a value that is not a key is final. None: everything may follow.
    maximum_length: Most characters of a text, items of a list, members of an object.
    personal: Whether the value says something about a person, so that evidence shows only its hash.
    required: The aggregate may not be without this field after an event; expiry is exempt.
    """

    kind: Kind = "any"
    minimum: float | None = None
    maximum: float | None = None
    allowed: Collection[Any] | None = None
    transitions: Mapping[Any, Collection[Any]] | None = None
    maximum_length: int | None = None
    personal: bool = True
    required: bool = False

    def __post_init__(self) -> None:
        """Refuse a rule that no value could meet or that could never apply."""
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and self.kind not in ("number", "integer"):
            raise ConfigurationError(f"a rule of kind {self.kind} has no minimum or maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ConfigurationError(f"minimum {self.minimum} is over maximum {self.maximum}")
        if self.maximum_length is not None and self.kind not in ("text", "list", "object"):
            raise ConfigurationError(f"a rule of kind {self.kind} has no maximum_length")


class ContextTypeRules(Struct, frozen=True):
    """What aggregates of one context type may hold; ``open`` lets in fields without a rule."""

    fields: Mapping[str, FieldRule]
    open: bool = False


Rules = Mapping[str, ContextTypeRules]
"""Context type -> its rules."""


def check(
    rules: Rules,
    context_type: str,
    before_values: Mapping[str, Any],
    updates: Mapping[str, Update],
    *,
    closed: bool = False,
) -> None:
    """Raise `InvariantViolationError` unless the aggregate may change that way.

    Parameters
    ----------
    rules: A context type without rules is accepted, unless `closed`.
    before_values: Field -> present value of the aggregate.
    updates: Field -> the change asked for; a null ``current`` removes the field.

    Examples
    --------
    >>> rules = {"risk": ContextTypeRules({"score": FieldRule(kind="number", maximum=1.0)})}
    >>> check(rules, "risk", {}, {"score": Update(0.5)})
    >>> check(rules, "risk", {}, {"score": Update(1.5)})
    Traceback (most recent call last):
    synchroscope.errors.InvariantViolationError: out of range: risk.score: 1.5 is over 1.0
    """
    declared = rules.get(context_type)
    if declared is None:
        if closed:
            known = ", ".join(sorted(rules)) or "none"
            _refuse("unknown context type", f"{context_type} is not declared; declared: {known}")
        return
    for name, update in updates.items():
        path = f"{context_type}.{name}"
        rule = declared.fields.get(name)
        if rule is None:
            if not declared.open:
                _refuse("unknown field", f"{path} is not declared")
        elif update.current is not None:
            _check_value(rule, path, update.current)
            _check_transition(rule, path, before_values.get(name), update.current)
    for name, rule in declared.fields.items():
        if rule.required:
            after = updates[name].current if name in updates else before_values.get(name)
            if after is None:
                _refuse("required field", f"{context_type}.{name} may not be absent")


def _check_value(rule: FieldRule, path: str, value: Any) -> None:
    if not _is_of_kind(value, rule.kind):
        _refuse("wrong kind", f"{path}: {_show(value)} is not of kind {rule.kind}")
    if rule.minimum is not None and value < rule.minimum:
        _refuse("out of range", f"{path}: {value} is under {rule.minimum}")
    if rule.maximum is not None and value > rule.maximum:
        _refuse("out of range", f"{path}: {value} is over {rule.maximum}")
    if rule.maximum_length is not None and len(value) > rule.maximum_length:
        _refuse("too long", f"{path}: length {len(value)}, {rule.maximum_length} allowed")
    if rule.allowed is not None and not _is_among(value, rule.allowed):
        _refuse("value not allowed", f"{path}: {_show(value)} is none of {_show(rule.allowed)}")


def _check_transition(rule: FieldRule, path: str, before: Any, after: Any) -> None:
    if rule.transitions is None or before is None or _is_same(before, after):
        return
    for origin, following in rule.transitions.items():
        if _is_same(origin, before):
            if _is_among(after, following):
                return
            break
    _refuse("transition not allowed", f"{path}: {_show(before)} to {_show(after)}")


def _is_of_kind(value: Any, kind: Kind) -> bool:
    if kind == "any":
        return True
    if kind == "text":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "list":
        return isinstance(value, list | tuple)
    if kind == "object":
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return False
    if kind == "number":
        return isinstance(value, int | float)
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_same(one: Any, other: Any) -> bool:
    # Python holds that True == 1; in JSON they differ.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _is_among(value: Any, others: Collection[Any]) -> bool:
    return any(_is_same(value, other) for other in others)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _refuse(reason: str, detail: str) -> None:
    raise InvariantViolationError(reason, detail)
