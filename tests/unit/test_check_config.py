"""`synchroscope check-config` without servers: what it prints and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from service.cli import main

GOOD = """\
log:
  kafka:
    bootstrap_servers: "[::1]:29092"
    client: kafka-python
    security: {protocol: SASL_SSL, mechanism: PLAIN, username: me, password: "${PW}"}
event_store:
  postgresql: {dsn: "postgresql://sync:${PW}@db/context"}
views:
  scorer:
    fields: {financial: [limit, risk], temporal: "*"}
replicas:
  - {name: scorer@1, redis: {url: "redis://:${PW}@cache/0"}}
  - {name: scorer@2, lmdb: {path: /data}}
"""
BAD = GOOD.replace("scorer@2", "Scorer").replace("client: kafka-python", "client: fast")


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "hunter2")


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["synchroscope", "check-config", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    return ended.value.code or 0, captured.out, captured.err


def test_of_a_sound_file_it_shows_what_was_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "synchroscope.yaml"
    file.write_text(GOOD)
    code, out, err = run(capsys, monkeypatch, str(file))
    assert (code, err) == (0, "")
    for expected in (
        "[::1]:29092 SASL_SSL PLAIN, client kafka-python",
        "postgresql://sync:***@db/context schema synchroscope",
        "financial: limit, risk; temporal: every field",
        "redis://:***@cache/0",
        "run --replica scorer@2",
        "xxh3-128, 256 buckets",
        "is sound",
    ):
        assert expected in out, expected


def test_of_a_wrong_file_it_names_every_problem_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "synchroscope.yaml"
    file.write_text(BAD)
    code, out, err = run(capsys, monkeypatch, str(file), "--connect")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"synchroscope: {file}:",
        "  line 4: log.kafka.client: choose one of auto, kafka-python, confluent",
        "  line 13: replicas[1].name: 'Scorer' is not like model@instance",
        "  line 13: replicas[1]: there is no view Scorer; known are scorer",
    ]


def test_as_json_it_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "synchroscope.yaml"
    file.write_text(BAD)
    code, out, _ = run(capsys, monkeypatch, str(file), "--output", "json")
    told = json.loads(out)
    assert (code, told["file"], len(told["problems"])) == (2, str(file), 3)
    file.write_text(GOOD)
    code, out, _ = run(capsys, monkeypatch, str(file), "--output", "json")
    told = json.loads(out)
    assert (code, told["problems"], told["servers"]) == (0, [], [])
    assert told["configuration"]["kafka"]["client"] == "kafka-python"
    assert told["configuration"]["replicas"][1]["place"] == "/data"


def test_a_kafka_client_that_is_not_installed_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.kafka_settings.find_spec", lambda name: None)
    file = tmp_path / "synchroscope.yaml"
    file.write_text(GOOD.replace("kafka-python", "confluent"))
    code, _, err = run(capsys, monkeypatch, str(file))
    assert code == 2
    assert "install synchroscope[fast]" in err


def test_a_file_that_is_not_there_and_no_file_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, str(tmp_path / "nowhere.yaml"))
    assert code == 2
    assert "nowhere.yaml" in err
    code, _, err = run(capsys, monkeypatch)
    assert code == 2
    assert "--print-schema" in err


def test_the_schema_knows_ranges_choices_and_references(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "--print-schema")
    assert code == 0
    sections = json.loads(out)["$defs"]
    partitions = sections["KafkaSettings"]["properties"]["partitions"]["anyOf"]
    assert {"type": "integer", "minimum": 1, "maximum": 10_000} in partitions
    assert any("pattern" in one for one in partitions)
    assert sections["RelaySection"]["additionalProperties"] is False
