"""What is wrong with an attached.yaml is told at once, with lines, and no secret is shown."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from service.attached_configuration import AttachedConfiguration, load_attached
from synchroscope.errors import ConfigurationError

SOUND = """
    log: {kafka: {bootstrap_servers: "kafka:9092"}, topic: events}
    record: {subject: key, type: profile}
    stores:
      - {name: one, uri: "redis://host/0?match=ctx:*", subject: id}
"""


def load(tmp_path: Path, text: str, **environ: str) -> AttachedConfiguration:
    file = tmp_path / "attached.yaml"
    file.write_text(dedent(text))
    return load_attached(file, environ)


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    found = load(tmp_path, SOUND)
    assert found.horizons_seconds == [1.0, 10.0, 60.0, 300.0]
    (store,) = found.stores
    mapping = store.row_mapping(found.constant_type, is_typed=False)
    assert (store.keys, mapping.type, mapping.is_text) == (("id",), "profile", True)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("topic:", "topik:", r"line 2: log.topik: unknown key; did you mean topic\?"),
        ("subject: id", "subjct: id", r"stores\[0\].subjct: unknown key; did you mean subject\?"),
        ("topic: events", "topic: events, start: tomorrow", "give earliest, latest or a moment"),
        ("type: profile", 'type: "$.kind"', "name the type of its rows, or their type_column"),
        ("subject: key", 'subject: "$.a["', "no JSON path"),
        ("subject: id", "subject: id, fields: all", "give a mapping of fields to columns"),
        ("subject: id", "subject: id, version: v", "needs record.version"),
        ("subject: id", "subject: id, type: a, type_column: b", "not both"),
        ("subject: id", "subject: id, budget_keys_per_second: 0", "is allowed"),
        ("topic: events", 'topic: ""', "log.topic: must not be empty"),
        ("kafka:9092", "", "host:port is needed"),
        ("redis://host/0?match=ctx:*", "", "uri: must not be empty"),
        ("name: one", 'name: ""', "needs a name of its own"),
        ("redis://host", "redis://me:hunter2@host", "holds a secret in plain text"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, before: str, after: str, problem: str
) -> None:
    assert before in SOUND
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load(tmp_path, SOUND.replace(before, after))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("horizons", ["[]", "[10, 1]", "[1, 1]"])
def test_horizons_grow(tmp_path: Path, horizons: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 10 numbers"):
        load(tmp_path, SOUND + f"    horizons_seconds: {horizons}\n")


def test_the_environment_is_over_the_file_and_a_field_may_be_called_key(tmp_path: Path) -> None:
    text = SOUND.replace("type: profile", "type: profile, fields: {key: $.key}")
    found = load(tmp_path, text, SYNCHROSCOPE__LOG__TOPIC="others")
    assert found.log.topic == "others"
    assert found.record.fields == {"key": "$.key"}


def test_the_fold_has_another_name_for_another_topic_or_mapping_only(tmp_path: Path) -> None:
    def name(before: str = "", after: str = "") -> Any:
        return load(tmp_path, SOUND.replace(before, after) if before else SOUND).fingerprint()

    assert name() == name("kafka:9092", "other:9092") == name("name: one", "name: two")
    assert name() == name("type: profile", "type: profile, unreadable: skip")
    assert len({name(), name("events", "others"), name("subject: key", "subject: $.id")}) == 3
