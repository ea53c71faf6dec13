from __future__ import annotations

import doctest
from typing import Any

import pytest

from pipeline import invariants
from pipeline.invariants import ContextTypeRules, FieldRule, check
from synchroscope.errors import ConfigurationError, InvariantViolationError
from synchroscope.event import Update

RULES = {
    "risk": ContextTypeRules(
        {
            "score": FieldRule(kind="number", minimum=0.0, maximum=1.0),
            "count": FieldRule(kind="integer", minimum=0),
            "name": FieldRule(kind="text", maximum_length=5),
            "flag": FieldRule(kind="boolean"),
            "tags": FieldRule(kind="list", maximum_length=2),
            "parts": FieldRule(kind="object", maximum_length=1),
            "level": FieldRule(kind="text", allowed=("low", "high")),
            "one": FieldRule(allowed=(1,)),
            "stage": FieldRule(transitions={"new": ("open",), "open": ("closed", "new")}),
            "anything": FieldRule(),
        }
    ),
    "strict": ContextTypeRules({"id": FieldRule(required=True), "other": FieldRule()}),
    "loose": ContextTypeRules({"score": FieldRule(kind="number")}, open=True),
}


def judge(context_type: str, before: dict[str, Any], after: dict[str, Any], **how: Any) -> str:
    """Return the reason of the refusal, or an empty text."""
    updates = {name: Update(value) for name, value in after.items()}
    try:
        check(RULES, context_type, before, updates, **how)
    except InvariantViolationError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("score", 0.0, ""),
        ("score", 1, ""),
        ("score", 1.0000001, "out of range"),
        ("score", -0.1, "out of range"),
        ("score", True, "wrong kind"),
        ("score", "0.5", "wrong kind"),
        ("count", 3.0, ""),
        ("count", 3.5, "wrong kind"),
        ("count", False, "wrong kind"),
        ("count", -1, "out of range"),
        ("name", "12345", ""),
        ("name", "123456", "too long"),
        ("name", 5, "wrong kind"),
        ("flag", True, ""),
        ("flag", 1, "wrong kind"),
        ("tags", ["a", "b"], ""),
        ("tags", ("a", "b"), ""),
        ("tags", ["a", "b", "c"], "too long"),
        ("tags", "ab", "wrong kind"),
        ("parts", {"a": 1}, ""),
        ("parts", {"a": 1, "b": 2}, "too long"),
        ("parts", ["a"], "wrong kind"),
        ("level", "low", ""),
        ("level", "middle", "value not allowed"),
        ("one", 1.0, ""),
        ("one", True, "value not allowed"),
        ("anything", {"deep": [1]}, ""),
        ("score", None, ""),
        ("nowhere", 1, "unknown field"),
    ],
)
def test_a_value_is_judged_by_its_field_rule(field: str, value: Any, reason: str) -> None:
    assert judge("risk", {}, {field: value}) == reason


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (None, "closed", ""),
        ("new", "open", ""),
        ("new", "new", ""),
        ("new", "closed", "transition not allowed"),
        ("open", "new", ""),
        ("closed", "open", "transition not allowed"),
        ("closed", "closed", ""),
        ("closed", None, ""),
        (["new"], "open", "transition not allowed"),
    ],
)
def test_only_the_declared_transitions_are_allowed(before: Any, after: Any, reason: str) -> None:
    assert judge("risk", {} if before is None else {"stage": before}, {"stage": after}) == reason


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"id": 1}, ""),
        ({}, {"other": 1}, "required field"),
        ({"id": 1}, {"other": 1}, ""),
        ({"id": 1}, {"id": None}, "required field"),
    ],
)
def test_a_required_field_is_present_after_every_event(
    before: dict[str, Any], after: dict[str, Any], reason: str
) -> None:
    assert judge("strict", before, after) == reason


def test_an_open_context_type_takes_fields_without_a_rule() -> None:
    assert judge("loose", {}, {"anything": 1}) == ""
    assert judge("loose", {}, {"score": "x", "anything": 1}) == "wrong kind"


def test_a_context_type_without_rules_is_refused_only_by_a_closed_rule_set() -> None:
    assert judge("new type", {}, {"a": 1}) == ""
    assert judge("new type", {}, {"a": 1}, closed=True) == "unknown context type"


def test_a_refusal_says_which_field_and_what_was_found() -> None:
    with pytest.raises(InvariantViolationError) as refusal:
        check(RULES, "risk", {}, {"score": Update(7)})
    assert refusal.value.detail == "risk.score: 7 is over 1.0"


def test_a_refusal_shows_only_the_beginning_of_a_huge_value() -> None:
    with pytest.raises(InvariantViolationError) as refusal:
        check(RULES, "risk", {}, {"score": Update("x" * 10_000)})
    assert len(refusal.value.detail) < 200


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "text", "minimum": 1},
        {"kind": "any", "maximum": 1},
        {"kind": "number", "minimum": 2, "maximum": 1},
        {"kind": "number", "maximum_length": 1},
    ],
)
def test_a_rule_that_can_never_apply_is_a_configuration_error(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FieldRule(**rule)


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(invariants).failed == 0
