"""What the configuration file may say, what is refused, and how; no secret is ever shown."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import Meta, Struct
from redis.connection import parse_url
from rich.pretty import pretty_repr

from examples.retail.views import VIEWS
from service.configuration import Configuration, load_configuration
from service.configuration_problems import WrongConfigurationError
from service.configuration_reading import MAXIMUM_FILE_BYTES
from service.configuration_secrets import masked
from service.configuration_typing import hints_of
from synchroscope.errors import ConfigurationError

ROOT = Path(__file__).parents[2]

GOOD = """\
log:
  kafka:
    bootstrap_servers: 127.0.0.1:29092
event_store:
  postgresql: {dsn: postgresql://sync@127.0.0.1/postgres}
views:
  scorer:
    fields: {financial: [limit, risk]}
replicas:
  - name: scorer@1
    redis: {url: redis://127.0.0.1/0}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "synchroscope.yaml"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For many examples of one test."""
    return tmp_path_factory.mktemp("configuration") / "synchroscope.yaml"


def load(file: Path, text: str = GOOD, **environ: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return load_configuration(file, environ)


def problems(file: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(WrongConfigurationError) as caught:
        load(file, text, **environ)
    assert str(caught.value) == "\n  ".join([f"{file}:", *caught.value.problems])
    return caught.value.problems


def with_setting(path: tuple[str | int, ...], value: Any) -> str:
    """The good file with one setting changed or added."""
    data: Any = yaml.safe_load(GOOD)
    place: Any = data
    for key in path[:-1]:
        place = place[key] if isinstance(key, int) else place.setdefault(key, {})
    place[path[-1]] = value
    return yaml.safe_dump(data)


# -- what is understood --------------------------------------------------------------------------


def test_what_is_not_said_has_its_default(file: Path) -> None:
    configuration = load(file)
    assert configuration.name == "synchroscope"
    assert configuration.projector.batch_records == 500
    assert configuration.log.kafka.partitions == 4
    assert configuration.event_store.postgresql.schema == "synchroscope"
    assert configuration.replicas[0].storages == ["redis"]
    assert configuration.view("scorer").fields == {"financial": frozenset({"limit", "risk"})}


def test_the_retail_file_has_the_views_of_the_retail_example() -> None:
    configuration = load_configuration(ROOT / "examples" / "retail" / "kafka.yaml", {})
    assert {view.model: view.hash() for view in VIEWS} == {
        model: configuration.view(model).hash() for model in configuration.views
    }
    for view in VIEWS:
        for kind in view.fields:
            for field in view.fields[kind]:
                told = configuration.view(view.model).is_public(kind, field)
                assert told == view.is_public(kind, field), (view.model, kind, field)


def test_every_field_of_a_context_type_is_a_star(file: Path) -> None:
    text = with_setting(("views", "scorer", "fields", "financial"), "*")
    assert load(file, text).view("scorer").fields == {"financial": frozenset()}


def test_the_name_is_the_one_of_kafkas_groups_unless_they_have_their_own(file: Path) -> None:
    assert load(file, "name: retail\n" + GOOD).log.kafka.name == "retail"
    text = with_setting(("log", "kafka", "name"), "other")
    assert load(file, "name: retail\n" + text).log.kafka.name == "other"


@pytest.mark.parametrize("storage", ["memory:", "memory: {}", "memory: null"])
def test_a_section_without_settings_may_be_empty(file: Path, storage: str) -> None:
    text = GOOD.replace("redis: {url: redis://127.0.0.1/0}", storage) + "relay:\nhttp: {}\n"
    configuration = load(file, text)
    assert configuration.replicas[0].storages == ["memory"]
    assert configuration.relay.batch_records == 1_000


def test_anchors_aliases_and_merge_keys_are_understood(file: Path) -> None:
    text = GOOD.replace("{url: redis://127.0.0.1/0}", "&store {url: redis://one/0, prefix: a}")
    text += """\
  - name: scorer@2
    redis: *store
  - name: scorer@3
    redis: {<<: *store, prefix: b}
  - name: scorer@4
    redis: {prefix: c, <<: [{url: "redis://two/0"}, *store]}
"""
    storages = [replica.redis for replica in load(file, text).replicas]
    assert [(storage.url, storage.prefix) for storage in storages if storage] == [
        ("redis://one/0", "a"),
        ("redis://one/0", "a"),
        ("redis://one/0", "b"),
        ("redis://two/0", "c"),
    ]


def test_what_yaml_takes_for_a_date_or_a_switch_is_a_name_where_a_name_is_meant(file: Path) -> None:
    text = GOOD.replace("financial: [limit, risk]", "on: [2026-01-01], 2026-01-02: '*', 7: '*'")
    assert set(load(file, text).view("scorer").fields) == {"on", "2026-01-02", "7"}


# -- what is refused -----------------------------------------------------------------------------


def numbers(kind: Any = Configuration, path: tuple[str | int, ...] = ()) -> Iterator[Any]:
    """Every number that can be set: its place, its range and its type."""
    for name, hint in hints_of(kind).items():
        place = (*path, name, 0) if name == "replicas" else (*path, name)
        for part in parts_of(hint):
            if isinstance(part, type) and issubclass(part, Struct):
                if name not in ("views", "redis", "postgresql", "lmdb", "memory"):
                    yield from numbers(part, place)
            elif typing.get_origin(part) is Annotated:
                yield place, part.__metadata__[0], part.__origin__
            else:
                assert part not in (int, float), f"{place} has no range"


def parts_of(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union, list, dict):
        return [part for one in typing.get_args(hint) for part in parts_of(one)]
    return [hint]


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
        (("replicas",), [], "at least one replica"),
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


# -- the environment -----------------------------------------------------------------------------


def test_the_environment_stands_over_the_file(file: Path) -> None:
    configuration = load(
        file,
        GOOD + "relay: {batch_records: 5}",
        SYNCHROSCOPE__NAME="other",
        SYNCHROSCOPE__RELAY__BATCH_RECORDS="6",
        synchroscope__projector__scrub_interval_seconds="null",
        SYNCHROSCOPE__VALIDATOR__EVIDENCE_LIMIT_SECONDS="12.5",
        SYNCHROSCOPE__REPLICAS__0__REDIS__URL="redis://there/3",
        SYNCHROSCOPE__VIEWS__SCORER__FIELDS__FINANCIAL="[a, b]",
        SYNCHROSCOPE__VIEWS__SCORER__FIELDS__TEMPORAL="*",
        SYNCHROSCOPE_KAFKA="not a setting",
    )
    assert configuration.name == "other"
    assert configuration.relay.batch_records == 6
    assert configuration.projector.scrub_interval_seconds is None
    assert configuration.validator.evidence_limit_seconds == 12.5
    assert configuration.replicas[0].redis is not None
    assert configuration.replicas[0].redis.url == "redis://there/3"
    assert configuration.views["scorer"].fields == {"financial": ["a", "b"], "temporal": "*"}


def test_the_environment_alone_is_enough(file: Path) -> None:
    configuration = load(
        file,
        "",
        SYNCHROSCOPE__LOG__KAFKA__BOOTSTRAP_SERVERS="h:1",
        SYNCHROSCOPE__EVENT_STORE__POSTGRESQL__DSN="postgresql://u:secret@h/db",
        SYNCHROSCOPE__VIEWS__SCORER__FIELDS__FINANCIAL="*",
        SYNCHROSCOPE__REPLICAS__0__NAME="scorer@1",
        SYNCHROSCOPE__REPLICAS__0__MEMORY="{}",
        SYNCHROSCOPE__REPLICAS__1__NAME="scorer@2",
        SYNCHROSCOPE__REPLICAS__1__LMDB__PATH="/data",
    )
    assert [replica.storages for replica in configuration.replicas] == [["memory"], ["lmdb"]]
    assert configuration.event_store.postgresql.dsn == "postgresql://u:secret@h/db"


def test_a_hyphen_is_an_underscore_in_the_environment(file: Path) -> None:
    text = GOOD.replace("scorer", "fraud-scorer")
    setting = {"SYNCHROSCOPE__VIEWS__FRAUD_SCORER__FIELDS__FINANCIAL": "*"}
    assert load(file, text, **setting).views["fraud-scorer"].fields == {"financial": "*"}


@pytest.mark.parametrize(
    "secret", ["12345", "true", "null", "[a]", "1e5", "a: b", "${HOME}", "x y"]
)
def test_a_text_of_the_environment_is_taken_as_it_is_where_a_text_is_meant(
    file: Path, secret: str
) -> None:
    security = "{protocol: SASL_SSL, mechanism: PLAIN, username: me, password: '${PW}'}"
    text = GOOD.replace("127.0.0.1:29092", f"h:1\n    security: {security}")
    name = "SYNCHROSCOPE__LOG__KAFKA__SECURITY__PASSWORD"
    for environ in ({"PW": secret}, {name: secret}):
        assert load(file, text, **environ).log.kafka.security.password == secret


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SYNCHROSCOPE__NAMEE", "SYNCHROSCOPE__NAMEE: namee: unknown key; did you mean name?"),
        ("SYNCHROSCOPE__NAME__FIRST", "name: is no section, so there is no place for"),
        ("SYNCHROSCOPE__REPLICAS__5__NAME", "line 9: replicas: is a list of 1, so there is no"),
        ("SYNCHROSCOPE__REPLICAS__FIRST__NAME", "replicas: is a list of 1, so there is no place"),
        ("SYNCHROSCOPE__REPLICAS__¹__NAME", "replicas: is a list of 1, so there is no place"),
        ("SYNCHROSCOPE__RELAY__BATCH_RECORDS", "SYNCHROSCOPE__RELAY__BATCH_RECORDS: relay.batch_"),
        ("SYNCHROSCOPE__", "give the place as SYNCHROSCOPE__SECTION__KEY"),
        ("SYNCHROSCOPE__RELAY__", "give the place as SYNCHROSCOPE__SECTION__KEY"),
    ],
)
def test_a_variable_without_a_place_is_named(file: Path, name: str, expected: str) -> None:
    text = "name: retail\n" + GOOD if "NAME__" in name and "REPLICAS" not in name else GOOD
    [found] = problems(file, text, **{name: "value"})
    assert expected in found


def test_a_reference_is_replaced_by_what_the_environment_or_a_file_says(file: Path) -> None:
    (file.parent / "password").write_text(" s3cret\n")
    text = GOOD.replace("sync@127.0.0.1/postgres", "'${USER:-sync}:${file:password}@${HOST}/db'")
    text = text.replace("postgresql://'", "'postgresql://") + "http: {port: '${PORT:-7000}'}\n"
    configuration = load(file, text, HOST="h")
    assert configuration.event_store.postgresql.dsn == "postgresql://sync:s3cret@h/db"
    assert configuration.http.port == 7_000
    assert load(file, text, HOST="h", PORT="1").http.port == 1
    assert load(file, text, HOST="h", PORT="").http.port == 7_000
    absolute = text.replace("file:password", f"file:{file.parent / 'password'}")
    assert "s3cret" in load(file, absolute, HOST="h").event_store.postgresql.dsn


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("${NOWHERE}", "the environment has no NOWHERE"),
        ("${file:nowhere}", "the file nowhere cannot be read: No such file"),
        ("${file:.}", "the file . cannot be read: Is a directory"),
        ("${file:binary}", "the file binary is no UTF-8 text"),
        ("${file:empty}", "the file empty is empty"),
        ("${file:large}", "the file large is empty, or larger than"),
        ("${BINARY}", "the environment gives what is no UTF-8 text"),
        ("${NAME", "write ${NAME}, ${NAME:-default} or ${file:PATH}"),
        ("${}", "write ${NAME}, ${NAME:-default} or ${file:PATH}"),
        ("${a b}", "write ${NAME}, ${NAME:-default} or ${file:PATH}"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(
    file: Path, reference: str, expected: str
) -> None:
    (file.parent / "binary").write_bytes(b"\xff")
    (file.parent / "empty").write_bytes(b"\n")
    (file.parent / "large").write_bytes(b"x" * 70_000)
    found = problems(file, with_setting(("http", "host"), reference), BINARY="\udcff")
    assert [one for one in found if "http.host: " in one and expected in one], found


# -- secrets -------------------------------------------------------------------------------------

DSN: tuple[str, ...] = ("event_store", "postgresql", "dsn")
URL: tuple[str | int, ...] = ("replicas", 0, "redis", "url")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (DSN, "postgresql://me:hunter2@host/db"),
        (DSN, "postgresql://me:hun%74er2@host/db"),
        (DSN, "postgresql://me:${PART}hunter2@host/db"),
        (DSN, "postgresql://me:${PASSWORD:-hunter2}@host/db"),
        (DSN, "${DSN:-postgresql://me:hunter2@host/db}"),
        (DSN, "postgresql://me@host/db?password=hunter2"),
        (DSN, "postgresql://me@host/db?sslpassword=hunter2"),
        (DSN, "host=h password=hunter2"),
        (DSN, "password = 'hunter2 x' host=h"),
        (DSN, "postgresql://me:hunter2/x@host/db"),
        (DSN, "postgresql://me:12/34@host/db"),
        (URL, "redis://:hunter2@host/0"),
        (URL, "redis://me:hunter2@host/0"),
        (URL, "redis://host/0?password=hunter2"),
        (("log", "kafka", "security", "password"), "hunter2"),
        (("log", "kafka", "security", "password"), "${PASSWORD:-hunter2}"),
        (("log", "kafka", "security", "key_password"), "hunter2"),
        (("validator", "digest", "key"), "hunter2-hunter2-hunter2"),
    ],
)
def test_a_secret_in_the_file_itself_is_refused_and_not_shown(
    file: Path, path: tuple[str | int, ...], value: str
) -> None:
    environ = {"PART": "a", "PASSWORD": "b", "DSN": "postgresql://h/db"}
    found = problems(file, with_setting(path, value), **environ)
    assert any("holds a secret in plain text" in one for one in found), found
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (DSN, "postgresql://me@host:5432/db"),
        (DSN, "postgresql://me:${PASSWORD}@host:5432/db?application_name=x"),
        (DSN, "postgresql://${USER:-me}:${PASSWORD:-}@host:${PORT:-5432}/db"),
        (DSN, "host=h user=me passfile=/x password=${PASSWORD}"),
        (DSN, "postgresql://h1:5432,h2:5432/db"),
        (URL, "redis://me@host:6379/0"),
        (URL, "redis://:${PASSWORD}@host:6379/0"),
        (URL, "unix:///run/redis.sock?db=1"),
        (("views", "scorer", "fields"), {"password": "*", "key": "*", "dsn": "*"}),
        (("views", "password"), {"fields": {"financial": ["key", "password"]}}),
    ],
)
def test_what_is_no_secret_is_not_refused(
    file: Path, path: tuple[str | int, ...], value: Any
) -> None:
    load(file, with_setting(path, value), PASSWORD="hunter2")


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0$"), max_size=12)


