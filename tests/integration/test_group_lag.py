"""The lag that a process exports is the one that the broker tells of its group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import delete_topics, ensure_topics
from pipeline.log_kafka import KafkaLog
from service.configuration import Configuration, load_configuration
from service.hosts import Identity
from service.measuring import process_measurements
from service.projector_host import ProjectorHost
from service.stores import replica_plans
from service.supervision import Host
from service.validator_host import ValidatorHost
from synchroscope.ports import EVENTS, NewRecord, Progress
from tests.postgresql import schema_name
from tests.servers import postgresql_dsn
from tests.topics import KAFKA_CLIENTS, kafka_settings
from tests.waiting import until
from tracing.metrics import registry_for

PARTITIONS, READ, UNREAD = 2, 3, 5
TEXT = """
name: NAME
log: {kafka: {bootstrap_servers: "SERVER", client: CLIENT, topic_prefix: "PREFIX", partitions: 2}}
event_store: {postgresql: {dsn: "${DSN}", schema: SCHEMA}}
views: {scorer: {fields: {financial: "*"}}}
replicas: [{name: scorer@1, memory: {}}]
"""


@pytest.fixture(params=KAFKA_CLIENTS)
def configuration(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Configuration]:
    kafka = kafka_settings(request.param)
    values = {
        "NAME": kafka.name,
        "SERVER": kafka.bootstrap_servers,
        "CLIENT": kafka.client,
        "PREFIX": kafka.topic_prefix,
    }
    with schema_name() as schema:
        text = TEXT.replace("SCHEMA", schema)
        for name, value in values.items():
            text = text.replace(name, value)
        path = tmp_path / "synchroscope.yaml"
        path.write_text(text, encoding="utf-8")
        made = load_configuration(path, {"DSN": postgresql_dsn()})
        ensure_topics(made.log.kafka)
        yield made
        delete_topics(made.log.kafka)


def open_host(configuration: Configuration, role: str) -> Any:
    if role == "validator":
        return ValidatorHost(configuration, Identity("p"))
    return ProjectorHost(configuration, Identity("p"), replica_plans(configuration), divided=True)


def exported(host: Host, settings: KafkaSettings) -> dict[str, dict[int, float]]:
    records = [] if host.record is None else [host.record]
    made = process_measurements(None, [], records, settings, {}, time.time(), is_reporter=False)
    found: dict[str, dict[int, float]] = {}
    for family in registry_for(lambda: made).collect():
        for sample in family.samples:
            if sample.name.startswith("kafka_consumergroup"):
                found.setdefault(sample.name, {})[int(sample.labels["partition"])] = sample.value
    return found


def told_by_broker(settings: KafkaSettings, group: str) -> dict[int, int]:
    """Return end offset less the group's offset, by partition; empty where it has none."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    places = [TopicPartition(settings.topic(EVENTS), n) for n in range(PARTITIONS)]
    ends = admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()))
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
    stored = asked[group].result().topic_partitions
    found = {place.partition: place.offset for place in stored if place.offset >= 0}
    return {
        place.partition: end.result().offset - found[place.partition]
        for place, end in ends.items()
        if place.partition in found
    }


@pytest.mark.parametrize("role", ["projector", "validator"])
def test_the_lag_of_a_role_that_stands_still_is_what_the_broker_says(
    configuration: Configuration, role: str
) -> None:
    settings = configuration.log.kafka
    lag, seconds = "kafka_consumergroup_group_lag", "kafka_consumergroup_group_lag_seconds"
    with ExitStack() as stack:
        log = stack.enter_context(closing(KafkaLog(settings)))
        host = stack.enter_context(closing(open_host(configuration, role)))

        def write(count: int) -> None:
            records = [NewRecord(EVENTS, n, b"k", b"none") for n in range(PARTITIONS)]
            log.append(records * count, time.time())

        def step() -> dict[str, dict[int, float]]:
            host.step(time.time())
            host.wait(0.01)
            return exported(host, settings)

        write(READ)
        nothing = {lag: {0: 0.0, 1: 0.0}, seconds: {0: 0.0, 1: 0.0}}
        until(lambda: step() == nothing, "all to be read")
        parts = host.validators if role == "validator" else host.projectors
        for part in parts.values():
            part.step = lambda now: Progress(0)
        write(UNREAD)
        until(lambda: step()[lag] == dict.fromkeys(range(PARTITIONS), UNREAD), "the lag")
        # Positions are stored without waiting.
        group = f"{settings.name}.{role}"
        until(lambda: told_by_broker(settings, group) == step()[lag], "the broker to say the same")
        assert all(0 < value < 60 for value in step()[seconds].values())
