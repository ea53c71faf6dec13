"""Whatever is in a configuration file or in the environment is understood or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.configuration_world import (
    DSN,
    GOOD,
    URL,
    loaded_or_refused,
    numbers,
    scratch,
    with_setting,
)

__all__ = ["scratch"]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.binary(max_size=3),
    st.text(max_size=5),
    st.sampled_from(["${X}", "${file:/}", "${", "*", "<<", "redis://", "postgresql://@:@", "a@b"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)


@given(st.text(max_size=60))
@example("\ufeff")
@example("? ? ?")
@example("a: 0x_")
@example("a: 1:99999999999999999999")
def test_any_text_is_understood_or_refused(scratch: Path, text: str) -> None:
    assume("\r" not in text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    loaded_or_refused(scratch, GOOD + text, {})
    loaded_or_refused(scratch, text, {})


PLACES = [
    *[path for path, _, _ in numbers()],
    ("log",),
    ("log", "kafka"),
    ("log", "kafka", "bootstrap_servers"),
    ("log", "kafka", "security"),
    ("log", "kafka", "security", "mechanism"),
    DSN,
    ("event_store", "postgresql"),
    ("views",),
    ("views", "scorer"),
    ("views", "scorer", "fields"),
    ("views", "scorer", "public"),
    ("replicas",),
    ("replicas", 0),
    ("replicas", 0, "name"),
    ("replicas", 0, "redis"),
    URL,
    ("replicas", 0, "lmdb"),
    ("partitioner",),
    ("validator", "digest"),
]


@given(st.sampled_from(PLACES), VALUES)
def test_any_value_in_any_place_is_understood_or_refused(
    scratch: Path, path: tuple[str | int, ...], value: Any
) -> None:
    try:
        text = with_setting(path, value)
        text.encode()
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    loaded_or_refused(scratch, text, {"X": "1"})


@given(
    st.sampled_from(PLACES),
    st.text(max_size=12)
    | st.sampled_from(["[", "{a: b}", "2026-01-01", "!!set {a}", "*x", "\udc80"]),
    st.text(st.sampled_from("abc_019-¹"), max_size=6),
)
def test_any_variable_is_understood_or_refused(
    scratch: Path, path: tuple[str | int, ...], text: str, more: str
) -> None:
    name = "SYNCHROSCOPE__" + "__".join(str(part).upper() for part in path)
    loaded_or_refused(scratch, GOOD, {name: text})
    loaded_or_refused(scratch, GOOD, {f"{name}__{more}": text})