@given(TEXTS, TEXTS, TEXTS)
@example("postgresql://u", "p[w", "@h/db")
@example("postgresql://u", "p?w", "@h/db")
@example("host=h password", "= 'a b'", "")
def test_no_password_that_postgresql_would_see_passes_in_plain_text(
    scratch: Path, before: str, middle: str, after: str
) -> None:
    for dsn in (f"{before}:{middle}{after}", f"postgresql://{before}:{middle}@{after}"):
        try:
            password = psycopg.conninfo.conninfo_to_dict(dsn).get("password")
        except (psycopg.ProgrammingError, UnicodeDecodeError):
            password = None
        if password:
            found = problems(scratch, with_setting(DSN, dsn))
            assert any("holds a secret in plain text" in one for one in found), dsn


@given(TEXTS, TEXTS, TEXTS)
@example("@", "0", "")
@example("", "'", "")
def test_no_password_that_redis_would_see_passes_in_plain_text(
    scratch: Path, before: str, middle: str, after: str
) -> None:
    for url in (f"redis://{before}:{middle}@{after}", f"redis://h/0?{before}={middle}"):
        try:
            password = parse_url(url).get("password")  # type: ignore[no-untyped-call]
        except ValueError:
            password = None
        if password:
            found = problems(scratch, with_setting(URL, url))
            assert any("holds a secret in plain text" in one for one in found), url


