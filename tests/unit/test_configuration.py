"""What the configuration file and the environment may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.retail.views import VIEWS
from service.configuration import load_configuration
from tests.configuration_world import GOOD, file, load, problems, with_setting

__all__ = ["file"]

ROOT = Path(__file__).parents[2]


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


# -- the environment -----------------------------------------------------------------------------


def test_the_environment_stands_over_the_file(file: Path) -> None:
    configuration = load(
        file,
        GOOD + "relay: {batch_records: 5}",
        SYNCHROSCOPE__NAME="other",
        SYNCHROSCOPE__RELAY__BATCH_RECORDS="6",
        synchroscope__projector__scrub_interval_seconds="null",
        synchroscope__projector__scrub_keys_per_second="2500",
        SYNCHROSCOPE__VALIDATOR__EVIDENCE_LIMIT_SECONDS="12.5",
        SYNCHROSCOPE__REPLICAS__0__REDIS__URL="redis://there/3",
        SYNCHROSCOPE__VIEWS__SCORER__FIELDS__FINANCIAL="[a, b]",
        SYNCHROSCOPE__VIEWS__SCORER__FIELDS__TEMPORAL="*",
        SYNCHROSCOPE_KAFKA="not a setting",
    )
    assert configuration.name == "other"
    assert configuration.relay.batch_records == 6
    assert configuration.projector.scrub_interval_seconds is None
    assert configuration.projector.scrub_keys_per_second == 2_500
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
