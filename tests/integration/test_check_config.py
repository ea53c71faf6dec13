"""`check-config --connect` beside real servers: who answers, what is missing, and that nothing is
made or changed by asking.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml
from rich.console import Console

from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import check_topics, delete_topics
from service.check_config import check_config
from service.configuration import load_configuration
from service.operating import prepare
from tests.postgresql import schema_name
from tests.redis import free_port, private_redis, redis_prefix
from tests.servers import kafka_server, postgresql_dsn, redis_url
from tests.topics import KAFKA_CLIENTS, kafka_settings

SECRET = "s3cret-s3cret"

# kafka-python leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("refused_sockets_are_collected"),
]


class World:
    """A configuration file on names of its own; the servers are those of all tests."""

    def __init__(self, file: Path, kafka: KafkaSettings, schema: str, prefix: str) -> None:
        self.file, self.kafka, self.schema, self.prefix = file, kafka, schema, prefix
        self.data: dict[str, Any] = {
            "log": {
                "kafka": {
                    "bootstrap_servers": kafka.bootstrap_servers,
                    "client": kafka.client,
                    "topic_prefix": kafka.topic_prefix,
                    "partitions": kafka.partitions,
                    "request_timeout_seconds": 2.0,
                }
            },
            "event_store": {"postgresql": {"dsn": postgresql_dsn(), "schema": schema}},
            "views": {"scorer": {"fields": {"financial": "*"}}},
            "replicas": [
                {"name": "scorer@1", "redis": {"url": redis_url(), "prefix": prefix}},
                {"name": "scorer@2", "postgresql": {"dsn": postgresql_dsn(), "schema": schema}},
                {"name": "scorer@3", "memory": {}},
            ],
        }

    def check(self, **environ: str) -> tuple[int, dict[str, Any]]:
        """Return the exit code, and server -> what was said of it."""
        self.file.write_text(yaml.safe_dump(self.data))
        code, text = shown(self.file, environ, as_json=True)
        told = json.loads(text)
        assert told["problems"] == []
        assert SECRET not in text
        return code, {answer["server"].split()[0]: answer for answer in told["servers"]}

    def prepare(self) -> None:
        """Create what `synchroscope prepare` creates."""
        self.file.write_text(yaml.safe_dump(self.data))
        assert prepare(load_configuration(self.file, {}), Console(file=io.StringIO())) == 0


def shown(file: Path, environ: dict[str, str], *, as_json: bool) -> tuple[int, str]:
    output = io.StringIO()
    console = Console(file=output, width=120)
    return check_config(file, environ, console, connect=True, as_json=as_json), output.getvalue()


@pytest.fixture(params=KAFKA_CLIENTS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    kafka_server()
    with ExitStack() as stack:
        kafka = kafka_settings(request.param)
        stack.callback(delete_topics, kafka)
        names = stack.enter_context(schema_name()), stack.enter_context(redis_prefix())
        yield World(tmp_path / "synchroscope.yaml", kafka, *names)


def test_what_is_prepared_is_fine_and_is_asked_once_each(world: World) -> None:
    world.prepare()
    code, servers = world.check()
    assert code == 0
    assert [answer["state"] for answer in servers.values()] == ["fine"] * 3
    assert list(servers) == ["kafka", "postgresql", "redis"]

    code, text = shown(world.file, {}, as_json=False)
    assert code == 0
    assert text.count("answers") == 3


def test_topics_and_tables_that_are_missing_are_named_and_not_made(world: World) -> None:
    code, servers = world.check()
    assert code == 2
    assert servers["kafka"]["state"] == "wrong"
    assert len(servers["kafka"]["problems"]) == 6
    for problem in servers["kafka"]["problems"] + servers["postgresql"]["problems"]:
        assert "`synchroscope prepare --config FILE`" in problem
    assert servers["redis"]["state"] == "fine"

    assert len(check_topics(world.kafka)) == 6
    with psycopg.connect(postgresql_dsn()) as connection:
        [made] = connection.execute("SELECT to_regnamespace(%s)", (world.schema,)).fetchall()
    assert made == (None,)
    with redis.Redis.from_url(redis_url()) as client:
        assert list(client.scan_iter(f"{{{world.prefix}:*")) == []


def test_a_topic_with_other_partitions_than_configured_is_wrong(world: World) -> None:
    world.prepare()
    world.data["log"]["kafka"]["partitions"] = 3
    code, servers = world.check()
    assert code == 2
    [problem] = servers["kafka"]["problems"]
    assert "has 2 partitions, kafka partitions is 3" in problem


def test_servers_that_do_not_answer_are_each_named_with_what_to_check(world: World) -> None:
    port = free_port()
    world.data["log"]["kafka"]["bootstrap_servers"] = f"127.0.0.1:{port}"
    dsn = f"postgresql://me:${{PASSWORD}}@127.0.0.1:{port}/db"
    world.data["event_store"]["postgresql"]["dsn"] = dsn
    world.data["replicas"][1]["postgresql"]["dsn"] = dsn
    world.data["replicas"][0]["redis"]["url"] = f"redis://:${{PASSWORD}}@127.0.0.1:{port}/0"
    code, servers = world.check(PASSWORD=SECRET)
    assert code == 3
    for answer in servers.values():
        assert answer["state"] == "away"
        [problem] = answer["problems"]
        assert f"127.0.0.1:{port}" in problem and "check" in problem

    code, text = shown(world.file, {"PASSWORD": SECRET}, as_json=False)
    assert code == 3
    assert text.count("does not answer") >= 3
    assert SECRET not in text


def test_what_is_certainly_wrong_counts_more_than_a_server_that_is_away(world: World) -> None:
    world.data["replicas"][0]["redis"]["url"] = f"redis://127.0.0.1:{free_port()}/0"
    code, servers = world.check()
    assert code == 2
    assert {name: answer["state"] for name, answer in servers.items()} == {
        "kafka": "wrong",
        "postgresql": "wrong",
        "redis": "away",
    }


@pytest.mark.parametrize("world", KAFKA_CLIENTS[:1], indirect=True)
def test_a_wrong_password_and_a_read_only_copy_are_named(world: World, tmp_path: Path) -> None:
    world.prepare()
    store = world.data["replicas"][0]["redis"]
    with private_redis(tmp_path / "locked", {"requirepass": "another"}) as locked:
        store["url"] = locked.url.replace("//", "//:${PASSWORD}@")
        code, servers = world.check(PASSWORD=SECRET)
        assert code == 2
        assert "check user and password" in servers["redis"]["problems"][0]
    with private_redis(tmp_path / "copy", {"replicaof": "127.0.0.1 1"}) as copy:
        store["url"] = copy.url
        code, servers = world.check()
        assert code == 2
        assert "read-only copy: name the primary" in servers["redis"]["problems"][0]


@pytest.mark.parametrize("world", KAFKA_CLIENTS[:1], indirect=True)
def test_a_database_that_takes_no_writes_is_named(world: World) -> None:
    world.prepare()
    option = "options=-c%20default_transaction_read_only%3Don"
    sign = "&" if "?" in postgresql_dsn() else "?"
    world.data["event_store"]["postgresql"]["dsn"] = f"{postgresql_dsn()}{sign}{option}"
    world.data["replicas"].pop(1)
    code, servers = world.check()
    assert code == 2
    assert "the database is read-only: name the primary" in servers["postgresql"]["problems"][0]
