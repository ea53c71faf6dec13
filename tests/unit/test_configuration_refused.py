"""What is refused in a configuration file, and how it is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from msgspec import Meta

from service.configuration import load_configuration
from service.configuration_problems import WrongConfigurationError
from service.configuration_reading import MAXIMUM_FILE_BYTES
from synchroscope.errors import ConfigurationError
from tests.configuration_world import GOOD, file, load, numbers, problems, with_setting

__all__ = ["file"]

NUMBERS = [pytest.param(*one, id=".".join(map(str, one[0]))) for one in numbers()]


def test_there_are_numbers_to_be_tried() -> None:
    assert len(NUMBERS) > 20


@pytest.mark.parametrize(("path", "meta", "kind"), NUMBERS)
def test_every_number_has_a_range_that_is_kept(
    file: Path, path: tuple[str, ...], meta: Meta, kind: type
) -> None:
    low = meta.ge if meta.ge is not None else meta.gt
    assert low is not None and meta.le is not None, "bound everything"
    step = 1 if kind is int else abs(low) / 1e6 + 1e-6
    outside: list[Any] = [low - step, meta.le + max(step, meta.le / 1e6), "many", [], math.inf]
    outside += [math.nan] if kind is float else [low + 0.5, True]
    outside += [low] if meta.ge is None else []
    for value in outside:
        found = problems(file, with_setting(path, value))
        assert len(found) == 1, found
        assert f"{'.'.join(path)}: " in found[0], (value, found)
    lowest = low if meta.ge is not None else low + step
    for value in (lowest, meta.le):
        try:
            load(file, with_setting(path, kind(value)))
        except WrongConfigurationError as error:  # It may disagree with another setting.
            assert all("must" in one and "allowed" not in one for one in error.problems), error


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("name",), "Big Name", "small letters"),
        (("name",), "", "small letters"),
        (("name",), "x" * 64, "1 to 63"),
        (("name",), 7, "expected a text, got a whole number"),
        (("name",), [1], "expected a text, got a list"),
        (("partitioner",), "by_luck", "choose one of by_context_type, by_subject, hybrid"),
        (("log",), 5, "expected a mapping, got a whole number"),
        (("log", "kafka", "bootstrap_servers"), "localhost", "host:port is needed"),
        (("log", "kafka", "bootstrap_servers"), "", "host:port is needed"),
        (("log", "kafka", "bootstrap_servers"), "a:1,b", "host:port is needed"),
        (("log", "kafka", "bootstrap_servers"), "a:0", "host:port is needed"),
        (("log", "kafka", "bootstrap_servers"), "a:65536", "host:port is needed"),
        (("log", "kafka", "bootstrap_servers"), "kafka://a:1", "host:port is needed"),
        (("log", "kafka", "client"), "fastest", "choose one of auto, kafka-python, confluent"),
        (("log", "kafka", "compression"), "zip", "choose one of none, lz4, snappy, zstd, gzip"),
        (("log", "kafka", "topic_prefix"), "a b", "letters, digits"),
        (("log", "kafka", "message_bytes"), 1_000, "less than batch_bytes"),
        (("log", "kafka", "hang_timeout_seconds"), 2.0, "less than session_timeout_seconds"),
        (("log", "kafka", "min_insync_replicas"), 2, "more than replication_factor"),
        (("log", "kafka", "security", "protocol"), "TLS", "choose one of PLAINTEXT, SSL"),
        (("log", "kafka", "security", "username"), "me", "needs protocol SASL_SSL"),
        (("log", "kafka", "security", "ca_file"), "/ca", "needs protocol SSL"),
        (
            ("log", "kafka", "security"),
            {"protocol": "SSL", "ca_file": "/nowhere/ca.pem"},
            "ca_file: there is no file /nowhere/ca.pem",
        ),
        (
            ("log", "kafka", "security"),
            {"protocol": "SASL_SSL", "username": "me", "password": "${PW:-}"},
            "mechanism: is needed for SASL_SSL",
        ),
        (("event_store", "postgresql", "dsn"), "nonsense", "DSN cannot be read"),
        (("event_store", "postgresql", "dsn"), "postgresql://h:port/db", "DSN cannot be read"),
        (("event_store", "postgresql", "dsn"), "", "dsn: must not be empty"),
        (("event_store", "postgresql", "dsn"), " ", "dsn: must not be empty"),
        (("event_store", "postgresql", "dsn"), "${PG_DSN:-}", "dsn: must not be empty"),
        (("event_store", "postgresql", "schema"), "", "small letters"),
        (("event_store", "postgresql", "schema"), "A", "small letters"),
        (("event_store", "postgresql", "schema"), "pg_x", "no pg_"),
        (("event_store", "postgresql"), {}, "dsn is missing"),
        (("views",), {}, "at least one view"),
        (("views", ""), {"fields": {"a": ["b"]}}, "needs a name"),
        (("views", "scorer", "fields"), {}, "at least one context type"),
        (("views", "scorer", "fields", "financial"), [], "at least one field"),
        (("views", "scorer", "fields", "financial"), "limit", 'or "*" for every field'),
        (("views", "scorer", "fields", "financial"), ["a", "a"], "given twice"),
        (("views", "scorer", "fields", "financial"), [1], "expected a text"),
        (("views", "scorer", "public"), {"financial": ["x"]}, "does not see x"),
        (("views", "scorer", "public"), {"temporal": []}, "does not see temporal"),
        (("views", "scorer", "fields", "financial"), [""], "a field need a name"),
        (("views", "scorer", "fields", ""), ["a"], "a field need a name"),
        (("replicas",), [], "at least one replica"),
        (("replicas", 0, "name"), "", "'' is not like model@instance"),
        (("replicas", 0, "redis", "url"), "", "Redis URL cannot be read"),
        (("replicas", 0, "redis", "url"), "${REDIS_URL:-}", "Redis URL cannot be read"),
        (
            ("replicas", 0),
            {"name": "scorer@1", "postgresql": {"dsn": ""}},
            "dsn: must not be empty",
        ),
        (("replicas",), {"name": "scorer@1"}, "expected a list, got a mapping"),
        (("replicas", 0, "name"), "scorer", "'scorer' is not like model@instance"),
        (("replicas", 0, "name"), "Scorer@1", "is not like model@instance"),
        (("replicas", 0, "view"), "other", "there is no view other; known are scorer"),
        (("replicas", 0, "memory"), {}, "given: redis and memory"),
        (("replicas", 0), {"name": "scorer@1"}, "given: none"),
        (("replicas", 0, "redis", "url"), "http://h", "Redis URL cannot be read"),
        (("replicas", 0, "redis", "url"), "redis://h/zero", "Redis URL cannot be read"),
        (("replicas", 0, "redis"), None, "url is missing"),
        (("replicas", 0), {"name": "scorer@1", "lmdb": {"path": ""}}, "name a folder"),
        (("validator", "digest", "algorithm"), "md5", "use xxh3-128 or blake2b-128"),
        (("validator", "digest", "algorithm"), "blake2b-128", "a key of 16 to 64 bytes"),
        (("validator", "evidence_limit_seconds"), 1.0, "more than projector.heartbeat_seconds"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_what_is_allowed(
    file: Path, path: tuple[str | int, ...], value: Any, expected: str
) -> None:
    found = problems(file, with_setting(path, value))
    assert any(expected in one for one in found), found
    assert all(one.startswith("line ") for one in found), found


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("replicsa: []", "replicsa: unknown key; did you mean replicas?"),
        ("relay: {batch_record: 5}", "relay.batch_record: unknown key; did you mean"),
        ("http: {socket: 5}", "http.socket: unknown key; known are host, port"),
        ("'': 1", "unknown key; known are event_store, hops, http"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    file: Path, key: str, hint: str
) -> None:
    [found] = problems(file, GOOD + key)
    assert found.startswith("line 12: ")
    assert hint in found


@pytest.mark.parametrize("setting", ["key_file", "certificate_file"])
def test_a_key_password_needs_a_file_that_may_hold_a_key(file: Path, setting: str) -> None:
    security = {"protocol": "SSL", "key_password": "${PW}"}
    text = with_setting(("log", "kafka", "security"), security)
    assert "key_password: needs key_file" in str(problems(file, text, PW="x"))
    security[setting] = "/nowhere"
    text = with_setting(("log", "kafka", "security"), security)
    assert "key_password" not in str(problems(file, text, PW="x"))


def test_a_storage_that_takes_no_settings_says_so(file: Path) -> None:
    [found] = problems(file, GOOD.replace("redis: {url: redis://127.0.0.1/0}", "memory: {a: 1}"))
    assert found == "line 11: replicas[0].memory.a: unknown key; nothing belongs here"


def test_what_is_missing_is_named(file: Path) -> None:
    expected = [f"{name} is missing" for name in ("log", "event_store", "views", "replicas")]
    assert problems(file, "") == expected
    assert problems(file, "# nothing\n") == expected


def test_a_key_that_is_given_twice_is_refused_in_every_depth(file: Path) -> None:
    assert problems(file, GOOD + "log: {}\n")[0] == "line 12: log: is given twice"
    text = GOOD.replace("bootstrap_servers: 127.0.0.1:29092", "partitions: 3\n    partitions: 4")
    assert "line 4: log.kafka.partitions: is given twice" in problems(file, text)


def test_two_replicas_do_not_share_a_name_or_a_folder(file: Path) -> None:
    text = GOOD + "  - {name: scorer@1, lmdb: {path: a}}\n  - {name: scorer@2, lmdb: {path: ./a}}\n"
    assert problems(file, text) == [
        "line 12: replicas[1].name: scorer@1 is given twice",
        "line 13: replicas[2].lmdb.path: is the folder of scorer@1 already",
    ]


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_its_lines(file: Path) -> None:
    text = """\