SECRETS = st.text(
    st.sampled_from("abcXYZ0189@:/?#%&=+ '\"\\[]{}!*,;$~ü-_"), min_size=1, max_size=20
).map(lambda text: f"Q{text}Q")


def with_secrets(mistake: int) -> str:
    """A file that refers to a secret wherever one may be; most mistakes make it a wrong one."""
    data = yaml.safe_load(GOOD)
    data["log"]["kafka"]["security"] = {
        "protocol": "SASL_SSL",
        "mechanism": "PLAIN",
        "username": "me",
        "password": "${SECRET}",
    }
    data["event_store"]["postgresql"]["dsn"] = "postgresql://me:${SECRET}@host/db"
    data["replicas"][0]["redis"]["url"] = "redis://me:${SECRET}@host/0"
    data["validator"] = {"digest": {"algorithm": "blake2b-128", "key": "${KEY}"}}
    if mistake == 1:
        data["log"]["kafka"]["security"]["mechanism"] = "${SECRET}"
    elif mistake == 2:
        data["relay"] = {"batch_records": "${SECRET}"}
    elif mistake == 3:
        data["validator"]["digest"]["algorithm"] = "xxh3-128"
    elif mistake == 4:
        data["event_store"]["postgresql"]["dsn"] = "host=h password=${SECRET} nonsense"
    elif mistake == 5:
        data["http"] = {"${": "x"}
    return yaml.safe_dump(data)


