"""One replica's Redis stops or is full: the replicas in PostgreSQL go on, and it is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from pipeline.kafka_topics import delete_topics, ensure_topics
from pipeline.log_kafka import KafkaLog
from service.board import ReplicaWork
from service.configuration import load_configuration
from service.hosts import Identity
from service.projector_host import ProjectorHost
from service.stores import replica_plans
from synchroscope.ports import EVENTS, NewRecord
from tests.builders import record
from tests.postgresql import schema_name
from tests.redis import PrivateRedis, private_redis
from tests.servers import kafka_server, postgresql_dsn

WAIT_SECONDS = 60.0
IN_REDIS, IN_POSTGRESQL = "scorer@1", "scorer@2"
TEXT = """
name: {name}
log: {{kafka: {{bootstrap_servers: "{kafka}", topic_prefix: {name}., partitions: 2}}}}
event_store: {{postgresql: {{dsn: "{dsn}", schema: {schema}}}}}
views: {{scorer: {{fields: {{financial: "*"}}}}}}
replicas:
  - {{name: scorer@1, redis: {{url: "{redis}", prefix: {name}}}}}
  - {{name: scorer@2, postgresql: {{dsn: "{dsn}", schema: {schema}}}}}
"""


class Pipe:
    """A projector's process, and events for it."""

    def __init__(self, host: ProjectorHost, log: KafkaLog) -> None:
        self.host = host
        self._log = log
        self.written = 0

    def write(self) -> None:
        value = record(self.written, self.written + 1, {"limit": self.written}).value
        self._log.append([NewRecord(EVENTS, 0, b"1", value)], time.time())
        self.written += 1

    def work(self, name: str) -> ReplicaWork:
        told = self.host.record
        assert told is not None
        return told.replicas[name]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self.host.record is None or not condition():
            assert time.monotonic() < deadline, self.host.record
            if not self.host.step(time.time()):
                self.host.wait(0.02)

    def is_read(self, name: str) -> bool:
        return self.work(name).positions.get(0) == self.written


@contextmanager
def piped(tmp_path: Path, server: PrivateRedis) -> Iterator[Pipe]:
    name = f"test-{uuid4().hex[:8]}"
    with ExitStack() as stack:
        schema = stack.enter_context(schema_name())
        path = tmp_path / "apart.yaml"
        text = TEXT.format(
            name=name,
            kafka=kafka_server(),
            dsn=postgresql_dsn(),
            schema=schema,
            redis=server.url,
        )
        path.write_text(text, encoding="utf-8")
        configuration = load_configuration(path, {})
        ensure_topics(configuration.log.kafka)
        stack.callback(delete_topics, configuration.log.kafka)
        plans = replica_plans(configuration)
        with (
            closing(KafkaLog(configuration.log.kafka)) as log,
            closing(ProjectorHost(configuration, Identity("one"), plans, divided=True)) as host,
        ):
            yield Pipe(host, log)


def stops(server: PrivateRedis) -> Callable[[], None]:
    server.stop()
    return server.start


def gets_full(server: PrivateRedis) -> Callable[[], None]:
    def limit(size: str) -> None:
        with closing(redis.Redis.from_url(server.url)) as client:
            client.config_set("maxmemory", size)

    limit("1")
    return lambda: limit("0")


@pytest.mark.parametrize(("happens", "why"), [(stops, "cannot be reached"), (gets_full, "maxmem")])
def test_the_others_go_on_while_one_waits_by_itself_and_is_named(
    tmp_path: Path,
    happens: Callable[[PrivateRedis], Callable[[], None]],
    why: str,
) -> None:
    with private_redis(tmp_path / "redis") as server, piped(tmp_path, server) as pipe:
        pipe.write()
        pipe.until(lambda: pipe.is_read(IN_REDIS) and pipe.is_read(IN_POSTGRESQL))
        undo = happens(server)
        pipe.write()
        pipe.until(lambda: pipe.is_read(IN_POSTGRESQL) and pipe.work(IN_REDIS).waiting != "")
        waits = pipe.work(IN_REDIS)
        assert f"redis 127.0.0.1:{server.port}/0" in waits.waiting
        assert why in waits.waiting
        assert (waits.positions[0], waits.lag_events[0]) == (1, 1)
        assert pipe.work(IN_POSTGRESQL).waiting == ""
        until = time.monotonic() + 8.0
        pipe.until(lambda: time.monotonic() > until)
        healths = {health.role: health for health in pipe.host.healths()}
        assert healths[f"projector/{IN_REDIS}"].circuit in ("open", "half-open")
        assert healths[f"projector/{IN_REDIS}"].restarts <= 8
        assert healths[f"projector/{IN_POSTGRESQL}"].restarts == 0
        undo()
        pipe.until(lambda: pipe.is_read(IN_REDIS) and not pipe.work(IN_REDIS).waiting)