name: Bad Name
log:
  kafka:
    bootstrap_servers: nothing
    partitions: 0
    partitoins: 3
    security: {password: plain, username: me}
event_store:
  postgresql: {dsn: "${NOWHERE}", schema: A}
views:
  scorer: {fields: {financial: []}}
replicas:
  - {name: scorer@1, view: other, memory: }
  - 5
validator: {digest: {bits: 30}, evidence_limit_seconds: 0.5}
"""
    places = [": ".join(one.split(": ")[:2]) for one in problems(file, text)]
    assert places == [
        "line 1: name",
        "line 4: log.kafka.bootstrap_servers",
        "line 5: log.kafka.partitions",
        "line 6: log.kafka.partitoins",
        "line 7: log.kafka.security.password",
        "line 7: log.kafka.security.username",
        "line 7: log.kafka.security.password",
        "line 9: event_store.postgresql.dsn",
        "line 9: event_store.postgresql.schema",
        "line 11: views.scorer.fields.financial",
        "line 13: replicas[0]",
        "line 14: replicas[1]",
        "line 15: validator.digest.bits",
        "line 15: validator.evidence_limit_seconds",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "line 1: no YAML: "),
        ("a: 1\nb: *nowhere", "line 2: no YAML: found undefined alias"),
        ("a: 1\n\tb: 2", "line 2: no YAML: "),
        ("a: \x00", "no YAML: "),
        ("a: 1\n---\nb: 2", "line 2: no YAML: "),
        ("- a", "a mapping of settings is needed"),
        ("plain", "a mapping of settings is needed"),
        ("? [a, b]\n: 1", "has a key in line 1 that is no text"),
        ("name: !!int secret", "line 1: name: cannot be read"),
        ("name: !!python/object:os.system x", "line 1: name: cannot be read"),
        ("<<: 5", "<< takes a mapping"),
        ("a: &a [*a]", "no more than 20 levels"),
        ("a: " + "[" * 30 + "]" * 30, "no more than 20 levels"),
        ("a: " + "[" * 9_999 + "]" * 9_999, "no more than 20 levels"),
        ("name: " + "9" * 5_000, "line 1: name: cannot be read"),
    ],
)
def test_what_is_no_yaml_of_ours_is_refused_with_its_line(
    file: Path, text: str, expected: str
) -> None:
    assert any(expected in one for one in problems(file, text))


def test_aliases_do_not_multiply_without_bound(file: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 6)
    )
    assert any("20000 parts" in one for one in problems(file, laughs))


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_configuration(file, {})
    file.write_bytes(b"name: a\nx: \xff")
    with pytest.raises(ConfigurationError, match="line 2: not UTF-8"):
        load_configuration(file, {})
    file.write_text("#" * (MAXIMUM_FILE_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load_configuration(file, {})