@given(SECRETS, st.integers(0, 5))
@example("Q'@/ pQ", 0)
@example("Q%80Q", 0)
def test_no_secret_is_in_a_message_or_in_what_is_shown(
    scratch: Path, secret: str, mistake: int
) -> None:
    environ = {"SECRET": secret, "KEY": f"0123456789abcdef{secret}"}
    shown = loaded_or_refused(scratch, with_secrets(mistake), environ)
    assert secret not in shown, shown


def test_a_sound_configuration_shows_no_secret(file: Path) -> None:
    environ = {"SECRET": "hunter2", "KEY": "0123456789abcdef-hunter2"}
    assert load(file, with_secrets(0), **environ).validator.digest.key == environ["KEY"]
    shown = loaded_or_refused(file, with_secrets(0), environ)
    assert "hunter2" not in shown
    assert "postgresql://me:***@host/db" in shown


def loaded_or_refused(file: Path, text: str, environ: Mapping[str, str]) -> str:
    """Everything that anybody could see of it."""
    try:
        configuration = load(file, text, **environ)
    except ConfigurationError as error:
        assert error.__cause__ is None
        return f"{error}{error!r}"
    return f"{configuration}{configuration!r}{pretty_repr(configuration)}"


@pytest.mark.parametrize(
    "text",
    [
        "password: *Hunter2x",
        "password: !Hunter2x y",
        "password: !!int Hunter2x",
        "password: Hunter2x: y: z",
        "password: @Hunter2x",
        "password: 'Hunter2x",
        "password: &Hunter2x",
        "password: [Hunter2x",
        "? Hunter2x\n? Hunter2x y: z: a",
        "%Hunter2x",
    ],
)
def test_a_broken_line_with_a_secret_is_not_shown(file: Path, text: str) -> None:
    assert "unter2" not in str(problems(file, "log:\n  kafka: {}\n" + text))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:x@h", "redis://:***@h"),
        ("redis://u:x@y@h", "redis://u:***@h"),
        ("postgresql://u:x/y@h/db?a=b", "postgresql://u:***@h/db?a=b"),
        ("postgresql://u@h/db?password=x&a=b", "postgresql://u@h/db?password=***&a=b"),
        ("host=h password='x y' user=u", "host=h password=*** user=u"),
        (r"host=h password = 'x\'y' user=u", "host=h password = *** user=u"),
        (r"sslpassword=x\ y user=u", "sslpassword=*** user=u"),
    ],
)
def test_a_masked_url_is_the_url_without_its_password(url: str, expected: str) -> None:
    assert masked(url) == expected


# -- garbage -------------------------------------------------------------------------------------

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
